//! Layers made of graph operations, parameters named by path. Knows no particular network.

use crate::graph::{Fold, Function, Value};

/// `x W + b` with parameters `{path}.weight` `[in, out]` and `{path}.bias` `[out]`.
pub fn linear<'g>(x: Value<'g>, path: &str, out: usize) -> Value<'g> {
    linear_without_bias(x, path, out) + x.graph().param(&format!("{path}.bias"), &[out])
}

/// `x W` with the parameter `{path}.weight` `[in, out]`.
pub fn linear_without_bias<'g>(x: Value<'g>, path: &str, out: usize) -> Value<'g> {
    x.matmul(x.graph().param(&format!("{path}.weight"), &[x.width(0), out]))
}

/// Layer normalisation with `{path}.weight` and `{path}.bias`.
pub fn layer_norm<'g>(x: Value<'g>, path: &str, epsilon: f64) -> Value<'g> {
    let (g, n) = (x.graph(), x.width(0));
    x.layer_norm(g.param(&format!("{path}.weight"), &[n]), g.param(&format!("{path}.bias"), &[n]), epsilon)
}

/// Convolution with bias over `[batch, channels, time]`.
pub fn conv1d<'g>(x: Value<'g>, path: &str, out: usize, width: usize, stride: usize, padding: usize) -> Value<'g> {
    let g = x.graph();
    let kernel = g.param(&format!("{path}.weight"), &[out, x.width(1), width]);
    x.conv1d(kernel, stride, padding) + g.param(&format!("{path}.bias"), &[out]).unsqueeze(1)
}

/// Parameter paths of one attention layer.
pub struct AttentionPaths {
    /// Query projection.
    pub query: String,
    /// Key projection.
    pub key: String,
    /// Value projection.
    pub value: String,
    /// Output projection.
    pub output: String,
    /// Whether the key projection has a bias (Whisper's has none).
    pub key_bias: bool,
}

/// Multi-head self-attention over `[batch, time, width]`; `bias` is added to the scores (masks, relative positions), and
/// `dropout` acts on their softmax.
pub fn attention<'g>(x: Value<'g>, paths: &AttentionPaths, heads: usize, bias: Value<'g>, dropout: f64) -> Value<'g> {
    let width = x.width(0);
    let scale = 1.0 / ((width / heads) as f32).sqrt();
    let query = linear(x, &paths.query, width).split_heads(heads) * scale;
    let key = if paths.key_bias { linear(x, &paths.key, width) } else { linear_without_bias(x, &paths.key, width) };
    let value = linear(x, &paths.value, width).split_heads(heads);
    let scores = query.matmul(key.split_heads(heads).transpose()) + bias;
    linear(scores.softmax().dropout(dropout).matmul(value).merge_heads(), &paths.output, width)
}

/// Two linear layers with GELU between.
pub fn feed_forward<'g>(x: Value<'g>, inner: &str, outer: &str, hidden: usize) -> Value<'g> {
    linear(linear(x, inner, hidden).map(Function::Gelu), outer, x.width(0))
}

/// Score bias `[batch, 1, 1, time]` that hides the masked positions of `[batch, time]`.
pub fn hide_masked(mask: Value<'_>) -> Value<'_> {
    ((mask + -1.0) * 1e9).unsqueeze(1).unsqueeze(1)
}

/// Mean over the valid positions: `[batch, time, width]` and mask `[batch, time]` to `[batch, width]`.
pub fn masked_mean<'g>(x: Value<'g>, mask: Value<'g>) -> Value<'g> {
    let weights = mask.unsqueeze(2);
    ((x * weights).reduce(Fold::Sum, 1) / weights.reduce(Fold::Sum, 1)).squeeze(1)
}

/// Weighted mean over time, and behind it the standard deviation if asked: `[batch, width]` or `[batch, 2 * width]`.
/// `weights` `[batch, time]` are scaled to sum one and must be zero at positions that are not valid.
pub fn statistics<'g>(x: Value<'g>, weights: Value<'g>, deviation: bool) -> Value<'g> {
    let weights = (weights / weights.reduce(Fold::Sum, 1)).unsqueeze(2);
    let mean = (x * weights).reduce(Fold::Sum, 1);
    if !deviation {
        return mean.squeeze(1);
    }
    let centred = x + mean * -1.0;
    let variance = (centred * centred * weights).reduce(Fold::Sum, 1);
    Value::concat(&[mean.squeeze(1), (variance + 1e-5).map(Function::Sqrt).squeeze(1)])
}

/// Root mean square normalisation with the parameter `{path}.weight` (Zhang and Sennrich 2019): no mean is taken away and
/// nothing is added.
pub fn rms_norm<'g>(x: Value<'g>, path: &str, epsilon: f64) -> Value<'g> {
    let square = (x * x).reduce(Fold::Mean, x.shape().len() - 1);
    let scale = x.graph().param(&format!("{path}.weight"), &[x.width(0)]);
    x / (square + epsilon as f32).map(Function::Sqrt) * scale
}

/// Normalisation of each channel of `[batch, channels, time]` over time with `{path}.weight` and `{path}.bias`: group
/// normalisation with a group a channel. With `mask` `[batch, time]` only valid positions count.
pub fn norm_over_time<'g>(x: Value<'g>, mask: Option<Value<'g>>, path: &str, epsilon: f64) -> Value<'g> {
    let mean = |v: Value<'g>| match mask {
        None => v.reduce(Fold::Mean, 2),
        Some(mask) => (v * mask.unsqueeze(1)).reduce(Fold::Sum, 2) / mask.unsqueeze(1).reduce(Fold::Sum, 2),
    };
    let centred = x + mean(x) * -1.0;
    let normal = centred / (mean(centred * centred) + epsilon as f32).map(Function::Sqrt);
    let part = |name: &str| x.graph().param(&format!("{path}.{name}"), &[x.width(1)]).unsqueeze(1);
    normal * part("weight") + part("bias")
}
