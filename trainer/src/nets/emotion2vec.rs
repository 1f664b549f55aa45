//! emotion2vec (Ma et al. 2024), a data2vec 2.0 audio encoder, as FunASR's `Emotion2vec.extract_features` computes it
//! without masking. Parameters have the published names below the given path, except that the joint matrix of query,
//! key and value is kept as three (see `weights::emotion2vec`).

use serde::{Deserialize, Serialize};

use super::conv_features::{ConvNorm, Frames, Noise, conv_features, valid_frames};
use crate::graph::{Function, Value};
use crate::layers::{AttentionPaths, attention, hide_masked, layer_norm, linear};

/// Sizes of an emotion2vec encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Emotion2vec {
    /// Channels of the convolutions.
    pub channels: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward layers.
    pub hidden: usize,
    /// Blocks of the first stack (`prenet_depth`).
    pub prenet_layers: usize,
    /// Blocks of the second stack (`depth`).
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Convolutions of the position encoder.
    pub position_layers: usize,
    /// Kernel width of each, odd.
    pub position_width: usize,
    /// Groups of each.
    pub position_groups: usize,
    /// Learned tokens before the first frame.
    pub extra_tokens: usize,
}

impl Emotion2vec {
    /// emotion2vec-base.
    pub const BASE: Emotion2vec = Emotion2vec {
        channels: 512,
        width: 768,
        hidden: 3072,
        prenet_layers: 4,
        layers: 8,
        heads: 12,
        position_layers: 5,
        position_width: 19,
        position_groups: 16,
        extra_tokens: 10,
    };
}

/// Epsilon of every layer norm; also of the layer norm that FunASR's inference applies to the waveform.
pub const EPSILON: f64 = 1e-5;

/// `waveform` `[batch, samples]`, of which `length` `[batch]` are valid, to hidden states without the extra tokens, 50 frames a
/// second. With `masked` false padding is listened to (what the paper's code does).
pub fn emotion2vec<'g>(
    net: &Emotion2vec,
    waveform: Value<'g>,
    length: Value<'g>,
    masked: bool,
    noise: &Noise,
    path: &str,
) -> Frames<'g> {
    let g = waveform.graph();
    let audio = format!("{path}.modality_encoders.AUDIO");
    let local = format!("{audio}.local_encoder.conv_layers");
    let features = conv_features(waveform, None, ConvNorm::Frames, net.channels, &local);
    let mask = valid_frames(length, features, 0);
    let normal = layer_norm(features.transpose(), &format!("{audio}.project_features.1"), EPSILON);
    let mut x = linear(normal, &format!("{audio}.project_features.2"), net.width);
    if masked {
        x = x * mask.unsqueeze(2);
    }
    x = x + positions(net, x, masked.then_some(mask), &format!("{audio}.relative_positional_encoder"));
    let tokens = g.param(&format!("{audio}.extra_tokens"), &[net.extra_tokens, net.width]);
    x = x.prepend(tokens);

    let slopes: Vec<f32> = alibi_slopes(net.heads).iter().map(|slope| -*slope as f32).collect();
    let scale = g.param(&format!("{audio}.alibi_scale"), &[1, net.heads, 1, 1]).map(Function::Relu);
    let mut bias = x.distance(net.extra_tokens) * g.constant(&[1, net.heads, 1, 1], slopes) * scale;
    if masked {
        bias = bias + hide_masked(valid_frames(length, x.transpose(), net.extra_tokens));
    }
    x = layer_norm(x, &format!("{audio}.context_encoder.norm"), EPSILON).dropout(noise.hidden);
    let first = (0..net.prenet_layers).map(|n| format!("{audio}.context_encoder.blocks.{n}"));
    for own in first.chain((0..net.layers).map(|n| format!("{path}.blocks.{n}"))) {
        x = x.layer_drop(block(net, x, bias, noise, &own), noise.layer_drop);
    }
    Frames { frames: x.skip(net.extra_tokens), mask }
}

/// Grouped convolutions, each followed by a layer norm without parameters and GELU. Between them padding is set to zero, so
/// that a clip has the same neighbours in a batch as alone.
fn positions<'g>(net: &Emotion2vec, x: Value<'g>, mask: Option<Value<'g>>, path: &str) -> Value<'g> {
    let g = x.graph();
    let (ones, zeros) =
        (g.constant(&[net.width], vec![1.0; net.width]), g.constant(&[net.width], vec![0.0; net.width]));
    let mut x = x;
    for n in 1..=net.position_layers {
        let kernel =
            g.param(&format!("{path}.{n}.0.weight"), &[net.width, net.width / net.position_groups, net.position_width]);
        let y = x.transpose().grouped_conv1d(kernel, 1, net.position_width / 2, net.position_groups)
            + g.param(&format!("{path}.{n}.0.bias"), &[net.width]).unsqueeze(1);
        x = y.transpose().layer_norm(ones, zeros, EPSILON).map(Function::Gelu);
        if let Some(mask) = mask {
            x = x * mask.unsqueeze(2);
        }
    }
    x
}

fn block<'g>(net: &Emotion2vec, x: Value<'g>, bias: Value<'g>, noise: &Noise, path: &str) -> Value<'g> {
    let own = |name: &str| format!("{path}.attn.{name}");
    let paths = AttentionPaths {
        query: own("query"),
        key: own("key"),
        value: own("value"),
        output: own("proj"),
        key_bias: true,
    };
    let attended = attention(x, &paths, net.heads, bias, noise.attention).dropout(noise.hidden);
    let x = layer_norm(x + attended, &format!("{path}.norm1"), EPSILON);
    let inner = linear(x, &format!("{path}.mlp.fc1"), net.hidden).map(Function::Gelu).dropout(noise.activation);
    let fed = linear(inner, &format!("{path}.mlp.fc2"), net.width).dropout(noise.activation).dropout(noise.hidden);
    layer_norm(x + fed, &format!("{path}.norm2"), EPSILON)
}

/// Slopes of ALiBi (Press et al. 2022): for a power of two of heads a geometric series from `2^(-8/heads)`; for other numbers
/// the series of the power below, then every other one of the power above.
pub fn alibi_slopes(heads: usize) -> Vec<f64> {
    let series = |n: usize| (1..=n).map(move |k| (-8.0 * k as f64 / n as f64).exp2());
    if heads.is_power_of_two() {
        return series(heads).collect();
    }
    let below = heads.next_power_of_two() / 2;
    series(below).chain(series(2 * below).step_by(2).take(heads - below)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_twelve_heads_are_those_of_the_paper() {
        let got = alibi_slopes(12);
        assert_eq!(&got[..8], [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        let rest = [-0.5f64, -1.5, -2.5, -3.5].map(f64::exp2);
        assert!(got[8..].iter().zip(rest).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}");
    }
}
