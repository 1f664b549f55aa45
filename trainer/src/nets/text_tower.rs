//! From token ids to a unit vector: text encoder, mean over the tokens, projection, and optionally a bank of styles: the
//! text is likened to every known style and answered with their mixture.

use serde::{Deserialize, Serialize};

use super::bert::{Bert, TextDropout, bert};
use super::heads::{Projection, projection};
use crate::graph::{Dim, Graph, Value};
use crate::layers::masked_mean;

/// Where the encoder's parameters live.
pub const ENCODER: &str = "text.encoder";
const HEAD: &str = "text.head";
/// What the bank likens a text to, `[styles, dimension]`.
pub const KEYS: &str = "text.head.keys";
/// What its styles answer with, `[styles, dimension]`.
pub const VALUES: &str = "text.head.values";

/// A bank of styles behind the projection. Parameters [`KEYS`] and [`VALUES`].
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Bank {
    /// Number of styles.
    pub styles: usize,
    /// Inverse temperature of the likeness to the keys.
    pub sharpness: f32,
    /// Share of the projection itself that is added to the mixture, for texts unlike any known style.
    #[serde(default)]
    pub direct: f32,
}

/// The text network.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TextTower {
    /// The encoder's sizes.
    pub bert: Bert,
    /// Map to the shared space.
    pub projection: Projection,
    /// Bank of styles, if any.
    #[serde(default)]
    pub bank: Option<Bank>,
}

impl TextTower {
    /// The whole network as exported: `input_ids`, `attention_mask` `[batch, tokens]` to `embedding`.
    pub fn record(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let (_, raw) = self.answer(pooled(&self.bert, &g, 0.0), dimension);
        g.output("embedding", raw.l2_normalize());
        g
    }

    /// The whole network for tuning: `direction` (the unit projection) and `logits` over the bank's styles.
    pub fn record_tuning(&self, dimension: usize, dropout: f64) -> Graph {
        let g = Graph::new();
        let direction = self.project(pooled(&self.bert, &g, dropout), dimension).l2_normalize();
        g.output("direction", direction);
        g.output("logits", self.likeness(direction, self.bank.as_ref().expect("tuning needs a bank")));
        g
    }

    /// The part over cached features: `pooled` to `raw` (before normalisation) and `embedding`.
    pub fn record_head(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let (_, raw) = self.answer(g.input("pooled", &[Dim::Batch, Dim::Fixed(self.bert.width)]), dimension);
        g.output("raw", raw);
        g.output("embedding", raw.l2_normalize());
        g
    }

    fn answer<'g>(&self, pooled: Value<'g>, dimension: usize) -> (Value<'g>, Value<'g>) {
        let projected = self.project(pooled, dimension);
        let Some(bank) = &self.bank else { return (projected, projected) };
        let direction = projected.l2_normalize();
        let values = pooled.graph().param(VALUES, &[bank.styles, dimension]);
        let mixture = self.likeness(direction, bank).softmax().matmul(values);
        (direction, if bank.direct == 0.0 { mixture } else { mixture + direction * bank.direct })
    }

    fn likeness<'g>(&self, direction: Value<'g>, bank: &Bank) -> Value<'g> {
        let keys = direction.graph().param(KEYS, &[bank.styles, direction.width(0)]);
        direction.matmul(keys.transpose()) * bank.sharpness
    }

    fn project<'g>(&self, pooled: Value<'g>, dimension: usize) -> Value<'g> {
        projection(&self.projection, pooled, pooled.graph().scalar(1.0), HEAD, dimension)
    }
}

/// A text encoder alone: `input_ids`, `attention_mask` to `pooled` `[batch, width]`.
pub fn pooled_graph(net: &Bert) -> Graph {
    let g = Graph::new();
    g.output("pooled", pooled(net, &g, 0.0));
    g
}

fn pooled<'g>(net: &Bert, g: &'g Graph, dropout: f64) -> Value<'g> {
    let shape = [Dim::Batch, g.time("tokens")];
    let ids = g.integers("input_ids", &shape);
    let mask = g.integers("attention_mask", &shape).to_float();
    let dropout = TextDropout { hidden: dropout, attention: 0.0 };
    masked_mean(bert(net, ids, mask, ENCODER, dropout), mask)
}
