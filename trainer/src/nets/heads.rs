//! Small networks on top of the encoders: projections into the shared space, the auxiliary style classifier and the
//! modality discriminator.

use serde::{Deserialize, Serialize};

use crate::graph::{Function, Value};
use crate::layers::linear;

/// Width of the hidden layer of classifier and discriminator, as in the paper.
pub const HEAD_HIDDEN: usize = 128;

/// From pooled features to the shared space.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// Width of a hidden layer with GELU; 0 is a single linear map.
    #[serde(default)]
    pub hidden: usize,
    /// Dropout before each linear map, in training.
    #[serde(default)]
    pub dropout: f64,
    /// Standardise the features by the mean and deviation seen over the training clips.
    #[serde(default)]
    pub standardise: bool,
}

/// Pooled features `[batch, width]`, standardised if asked and multiplied by `gains`, to `[batch, out]`, not normalised.
/// Parameters `{path}.{mean,scale,outer,inner,bent}`.
pub fn projection<'g>(config: &Projection, x: Value<'g>, gains: Value<'g>, path: &str, out: usize) -> Value<'g> {
    let (g, width) = (x.graph(), x.width(0));
    let mut x = x;
    if config.standardise {
        x = (x + g.param(&format!("{path}.mean"), &[width]) * -1.0) * g.param(&format!("{path}.scale"), &[width]);
    }
    x = x * gains;
    x = x.dropout(config.dropout);
    let straight = linear(x, &format!("{path}.outer"), out);
    if config.hidden == 0 {
        return straight;
    }
    // A linear path beside the hidden layer: the network starts as the linear map and learns what that cannot do.
    let inner = linear(x, &format!("{path}.inner"), config.hidden).map(Function::Gelu).dropout(config.dropout);
    straight + linear(inner, &format!("{path}.bent"), out)
}

/// Logits of `classes` from `[batch, dimension]`: two linear layers with ReLU between.
pub fn classifier<'g>(x: Value<'g>, path: &str, classes: usize) -> Value<'g> {
    linear(linear(x, &format!("{path}.inner"), HEAD_HIDDEN).map(Function::Relu), &format!("{path}.outer"), classes)
}
