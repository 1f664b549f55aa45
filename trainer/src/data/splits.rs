//! Which speakers are for training, for choosing settings and for testing: fixed in one CSV file a corpus, so that no
//! speaker is ever heard in two roles.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The role of a speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Parameters are fitted on these.
    Train,
    /// Settings are chosen on these.
    Val,
    /// Reported on, and used for nothing else.
    Test,
}

#[derive(Deserialize)]
struct Row {
    speaker: String,
    split: Split,
}

/// Roles of the speakers of one corpus.
#[derive(Debug, Default)]
pub struct Speakers(BTreeMap<String, Split>);

impl Speakers {
    /// Reads `{folder}/{corpus}.csv` with the columns speaker and split. A corpus without a file is for testing only.
    pub fn read(folder: &Path, corpus: &str) -> Result<Self> {
        let file = folder.join(format!("{corpus}.csv"));
        if !file.exists() {
            return Ok(Self::default());
        }
        let mut reader = csv::Reader::from_path(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut roles = BTreeMap::new();
        for row in reader.deserialize::<Row>() {
            let row = row.with_context(|| file.display().to_string())?;
            anyhow::ensure!(
                roles.insert(row.speaker.clone(), row.split).is_none(),
                "{}: {} is listed twice",
                file.display(),
                row.speaker
            );
        }
        Ok(Self(roles))
    }

    /// The role of a speaker; one who is not listed is for testing.
    pub fn role(&self, speaker: &str) -> Split {
        self.0.get(speaker).copied().unwrap_or(Split::Test)
    }

    /// Whether any speaker may be trained on.
    pub fn trainable(&self) -> bool {
        self.0.values().any(|s| *s == Split::Train)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_splits_have_every_role_and_agree_on_shared_speakers() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("splits");
        let mut known: BTreeMap<String, Split> = BTreeMap::new();
        for corpus in ["crema_d", "emogator", "vctk_samples", "ravdess", "ravdess_song"] {
            let speakers = Speakers::read(&folder, corpus).unwrap();
            for role in [Split::Train, Split::Val, Split::Test] {
                assert!(speakers.0.values().any(|s| *s == role), "{corpus} has nobody for {role:?}");
            }
            for (speaker, role) in speakers.0 {
                let before = known.insert(speaker.clone(), role).unwrap_or(role);
                assert_eq!(before, role, "{speaker} has two roles");
            }
        }
    }

    #[test]
    fn a_speaker_listed_twice_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.csv"), "speaker,split\na,train\na,test\n").unwrap();
        assert!(Speakers::read(folder.path(), "c").is_err());
        assert_eq!(Speakers::read(folder.path(), "other").unwrap().role("a"), Split::Test);
    }
}
