//! From a waveform to a unit vector: log-mel, Whisper blocks, statistics over time of chosen layers, projection.
//! It is recorded whole for export, and in two pieces (encoder, head) for training from cached features.

use serde::{Deserialize, Serialize};

use super::heads::{Projection, projection};
use super::log_mel::{BANDS, LogMel, log_mel};
use super::whisper::{Sequence, Whisper, blocks, stem, voice};
use crate::graph::{Dim, Function, Graph, Value};
use crate::layers::{linear, masked_mean, statistics};

/// Where the encoder's parameters live.
pub const ENCODER: &str = "speech.encoder";
const HEAD: &str = "speech.head";

/// Weights of the frames in pooling.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// All frames with voice count the same.
    Even,
    /// Learned weights; training over cached features needs those of all frames (`prepare --frames`).
    Attentive,
}

/// The speech network.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SpeechTower {
    /// The encoder's sizes.
    pub whisper: Whisper,
    /// Layers whose outputs are pooled, counted from 1 (0 is the input of the first block); the last one ends the encoder.
    pub layers: Vec<usize>,
    /// Weights of the frames.
    pub pooling: Pooling,
    /// Whether the standard deviation over time is a feature beside the mean.
    pub deviation: bool,
    /// Whether mean and deviation of the log-mel bands are features too.
    pub mel: bool,
    /// Positions this far below the loudest one count as silence in pooling: log10 of energy, 3.5 is 35 dB.
    #[serde(default = "usual_gate")]
    pub gate: f32,
    /// Whether the silence before and after the voice, by the same measure, is cut off before the encoder.
    #[serde(default)]
    pub trim: bool,
    /// How far recording gain is removed, 0 to 1; see `log_mel`.
    #[serde(default)]
    pub level: f32,
    /// Map to the shared space.
    pub projection: Projection,
}

impl SpeechTower {
    /// Width of the pooled features.
    pub fn pooled_width(&self) -> usize {
        self.layers.len() * self.layer_width() + if self.mel { 2 * BANDS } else { 0 }
    }

    /// The whole network: inputs `waveform` `[batch, samples]` and `length` `[batch]`, output `embedding`.
    pub fn record(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let (waveform, length) = self.inputs(&g);
        let (mel, layers) = self.encode(waveform, length);
        g.output("embedding", self.embed(self.pool(&layers, Some(&mel)), dimension).l2_normalize());
        g
    }

    /// The whole network for training: `waveform`, `length` to `raw` (before normalisation) and `embedding`.
    pub fn record_whole(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let (waveform, length) = self.inputs(&g);
        let (mel, layers) = self.encode(waveform, length);
        self.outputs(&g, self.pool(&layers, Some(&mel)), dimension);
        g
    }

    /// The frozen part: `waveform`, `length` to `pooled` `[batch, pooled_width]` (even pooling) and, for the baselines,
    /// `plain` `[batch, width]` (mean of the last layer over all valid positions) and `mel` `[batch, 160]`.
    pub fn record_pooled(&self) -> Graph {
        let g = Graph::new();
        let (waveform, length) = self.inputs(&g);
        let (mel, layers) = self.encode(waveform, length);
        let even = Self { pooling: Pooling::Even, ..self.clone() };
        let last = layers.last().expect("a speech tower pools at least one layer");
        g.output("pooled", even.pool(&layers, Some(&mel)));
        g.output("plain", masked_mean(last.frames, last.mask));
        g.output("mel", self.mel_statistics(&mel));
        g
    }

    /// Which of the columns that a `wider` tower pools are this tower's; `None` when it lacks some.
    pub fn columns_of(&self, wider: &SpeechTower) -> Option<Vec<i64>> {
        let width = self.whisper.width as i64;
        let mut columns = vec![];
        for layer in &self.layers {
            let start = (wider.layers.iter().position(|l| l == layer)? * wider.layer_width()) as i64;
            if self.deviation && !wider.deviation {
                return None;
            }
            columns.extend(start..start + if self.deviation { 2 * width } else { width });
        }
        if self.mel {
            let start = (wider.layers.len() * wider.layer_width()) as i64;
            columns.extend(start..start + 2 * BANDS as i64);
        }
        (wider.mel || !self.mel).then_some(columns)
    }

    /// The part below the trained blocks: `waveform`, `length` to `frames` `[batch, time, width]` after `layer`, `mask`,
    /// `weight` and `mel`.
    pub fn record_frames(&self, layer: usize) -> Graph {
        let g = Graph::new();
        let (waveform, length) = self.inputs(&g);
        let (mel, start) = self.stem(waveform, length);
        let end = blocks(&self.whisper, start, ENCODER, 0..layer).pop().unwrap_or(start);
        g.output("frames", end.frames);
        g.output("mask", end.mask);
        g.output("weight", end.weight);
        g.output("mel", self.mel_statistics(&mel));
        g
    }

    /// The trained part over cached statistics: `pooled` to `raw` (before normalisation) and `embedding`.
    pub fn record_head(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let pooled = g.input("pooled", &[Dim::Batch, Dim::Fixed(self.pooled_width())]);
        self.outputs(&g, pooled, dimension);
        g
    }

    /// The trained part over cached frames after `layer`: `frames`, `mask`, `weight`, `mel` to `pooled`, `raw` and `embedding`.
    pub fn record_upper(&self, layer: usize, dimension: usize) -> Graph {
        let g = Graph::new();
        let time = g.time("frames");
        let frames = g.input("frames", &[Dim::Batch, time, Dim::Fixed(self.whisper.width)]);
        let mask = g.input("mask", &[Dim::Batch, time]);
        let weight = g.input("weight", &[Dim::Batch, time]);
        let start = Sequence { frames, mask, weight };
        let above = blocks(&self.whisper, start, ENCODER, layer..self.last());
        let chosen = |l: &usize| if *l == layer { start } else { above[l - layer - 1] };
        assert!(
            self.layers.iter().all(|l| *l >= layer),
            "pooled layers {:?} lie below the cached one {layer}",
            self.layers
        );
        let chosen: Vec<_> = self.layers.iter().map(chosen).collect();
        let mut pooled = self.pool(&chosen, None);
        if self.mel {
            pooled = Value::concat(&[pooled, g.input("mel", &[Dim::Batch, Dim::Fixed(2 * BANDS)])]);
        }
        g.output("pooled", pooled);
        self.outputs(&g, pooled, dimension);
        g
    }

    /// The last layer that is computed.
    pub fn last(&self) -> usize {
        self.layers.iter().copied().max().expect("a speech tower pools at least one layer")
    }

    fn layer_width(&self) -> usize {
        self.whisper.width * if self.deviation { 2 } else { 1 }
    }

    fn inputs<'g>(&self, g: &'g Graph) -> (Value<'g>, Value<'g>) {
        (g.input("waveform", &[Dim::Batch, g.time("samples")]), g.integers("length", &[Dim::Batch]))
    }

    fn stem<'g>(&self, waveform: Value<'g>, length: Value<'g>) -> (LogMel<'g>, Sequence<'g>) {
        let mut mel = log_mel(waveform, length, self.level);
        if self.trim {
            mel = mel.trimmed(self.gate);
        }
        let start = stem(&self.whisper, &mel, self.gate, ENCODER);
        (mel, start)
    }

    fn encode<'g>(&self, waveform: Value<'g>, length: Value<'g>) -> (LogMel<'g>, Vec<Sequence<'g>>) {
        let (mel, start) = self.stem(waveform, length);
        let all = blocks(&self.whisper, start, ENCODER, 0..self.last());
        (mel, self.layers.iter().map(|&l| if l == 0 { start } else { all[l - 1] }).collect())
    }

    fn mel_statistics<'g>(&self, mel: &LogMel<'g>) -> Value<'g> {
        statistics(mel.frames.transpose(), voice(mel.loudness.squeeze(1), mel.mask, self.gate), true)
    }

    fn pool<'g>(&self, layers: &[Sequence<'g>], mel: Option<&LogMel<'g>>) -> Value<'g> {
        let weights = |n: usize, layer: &Sequence<'g>| match self.pooling {
            Pooling::Even => layer.weight,
            Pooling::Attentive => attentive(layer, &format!("{HEAD}.attention.{n}")),
        };
        let pool = |(n, layer): (usize, &Sequence<'g>)| statistics(layer.frames, weights(n, layer), self.deviation);
        let mut pooled: Vec<_> = layers.iter().enumerate().map(pool).collect();
        pooled.extend(mel.filter(|_| self.mel).map(|m| self.mel_statistics(m)));
        Value::concat(&pooled)
    }

    /// One learned gain a layer (and one for the log-mel features), then the projection.
    fn embed<'g>(&self, pooled: Value<'g>, dimension: usize) -> Value<'g> {
        let parts = self.layers.len() + usize::from(self.mel);
        let owner = |column: usize| (column / self.layer_width()).min(self.layers.len());
        let width = self.pooled_width();
        let spread = (0..parts).flat_map(|p| (0..width).map(move |c| f32::from(u8::from(owner(c) == p)))).collect();
        let g = pooled.graph();
        let gains = g.param(&format!("{HEAD}.layer_gain"), &[1, parts]).matmul(g.constant(&[parts, width], spread));
        projection(&self.projection, pooled, gains, HEAD, dimension)
    }

    fn outputs<'g>(&self, g: &'g Graph, pooled: Value<'g>, dimension: usize) {
        let raw = self.embed(pooled, dimension);
        g.output("raw", raw);
        g.output("embedding", raw.l2_normalize());
    }
}

fn usual_gate() -> f32 {
    3.5
}

fn attentive<'g>(layer: &Sequence<'g>, path: &str) -> Value<'g> {
    let scores =
        linear(linear(layer.frames, &format!("{path}.inner"), 64).map(Function::Tanh), &format!("{path}.outer"), 1);
    (scores.squeeze(2) + (layer.mask + -1.0) * 1e9).softmax() * layer.weight
}
