//! A clip's file as the waveform a network sees: decoded and resampled by the same code as in production.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::nets::log_mel::SAMPLE_RATE;

/// Reads a file as mono samples at 16 kHz.
pub fn read(path: &Path) -> Result<Vec<f32>> {
    Ok(waveform(path, SAMPLE_RATE)?.samples().to_vec())
}

/// Reads a file as production does: mono, at a model's rate.
pub fn waveform(path: &Path, rate: u32) -> Result<esr_audio::Waveform> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let pcm =
        esr_audio::decode(&bytes, &esr_audio::Limits::default()).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    pcm.to_model_rate(rate).map_err(|e| anyhow!("{}: {e}", path.display()))
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
