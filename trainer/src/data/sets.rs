//! The paper's data sets, read in the layouts in which their owners give them away. A config names one by its kind:
//! `data.sets.esd = { kind = "esd-english", path = "ESD" }`; the name then stands in `data.train` or `data.test` like that of
//! a corpus with a manifest. Which clips are for training, for choosing and for testing is part of each set.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::source::Source;
pub use super::source::{Kind, Listed};
use super::{esd, expresso, iemocap};
use crate::prompts::Prompts;

/// A data set of the paper and where it lies.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Which one, and in which reading.
    pub kind: Kind,
    /// Its folder, relative to `data.root`.
    pub path: PathBuf,
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
