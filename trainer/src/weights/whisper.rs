//! Whisper's encoder out of a CTranslate2 file or a checkpoint with OpenAI's names.

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::take;
use crate::nets::log_mel::BANDS;
use crate::nets::whisper::Whisper;
use crate::torch::Params;

/// Parameters of the stem and the first `layers` blocks below `path`.
pub fn load(mut file: Params, net: &Whisper, layers: usize, path: &str) -> Result<Params> {
    let mut out = Params::new();
    let prefixed = file.keys().any(|k| k.starts_with("encoder/"));
    if prefixed {
        from_ctranslate2(&mut file, net, layers, path, &mut out)?
    } else {
        from_openai(&mut file, net, layers, path, &mut out)?
    }
    Ok(out)
}

/// CTranslate2 joins query, key and value in one matrix (the key's bias is zero) and names layers by number.
fn from_ctranslate2(file: &mut Params, net: &Whisper, layers: usize, path: &str, out: &mut Params) -> Result<()> {
    let (d, bands) = (net.width as i64, BANDS as i64);
    for (n, inputs) in [(1, bands), (2, d)] {
        out.insert(format!("{path}.conv{n}.weight"), take(file, &format!("encoder/conv{n}/weight"), &[d, inputs, 3])?);
        out.insert(format!("{path}.conv{n}.bias"), take(file, &format!("encoder/conv{n}/bias"), &[d])?);
    }
    let positions = take(file, "encoder/position_encodings/encodings", &[net.positions as i64, d])?;
    out.insert(format!("{path}.positional_embedding"), positions);
    for n in 0..layers {
        let (from, to) = (format!("encoder/layer_{n}"), format!("{path}.blocks.{n}"));
        let joined = take(file, &format!("{from}/self_attention/linear_0/weight"), &[3 * d, d])?;
        let bias = take(file, &format!("{from}/self_attention/linear_0/bias"), &[3 * d])?;
        for (part, name) in ["query", "key", "value"].into_iter().enumerate() {
            let start = part as i64 * d;
            out.insert(format!("{to}.attn.{name}.weight"), transposed(&joined.narrow(0, start, d)));
            if name != "key" {
                out.insert(format!("{to}.attn.{name}.bias"), bias.narrow(0, start, d).copy());
            }
        }
        let mut linear = |source: &str, target: &str, shape: [i64; 2]| -> Result<()> {
            let weight = take(file, &format!("{from}/{source}/weight"), &shape)?;
            out.insert(format!("{to}.{target}.weight"), transposed(&weight));
            out.insert(format!("{to}.{target}.bias"), take(file, &format!("{from}/{source}/bias"), &shape[..1])?);
            Ok(())
        };
        linear("self_attention/linear_1", "attn.out", [d, d])?;
        linear("ffn/linear_0", "mlp.0", [4 * d, d])?;
        linear("ffn/linear_1", "mlp.2", [d, 4 * d])?;
        for (source, target) in [("self_attention", "attn_ln"), ("ffn", "mlp_ln")] {
            let part = |name: &str| format!("{from}/{source}/layer_norm/{name}");
            out.insert(format!("{to}.{target}.weight"), take(file, &part("gamma"), &[d])?);
            out.insert(format!("{to}.{target}.bias"), take(file, &part("beta"), &[d])?);
        }
    }
    Ok(())
}

/// OpenAI's names need no change apart from a prefix and the layout of linear weights.
fn from_openai(file: &mut Params, net: &Whisper, layers: usize, path: &str, out: &mut Params) -> Result<()> {
    for (name, tensor) in std::mem::take(file) {
        let short = name.strip_prefix("encoder.").unwrap_or(&name);
        let block = short.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let wanted = match block {
            Some(n) => n < layers,
            None => short.starts_with("conv") || short == "positional_embedding",
        };
        if wanted {
            let linear = tensor.dim() == 2 && short.ends_with(".weight");
            out.insert(format!("{path}.{short}"), if linear { transposed(&tensor) } else { tensor });
        }
    }
    let positions =
        out.get(&format!("{path}.positional_embedding")).context("no Whisper encoder in this weight file")?;
    anyhow::ensure!(
        positions.size()[1] == net.width as i64,
        "the encoder is {} wide, expected {}",
        positions.size()[1],
        net.width
    );
    Ok(())
}

fn transposed(weight: &Tensor) -> Tensor {
    weight.to_kind(Kind::Float).transpose(0, 1).contiguous()
}
