//! WavLM (Chen et al. 2022) as transformers' `WavLMModel` computes it with normalisation after each layer
//! (`do_stable_layer_norm` false). Parameters have the published names below the given path; the weight norm of the
//! positional convolution stays as magnitude and direction.

use serde::{Deserialize, Serialize};

use super::conv_features::{ConvNorm, Frames, Noise, conv_features, valid_frames};
use crate::graph::{Border, Fold, Function, Value};
use crate::layers::{AttentionPaths, attention, layer_norm, linear};

/// Sizes of a WavLM encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Wavlm {
    /// Channels of the convolutions.
    pub channels: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward layers.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Kernel width of the positional convolution, even.
    pub position_width: usize,
    /// Groups of the positional convolution.
    pub position_groups: usize,
    /// Buckets of the relative positions.
    pub buckets: usize,
    /// Distance in frames from which all positions share a bucket.
    pub max_distance: usize,
}

impl Wavlm {
    /// WavLM Base+.
    pub const BASE_PLUS: Wavlm = Wavlm {
        channels: 512,
        width: 768,
        hidden: 3072,
        layers: 12,
        heads: 12,
        position_width: 128,
        position_groups: 16,
        buckets: 320,
        max_distance: 800,
    };
}

const EPSILON: f64 = 1e-5;
/// Frames of a span that SpecAugment hides, and the fewest spans of a clip: transformers' defaults.
const SPAN: usize = 10;
const FEWEST_SPANS: usize = 2;
/// Numbers per head and position that the gate of the relative positions is computed from, two sums of four.
const GATE: usize = 8;

/// `waveform` `[batch, samples]`, of which `length` `[batch]` are valid, to hidden states, 50 frames a second. With `masked`
/// false nothing tells the network where a clip ends, and padding is listened to (what the paper's code does).
pub fn wavlm<'g>(
    net: &Wavlm,
    waveform: Value<'g>,
    length: Value<'g>,
    masked: bool,
    noise: &Noise,
    path: &str,
) -> Frames<'g> {
    let g = waveform.graph();
    let known = masked.then_some(length);
    let kind = ConvNorm::FirstOverTime;
    let features = conv_features(waveform, known, kind, net.channels, &format!("{path}.feature_extractor.conv_layers"));
    let mask = valid_frames(length, features, 0);
    let normal = layer_norm(features.transpose(), &format!("{path}.feature_projection.layer_norm"), EPSILON);
    let mut x = linear(normal, &format!("{path}.feature_projection.projection"), net.width).dropout(noise.features);
    if noise.mask_time > 0.0 {
        // Without a mask the library counts spans over the padded length.
        let counted = if masked { mask } else { mask * 0.0 + 1.0 };
        let filler = g.param(&format!("{path}.masked_spec_embed"), &[net.width]);
        x = x.mask_spans(filler, counted, noise.mask_time, SPAN, FEWEST_SPANS);
    }
    if masked {
        x = x * mask.unsqueeze(2);
    }
    x = x + positions(net, x, &format!("{path}.encoder.pos_conv_embed.conv"));
    x = layer_norm(x, &format!("{path}.encoder.layer_norm"), EPSILON).dropout(noise.hidden);
    let table = g.param(&format!("{path}.encoder.layers.0.attention.rel_attn_embed.weight"), &[net.buckets, net.heads]);
    let bias = x.relative_bias(table, net.max_distance);
    let hidden = masked.then(|| crate::layers::hide_masked(mask));
    for n in 0..net.layers {
        let after = block(net, x, bias, hidden, noise, &format!("{path}.encoder.layers.{n}"));
        // The first block is never left out: the reference computes the shared bias there.
        x = if n == 0 { after } else { x.layer_drop(after, noise.layer_drop) };
    }
    Frames { frames: x, mask }
}

/// Positional convolution: the even kernel sees one frame more before than after.
fn positions<'g>(net: &Wavlm, x: Value<'g>, path: &str) -> Value<'g> {
    let (g, half) = (x.graph(), net.position_width / 2);
    let direction =
        g.param(&format!("{path}.weight_v"), &[net.width, net.width / net.position_groups, net.position_width]);
    let length = (direction * direction).reduce(Fold::Sum, 0).reduce(Fold::Sum, 1).map(Function::Sqrt);
    let kernel = direction * (g.param(&format!("{path}.weight_g"), &[1, 1, net.position_width]) / length);
    let padded = x.transpose().pad(half, net.position_width - 1 - half, Border::Zero);
    let y = padded.grouped_conv1d(kernel, 1, 0, net.position_groups)
        + g.param(&format!("{path}.bias"), &[net.width]).unsqueeze(1);
    y.map(Function::Gelu).transpose()
}

fn block<'g>(
    net: &Wavlm,
    x: Value<'g>,
    bias: Value<'g>,
    hidden: Option<Value<'g>>,
    noise: &Noise,
    path: &str,
) -> Value<'g> {
    let own = |name: &str| format!("{path}.attention.{name}");
    let paths = AttentionPaths {
        query: own("q_proj"),
        key: own("k_proj"),
        value: own("v_proj"),
        output: own("out_proj"),
        key_bias: true,
    };
    let mut bias = bias * gate(net, x, &format!("{path}.attention"));
    if let Some(hidden) = hidden {
        bias = bias + hidden;
    }
    let attended = attention(x, &paths, net.heads, bias, noise.attention).dropout(noise.hidden);
    let x = layer_norm(x + attended, &format!("{path}.layer_norm"), EPSILON);
    let inner = linear(x, &format!("{path}.feed_forward.intermediate_dense"), net.hidden).map(Function::Gelu);
    let fed = linear(inner.dropout(noise.activation), &format!("{path}.feed_forward.output_dense"), net.width);
    layer_norm(x + fed.dropout(noise.hidden), &format!("{path}.final_layer_norm"), EPSILON)
}

/// How much each position listens to the relative positions: `[batch, heads, time, 1]` (WavLM, equation 6).
fn gate<'g>(net: &Wavlm, x: Value<'g>, path: &str) -> Value<'g> {
    let g = x.graph();
    let parts = linear(x.split_heads(net.heads), &format!("{path}.gru_rel_pos_linear"), GATE);
    let half = |first: bool| {
        let picked = (0..GATE).map(|n| f32::from(u8::from((n < GATE / 2) == first))).collect();
        parts.matmul(g.constant(&[GATE, 1], picked)).map(Function::Sigmoid)
    };
    let scale = g.param(&format!("{path}.gru_rel_pos_const"), &[1, net.heads, 1, 1]);
    half(true) * (half(false) * scale + -1.0) + 2.0
}
