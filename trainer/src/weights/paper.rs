//! Published checkpoints of the paper's encoders into our networks: WavLM and emotion2vec, BERT, RoBERTa, T5 and Flan-T5.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{published, read_tensors, text};
use crate::graph::Graph;
use crate::nets::text_encoder::{self, Sizes, TextEncoder};
use crate::nets::waveform_encoder::{self, Backbone, WaveformEncoder};
use crate::torch::Params;

/// Parameters of the speech encoder out of a checkpoint file: transformers' `WavLMModel` (or a model with one inside), or
/// FunASR's emotion2vec.
pub fn speech(file: &Path, net: &WaveformEncoder) -> Result<Params> {
    speech_from(read_tensors(file)?, net).with_context(|| format!("in {}", file.display()))
}

/// [`speech`] out of tensors by their published names.
pub fn speech_from(file: Params, net: &WaveformEncoder) -> Result<Params> {
    let mut file = match &net.backbone {
        Backbone::Wavlm(_) | Backbone::WavlmBasePlus => weight_norm(file),
        Backbone::Emotion2vec(_) | Backbone::Emotion2vecBase => split_joint(file)?,
    };
    published::load(&mut file, &net.record_frames(), waveform_encoder::ENCODER)
}

/// Parameters of the text encoder out of a checkpoint file with transformers' names.
pub fn text(file: &Path, net: &TextEncoder) -> Result<Params> {
    text_from(read_tensors(file)?, net).with_context(|| format!("in {}", file.display()))
}

/// [`text()`] out of tensors by their published names.
pub fn text_from(mut file: Params, net: &TextEncoder) -> Result<Params> {
    let graph = net.record_states();
    let params = match net.backbone.sizes() {
        Sizes::Bert(sizes) => text::load(file, &sizes, &[], text_encoder::ENCODER)?,
        Sizes::T5(_) => {
            // A file of the encoder alone may have the table under the name that the encoder has for it.
            if !file.contains_key("shared.weight")
                && let Some(table) = file.remove("encoder.embed_tokens.weight")
            {
                file.insert("shared.weight".into(), table);
            }
            published::load(&mut file, &graph, text_encoder::ENCODER)?
        }
    };
    complete(&params, &graph)?;
    Ok(params)
}

/// Every parameter of the graph is there with its shape.
fn complete(params: &Params, graph: &Graph) -> Result<()> {
    for (name, shape) in graph.params() {
        let short = name.strip_prefix(text_encoder::ENCODER).unwrap_or(&name).trim_start_matches('.');
        let tensor = params.get(&name).with_context(|| format!("the weight file has no tensor for {short}"))?;
        let found: Vec<usize> = tensor.size().iter().map(|n| *n as usize).collect();
        ensure!(found == shape, "the tensor for {short} has shape {found:?} ([in, out]), expected {shape:?}");
    }
    Ok(())
}

/// PyTorch 2 names magnitude and direction of a weight norm otherwise than PyTorch 1.
fn weight_norm(file: Params) -> Params {
    let renamed = |name: String| {
        name.replace("parametrizations.weight.original0", "weight_g")
            .replace("parametrizations.weight.original1", "weight_v")
    };
    file.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect()
}

/// emotion2vec keeps query, key and value in one matrix `[3 * width, width]`.
fn split_joint(file: Params) -> Result<Params> {
    let mut out = Params::new();
    for (name, tensor) in file {
        let Some((block, part)) = name.split_once(".attn.qkv.") else {
            out.insert(name, tensor);
            continue;
        };
        let rows = tensor.size()[0];
        ensure!(rows % 3 == 0, "tensor {name} has {rows} rows, which are not three equal parts");
        for (n, third) in ["query", "key", "value"].into_iter().enumerate() {
            let own = tensor.narrow(0, n as i64 * rows / 3, rows / 3);
            out.insert(format!("{block}.attn.{third}.{part}"), own.contiguous());
        }
    }
    Ok(out)
}
