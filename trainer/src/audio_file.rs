//! A clip's file as the waveform a network sees: decoded and resampled by the same code as in production.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::nets::log_mel::SAMPLE_RATE;

/// Reads a file as mono samples at 16 kHz.
pub fn read(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let pcm =
        esr_audio::decode(&bytes, &esr_audio::Limits::default()).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    let waveform = pcm.to_model_rate(SAMPLE_RATE).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    Ok(waveform.samples().to_vec())
}

/// A waveform of at least `shortest` samples, repeated as often as needed, as the embedder does with short clips.
pub fn at_least(mut samples: Vec<f32>, shortest: usize) -> Vec<f32> {
    let once = samples.len();
    while !samples.is_empty() && samples.len() < shortest {
        let more = (shortest - samples.len()).min(once);
        samples.extend_from_within(..more);
    }
    samples
}
