//! From a waveform to a unit vector with the encoders of the paper: WavLM or emotion2vec, mean of the last layer over the
//! valid frames, one linear map. The whole network is trained.

use serde::{Deserialize, Serialize};

use super::conv_features::{Frames, Noise, counted_frames, normalised};
use super::emotion2vec::{self, Emotion2vec, emotion2vec};
use super::wavlm::{Wavlm, wavlm};
use crate::graph::{Dim, Graph, Value};
use crate::layers::{linear, masked_mean};

/// Where the encoder's parameters live.
pub const ENCODER: &str = "speech.encoder";
/// The linear map behind it.
pub const PROJECTION: &str = "speech.head.outer";

/// Epsilon of transformers' feature extractor for wav2vec 2.0 models, which WavLM uses.
const UNIT_VARIANCE_EPSILON: f64 = 1e-7;

/// Which encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "sizes")]
pub enum Backbone {
    /// WavLM.
    Wavlm(Wavlm),
    /// emotion2vec.
    Emotion2vec(Emotion2vec),
    /// WavLM Base+ in its published size.
    WavlmBasePlus,
    /// emotion2vec-base in its published size.
    Emotion2vecBase,
}

/// What is done to a waveform before the encoder.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// Nothing: what the paper's code does.
    #[default]
    None,
    /// Mean 0 and variance 1 over the clip, as the encoder's own library does in inference.
    Clip,
}

/// The speech network of the paper.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct WaveformEncoder {
    /// The encoder.
    pub backbone: Backbone,
    /// Whether padding is masked, so that a clip gives the same in a batch as alone. `false` is what the paper's code does:
    /// only the mean leaves padding out, and it counts `(samples - 160) / 320` frames.
    #[serde(default = "yes")]
    pub mask: bool,
    /// What is done to the waveform.
    #[serde(default)]
    pub normalise: Normalisation,
    /// What is random in training; left out, it is what the published encoder has.
    #[serde(default)]
    pub noise: Option<Noise>,
}

impl WaveformEncoder {
    /// The whole network: inputs `waveform` `[batch, samples]` at 16 kHz and `length` `[batch]` in samples, outputs `raw`
    /// `[batch, dimension]` (before normalisation) and `embedding` of unit length.
    pub fn record(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let raw = linear(self.pooled(&g, self.noise()), PROJECTION, dimension);
        g.output("raw", raw);
        g.output("embedding", raw.l2_normalize());
        g
    }

    /// The network as exported: the output `embedding` alone, nothing random, and padding always masked, since a server
    /// must not let the answers to strangers' requests depend on each other.
    pub fn record_served(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let served = Self { mask: true, ..self.clone() };
        let raw = linear(served.pooled(&g, Noise::default()), PROJECTION, dimension);
        g.output("embedding", raw.l2_normalize());
        g
    }

    /// The encoder alone: outputs `frames` `[batch, time, width]` and `mask` `[batch, time]`.
    pub fn record_frames(&self) -> Graph {
        let g = Graph::new();
        let end = self.frames(&g, self.noise());
        g.output("frames", end.frames);
        g.output("mask", end.mask);
        g
    }

    /// What is random in training.
    pub fn noise(&self) -> Noise {
        self.noise.unwrap_or(match self.backbone {
            Backbone::Wavlm(_) | Backbone::WavlmBasePlus => Noise::WAVLM,
            Backbone::Emotion2vec(_) | Backbone::Emotion2vecBase => Noise::EMOTION2VEC,
        })
    }

    fn pooled<'g>(&self, g: &'g Graph, noise: Noise) -> Value<'g> {
        let end = self.frames(g, noise);
        masked_mean(end.frames, end.mask)
    }

    fn frames<'g>(&self, g: &'g Graph, noise: Noise) -> Frames<'g> {
        let mut waveform = g.input("waveform", &[Dim::Batch, g.time("samples")]);
        let length = g.integers("length", &[Dim::Batch]);
        let wavlm_like = matches!(self.backbone, Backbone::Wavlm(_) | Backbone::WavlmBasePlus);
        if self.normalise == Normalisation::Clip {
            let epsilon = if wavlm_like { UNIT_VARIANCE_EPSILON } else { emotion2vec::EPSILON };
            waveform = normalised(waveform, length, epsilon);
        }
        let listen = |net: &Wavlm| wavlm(net, waveform, length, self.mask, &noise, ENCODER);
        let feel = |net: &Emotion2vec| emotion2vec(net, waveform, length, self.mask, &noise, ENCODER);
        let mut end = match &self.backbone {
            Backbone::Wavlm(net) => listen(net),
            Backbone::WavlmBasePlus => listen(&Wavlm::BASE_PLUS),
            Backbone::Emotion2vec(net) => feel(net),
            Backbone::Emotion2vecBase => feel(&Emotion2vec::BASE),
        };
        if !self.mask {
            end.mask = counted_frames(length, end.frames.transpose());
        }
        end
    }
}

fn yes() -> bool {
    true
}
