//! What WavLM and emotion2vec have in common: seven convolutions that turn a 16 kHz waveform into 50 frames a second
//! (wav2vec 2.0, Baevski et al. 2020, section 2), masks of their valid frames, normalisation of the waveform and what is
//! random in training.

use serde::{Deserialize, Serialize};

use crate::graph::{Fold, Function, Step, Value};
use crate::layers::{layer_norm, norm_over_time};

/// Widths of the seven kernels.
pub const KERNELS: [usize; 7] = [10, 3, 3, 3, 3, 2, 2];
/// Strides of the seven convolutions; their product is [`HOP`].
pub const STRIDES: [usize; 7] = [5, 2, 2, 2, 2, 2, 2];
/// Samples between frames.
pub const HOP: usize = 320;
/// Samples that one frame sees.
pub const FIELD: usize = 400;

const EPSILON: f64 = 1e-5;

/// What follows each convolution before GELU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConvNorm {
    /// The first output is normalised over time for each channel, the others not at all (WavLM base, wav2vec 2.0 base).
    FirstOverTime,
    /// Each frame is normalised over channels (emotion2vec).
    Frames,
}

/// Frames of an encoder with the mask of the valid ones.
#[derive(Clone, Copy)]
pub struct Frames<'g> {
    /// `[batch, time, width]`.
    pub frames: Value<'g>,
    /// `[batch, time]`, one at valid frames.
    pub mask: Value<'g>,
}

/// What is random in training. All zero is an encoder without.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// Dropout on the outputs of layers and on the input of the first block.
    pub hidden: f64,
    /// Dropout on attention weights.
    pub attention: f64,
    /// Dropout inside the feed-forward layers.
    pub activation: f64,
    /// Dropout on the projected features (WavLM's `feat_proj_dropout`).
    pub features: f64,
    /// Chance that a block is left out of a step.
    pub layer_drop: f64,
    /// Share of the frames that SpecAugment hides (WavLM's `mask_time_prob`; transformers applies it in training mode).
    pub mask_time: f64,
}

impl Noise {
    /// WavLM Base+ as the paper's code runs it in training mode. The checkpoint's `layerdrop` was not seen: the library's
    /// default is used.
    pub const WAVLM: Noise =
        Noise { hidden: 0.1, attention: 0.1, activation: 0.0, features: 0.1, layer_drop: 0.1, mask_time: 0.05 };
    /// emotion2vec-base as its configuration says.
    pub const EMOTION2VEC: Noise =
        Noise { hidden: 0.1, attention: 0.1, activation: 0.0, features: 0.0, layer_drop: 0.05, mask_time: 0.0 };
}

/// Seven convolutions over `waveform` `[batch, samples]`: `[batch, channels, frames]`. With `length` `[batch]`, results at valid
/// frames don't depend on what follows the clip; without it normalisation over time counts the padding too.
/// Parameters of layer n: `{path}.{n}.{kernel}.weight` and, where there is a norm, `{path}.{n}.{norm}.{weight,bias}`.
pub fn conv_features<'g>(
    waveform: Value<'g>,
    length: Option<Value<'g>>,
    kind: ConvNorm,
    channels: usize,
    path: &str,
) -> Value<'g> {
    let g = waveform.graph();
    let (kernel, norm) = match kind {
        ConvNorm::FirstOverTime => ("conv", "layer_norm"),
        ConvNorm::Frames => ("0", "2.1"),
    };
    let mut x = waveform.unsqueeze(1);
    for (n, (width, stride)) in KERNELS.into_iter().zip(STRIDES).enumerate() {
        let weight = g.param(&format!("{path}.{n}.{kernel}.weight"), &[channels, x.width_at(1), width]);
        x = x.conv1d(weight, stride, 0);
        let own = format!("{path}.{n}.{norm}");
        x = match kind {
            ConvNorm::FirstOverTime if n == 0 => {
                let first = KERNELS[0] as i64 - STRIDES[0] as i64;
                let mask = length.map(|l| l.valid(x, &[Step { offset: -first, divide: STRIDES[0] as i64 }]));
                norm_over_time(x, mask, &own, EPSILON)
            }
            ConvNorm::FirstOverTime => x,
            ConvNorm::Frames => layer_norm(x.transpose(), &own, EPSILON).transpose(),
        };
        x = x.map(Function::Gelu);
    }
    x
}

/// Which frames of `like` `[batch, channels, frames]` lie wholly inside their clips, after `first` positions that always count.
pub fn valid_frames<'g>(length: Value<'g>, like: Value<'g>, first: usize) -> Value<'g> {
    let whole = Step { offset: HOP as i64 - FIELD as i64, divide: HOP as i64 };
    length.valid(like, &[whole, Step { offset: first as i64, divide: 1 }])
}

/// The count of the paper's released code, `(samples - 160) / 320` frames: for some lengths one fewer than there are.
pub fn counted_frames<'g>(length: Value<'g>, like: Value<'g>) -> Value<'g> {
    length.valid(like, &[Step { offset: -(HOP as i64) / 2, divide: HOP as i64 }])
}

/// Each clip of `waveform` `[batch, samples]` to mean 0 and variance 1 over its own samples, and zero after them.
pub fn normalised<'g>(waveform: Value<'g>, length: Value<'g>, epsilon: f64) -> Value<'g> {
    let mask = length.valid(waveform.unsqueeze(1), &[]);
    let count = mask.reduce(Fold::Sum, 1);
    let centred = (waveform + (waveform * mask).reduce(Fold::Sum, 1) / count * -1.0) * mask;
    let variance = (centred * centred).reduce(Fold::Sum, 1) / count;
    centred / (variance + epsilon as f32).map(Function::Sqrt)
}
