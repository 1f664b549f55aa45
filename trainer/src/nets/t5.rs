//! The encoder of T5 (Raffel et al. 2020) and T5 1.1 / Flan-T5 as transformers' `T5EncoderModel` computes it. Parameters have
//! the published names below the given path.

use serde::{Deserialize, Serialize};

use crate::graph::{Function, Value};
use crate::layers::{hide_masked, linear_without_bias, rms_norm};

/// Form of the feed-forward layers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum FeedForward {
    /// `wo relu(wi x)`: T5.
    Relu,
    /// `wo (gelu(wi_0 x) * wi_1 x)`: T5 1.1 and Flan-T5.
    Gated,
}

/// Sizes of a T5 encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct T5 {
    /// Form of the feed-forward layers.
    pub feed_forward: FeedForward,
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward layers.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub head_width: usize,
}

impl T5 {
    /// T5-base.
    pub const BASE: T5 = T5 {
        feed_forward: FeedForward::Relu,
        vocabulary: 32_128,
        width: 768,
        hidden: 3072,
        layers: 12,
        heads: 12,
        head_width: 64,
    };
    /// Flan-T5-base.
    pub const FLAN_BASE: T5 = T5 { feed_forward: FeedForward::Gated, hidden: 2048, ..T5::BASE };
}

const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;
const EPSILON: f64 = 1e-6;

/// Token ids `[batch, tokens]` with a float mask of the same shape to hidden states `[batch, tokens, width]`.
pub fn t5<'g>(net: &T5, ids: Value<'g>, mask: Value<'g>, path: &str, dropout: f64) -> Value<'g> {
    let g = ids.graph();
    let mut x = g.param(&format!("{path}.shared.weight"), &[net.vocabulary, net.width]).gather(ids).dropout(dropout);
    let table = g.param(
        &format!("{path}.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        &[BUCKETS, net.heads],
    );
    let bias = x.relative_bias(table, MAX_DISTANCE) + hide_masked(mask);
    for n in 0..net.layers {
        let own = format!("{path}.encoder.block.{n}.layer");
        let normal = rms_norm(x, &format!("{own}.0.layer_norm"), EPSILON);
        x = x + attention(net, normal, bias, &format!("{own}.0.SelfAttention"), dropout).dropout(dropout);
        let normal = rms_norm(x, &format!("{own}.1.layer_norm"), EPSILON);
        x = x + feed_forward(net, normal, &format!("{own}.1.DenseReluDense"), dropout).dropout(dropout);
    }
    rms_norm(x, &format!("{path}.encoder.final_layer_norm"), EPSILON).dropout(dropout)
}

/// Attention without biases and without the usual scale, which T5 leaves to the initial weights.
fn attention<'g>(net: &T5, x: Value<'g>, bias: Value<'g>, path: &str, dropout: f64) -> Value<'g> {
    let part = |name: &str| {
        linear_without_bias(x, &format!("{path}.{name}"), net.heads * net.head_width).split_heads(net.heads)
    };
    let scores = part("q").matmul(part("k").transpose()) + bias;
    let mixed = scores.softmax().dropout(dropout).matmul(part("v")).merge_heads();
    linear_without_bias(mixed, &format!("{path}.o"), net.width)
}

fn feed_forward<'g>(net: &T5, x: Value<'g>, path: &str, dropout: f64) -> Value<'g> {
    let inner = |name: &str| linear_without_bias(x, &format!("{path}.{name}"), net.hidden);
    let bent = match net.feed_forward {
        FeedForward::Relu => inner("wi").map(Function::Relu),
        FeedForward::Gated => inner("wi_0").map(Function::GeluTanh) * inner("wi_1"),
    };
    linear_without_bias(bent.dropout(dropout), &format!("{path}.wo"), net.width)
}
