//! The text tower that `tune-text` has made, as it lies beside the feature cache.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tch::Tensor;

use crate::config::Config;
use crate::nets::text_tower::VALUES;
use crate::torch::Params;
use crate::tune_text::space::{style_places, values};

/// The file with the tuned text tower.
pub fn file(config: &Config) -> PathBuf {
    config.data.cache().join("text.safetensors")
}

/// What was tuned: encoder, head and keys, without what the styles answer with.
pub(crate) fn tuned(config: &Config) -> Result<Params> {
    let file = file(config);
    let named = Tensor::read_safetensors(&file).with_context(|| {
        format!("cannot read {}; run `esr-trainer tune-text` with this config first", file.display())
    })?;
    Ok(named.into_iter().filter(|(name, _)| name != VALUES).collect())
}

/// The tuned text tower: encoder, head and bank.
pub fn load(config: &Config) -> Result<Params> {
    let mut params = tuned(config)?;
    let tuning = config.text.tuning.as_ref().context("the config has no [text.tuning]")?;
    let places = style_places(&params).context("the tuned text tower has no bank")?;
    let values = values(places, tuning.sharpen, config.dimension);
    params.insert(VALUES.into(), values);
    Ok(params)
}
