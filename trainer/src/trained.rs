//! The parameters of a finished run.

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::torch::Params;
use crate::{placed, tuned_text, waveforms};

/// What a finished run is worth: the average where one is kept, and of a run from waveforms drawn back towards its beginning as
/// far as the config says. `None` when there is no checkpoint.
pub fn trained(config: &Config) -> Result<Option<Params>> {
    let Some(state) = Checkpoint::load(&config.data.work, None)? else { return Ok(None) };
    let mut params = state.best();
    if config.text.tuning.is_some() {
        // Training leaves a tuned text side as it is, so one that was tuned anew since then takes its place. What the styles
        // answer with stays: the speech side was drawn there.
        params.extend(tuned_text::tuned(config)?.into_iter().filter(|(name, _)| name.starts_with("text.head.")));
    }
    if let Some(settings) = config.training.waveforms.as_ref().filter(|w| w.keep > 0.0) {
        for (name, start) in waveforms::start(config, settings, &config.speech.tower.record_whole(config.dimension))? {
            let trained = params.get_mut(&name).with_context(|| format!("the checkpoint lacks {name}"))?;
            *trained = &*trained * (1.0 - settings.keep) + start * settings.keep;
        }
    }
    placed::insert(config, &mut params)?;
    Ok(Some(params))
}
