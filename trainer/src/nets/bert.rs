//! Post-norm text encoders of the BERT family (BERT, MiniLM, RoBERTa) and MPNet, which adds relative positions.
//! Parameters are named as in the published checkpoints below the given path, except that token type 0 is folded into
//! the position table and reserved leading positions are cut off (see `weights`).

use serde::{Deserialize, Serialize};

use crate::graph::Value;
use crate::layers::{AttentionPaths, attention, feed_forward, hide_masked, layer_norm};

/// Naming and position scheme.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// BERT, MiniLM: learned absolute positions, token types.
    Bert,
    /// RoBERTa: learned absolute positions that begin after two reserved rows, one token type.
    Roberta,
    /// MPNet: learned absolute positions and a relative bias shared by all layers.
    Mpnet,
}

/// Sizes of a text encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Bert {
    /// Naming and position scheme.
    pub family: Family,
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
    /// Rows of the position table, the longest input in tokens.
    pub positions: usize,
    /// Added to the variance in layer normalisation.
    pub epsilon: f64,
}

impl Bert {
    /// BERT-base, uncased.
    pub const BASE: Bert = Bert {
        family: Family::Bert,
        vocabulary: 30_522,
        width: 768,
        hidden: 3072,
        layers: 12,
        heads: 12,
        positions: 512,
        epsilon: 1e-12,
    };
    /// RoBERTa-base.
    pub const ROBERTA_BASE: Bert = Bert { family: Family::Roberta, vocabulary: 50_265, epsilon: 1e-5, ..Bert::BASE };
}

/// Dropout inside a text encoder, in training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextDropout {
    /// On the embeddings and on the outputs of layers.
    pub hidden: f64,
    /// On attention weights.
    pub attention: f64,
}

/// Buckets of MPNet's relative positions.
pub const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

/// Token ids `[batch, tokens]` with a float mask of the same shape to hidden states `[batch, tokens, width]`.
pub fn bert<'g>(net: &Bert, ids: Value<'g>, mask: Value<'g>, path: &str, dropout: TextDropout) -> Value<'g> {
    let g = ids.graph();
    let table = g.param(&format!("{path}.embeddings.word_embeddings.weight"), &[net.vocabulary, net.width]);
    let positions = g.param(&format!("{path}.embeddings.position_embeddings.weight"), &[net.positions, net.width]);
    let embedded = table.gather(ids).add_positions(positions);
    let mut x = layer_norm(embedded, &format!("{path}.embeddings.LayerNorm"), net.epsilon).dropout(dropout.hidden);
    let mut hidden = hide_masked(mask);
    if net.family == Family::Mpnet {
        let table = g.param(&format!("{path}.encoder.relative_attention_bias.weight"), &[BUCKETS, net.heads]);
        hidden = x.relative_bias(table, MAX_DISTANCE) + hidden;
    }
    for n in 0..net.layers {
        x = block(net, x, hidden, &format!("{path}.encoder.layer.{n}"), dropout);
    }
    x
}

fn block<'g>(net: &Bert, x: Value<'g>, hidden: Value<'g>, path: &str, dropout: TextDropout) -> Value<'g> {
    let (paths, norm) = match net.family {
        Family::Bert | Family::Roberta => (
            AttentionPaths {
                query: format!("{path}.attention.self.query"),
                key: format!("{path}.attention.self.key"),
                value: format!("{path}.attention.self.value"),
                output: format!("{path}.attention.output.dense"),
                key_bias: true,
            },
            format!("{path}.attention.output.LayerNorm"),
        ),
        Family::Mpnet => (
            AttentionPaths {
                query: format!("{path}.attention.attn.q"),
                key: format!("{path}.attention.attn.k"),
                value: format!("{path}.attention.attn.v"),
                output: format!("{path}.attention.attn.o"),
                key_bias: true,
            },
            format!("{path}.attention.LayerNorm"),
        ),
    };
    let attended = attention(x, &paths, net.heads, hidden, dropout.attention).dropout(dropout.hidden);
    let x = layer_norm(x + attended, &norm, net.epsilon);
    let fed = feed_forward(x, &format!("{path}.intermediate.dense"), &format!("{path}.output.dense"), net.hidden);
    layer_norm(x + fed.dropout(dropout.hidden), &format!("{path}.output.LayerNorm"), net.epsilon)
}
