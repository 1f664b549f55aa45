//! Reads published encoder weights into the names and layouts of our networks. Knows files, not training.
//!
//! Layout: linear weights are `[in, out]` here, while PyTorch checkpoints store `[out, in]`.

pub mod ctranslate2;
pub mod onnx_initializers;
pub mod paper;
pub mod pickle;
pub mod published;
pub mod text;
pub mod torch_checkpoint;
pub mod whisper;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tch::{Kind, Tensor};

use crate::torch::Params;

/// Folder of downloaded weights: `$ESR_CACHE/weights`, by default below the user's cache folder.
pub fn weights_folder() -> PathBuf {
    let named = std::env::var_os("ESR_CACHE").map(PathBuf::from);
    let cache = || std::env::var_os("XDG_CACHE_HOME").map(|c| PathBuf::from(c).join("esr"));
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/esr"));
    named.or_else(cache).or_else(home).unwrap_or_else(|| PathBuf::from(".cache/esr")).join("weights")
}

/// A path as written in a config: relative ones are looked for in [`weights_folder`].
pub fn resolve(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_path_buf() } else { weights_folder().join(path) }
}

/// All tensors of a file, by the names it has for them, as 32-bit floats. The ending decides the format:
/// `.safetensors`, `.onnx` (initialisers), `.pt`/`.bin`/`.pth` (a PyTorch state dict), or CTranslate2's `model.bin`.
pub fn read_tensors(path: &Path) -> Result<Params> {
    let hint = "scripts/fetch-weights.sh downloads the published weights";
    if !path.is_file() {
        bail!("the weight file {} does not exist; {hint}", path.display());
    }
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let named = match ending {
        "safetensors" => Tensor::read_safetensors(path).with_context(|| format!("cannot read {}", path.display()))?,
        "onnx" => return onnx_initializers::read(path),
        _ if ctranslate2::recognise(path)? => return ctranslate2::read(path),
        _ => torch_checkpoint::read(path)?.into_iter().collect(),
    };
    let float = |t: Tensor| if t.is_floating_point() { t.to_kind(Kind::Float) } else { t };
    Ok(named.into_iter().map(|(name, t)| (name, float(t))).collect())
}

/// Takes one tensor out of a file's tensors, checking its shape.
fn take(from: &mut Params, name: &str, shape: &[i64]) -> Result<Tensor> {
    let tensor = from.remove(name).with_context(|| format!("the weight file has no tensor {name}"))?;
    if tensor.size() != shape {
        bail!("tensor {name} has shape {:?}, expected {shape:?}", tensor.size());
    }
    Ok(tensor)
}
