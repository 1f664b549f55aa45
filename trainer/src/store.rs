//! The feature cache on disk: one file of 16-bit floats and one line of JSON an entry. Appending is safe to interrupt:
//! an entry exists once its line is written whole.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use half::f16;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::data::splits::Split;

/// What is known about one cached form of a clip.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Entry {
    /// Corpus name.
    pub corpus: String,
    /// File of the clip.
    pub path: PathBuf,
    /// Speaker.
    pub speaker: String,
    /// Role of the speaker.
    pub split: Split,
    /// Styles of this form.
    pub styles: Vec<String>,
    /// Which form: `original`, `copy-N`, `made-STYLE`.
    pub variant: String,
    /// Length in seconds of this form.
    pub seconds: f32,
    /// First value in the data file.
    pub offset: u64,
    /// Number of values.
    pub length: u64,
}

impl Entry {
    /// All styles joined.
    pub fn class(&self) -> String {
        self.styles.join(" + ")
    }
}

/// An open cache.
pub struct Store {
    data: File,
    index: File,
    /// All entries in the order they were written.
    pub entries: Vec<Entry>,
}

impl Store {
    /// Opens or creates the cache in a folder. `recipe` describes what the features are; a cache made by another recipe
    /// is an error, since mixing the two would go unnoticed.
    pub fn open(folder: &Path, recipe: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("recipe.json");
        match std::fs::read_to_string(&file) {
            Ok(known) => ensure!(
                known == recipe,
                "the feature cache {} was made with other settings; remove it or name another work folder",
                folder.display()
            ),
            Err(_) => std::fs::write(&file, recipe)?,
        }
        let open = |name: &str| OpenOptions::new().read(true).append(true).create(true).open(folder.join(name));
        let (data, index) = (open("features.f16")?, open("index.jsonl")?);
        let mut store = Self { data, index, entries: vec![] };
        store.recover().with_context(|| format!("cannot read the feature cache {}", folder.display()))?;
        Ok(store)
    }

    /// Adds an entry; its offset and length are filled in.
    pub fn append(&mut self, mut entry: Entry, values: &[f32]) -> Result<()> {
        entry.offset = self.entries.last().map_or(0, |e| e.offset + e.length);
        entry.length = values.len() as u64;
        let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
        self.data.write_all(bytemuck::cast_slice(&halves))?;
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        self.index.write_all(&line)?;
        self.entries.push(entry);
        Ok(())
    }

    /// The values of one entry.
    pub fn read(&mut self, entry: usize) -> Result<Vec<f32>> {
        let e = &self.entries[entry];
        let mut bytes = vec![0u8; 2 * e.length as usize];
        self.data.seek(SeekFrom::Start(2 * e.offset))?;
        self.data.read_exact(&mut bytes)?;
        Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
    }

    /// The wanted entries and their values, one row each; all must have `width` values.
    pub fn rows(&mut self, width: usize, wanted: impl Fn(&Entry) -> bool) -> Result<(Vec<Entry>, Tensor)> {
        let kept: Vec<usize> = (0..self.entries.len()).filter(|n| wanted(&self.entries[*n])).collect();
        let mut flat: Vec<f32> = Vec::with_capacity(kept.len() * width);
        for n in &kept {
            flat.extend(self.read(*n)?);
        }
        ensure!(flat.len() == kept.len() * width, "the feature cache has entries that are not {width} values long");
        let entries = kept.iter().map(|n| self.entries[*n].clone()).collect();
        Ok((entries, Tensor::from_slice(&flat).view([kept.len() as i64, width as i64])))
    }

    /// Drops a half-written line and values without a line.
    fn recover(&mut self) -> Result<()> {
        let mut reader = BufReader::new(self.index.try_clone()?);
        let (mut line, mut good) = (String::new(), 0u64);
        while reader.read_line(&mut line)? > 0 {
            let Ok(entry) = serde_json::from_str::<Entry>(line.trim_end()) else { break };
            if !line.ends_with('\n') || 2 * (entry.offset + entry.length) > self.data.metadata()?.len() {
                break;
            }
            good += line.len() as u64;
            self.entries.push(entry);
            line.clear();
        }
        self.index.set_len(good)?;
        self.data.set_len(self.entries.last().map_or(0, |e| 2 * (e.offset + e.length)))?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn entry(n: usize) -> Entry {
        Entry {
            corpus: "c".into(),
            path: format!("{n}.wav").into(),
            speaker: "s".into(),
            split: Split::Train,
            styles: vec!["angry".into()],
            variant: "original".into(),
            seconds: 1.0,
            offset: 0,
            length: 0,
        }
    }

    #[test]
    fn an_interrupted_append_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), "r").unwrap();
        store.append(entry(0), &[1.0, 2.0]).unwrap();
        store.append(entry(1), &[3.0]).unwrap();
        drop(store);
        let mut index = OpenOptions::new().append(true).open(folder.path().join("index.jsonl")).unwrap();
        index.write_all(b"{\"corpus\": \"c").unwrap();
        let mut data = OpenOptions::new().append(true).open(folder.path().join("features.f16")).unwrap();
        data.write_all(&[1, 2, 3]).unwrap();
        let mut store = Store::open(folder.path(), "r").unwrap();
        assert_eq!(store.entries.len(), 2);
        store.append(entry(2), &[4.0]).unwrap();
        assert_eq!(store.read(1).unwrap(), [3.0]);
        assert_eq!(store.read(2).unwrap(), [4.0]);
        assert!(Store::open(folder.path(), "other").is_err());
    }
}
