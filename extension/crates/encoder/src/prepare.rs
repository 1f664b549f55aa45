//! From inputs to rows of a batch, the part of embedding that needs no computing of networks: tokens of a text, windows of a
//! clip. Knows no ONNX; many threads may prepare at once.

use esr_audio::{SILENCE_PEAK, Waveform};

use crate::bundle::Manifest;
use crate::embedding::{Embedding, EmbeddingError};
use crate::tokenizer::{TextError, Tokenizer};

/// What a bundle says about its inputs.
pub struct Preparer {
    tokenizer: Tokenizer,
    sample_rate: u32,
    shortest: usize,
    longest: usize,
}

/// The rate of a clip is not the model's: the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the clip is at {rate} Hz, the model takes {expected} Hz")]
pub struct RateError {
    /// Of the clip.
    pub rate: u32,
    /// Of the model.
    pub expected: u32,
}

impl Preparer {
    pub(crate) fn new(tokenizer: Tokenizer, manifest: &Manifest) -> Self {
        let speech = &manifest.speech;
        let (shortest, longest) = (speech.min_samples(), speech.max_samples());
        Self { tokenizer, sample_rate: speech.sample_rate, shortest, longest }
    }

    /// The rate that clips must have, in samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// The row of a text: its tokens. Texts longer than the model takes are cut at its last token.
    pub fn text(&self, text: &str) -> Result<Vec<i64>, TextError> {
        self.tokenizer.encode(text)
    }

    /// The rows of a clip, one at least. Clips shorter than the model's minimum are repeated up to it; longer ones than it takes
    /// are cut into equal windows, and silent windows are left out. The clip's embedding is [`join`] of its rows'.
    pub fn speech(&self, clip: Waveform) -> Result<Vec<Vec<f32>>, RateError> {
        if clip.rate() != self.sample_rate {
            return Err(RateError { rate: clip.rate(), expected: self.sample_rate });
        }
        let samples = clip.into_samples();
        if samples.len() < self.shortest {
            return Ok(vec![repeat(&samples, self.shortest)]);
        }
        if samples.len() <= self.longest {
            return Ok(vec![samples]);
        }
        Ok(windows(&samples, self.longest).map(<[f32]>::to_vec).collect())
    }
}

/// The embedding of a clip from those of its windows: the direction of their mean.
pub fn join(windows: &[Embedding]) -> Result<Embedding, EmbeddingError> {
    Embedding::mean(windows)
}

/// The samples over and over, `length` of them.
pub(crate) fn repeat(samples: &[f32], length: usize) -> Vec<f32> {
    samples.iter().copied().cycle().take(length).collect()
}

/// The fewest equal parts of at most `longest` samples, without the silent ones. A clip in one part is never left out.
pub(crate) fn windows(samples: &[f32], longest: usize) -> impl Iterator<Item = &[f32]> {
    let count = samples.len().div_ceil(longest).max(1);
    let part = move |at: usize| &samples[at * samples.len() / count..(at + 1) * samples.len() / count];
    let sounds = |window: &[f32]| window.iter().any(|sample| sample.abs() >= SILENCE_PEAK);
    (0..count).map(part).filter(move |window| count == 1 || sounds(window))
}
