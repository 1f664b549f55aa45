//! The file of placed styles (see [`crate::place`]): written beside a run, and put into its parameters wherever they are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::kept::hash;
use crate::nets::text_tower::VALUES;
use crate::prompts::Prompts;
use crate::torch::Params;

/// Name of what says which speech side the places are of; no style has it.
const OF: &str = "of";

/// The file of a run's placed styles.
pub fn file(work: &Path) -> PathBuf {
    work.join("placed.safetensors")
}

/// Writes where each style lies beside the run that has these parameters.
pub(crate) fn write(config: &Config, mut places: Vec<(String, Tensor)>, params: &Params) -> Result<()> {
    places.push((OF.into(), Tensor::from_slice(fingerprint(params)?.as_bytes())));
    let target = file(&config.data.work);
    Tensor::write_safetensors(&places, &target).with_context(|| format!("cannot write {}", target.display()))
}

/// Puts a run's placed styles into its parameters, where there are some.
///
/// # Errors
/// If the speech side was trained on since.
pub fn insert(config: &Config, params: &mut Params) -> Result<()> {
    let source = file(&config.data.work);
    if config.augment.shown.is_none() || !source.exists() {
        return Ok(());
    }
    let mut places: BTreeMap<String, Tensor> = Tensor::read_safetensors(&source)
        .with_context(|| format!("cannot read {}", source.display()))?
        .into_iter()
        .collect();
    let of = places.remove(OF).with_context(|| format!("{} says not which run it is of", source.display()))?;
    ensure!(
        Vec::<u8>::try_from(of)? == fingerprint(params)?.as_bytes(),
        "{} is of another speech side than the checkpoint; run `esr-trainer place` with this config again",
        source.display()
    );
    let prompts = Prompts::read(&config.data.prompts)?;
    let values = params.get(VALUES).context("only a bank of styles can have placed ones")?.copy();
    for (number, style) in prompts.styles().enumerate() {
        if let Some(place) = places.get(style) {
            values.get(number as i64).copy_(&place.view(-1));
        }
    }
    params.insert(VALUES.into(), values);
    Ok(())
}

/// The head's weights change with every step of training.
fn fingerprint(params: &Params) -> Result<String> {
    let head = params.iter().filter(|(name, _)| name.starts_with("speech.head.")).map(|(_, tensor)| tensor);
    let mut bytes: Vec<u8> = vec![];
    for tensor in head {
        let flat = Vec::<f32>::try_from(tensor.detach().to_kind(Kind::Float).contiguous().view(-1))?;
        bytes.extend(flat.iter().flat_map(|x| x.to_le_bytes()));
    }
    Ok(hash(bytes))
}
