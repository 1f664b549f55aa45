//! Adds to a bundle's speech side what the log-mel statistics of a clip alone say of its style: a linear map, fitted to the training
//! clips like the baseline of that name, summed with the network's own output before both are normalised. For ranking by cosine that
//! is a weighted sum of the two systems' scores (score-level fusion). Spectrum and level of a recording, which the encoder was
//! trained to overlook, count a little again.
//!
//! A direction that no description has is then given a fixed length in all clips: without it a clip in which little is heard would be
//! as near to the style it resembles as one that shows it plainly, since cosine ranking forgets how long a vector was.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use esr_encoder::bundle::{SPEECH_FILE, TEXT_FILE};
use tch::{Device, Kind, Tensor, no_grad};

use crate::audio_file::read;
use crate::baselines::{Cache, class_places};
use crate::config::{Config, Fusion};
use crate::data::splits::Split;
use crate::export::{speech_tower, write_config};
use crate::judges::{Model, judge_of};
use crate::nets::log_mel::BANDS;
use crate::nets::text_tower::VALUES;
use crate::onnx::Precision;
use crate::prepare::{batch_of, fit};
use crate::prompts::Prompts;
use crate::speech_batches::role;
use crate::store::Entry;
use crate::torch::{Params, run};
use crate::warm_start::ridge;
use crate::weights;

/// Training clips whose vectors say how long the network's own output is.
const HEARD: usize = 256;
/// Clips that are embedded at once.
const BATCH: usize = 8;

/// Writes the bundle `from` with log-mel statistics fused into its speech side to `folder`; returns its tag.
///
/// # Errors
/// If the config has no `speech.fusion`, its feature cache holds no training clips, or the bundle is fused already or of another size.
pub fn fuse(config: &Config, from: &Path, folder: &Path) -> Result<u64> {
    let fusion = config.speech.fusion.as_ref().context("the config has no speech.fusion: there is nothing to add")?;
    let mut params = weights::read_tensors(&from.join(SPEECH_FILE))?;
    ensure!(!speech_tower(config, &params).mel, "the speech side of {} has log-mel statistics already", from.display());
    params.extend(weights::read_tensors(&from.join(TEXT_FILE))?);
    let heard = |e: &Entry| e.variant == "original" && role(config, e) == Some(Split::Train);
    let (entries, [_, _, statistics]) = Cache::open(config)?.rows(&heard)?;
    ensure!(
        !entries.is_empty(),
        "the feature cache has no training clips; run `esr-trainer prepare` with this config first"
    );
    let mut judge = judge_of(config, &Model::Bundle(from))?;
    let places = class_places(&entries, &Prompts::read(&config.data.prompts)?, |texts| judge.texts(config, texts))?;
    let targets = Tensor::stack(&entries.iter().map(|e| &places[&e.class()]).collect::<Vec<_>>(), 0);
    let own = own_length(config, &params, &entries)?;
    let part = Part::fit(config, fusion, &entries, &statistics, &targets, own)?;
    part.append(&mut params);
    if fusion.doubt > 0.0 {
        doubt(&mut params, fusion.doubt * own)?;
    }
    write_config(config, folder, params, Precision::Int8)
}

/// What is added to a head: rows for further columns of the features.
struct Part {
    mean: Tensor,
    scale: Tensor,
    map: Tensor,
    bias: Tensor,
}

impl Part {
    /// The ridge map from `statistics` `[clips, 160]` to `targets` `[clips, dimension]`, every clip weighing the same, scaled so that its
    /// mean length is `fusion.share` of `own`.
    fn fit(
        config: &Config,
        fusion: &Fusion,
        entries: &[Entry],
        statistics: &Tensor,
        targets: &Tensor,
        own: f64,
    ) -> Result<Self> {
        let x = statistics.to_kind(Kind::Double);
        let mean = x.mean_dim([0i64].as_slice(), false, Kind::Double);
        let scale = 1.0 / x.std_dim([0i64].as_slice(), false, false).clamp_min(1e-3);
        let x = (x - &mean) * &scale;
        let (map, bias) = ridge(config, entries, &vec![1.0; entries.len()], &x, targets, fusion.ridge)?;
        let factor = fusion.share * own / mean_length(&(x.matmul(&map) + &bias));
        ensure!(factor.is_finite(), "log-mel statistics say nothing of the training clips' styles");
        Ok(Self { mean, scale, map: map * factor, bias: bias * factor })
    }

    /// Appends the part to the parameters of a head that lacks it.
    fn append(self, params: &mut Params) {
        let hidden = params.get("speech.head.inner.weight").map(|weight| weight.size()[1]);
        let mut join = |name: &str, more: &Tensor, dim: i64| {
            let name = format!("speech.head.{name}");
            let joined = Tensor::cat(&[params[&name].shallow_clone(), more.to_kind(Kind::Float)], dim);
            params.insert(name, joined);
        };
        join("mean", &self.mean, 0);
        join("scale", &self.scale, 0);
        join("outer.weight", &self.map, 0);
        if let Some(hidden) = hidden {
            // A hidden layer goes on hearing what it heard.
            join("inner.weight", &Tensor::zeros([2 * BANDS as i64, hidden], (Kind::Float, Device::Cpu)), 0);
        }
        join("layer_gain", &Tensor::ones([1, 1], (Kind::Float, Device::Cpu)), 1);
        let bias = &params["speech.head.outer.bias"] + self.bias.to_kind(Kind::Float);
        params.insert("speech.head.outer.bias".into(), bias);
    }
}

/// Gives every clip a component of this length in a direction that is orthogonal to all that the bank of styles answers with, and
/// in which the head itself has least to say; what it says there is dropped.
fn doubt(params: &mut Params, length: f64) -> Result<()> {
    let values = params.get(VALUES).context("speech.fusion.doubt needs a text tower with a bank of styles")?;
    let (styles, dimension) = (values.size()[0], values.size()[1]);
    ensure!(styles < dimension, "{styles} styles leave none of {dimension} directions to speech.fusion.doubt");
    // Eigenvectors in ascending order: the first ones are orthogonal to all answers, and the first of the head's where it says least.
    let smallest = |rows: &Tensor, count: i64| {
        let (_, vectors) = rows.transpose(0, 1).matmul(rows).linalg_eigh("L");
        vectors.narrow(1, 0, count)
    };
    let free = smallest(&values.to_kind(Kind::Double), dimension - styles);
    let weight = params["speech.head.outer.weight"].to_kind(Kind::Double);
    let direction = free.matmul(&smallest(&weight.matmul(&free), 1)).squeeze_dim(1);
    // The sign of an eigenvector is arbitrary.
    let largest = direction.abs().argmax(0, false).int64_value(&[]);
    let direction = &direction * direction.double_value(&[largest]).signum();
    for name in ["outer.weight", "outer.bias", "bent.weight", "bent.bias"] {
        if let Some(tensor) = params.get_mut(&format!("speech.head.{name}")) {
            let rows = tensor.to_kind(Kind::Double);
            let kept: Tensor = &rows - rows.matmul(&direction).unsqueeze(-1) * &direction;
            let added = if name == "outer.bias" { length } else { 0.0 };
            *tensor = (kept + &direction * added).to_kind(Kind::Float);
        }
    }
    Ok(())
}

/// Mean length of the network's output before normalisation, over some of the training clips.
fn own_length(config: &Config, params: &Params, entries: &[Entry]) -> Result<f64> {
    let graph = config.speech.tower.record_whole(config.dimension);
    let some: Vec<&Entry> = entries.iter().step_by(entries.len().div_ceil(HEARD)).collect();
    let mut parts = vec![];
    for batch in some.chunks(BATCH) {
        let heard = |e: &&Entry| Ok(fit(read(&e.path)?, config.data.shortest, config.data.longest));
        let (waveform, length) = batch_of(&batch.iter().map(heard).collect::<Result<Vec<_>>>()?);
        let out = no_grad(|| run(&graph, params, &[("waveform", &waveform), ("length", &length)], false));
        parts.push(out["raw"].shallow_clone());
    }
    Ok(mean_length(&Tensor::cat(&parts, 0)))
}

fn mean_length(rows: &Tensor) -> f64 {
    rows.norm_scalaropt_dim(2.0, [1i64].as_slice(), false).mean(Kind::Double).double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::unit;

    #[test]
    fn a_fused_head_gives_the_sum_of_both() {
        tch::manual_seed(3);
        let mut config =
            Config::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/waveforms.toml"))).unwrap();
        config.speech.tower.whisper.width = 4;
        config.speech.tower.layers = vec![1];
        config.dimension = 6;
        config.training.domains = vec![vec!["a".into()], vec!["b".into()]];
        let fusion = config.speech.fusion.unwrap();
        let randn = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let head = config.speech.tower.record_head(6);
        let mut params: Params = head
            .params()
            .into_iter()
            .map(|(name, shape)| (name, randn(&shape.iter().map(|n| *n as i64).collect::<Vec<_>>())))
            .collect();
        assert!(!speech_tower(&config, &params).mel);

        // Two corpora, the second brighter and with other styles: the map must not learn which is which.
        let entries: Vec<Entry> = (0..60)
            .map(|n| Entry { corpus: if n < 40 { "a".into() } else { "b".into() }, ..crate::store::tests::entry(n) })
            .collect();
        let apart = (Tensor::arange(60, (Kind::Float, Device::Cpu)).ge(40.0).to_kind(Kind::Float) * 5.0).unsqueeze(1);
        let statistics = randn(&[60, 160]) + &apart;
        let targets = statistics.narrow(1, 0, 6) - &apart * 2.0;
        let pooled = randn(&[60, 4]);
        let before = no_grad(|| run(&head, &params, &[("pooled", &pooled)], false))["raw"].shallow_clone();
        let own = mean_length(&before);
        let part = Part::fit(&config, &fusion, &entries, &statistics, &targets, own).unwrap();
        part.append(&mut params);

        let fused = speech_tower(&config, &params);
        assert!(fused.mel);
        let both = Tensor::cat(&[&pooled, &statistics], 1);
        let after = no_grad(|| run(&fused.record_head(6), &params, &[("pooled", &both)], false))["raw"].shallow_clone();
        let added: Tensor = after - before;
        assert!((mean_length(&added) / own - fusion.share).abs() < 1e-4, "{} of {own}", mean_length(&added));
        // What is added points where the targets lie inside each corpus.
        let inside = |rows: &Tensor| {
            let group = |from: i64, n: i64| {
                let some = rows.narrow(0, from, n);
                &some - some.mean_dim([0i64].as_slice(), true, Kind::Float)
            };
            Tensor::cat(&[group(0, 40), group(40, 20)], 0)
        };
        let cosine: Tensor = unit(&inside(&added)) * unit(&inside(&targets));
        let cosine = cosine.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float).double_value(&[]);
        assert!(cosine > 0.8, "mean cosine {cosine}");

        // Doubt changes no product with a style's answer, and lengthens every clip alike.
        let answers = randn(&[4, 6]);
        params.insert(VALUES.into(), answers.copy());
        let raw = |params: &Params| {
            no_grad(|| run(&fused.record_head(6), params, &[("pooled", &both)], false))["raw"].shallow_clone()
        };
        let plain = raw(&params);
        doubt(&mut params, 3.0).unwrap();
        let doubted = raw(&params);
        let close = |a: &Tensor, b: &Tensor| a.allclose(b, 1e-4, 1e-4, false);
        assert!(close(&plain.matmul(&answers.transpose(0, 1)), &doubted.matmul(&answers.transpose(0, 1))));
        let moved: Tensor = &doubted - &plain;
        let products = answers.transpose(0, 1).matmul(&answers);
        let (_, vectors) = products.linalg_eigh("L");
        let free = doubted.matmul(&vectors.narrow(1, 0, 2));
        assert!(free.norm_scalaropt_dim(2.0, [1i64].as_slice(), false).min().double_value(&[]) > 3.0 - 1e-3);
        assert!(mean_length(&moved) > 1.0);
        params.remove(VALUES);
        assert!(doubt(&mut params, 3.0).is_err());
    }
}
