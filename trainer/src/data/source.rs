//! A data set of the paper as its reader meets it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::Clip;
use super::splits::Split;
use crate::prompts::Prompts;

/// A clip and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The clip.
    pub clip: Clip,
    /// Its role.
    pub split: Split,
}

/// Which data set.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// IEMOCAP: dyads, American English, all of it for training.
    Iemocap,
    /// The ten English speakers of ESD (0011 to 0020) with the split of the paper's released code.
    EsdEnglish,
    /// The ten Mandarin speakers of ESD (0001 to 0010) with the same split.
    EsdMandarin,
    /// Expresso as the paper's released code reads its splits: by file, the first of train, dev and test that lists it.
    Expresso,
    /// Expresso as its owners mean the splits: the time ranges in the split files count.
    ExpressoRanges,
}

impl Kind {
    /// Where the set is to be had.
    pub fn source(self) -> &'static str {
        match self {
            Self::Iemocap => {
                "IEMOCAP is given out by the University of Southern California after a signed release form: https://sail.usc.edu/iemocap/"
            }
            Self::EsdEnglish | Self::EsdMandarin => {
                "ESD is given out for research on request: https://github.com/HLTSingapore/Emotional-Speech-Data"
            }
            Self::Expresso | Self::ExpressoRanges => {
                "Expresso (CC BY-NC 4.0) is at https://speechbot.github.io/expresso/"
            }
        }
    }
}

/// What the readers of the sets need: names, folder, labels, and how to complain.
pub(super) struct Source<'a> {
    pub corpus: &'a str,
    pub folder: &'a Path,
    pub kind: Kind,
    pub prompts: &'a Prompts,
}

impl Source<'_> {
    /// A file or folder that must be there.
    pub fn need(&self, path: &Path) -> Result<()> {
        ensure!(path.exists(), "{} is missing in the set {:?}; {}", path.display(), self.corpus, self.kind.source());
        Ok(())
    }

    /// A text file of the set.
    pub fn text(&self, path: &Path) -> Result<String> {
        self.need(path)?;
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names in a folder, sorted, without the hidden ones that some archives are full of.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>> {
        self.need(folder)?;
        let mut names = vec![];
        for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// A clip with a label of the set.
    pub fn clip(&self, path: PathBuf, speaker: String, label: &str, seconds: f32) -> Result<Clip> {
        let Some(styles) = self.prompts.concepts_of_label(label) else {
            bail!(
                "{}: the label {label:?} is unknown; add it to the `aliases` of a style in the prompt file",
                path.display()
            )
        };
        Ok(Clip { corpus: self.corpus.into(), path, speaker, styles, seconds })
    }
}
