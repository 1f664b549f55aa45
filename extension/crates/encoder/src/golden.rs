//! Inputs whose embeddings a bundle states, and how to make its clips. Knows no files of sound:
//! speech inputs are generated, so that the check needs nothing but the bundle.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use crate::error::GoldenError;

/// Rate of generated speech inputs, in samples per second, whatever the model's own rate is.
pub const GENERATOR_RATE: u32 = 16_000;
/// Longest generated input.
pub const MAX_GENERATOR_SECONDS: f64 = 60.0;

/// What `golden.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Largest cosine distance that still is the same embedding.
    pub tolerance: f64,
    /// Descriptions with their embeddings.
    pub texts: Vec<GoldenText>,
    /// Generated clips with their embeddings.
    pub speech: Vec<GoldenSpeech>,
}

/// A description with its embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenText {
    /// The description.
    pub input: String,
    /// `dimension` elements of unit length.
    pub embedding: Vec<f32>,
}

/// A generated clip with its embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpeech {
    /// How to make the clip.
    pub generator: Generator,
    /// `dimension` elements of unit length.
    pub embedding: Vec<f32>,
}

/// A recipe for a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Generator {
    /// Eight harmonics of a voice-like tone that swells three times a second, with a little noise.
    Harmonic {
        /// Fundamental frequency.
        hz: f64,
        /// Length.
        seconds: f64,
        /// Of the noise.
        seed: u64,
    },
}

/// Generates a clip at [`GENERATOR_RATE`]. With t in seconds and k from 1 to 8, a sample is
/// 0.1 (0.6 + 0.4 sin(6 pi t)) sum sin(2 pi k hz t) / k, plus 0.005 times noise in -1..1 from a 64-bit linear
/// congruential generator (Knuth's MMIX constants; the upper 24 bits of the state after each step).
pub fn waveform(generator: &Generator) -> Vec<f32> {
    let Generator::Harmonic { hz, seconds, seed } = *generator;
    let rate = f64::from(GENERATOR_RATE);
    let mut state = seed;
    let sample = |n: usize| {
        let t = n as f64 / rate;
        let voice: f64 = (1..=8).map(|k| (TAU * f64::from(k) * hz * t).sin() / f64::from(k)).sum();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = (state >> 40) as f64 / f64::from(1 << 23) - 1.0;
        (voice * 0.1 * (0.6 + 0.4 * (TAU * 3.0 * t).sin()) + 0.005 * noise) as f32
    };
    (0..(seconds * rate).round() as usize).map(sample).collect()
}

impl Golden {
    /// Reads `golden.json`.
    pub fn parse(json: &[u8]) -> Result<Self, GoldenError> {
        let golden: Self = serde_json::from_slice(json)?;
        let fail = |reason: &str| Err(GoldenError::Content(reason.into()));
        if golden.texts.is_empty() || golden.speech.is_empty() {
            return fail("needs at least one text and one speech input");
        }
        if !(golden.tolerance > 0.0 && golden.tolerance <= 0.1) {
            return fail("has a tolerance outside 0 to 0.1");
        }
        for GoldenSpeech { generator: Generator::Harmonic { seconds, .. }, .. } in &golden.speech {
            if !(*seconds > 0.0 && *seconds <= MAX_GENERATOR_SECONDS) {
                return fail("generates clips of no or of over 60 seconds");
            }
        }
        Ok(golden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_documented_one() {
        let clip = waveform(&Generator::Harmonic { hz: 180.0, seconds: 2.0, seed: 1 });
        assert_eq!(clip.len(), 32_000);
        // The first sample is noise alone: the voice starts at zero.
        let state = 6_364_136_223_846_793_005u64.wrapping_add(1_442_695_040_888_963_407);
        let noise = (state >> 40) as f64 / 8_388_608.0 - 1.0;
        assert_eq!(clip[0], (0.005 * noise) as f32);
        let other = waveform(&Generator::Harmonic { hz: 180.0, seconds: 2.0, seed: 2 });
        assert!(clip.iter().zip(&other).all(|(a, b)| (a - b).abs() <= 0.0101) && clip != other);
    }

    #[test]
    fn golden_files_are_read_strictly() {
        let good = r#"{"tolerance": 1e-3, "texts": [{"input": "x", "embedding": [1.0]}],
            "speech": [{"generator": {"kind": "harmonic", "hz": 180.0, "seconds": 2.0, "seed": 1}, "embedding": [1.0]}]}"#;
        assert!(Golden::parse(good.as_bytes()).is_ok());
        for (from, to) in [("1e-3", "0"), ("1e-3", "1"), ("\"seconds\": 2.0", "\"seconds\": 1e9"), ("harmonic", "file")]
        {
            assert!(Golden::parse(good.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
        }
        assert!(Golden::parse(br#"{"tolerance": 1e-3, "texts": [], "speech": []}"#).is_err());
    }
}
