//! What a run has learned so far.

use anyhow::Result;
use tch::Device;

use super::config::Finetune;
use crate::checkpoint::Checkpoint;
use crate::torch::Params;
use crate::weights;

/// The parameters of a finished (or unfinished) run: what was trained and the frozen text encoder, on a device; `None` when
/// there is no checkpoint.
pub fn load(config: &Finetune, device: Device) -> Result<Option<Params>> {
    let Some(state) = Checkpoint::load(&config.data.work, None)? else { return Ok(None) };
    let mut params = weights::paper::text(&weights::resolve(&config.text.weights), &config.text.net)?;
    params.extend(state.best());
    Ok(Some(params.into_iter().map(|(k, t)| (k, t.to_device(device))).collect()))
}
