//! Rows of numbers that are computed once and kept: what an encoder says about texts or clips, by their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tch::Tensor;

/// The rows of one encoder, in memory and in the files of a folder.
pub struct Kept {
    folder: PathBuf,
    key: String,
    known: BTreeMap<String, Tensor>,
}

impl Kept {
    /// Reads what there is. `key` is what decides the rows besides their names, as the beginning of the files' names.
    ///
    /// # Errors
    /// If the folder cannot be made. A damaged file is as if it were not there.
    pub fn open(folder: &Path, key: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let own = |file: &PathBuf| file.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(key));
        let known = files.filter(own).filter_map(|file| read(&file)).flatten().collect();
        Ok(Self { folder: folder.into(), key: key.into(), known })
    }

    /// Rows `[names, width]`, in the order of `names`. `compute` gives those of the places in `names` that are new; they are kept
    /// in a file of their own.
    ///
    /// # Errors
    /// If they cannot be computed or written.
    pub fn rows(&mut self, names: &[String], compute: impl FnOnce(&[usize]) -> Result<Tensor>) -> Result<Tensor> {
        let missing: BTreeMap<&String, usize> = names
            .iter()
            .enumerate()
            .filter(|(_, name)| !self.known.contains_key(*name))
            .map(|(n, name)| (name, n))
            .collect();
        if !missing.is_empty() {
            let places: Vec<usize> = missing.values().copied().collect();
            let computed = compute(&places)?;
            let list: Vec<&String> = missing.into_keys().collect();
            let named = hash(list.iter().fold(String::new(), |all, name| all + name + "\n"));
            write(&self.folder.join(format!("{}-{named}.safetensors", self.key)), &list, &computed)?;
            self.known.extend(list.into_iter().cloned().zip(computed.unbind(0)));
        }
        Ok(Tensor::stack(&names.iter().map(|name| &self.known[name]).collect::<Vec<_>>(), 0))
    }
}

fn read(file: &Path) -> Option<BTreeMap<String, Tensor>> {
    let mut parts: BTreeMap<String, Tensor> = Tensor::read_safetensors(file).ok()?.into_iter().collect();
    let (rows, names) = (parts.remove("features")?, Vec::<u8>::try_from(parts.remove("texts")?).ok()?);
    let names: Vec<String> = serde_json::from_slice(&names).ok()?;
    (names.len() as i64 == rows.size()[0]).then(|| names.into_iter().zip(rows.unbind(0)).collect())
}

/// Written beside and then renamed, so that a kill leaves no half file.
fn write(file: &Path, names: &[&String], rows: &Tensor) -> Result<()> {
    let names = Tensor::from_slice(&serde_json::to_vec(names)?);
    let beside = file.with_extension("part");
    Tensor::write_safetensors(&[("features", rows), ("texts", &names)], &beside)
        .with_context(|| format!("cannot write {}", beside.display()))?;
    std::fs::rename(&beside, file).with_context(|| format!("cannot write {}", file.display()))
}

/// The beginning of the SHA-256 of what decides a cache file's contents, for its name.
pub(crate) fn hash(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_computed_again() {
        let folder = std::env::temp_dir().join(format!("esr-kept-{}", std::process::id()));
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let length = |asked: Vec<String>| {
            move |places: &[usize]| {
                Ok(Tensor::from_slice(&places.iter().map(|n| asked[*n].len() as f32).collect::<Vec<_>>()).view([-1, 1]))
            }
        };
        let asked = names(&["ccc", "a", "ccc", "bb"]);
        let mut kept = Kept::open(&folder, "x").unwrap();
        let rows = kept.rows(&asked, length(asked.clone())).unwrap();
        assert_eq!(Vec::<f32>::try_from(rows.view(-1)).unwrap(), [3.0, 1.0, 3.0, 2.0]);
        let again = names(&["bb", "dddd", "a"]);
        let mut reopened = Kept::open(&folder, "x").unwrap();
        let mut new = vec![];
        let rows = reopened.rows(&again, |places| {
            new = places.to_vec();
            length(again.clone())(places)
        });
        assert_eq!(Vec::<f32>::try_from(rows.unwrap().view(-1)).unwrap(), [2.0, 4.0, 1.0]);
        assert_eq!(new, [1]);
        assert!(Kept::open(&folder, "y").unwrap().known.is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
