//! Reads the weights of an exported sentence-transformers ONNX file. Exporters rename matrices that feed MatMul nodes
//! (`onnx::MatMul_470`), so those take their names from the node's path and are already `[in, out]`.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use prost::Message;
use tch::{Kind, Tensor};

use crate::onnx_messages as pb;
use crate::torch::Params;

/// Marks a name whose matrix is stored `[in, out]` already.
pub const READY: &str = "@in_out";

/// All float initialisers, and the int8 ones of our own exports as floats; renamed matrices end in `.weight` + [`READY`].
pub fn read(path: &Path) -> Result<Params> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let model =
        pb::Model::decode(bytes.as_slice()).with_context(|| format!("{} is not an ONNX file", path.display()))?;
    let graph = model.graph.context("the ONNX file holds no graph")?;
    let mut matrices = HashMap::new();
    for node in graph.node.iter().filter(|n| n.op_type == "MatMul") {
        let Some(module) = node.name.strip_suffix("/MatMul") else { continue };
        let module = module.trim_start_matches('/').replace('/', ".");
        node.input.iter().for_each(|input| {
            matrices.insert(input.clone(), format!("{module}.weight{READY}"));
        });
    }
    let mut found = Params::new();
    let (floats, others): (Vec<_>, Vec<_>) = graph.initializer.into_iter().partition(|t| t.data_type == pb::FLOAT);
    for tensor in floats {
        let elements: i64 = tensor.dims.iter().product();
        let values = if tensor.float_data.is_empty() {
            ensure!(tensor.raw_data.len() as i64 == 4 * elements, "initialiser {} is incomplete", tensor.name);
            Tensor::from_data_size(&tensor.raw_data, &tensor.dims, Kind::Float)
        } else {
            Tensor::from_slice(&tensor.float_data).view(tensor.dims.as_slice())
        };
        let name = matrices.get(&tensor.name).cloned().unwrap_or(tensor.name);
        found.insert(name.replace("model.model.0.", "model.0."), values);
    }
    for tensor in others.into_iter().filter(|t| t.data_type == pb::INT8) {
        let Some(name) = tensor.name.strip_suffix(".int8") else { continue };
        let scale = found.remove(&format!("{name}.scale")).with_context(|| format!("{name} has no scale"))?;
        let bytes = Tensor::from_data_size(&tensor.raw_data, &tensor.dims, Kind::Int8);
        found.insert(name.into(), bytes.to_kind(Kind::Float) * scale);
    }
    Ok(found)
}
