//! From token ids to a unit vector: text encoder, mean over the tokens, projection.

use serde::{Deserialize, Serialize};

use super::bert::{Bert, bert};
use super::heads::{Projection, projection};
use crate::graph::{Dim, Graph, Value};
use crate::layers::masked_mean;

/// Where the encoder's parameters live.
pub const ENCODER: &str = "text.encoder";
const HEAD: &str = "text.head";

/// The text network.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TextTower {
    /// The encoder's sizes.
    pub bert: Bert,
    /// Map to the shared space.
    pub projection: Projection,
}

impl TextTower {
    /// The whole network: `input_ids`, `attention_mask` `[batch, tokens]` to `raw` and `embedding`.
    pub fn record_training(&self, dimension: usize, dropout: f64) -> Graph {
        let g = Graph::new();
        let raw = self.project(self.pooled(&g, dropout), dimension);
        g.output("raw", raw);
        g.output("embedding", raw.l2_normalize());
        g
    }

    /// The network as exported, with the single output `embedding`.
    pub fn record(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        g.output("embedding", self.project(self.pooled(&g, 0.0), dimension).l2_normalize());
        g
    }

    /// The frozen part: `input_ids`, `attention_mask` to `pooled` `[batch, width]`.
    pub fn record_pooled(&self) -> Graph {
        let g = Graph::new();
        g.output("pooled", self.pooled(&g, 0.0));
        g
    }

    /// The trained part over cached features: `pooled` to `raw` and `embedding`.
    pub fn record_head(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let pooled = g.input("pooled", &[Dim::Batch, Dim::Fixed(self.bert.width)]);
        let raw = self.project(pooled, dimension);
        g.output("raw", raw);
        g.output("embedding", raw.l2_normalize());
        g
    }

    fn project<'g>(&self, pooled: Value<'g>, dimension: usize) -> Value<'g> {
        projection(&self.projection, pooled, pooled.graph().scalar(1.0), HEAD, dimension)
    }

    fn pooled<'g>(&self, g: &'g Graph, dropout: f64) -> Value<'g> {
        let shape = [Dim::Batch, g.time("tokens")];
        let ids = g.integers("input_ids", &shape);
        let mask = g.integers("attention_mask", &shape).to_float();
        masked_mean(bert(&self.bert, ids, mask, ENCODER, dropout), mask)
    }
}
