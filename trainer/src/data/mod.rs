//! Clips with their labels: manifests of corpora, speaker splits, the paper's data sets. Knows files and labels, no tensors.

mod esd;
mod expresso;
mod iemocap;
pub mod manifest;
pub mod piece;
pub mod sets;
mod source;
pub mod splits;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One recording.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Clip {
    /// Corpus name.
    pub corpus: String,
    /// File, or a [`piece::Piece`] of one.
    pub path: PathBuf,
    /// Speaker, unique over all corpora.
    pub speaker: String,
    /// Style concepts of `prompts.toml` that describe it; several for combinations such as singing and sad.
    pub styles: Vec<String>,
    /// Length, as the manifest says; 0 when it does not.
    pub seconds: f32,
}

impl Clip {
    /// The clip's class: all its styles joined, for balancing and for evaluation.
    pub fn class(&self) -> String {
        self.styles.join(" + ")
    }
}
