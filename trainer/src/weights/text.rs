//! BERT-family and MPNet encoders out of checkpoints with the published names (safetensors, PyTorch, ONNX exports).

use anyhow::{Result, ensure};
use tch::Tensor;

use super::onnx_initializers::READY;
use crate::nets::bert::{Bert, Family};
use crate::torch::Params;

/// Rows of MPNet's and RoBERTa's position table before that of the first token: positions are counted on from the number of
/// the padding token, which is 1.
const RESERVED: i64 = 2;

/// Parameters of the embeddings and the chosen blocks below `path`. `keep` lists the file's blocks that become ours, in
/// order (a student keeps some of its teacher's); empty keeps the first `net.layers`.
pub fn load(file: Params, net: &Bert, keep: &[usize], path: &str) -> Result<Params> {
    let keep: Vec<usize> = if keep.is_empty() { (0..net.layers).collect() } else { keep.to_vec() };
    ensure!(keep.len() == net.layers, "{} blocks are kept but the network has {}", keep.len(), net.layers);
    let mut out = Params::new();
    let mut types: Option<Tensor> = None;
    for (name, tensor) in file {
        let Some(short) = shorten(&name) else { continue };
        let ready = short.ends_with(READY);
        let short = short
            .trim_end_matches(READY)
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias");
        if short == "embeddings.token_type_embeddings.weight" {
            types = Some(tensor);
            continue;
        }
        let target = match short.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.')) {
            None => short.clone(),
            Some((number, rest)) => match keep.iter().position(|k| number.parse() == Ok(*k)) {
                None => continue,
                Some(ours) => format!("encoder.layer.{ours}.{rest}"),
            },
        };
        let table = short.starts_with("embeddings.") || short.contains("relative_attention_bias");
        let linear = tensor.dim() == 2 && !table && !ready;
        out.insert(format!("{path}.{target}"), if linear { tensor.transpose(0, 1).contiguous() } else { tensor });
    }
    let name = format!("{path}.embeddings.position_embeddings.weight");
    let Some(positions) = out.get(&name) else { anyhow::bail!("the weight file has no position embeddings") };
    let skipped = if net.family == Family::Bert { 0 } else { RESERVED };
    ensure!(
        positions.size()[0] >= skipped + net.positions as i64,
        "the position table has {} rows, {} are needed; set `positions` lower",
        positions.size()[0],
        skipped + net.positions as i64
    );
    let mut positions = positions.narrow(0, skipped, net.positions as i64).copy();
    if let Some(types) = types {
        positions += types.get(0);
    }
    out.insert(name, positions);
    Ok(out)
}

/// The name from `embeddings.` or `encoder.` on; `None` for heads, poolers and buffers.
fn shorten(name: &str) -> Option<&str> {
    let start = ["embeddings.", "encoder.layer.", "encoder.relative_attention_bias"]
        .iter()
        .filter_map(|p| name.find(p))
        .min()?;
    let short = &name[start..];
    (!short.ends_with("position_ids")).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn tiny() -> Bert {
        Bert {
            family: Family::Bert,
            vocabulary: 7,
            width: 4,
            hidden: 8,
            layers: 1,
            heads: 2,
            positions: 5,
            epsilon: 1e-12,
        }
    }

    #[test]
    fn published_names_and_layouts_are_understood() {
        let randn = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let file = Params::from([
            ("bert.embeddings.position_embeddings.weight".into(), randn(&[6, 4])),
            ("bert.embeddings.token_type_embeddings.weight".into(), randn(&[2, 4])),
            ("bert.embeddings.LayerNorm.gamma".into(), randn(&[4])),
            ("bert.encoder.layer.0.intermediate.dense.weight".into(), randn(&[8, 4])),
            ("bert.encoder.layer.3.intermediate.dense.weight".into(), randn(&[8, 4])),
            ("bert.pooler.dense.weight".into(), randn(&[4, 4])),
        ]);
        let table = file["bert.embeddings.position_embeddings.weight"].get(2)
            + file["bert.embeddings.token_type_embeddings.weight"].get(0);
        let kept = file["bert.encoder.layer.3.intermediate.dense.weight"].transpose(0, 1).copy();
        let ours = load(file, &tiny(), &[3], "t").unwrap();
        assert_eq!(ours["t.embeddings.position_embeddings.weight"].size(), [5, 4]);
        assert!(ours["t.embeddings.position_embeddings.weight"].get(2).allclose(&table, 1e-6, 1e-6, false));
        assert!(ours["t.encoder.layer.0.intermediate.dense.weight"].allclose(&kept, 1e-6, 1e-6, false));
        assert!(ours.contains_key("t.embeddings.LayerNorm.weight"));
        assert_eq!(ours.len(), 3);
    }
}
