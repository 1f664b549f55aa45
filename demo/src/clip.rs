//! One audio file and what is known about it before it is embedded.

use std::{collections::BTreeSet, path::PathBuf};

/// A clip to load.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Where the file is.
    pub file: PathBuf,
    /// How the clip is named in the database: the path within its data set.
    pub path: String,
    /// The data set it belongs to.
    pub dataset: Dataset,
    /// Who speaks.
    pub speaker: String,
    /// What its owner says of its style.
    pub label: Option<String>,
    /// What is said.
    pub transcript: Option<String>,
    /// Language code.
    pub language: Option<String>,
}

/// Where clips come from and on what terms.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dataset {
    /// Its name, unique in the database.
    pub name: String,
    /// The terms its audio may be used under, if known.
    pub licence: Option<String>,
    /// Who made it, or how it was made.
    pub source: Option<String>,
}

/// The labels that occur.
pub fn labels(clips: &[Clip]) -> BTreeSet<&str> {
    clips.iter().filter_map(|clip| clip.label.as_deref()).collect()
}
