//! The paper's data sets, read in the layouts in which their owners give them away. A config names one by its kind:
//! `data.sets.esd = { kind = "esd-english", path = "ESD" }`; the name then stands in `data.train` or `data.test` like that of
//! a corpus with a manifest. Which clips are for training, for choosing and for testing is part of each set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::splits::Split;
use super::{Clip, esd, expresso, iemocap};
use crate::prompts::Prompts;

/// A clip and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The clip.
    pub clip: Clip,
    /// Its role.
    pub split: Split,
}

/// A data set of the paper and where it lies.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Which one, and in which reading.
    pub kind: Kind,
    /// Its folder, relative to `data.root`.
    pub path: PathBuf,
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

impl Set {
    /// All clips of the set. `cache` is a folder for what takes long to find out.
    ///
    /// # Errors
    /// Names the file or folder that is missing, and where the set is to be had.
    pub fn read(&self, corpus: &str, root: &Path, cache: &Path, prompts: &Prompts) -> Result<Vec<Listed>> {
        let folder = root.join(&self.path);
        let set = Source { corpus, folder: &folder, kind: self.kind, prompts };
        set.need(&folder)?;
        let mut all = match self.kind {
            Kind::Iemocap => iemocap::read(&set)?,
            Kind::EsdEnglish => esd::read(&set, 11..=20)?,
            Kind::EsdMandarin => esd::read(&set, 1..=10)?,
            Kind::Expresso => expresso::read(&set, expresso::Reading::Files, cache)?,
            Kind::ExpressoRanges => expresso::read(&set, expresso::Reading::Ranges, cache)?,
        };
        all.sort_by(|a, b| a.clip.path.cmp(&b.clip.path));
        ensure!(!all.is_empty(), "{} has no clips; {}", folder.display(), self.kind.source());
        Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_prompts_know_every_raw_label_of_the_sets() {
        let prompts = Prompts::parse(include_str!("../../data/prompts.toml")).unwrap();
        let expresso = "angry animal animaldir awe bored calm child childdir confused default desire disgusted enunciated fast \
                        fearful happy laughing narration nonverbal projected sad sarcastic singing sleepy sympathetic whisper";
        let iemocap = "angry disgust excited fear frustrated happy neutral sad surprise";
        let esd = "Neutral Angry Happy Sad Surprise";
        for (set, labels, styles) in [("expresso", expresso, 26), ("iemocap", iemocap, 9), ("esd", esd, 5)] {
            let known: std::collections::BTreeSet<Vec<String>> = labels
                .split_whitespace()
                .map(|label| prompts.concepts_of_label(label).unwrap_or_else(|| panic!("{set}: {label} is unknown")))
                .collect();
            assert_eq!(known.len(), styles, "labels of {set} share a style");
            assert!(known.iter().all(|styles| styles.len() == 1));
        }
        // The joint names of the paper: 22 classes out of the three sets.
        let dropped = "animal animaldir child childdir narration nonverbal singing";
        let used = expresso.split_whitespace().filter(|l| !dropped.contains(l));
        let all: std::collections::BTreeSet<_> = used
            .chain(iemocap.split_whitespace())
            .chain(esd.split_whitespace())
            .map(|label| prompts.concepts_of_label(label).unwrap())
            .collect();
        assert_eq!(all.len(), 22);
    }

    #[test]
    fn a_missing_folder_is_named_with_where_to_get_the_set() {
        let prompts = Prompts::parse(include_str!("../../data/prompts.toml")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for kind in [Kind::Iemocap, Kind::EsdEnglish, Kind::EsdMandarin, Kind::Expresso, Kind::ExpressoRanges] {
            let set = Set { kind, path: "not there".into() };
            let error = format!("{:#}", set.read("mine", folder.path(), folder.path(), &prompts).unwrap_err());
            assert!(error.contains("not there is missing") && error.contains("https://"), "{error}");
        }
    }
}
