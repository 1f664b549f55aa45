//! Whisper's encoder, cut after any layer. Parameters are named as in OpenAI's checkpoints below the given path:
//! `conv1`, `conv2`, `positional_embedding`, `blocks.N.{attn_ln,attn.{query,key,value,out},mlp_ln,mlp.{0,2}}`.

use serde::{Deserialize, Serialize};

use super::log_mel::{BANDS, LogMel};
use crate::graph::{Function, Value};
use crate::layers::{AttentionPaths, attention, conv1d, feed_forward, hide_masked, layer_norm};

/// Sizes of a Whisper encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Whisper {
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Longest input in positions (50 a second).
    pub positions: usize,
}

impl Whisper {
    /// Whisper base.
    pub const BASE: Whisper = Whisper { width: 512, heads: 8, positions: 1500 };
}

const EPSILON: f64 = 1e-5;

/// A sequence with the mask of its valid positions and their weights in pooling.
#[derive(Clone, Copy)]
pub struct Sequence<'g> {
    /// `[batch, time, width]`.
    pub frames: Value<'g>,
    /// `[batch, time]`, one at valid positions.
    pub mask: Value<'g>,
    /// `[batch, time]`, 0 to 1: how much of a position is voice rather than silence.
    pub weight: Value<'g>,
}

/// Convolutions and positions: log-mel `[batch, 80, frames]` to the input of the first block, 50 positions a second.
/// Positions more than `gate` (log10 of energy, 3.5 is 35 dB) below the loudest get no weight in pooling.
pub fn stem<'g>(net: &Whisper, input: &LogMel<'g>, gate: f32, path: &str) -> Sequence<'g> {
    let mel = input.frames;
    let g = mel.graph();
    assert_eq!(mel.width(1), BANDS);
    let narrow = conv1d(mel, &format!("{path}.conv1"), net.width, 3, 1, 1).map(Function::Gelu);
    let narrow = narrow * input.mask.unsqueeze(1);
    let wide = conv1d(narrow, &format!("{path}.conv2"), net.width, 3, 2, 1).map(Function::Gelu);
    let mask = input.valid(wide, true);
    let table = g.param(&format!("{path}.positional_embedding"), &[net.positions, net.width]);
    // The loudness is brought to the rate of the positions by a convolution with the geometry of conv2.
    let loudness = input.loudness.conv1d(g.constant(&[1, 1, 3], vec![0.0, 1.0, 0.0]), 2, 1).squeeze(1);
    let weight = voice(loudness, mask, gate);
    Sequence { frames: wide.transpose().add_positions(table), mask, weight }
}

/// How much of each position is voice, from its loudness (log10 under the loudest) `[batch, time]`. The weight rises from
/// 0 to 1 over half a bel around the gate, so that no result hangs on one frame, and never is quite 0 inside the clip.
pub fn voice<'g>(loudness: Value<'g>, mask: Value<'g>, gate: f32) -> Value<'g> {
    clamp_to_unit((loudness + gate) * 2.0) * mask + mask * 1e-3
}

fn clamp_to_unit(x: Value<'_>) -> Value<'_> {
    let positive = x.map(Function::Relu);
    (positive * -1.0 + 1.0).map(Function::Relu) * -1.0 + 1.0
}

/// Blocks `first..last` (counted from 0) applied in order; the result has one entry a block, its output.
pub fn blocks<'g>(net: &Whisper, x: Sequence<'g>, path: &str, range: std::ops::Range<usize>) -> Vec<Sequence<'g>> {
    let hidden = hide_masked(x.mask);
    let mut frames = x.frames;
    range
        .map(|n| {
            frames = block(net, frames, hidden, &format!("{path}.blocks.{n}"));
            Sequence { frames, ..x }
        })
        .collect()
}

fn block<'g>(net: &Whisper, x: Value<'g>, hidden: Value<'g>, path: &str) -> Value<'g> {
    let paths = AttentionPaths {
        query: format!("{path}.attn.query"),
        key: format!("{path}.attn.key"),
        value: format!("{path}.attn.value"),
        output: format!("{path}.attn.out"),
        key_bias: false,
    };
    let x = x + attention(layer_norm(x, &format!("{path}.attn_ln"), EPSILON), &paths, net.heads, hidden, 0.0);
    let normal = layer_norm(x, &format!("{path}.mlp_ln"), EPSILON);
    x + feed_forward(normal, &format!("{path}.mlp.0"), &format!("{path}.mlp.2"), 4 * net.width)
}
