//! Loads the published encoders of a config. Knows names and rounding, not training.

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::graph::Graph;
use crate::nets::{speech_tower, text_tower};
use crate::onnx::int8_channels;
use crate::quantise::rounded;
use crate::torch::Params;
use crate::weights;

/// The speech encoder's parameters up to a layer, rounded to int8 when the config says so.
pub fn speech(config: &Config, last: usize) -> Result<Params> {
    let path = weights::resolve(&config.speech.weights);
    let tower = &config.speech.tower;
    let file = weights::read_tensors(&path)?;
    let params = weights::whisper::load(file, &tower.whisper, last, speech_tower::ENCODER)
        .with_context(|| format!("in {}", path.display()))?;
    Ok(if config.speech.int8 { round(params) } else { params })
}

/// The published text encoder's parameters, rounded to int8 when the config says so.
pub fn text(config: &Config) -> Result<Params> {
    let path = weights::resolve(&config.text.weights);
    let file = weights::read_tensors(&path)?;
    let params = weights::text::load(file, &config.text.tower.bert, &config.text.keep, text_tower::ENCODER)
        .with_context(|| format!("in {}", path.display()))?;
    Ok(if config.text.int8 { round(params) } else { params })
}

/// Random starting values for the parameters of a graph that are not known yet: matrices scaled by their input width,
/// biases zero, scales one.
pub fn initialise(graph: &Graph, params: &mut Params) {
    for (name, shape) in graph.params() {
        if params.contains_key(&name) {
            continue;
        }
        let dims: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let fan_in = if shape.len() == 3 { shape[1] * shape[2] } else { shape[0] };
        let ones =
            name.ends_with("layer_gain") || name.ends_with(".scale") || (shape.len() == 1 && name.ends_with(".weight"));
        let tensor = if ones {
            Tensor::ones(&dims, (Kind::Float, Device::Cpu))
        } else if shape.len() == 1 || name.ends_with(".bent.weight") || is_attention(&name) {
            Tensor::zeros(&dims, (Kind::Float, Device::Cpu))
        } else {
            Tensor::randn(&dims, (Kind::Float, Device::Cpu)) / (fan_in as f64).sqrt()
        };
        params.insert(name, tensor);
    }
}

/// Attention over frames begins with all of them alike.
fn is_attention(name: &str) -> bool {
    name.contains(".attention.") && name.ends_with(".outer.weight")
}

/// Rounds the encoder weights among `params` to what an int8 bundle holds.
pub fn round(params: Params) -> Params {
    let one = |(name, tensor): (String, Tensor)| match int8_channels(&name, tensor.dim()) {
        Some(channels) => (name, rounded(&tensor, channels)),
        None => (name, tensor),
    };
    params.into_iter().map(one).collect()
}
