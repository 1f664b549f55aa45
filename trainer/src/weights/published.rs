//! Fills the parameters of a recorded network from a checkpoint with the published names. A missing or misshapen tensor is an
//! error that names it; tensors that the network does not have (heads, decoders, optimiser state) are left.

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use crate::graph::Graph;
use crate::torch::Params;

/// Names that other programs put before all names of a file.
const WRAPPERS: [&str; 8] =
    ["", "module.", "model.", "encoder.", "d2v_model.", "wavlm.", "transformer.", "speech_encoder."];

/// Parameters of `graph` below `path`, whose names below it are the published ones. Linear weights are turned from `[out, in]`
/// to `[in, out]`; axes of length one may come and go.
pub fn load(file: &mut Params, graph: &Graph, path: &str) -> Result<Params> {
    let wanted: Vec<(String, Vec<usize>)> =
        graph.params().into_iter().filter(|(name, _)| name.starts_with(path)).collect();
    ensure!(!wanted.is_empty(), "the network has no parameters below {path}");
    let short = |name: &str| name[path.len() + 1..].to_string();
    // The wrapper under which most names are found; missing ones are then named as the file would name them.
    let known = |wrapper: &&&str| {
        wanted.iter().filter(|(name, _)| file.contains_key(&format!("{wrapper}{}", short(name)))).count()
    };
    // Of equally good ones the first.
    let wrapper = WRAPPERS.iter().rev().max_by_key(known).copied().unwrap_or("");
    let mut out = Params::new();
    for (name, shape) in wanted {
        let published = format!("{wrapper}{}", short(&name));
        let tensor = file.remove(&published).with_context(|| {
            format!("the weight file has no tensor {published}; is it a checkpoint of this network?")
        })?;
        out.insert(name, fitted(tensor, &published, &shape)?);
    }
    Ok(out)
}

fn fitted(tensor: Tensor, name: &str, shape: &[usize]) -> Result<Tensor> {
    let dims: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
    let tensor = if is_linear(name, shape) { tensor.transpose(-1, -2) } else { tensor };
    let solid = |size: &[i64]| size.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    if solid(&tensor.size()) != solid(&dims) {
        let expected = if is_linear(name, shape) { dims.iter().rev().copied().collect() } else { dims };
        let found = if is_linear(name, shape) { tensor.transpose(-1, -2).size() } else { tensor.size() };
        bail!("tensor {name} has shape {found:?}, expected {expected:?}; the network's sizes are set otherwise");
    }
    Ok(tensor.reshape(dims.as_slice()).contiguous())
}

/// Whether a parameter is the matrix of a linear layer: two axes, and neither a table nor learned tokens.
fn is_linear(name: &str, shape: &[usize]) -> bool {
    let table = ["embed.weight", "embeddings.weight", "shared.weight", "attention_bias.weight"];
    shape.len() == 2 && name.ends_with(".weight") && !table.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Dim;
    use tch::{Device, Kind};

    fn graph() -> Graph {
        let g = Graph::new();
        let x = g.input("x", &[Dim::Batch, Dim::Fixed(3)]);
        g.output("y", x.matmul(g.param("net.a.weight", &[3, 2])) + g.param("net.a.bias", &[2]));
        g
    }

    fn randn(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn wrapped_names_are_found_and_matrices_turned() {
        let weight = randn(&[2, 3]);
        let mut file = Params::from([
            ("model.a.weight".into(), weight.shallow_clone()),
            ("model.a.bias".into(), randn(&[2])),
            ("model.decoder.weight".into(), randn(&[9])),
        ]);
        let got = load(&mut file, &graph(), "net").unwrap();
        assert!(got["net.a.weight"].allclose(&weight.transpose(0, 1), 0.0, 0.0, false));
        assert_eq!(file.len(), 1);
    }

    #[test]
    fn missing_and_misshapen_tensors_are_named() {
        let mut file = Params::from([("a.weight".into(), randn(&[2, 3]))]);
        let error = load(&mut file, &graph(), "net").unwrap_err();
        assert!(format!("{error:#}").contains("no tensor a.bias"), "{error:#}");
        let mut file = Params::from([("a.weight".into(), randn(&[2, 4])), ("a.bias".into(), randn(&[2]))]);
        let error = load(&mut file, &graph(), "net").unwrap_err();
        assert!(format!("{error:#}").contains("a.weight has shape [2, 4], expected [2, 3]"), "{error:#}");
    }
}
