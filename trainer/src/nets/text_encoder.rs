//! From token ids to a unit vector with the text encoders of the paper: BERT, RoBERTa, T5 or Flan-T5, one vector a text, one
//! linear map. The encoder stays as published.

use serde::{Deserialize, Serialize};

use super::bert::{Bert, TextDropout, bert};
use super::t5::{T5, t5};
use crate::graph::{Dim, Fold, Graph, Value};
use crate::layers::{linear, masked_mean};

/// Where the encoder's parameters live.
pub const ENCODER: &str = "text.encoder";
/// The linear map behind it.
pub const PROJECTION: &str = "text.head.outer";

/// Which encoder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "sizes")]
pub enum TextBackbone {
    /// BERT, RoBERTa and their kin.
    Bert(Bert),
    /// T5 and Flan-T5.
    T5(T5),
    /// BERT-base, uncased, in its published size.
    BertBase,
    /// RoBERTa-base in its published size.
    RobertaBase,
    /// T5-base in its published size.
    T5Base,
    /// Flan-T5-base in its published size.
    FlanT5Base,
}

/// The networks behind [`TextBackbone`].
#[derive(Clone, Debug)]
pub enum Sizes {
    /// Of the BERT family.
    Bert(Bert),
    /// Of the T5 family.
    T5(T5),
}

impl TextBackbone {
    /// Sizes of the network.
    pub fn sizes(&self) -> Sizes {
        match self {
            Self::Bert(net) => Sizes::Bert(net.clone()),
            Self::T5(net) => Sizes::T5(net.clone()),
            Self::BertBase => Sizes::Bert(Bert::BASE),
            Self::RobertaBase => Sizes::Bert(Bert::ROBERTA_BASE),
            Self::T5Base => Sizes::T5(T5::BASE),
            Self::FlanT5Base => Sizes::T5(T5::FLAN_BASE),
        }
    }
}

/// How a text's token states become one vector.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum TextPooling {
    /// The first token (BERT and RoBERTa in the paper).
    First,
    /// The mean over the text's tokens.
    Mean,
    /// The mean over all positions, padding too (T5 and Flan-T5 in the paper's code): it depends on the other texts of a
    /// batch. A text alone, and an exported network, give [`TextPooling::Mean`].
    MeanWithPadding,
}

/// The text network of the paper.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TextEncoder {
    /// The encoder.
    pub backbone: TextBackbone,
    /// One vector of many.
    pub pooling: TextPooling,
    /// Dropout inside the frozen encoder, in training: the paper's code leaves the module in training mode.
    #[serde(default = "usual_dropout")]
    pub dropout: f64,
}

impl TextEncoder {
    /// Width of the encoder.
    pub fn width(&self) -> usize {
        match self.backbone.sizes() {
            Sizes::Bert(net) => net.width,
            Sizes::T5(net) => net.width,
        }
    }

    /// The whole network as exported: `input_ids`, `attention_mask` `[batch, tokens]` to `embedding` of unit length.
    pub fn record_served(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let served = Self {
            pooling: if self.pooling == TextPooling::First { TextPooling::First } else { TextPooling::Mean },
            dropout: 0.0,
            ..self.clone()
        };
        g.output("embedding", linear(served.pooled(&g), PROJECTION, dimension).l2_normalize());
        g
    }

    /// The frozen part: `input_ids`, `attention_mask` to `pooled` `[batch, width]`.
    pub fn record_pooled(&self) -> Graph {
        let g = Graph::new();
        g.output("pooled", self.pooled(&g));
        g
    }

    /// The trained part: `pooled` to `raw` (before normalisation) and `embedding` of unit length.
    pub fn record_head(&self, dimension: usize) -> Graph {
        let g = Graph::new();
        let raw = linear(g.input("pooled", &[Dim::Batch, Dim::Fixed(self.width())]), PROJECTION, dimension);
        g.output("raw", raw);
        g.output("embedding", raw.l2_normalize());
        g
    }

    /// The encoder's states `[batch, tokens, width]` as the output `states`.
    pub fn record_states(&self) -> Graph {
        let g = Graph::new();
        g.output("states", self.states(&g).0);
        g
    }

    fn pooled<'g>(&self, g: &'g Graph) -> Value<'g> {
        let (states, mask) = self.states(g);
        match self.pooling {
            TextPooling::First => states.first(),
            TextPooling::Mean => masked_mean(states, mask),
            TextPooling::MeanWithPadding => states.reduce(Fold::Mean, 1).squeeze(1),
        }
    }

    fn states<'g>(&self, g: &'g Graph) -> (Value<'g>, Value<'g>) {
        let shape = [Dim::Batch, g.time("tokens")];
        let ids = g.integers("input_ids", &shape);
        let mask = g.integers("attention_mask", &shape).to_float();
        let states = match self.backbone.sizes() {
            Sizes::Bert(net) => {
                let dropout = TextDropout { hidden: self.dropout, attention: self.dropout };
                bert(&net, ids, mask, ENCODER, dropout)
            }
            Sizes::T5(net) => t5(&net, ids, mask, ENCODER, self.dropout),
        };
        (states, mask)
    }
}

fn usual_dropout() -> f64 {
    0.1
}
