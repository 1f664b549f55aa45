//! Mix down and resample: PCM of any rate and channel count to what a model takes in. Knows no files and no codecs.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use crate::decode::Pcm;

/// A clip whose samples all lie closer to zero than this (-100 dB of full scale) is digital silence: an embedding of
/// it would rank somewhere meaningless.
pub const SILENCE_PEAK: f32 = 1.0e-5;

/// Frames that one transform of the resampler takes in, rounded up to what the two rates allow. Longer ones are
/// steeper at the band edge; this puts the cutoff from 48 kHz at 97 % of the new Nyquist frequency.
const RESAMPLER_BLOCK: usize = 2_048;

/// One clip as a model takes it in: mono, finite, at least one sample, not silent, at a known rate. Holding one is the
/// proof; it is built by [`Pcm::to_model_rate`] and [`Waveform::new`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct Waveform {
    samples: Vec<f32>,
    rate: u32,
}

/// Why PCM is no waveform.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WaveformError {
    /// No samples.
    #[error("the audio holds no samples")]
    Empty,
    /// Nothing above [`SILENCE_PEAK`] once mixed down.
    #[error("the audio is silent: no sample is louder than {SILENCE_PEAK:e} of full scale")]
    Silent,
    /// NaN or infinite.
    #[error("sample {at} is {value}")]
    NotFinite {
        /// Position.
        at: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The two rates cannot be converted.
    #[error("cannot resample from {from} Hz to {to} Hz: {reason}")]
    Rate {
        /// Of the clip.
        from: u32,
        /// Asked for.
        to: u32,
        /// What the resampler says.
        reason: String,
    },
}

impl Waveform {
    /// Takes mono samples that are at `rate` already.
    pub fn new(samples: Vec<f32>, rate: u32) -> Result<Self, WaveformError> {
        if samples.is_empty() {
            return Err(WaveformError::Empty);
        }
        if let Some(at) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(WaveformError::NotFinite { at, value: samples[at] });
        }
        if samples.iter().all(|sample| sample.abs() < SILENCE_PEAK) {
            return Err(WaveformError::Silent);
        }
        if rate == 0 {
            return Err(WaveformError::Rate { from: 0, to: 0, reason: "a rate of zero".into() });
        }
        Ok(Self { samples, rate })
    }

    /// Mono samples; full scale is 1.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Samples per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Length of the clip.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate)
    }

    /// Gives the samples back.
    pub fn into_samples(self) -> Vec<f32> {
        self.samples
    }
}

impl Pcm {
    /// Averages the channels and resamples to `rate`. The result has `ceil(frames * rate / self.rate())` samples and
    /// no added delay: a sample at time t stays at time t.
    pub fn to_model_rate(self, rate: u32) -> Result<Waveform, WaveformError> {
        let (from, channels) = (self.rate(), usize::from(self.channels()));
        let mono = mix_down(self.into_samples(), channels);
        Waveform::new(resample(mono, from, rate)?, rate)
    }
}

/// The mean of the channels, in place.
fn mix_down(mut samples: Vec<f32>, channels: usize) -> Vec<f32> {
    if channels > 1 {
        let frames = samples.len() / channels;
        for frame in 0..frames {
            let sum: f64 = samples[frame * channels..][..channels].iter().map(|sample| f64::from(*sample)).sum();
            samples[frame] = (sum / channels as f64) as f32;
        }
        samples.truncate(frames);
        samples.shrink_to_fit();
    }
    samples
}

fn resample(samples: Vec<f32>, from: u32, to: u32) -> Result<Vec<f32>, WaveformError> {
    if from == to || samples.is_empty() {
        return Ok(samples);
    }
    let fail = |reason: String| WaveformError::Rate { from, to, reason };
    let window = WindowFunction::BlackmanHarris2;
    let block = block_length(from, to);
    let mut resampler = Fft::<f32>::new_custom(from as usize, to as usize, block, 1, 1, window, FixedSync::Input)
        .map_err(|error| fail(error.to_string()))?;
    let input = SequentialSlice::new(&samples, 1, samples.len()).map_err(|error| fail(error.to_string()))?;
    let output = resampler.process_all(&input, samples.len(), None).map_err(|error| fail(error.to_string()))?;
    let mut output = output.take_data();
    // The resampler counts with a rounded ratio; the length is fixed by the two integers.
    let exact = (samples.len() as u64 * u64::from(to)).div_ceil(u64::from(from)) as usize;
    output.resize(exact, 0.0);
    Ok(output)
}

/// Frames per transform: at least [`RESAMPLER_BLOCK`], a multiple of what keeps both rates' counts whole, and an even one:
/// the resampler's delay is half a transform, and half a frame of it could not be taken off again.
fn block_length(from: u32, to: u32) -> usize {
    let smallest = 2 * (from / greatest_common_divisor(from, to)) as usize;
    smallest * RESAMPLER_BLOCK.div_ceil(smallest)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_averaged() {
        assert_eq!(mix_down(vec![1.0, 0.0, 0.5, -0.5, 3.0, 1.0], 2), [0.5, 0.0, 2.0]);
        assert_eq!(mix_down(vec![1.0, 2.0, 6.0], 3), [3.0]);
        assert_eq!(mix_down(vec![1.0, 2.0], 1), [1.0, 2.0]);
    }

    #[test]
    fn only_sound_is_a_waveform() {
        assert_eq!(Waveform::new(vec![], 16_000), Err(WaveformError::Empty));
        assert_eq!(Waveform::new(vec![9.9e-6, -9.9e-6], 16_000), Err(WaveformError::Silent));
        assert!(matches!(Waveform::new(vec![0.1, f32::NAN], 16_000), Err(WaveformError::NotFinite { at: 1, .. })));
        assert!(Waveform::new(vec![0.0, 1.1e-5], 16_000).is_ok());
    }

    #[test]
    fn the_length_is_exact_for_awkward_rates() {
        for from in [1_000, 7_999, 8_000, 11_025, 22_050, 44_100, 48_000, 191_999] {
            for frames in [1usize, 160, 4_801] {
                let samples = vec![0.25; frames];
                let out = resample(samples, from, 16_000).unwrap();
                assert_eq!(out.len() as u64, (frames as u64 * 16_000).div_ceil(u64::from(from)), "{from} {frames}");
                assert!(out.iter().all(|sample| sample.is_finite()));
            }
        }
    }
}
