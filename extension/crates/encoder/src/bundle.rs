//! A model bundle on disk: manifest, files, hashes, tag. Knows no ONNX and no tokenizer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The only bundle format there is.
pub const FORMAT: u32 = 1;
/// Name of the manifest inside a bundle.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// Name of the speech tower.
pub const SPEECH_FILE: &str = "speech.onnx";
/// Name of the text tower.
pub const TEXT_FILE: &str = "text.onnx";
/// Name of the tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Name of the golden vectors.
pub const GOLDEN_FILE: &str = "golden.json";
/// The files that every bundle must have and hash. MODEL_CARD.md is for people, and may be edited.
pub const REQUIRED_FILES: [&str; 4] = [SPEECH_FILE, TEXT_FILE, TOKENIZER_FILE, GOLDEN_FILE];

const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// An ONNX file is one protocol buffer message, and those end at 2 GiB.
const MAX_FILE_BYTES: u64 = (1 << 31) - 1;
/// As `esr_vector` allows.
const MAX_DIMENSION: usize = 16_000;
/// Longest input of one pass, in seconds, that a manifest may ask for.
const MAX_PASS_SECONDS: f32 = 600.0;
const MAX_TEXT_TOKENS: usize = 8_192;

/// What `manifest.toml` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the model, for people; the folder's name is what requests use.
    pub name: String,
    /// Version of the model, for people.
    pub version: String,
    /// Elements per embedding.
    pub dimension: usize,
    /// Licence of the weights.
    pub licence: String,
    /// One line on what the model is.
    pub description: String,
    /// Limits of the speech tower.
    pub speech: SpeechManifest,
    /// Limits of the text tower.
    pub text: TextManifest,
    /// File name to SHA-256 in lowercase hex.
    pub files: BTreeMap<String, String>,
    /// Where it comes from: free text by key.
    #[serde(default)]
    pub provenance: BTreeMap<String, String>,
}

/// What the speech tower takes in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechManifest {
    /// Samples per second.
    pub sample_rate: u32,
    /// Shorter clips are repeated up to this length.
    pub min_seconds: f32,
    /// Longer clips are cut into equal windows of at most this length, whose embeddings are averaged.
    pub max_seconds: f32,
}

impl SpeechManifest {
    /// Samples of the shortest input.
    pub fn min_samples(&self) -> usize {
        ((f64::from(self.min_seconds) * f64::from(self.sample_rate)).ceil() as usize).max(1)
    }

    /// Samples of the longest input of one pass.
    pub fn max_samples(&self) -> usize {
        ((f64::from(self.max_seconds) * f64::from(self.sample_rate)).floor() as usize).max(1)
    }
}

/// What the text tower takes in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextManifest {
    /// Longer texts are cut to this many tokens, special ones included.
    pub max_tokens: usize,
}

/// Why a folder is not a usable bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The folder or one of its files cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a key is missing, unknown or of the wrong type.
    #[error("malformed {path}: {reason}")]
    Manifest {
        /// Of the manifest.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A value outside its range.
    #[error("{path}: {key} is {value}, which must be {expected}")]
    Value {
        /// Of the manifest.
        path: PathBuf,
        /// Key in the manifest.
        key: String,
        /// What it says.
        value: String,
        /// What it may say.
        expected: String,
    },
    /// Not a plain file directly inside the bundle, or too large.
    #[error("{path} {reason}")]
    File {
        /// Of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The content is not what the manifest was written for.
    #[error("{path} is damaged or was replaced: its SHA-256 is {found}, the manifest states {stated}")]
    Hash {
        /// Of the file.
        path: PathBuf,
        /// Of the file's content.
        found: String,
        /// In the manifest.
        stated: String,
    },
}

/// An opened bundle: every file is there and hashes to what the manifest states. Holds the files' bytes, so that what was
/// hashed is what will run.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
    tag: u64,
    files: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    /// Reads and checks the folder.
    pub fn open(folder: &Path) -> Result<Self, BundleError> {
        let folder = folder.canonicalize().map_err(|source| BundleError::Read { path: folder.into(), source })?;
        let path = folder.join(MANIFEST_FILE);
        let text = read_inside(&folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)?;
        let malformed = |reason: String| BundleError::Manifest { path: path.clone(), reason };
        let text = String::from_utf8(text).map_err(|error| malformed(error.to_string()))?;
        let manifest: Manifest = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        manifest.check(&path)?;
        let mut files = BTreeMap::new();
        for (name, stated) in &manifest.files {
            let bytes = read_inside(&folder, name, MAX_FILE_BYTES)?;
            let found = sha256_hex(&bytes);
            if found != *stated {
                return Err(BundleError::Hash { path: folder.join(name), found, stated: stated.clone() });
            }
            files.insert(name.clone(), bytes);
        }
        let tag = manifest.tag();
        Ok(Self { folder, manifest, tag, files })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its identity; never 0. Rendered in messages as 16 hexadecimal digits.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// A checked file's content; `None` for names that are not in the manifest.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Content of one of [`REQUIRED_FILES`], which an opened bundle always has.
    pub(crate) fn required(&self, name: &'static str) -> &[u8] {
        self.file(name).expect("an opened bundle has all required files")
    }
}

impl Manifest {
    /// The identity of a bundle: the first eight bytes (little-endian) of SHA-256 over the hashes of the two towers and
    /// the tokenizer, each in hex and followed by a line feed, then `dimension=N` and `sample_rate=N`, each with a line
    /// feed. Zero means "untagged", so a hash of zero becomes 1. Limits and golden vectors don't change what an embedding
    /// means and are left out.
    pub fn tag(&self) -> u64 {
        let mut text = String::new();
        for name in [SPEECH_FILE, TEXT_FILE, TOKENIZER_FILE] {
            let _ = writeln!(text, "{}", self.files.get(name).map_or("", String::as_str));
        }
        let _ = write!(text, "dimension={}\nsample_rate={}\n", self.dimension, self.speech.sample_rate);
        let digest = Sha256::digest(text.as_bytes());
        let first = digest.first_chunk::<8>().expect("SHA-256 has 32 bytes");
        u64::from_le_bytes(*first).max(1)
    }

    fn check(&self, path: &Path) -> Result<(), BundleError> {
        let fail = |key: &str, value: String, expected: String| {
            Err(BundleError::Value { path: path.into(), key: key.into(), value, expected })
        };
        if self.format != FORMAT {
            return fail("format", self.format.to_string(), format!("{FORMAT} (other formats need another version)"));
        }
        if !(1..=MAX_DIMENSION).contains(&self.dimension) {
            return fail("dimension", self.dimension.to_string(), format!("1 to {MAX_DIMENSION}"));
        }
        let SpeechManifest { sample_rate, min_seconds, max_seconds } = self.speech;
        if !(esr_audio::MIN_RATE..=192_000).contains(&sample_rate) {
            return fail("speech.sample_rate", sample_rate.to_string(), format!("{} to 192000", esr_audio::MIN_RATE));
        }
        if !(max_seconds > 0.0 && max_seconds <= MAX_PASS_SECONDS) {
            return fail("speech.max_seconds", max_seconds.to_string(), format!("over 0, up to {MAX_PASS_SECONDS}"));
        }
        if !(min_seconds >= 0.0 && min_seconds <= max_seconds) {
            return fail("speech.min_seconds", min_seconds.to_string(), "0 to speech.max_seconds".into());
        }
        if !(1..=MAX_TEXT_TOKENS).contains(&self.text.max_tokens) {
            return fail("text.max_tokens", self.text.max_tokens.to_string(), format!("1 to {MAX_TEXT_TOKENS}"));
        }
        for name in REQUIRED_FILES {
            if !self.files.contains_key(name) {
                return fail("files", format!("without {name}"), format!("a table with {}", REQUIRED_FILES.join(", ")));
            }
        }
        for (name, hash) in &self.files {
            if !is_plain_name(name) {
                return fail("files", format!("{name:?}"), "plain file names".into());
            }
            if hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return fail(&format!("files.{name}"), format!("{hash:?}"), "64 lowercase hexadecimal digits".into());
            }
        }
        Ok(())
    }
}

/// Lowercase hexadecimal SHA-256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a name can only mean an entry of the folder it is looked up in: letters, digits, `_`, `-` and inner dots.
pub fn is_plain_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Reads a regular file whose real place is directly inside `folder`: a symlink may not lead out of the bundle.
fn read_inside(folder: &Path, name: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
    let path = folder.join(name);
    let read = |source| BundleError::Read { path: path.clone(), source };
    let fail = |reason: String| BundleError::File { path: path.clone(), reason };
    let real = path.canonicalize().map_err(read)?;
    if real.parent() != Some(folder) {
        return Err(fail(format!("is a link to {} outside the bundle", real.display())));
    }
    let file = std::fs::File::open(&real).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(fail("is not a regular file".into()));
    }
    if metadata.len() > limit {
        return Err(fail(format!("has {} bytes, over the limit of {limit}", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // The limit again, for a file that grows while it is read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > limit {
        return Err(fail(format!("has more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_cannot_leave_the_folder() {
        for good in ["default", "speech.onnx", "a-b_c.1"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "../x", "a\\b", "a b", "ü", "a\0", "C:x"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_tag_is_the_documented_hash() {
        let files = [(SPEECH_FILE, "aa"), (TEXT_FILE, "bb"), (TOKENIZER_FILE, "cc"), (GOLDEN_FILE, "dd")];
        let manifest = Manifest {
            format: 1,
            name: String::new(),
            version: String::new(),
            dimension: 512,
            licence: String::new(),
            description: String::new(),
            speech: SpeechManifest { sample_rate: 16_000, min_seconds: 0.5, max_seconds: 30.0 },
            text: TextManifest { max_tokens: 32 },
            files: files.iter().map(|(name, hash)| (name.to_string(), hash.to_string())).collect(),
            provenance: BTreeMap::new(),
        };
        // printf 'aa\nbb\ncc\ndimension=512\nsample_rate=16000\n' | sha256sum
        let digest = sha256_hex(b"aa\nbb\ncc\ndimension=512\nsample_rate=16000\n");
        let first = u64::from_str_radix(&digest[..16], 16).unwrap().swap_bytes();
        assert_eq!(manifest.tag(), first);
        assert_eq!(manifest.speech.min_samples(), 8_000);
        assert_eq!(manifest.speech.max_samples(), 480_000);
    }
}
