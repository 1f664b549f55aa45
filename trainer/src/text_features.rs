//! What the text encoders say about texts, computed once and kept beside the feature cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tch::{Tensor, no_grad};

use crate::config::{Config, Tuning};
use crate::encoders;
use crate::nets::text_tower::{ENCODER, pooled_graph};
use crate::progress::Progress;
use crate::tokenizer::TextTokenizer;
use crate::torch::{Params, run};
use crate::{tune_text, weights};

const BATCH: usize = 64;

/// Which text encoder.
pub enum Encoder<'a> {
    /// As published, untouched: what the baselines use, and what training uses when nothing is tuned.
    Published,
    /// As tuned by `tune-text`.
    Tuned,
    /// The larger encoder that tuning learns from.
    Teacher(&'a Tuning),
}

/// Pooled features of the text encoder that the config's text tower ends up with.
pub fn text_features(config: &Config, texts: &[String]) -> Result<Tensor> {
    pooled(config, if config.text.tuning.is_some() { &Encoder::Tuned } else { &Encoder::Published }, texts)
}

/// Pooled features `[texts, width]`, in the order of `texts`.
pub fn pooled(config: &Config, encoder: &Encoder<'_>, texts: &[String]) -> Result<Tensor> {
    let file = cache_file(config, encoder, texts)?;
    let mut known = read_cache(&file).unwrap_or_default();
    let missing: BTreeSet<&String> = texts.iter().filter(|t| !known.contains_key(*t)).collect();
    if !missing.is_empty() {
        let missing: Vec<String> = missing.into_iter().cloned().collect();
        known.extend(compute(config, encoder, &missing)?);
        write_cache(&file, &known)?;
    }
    Ok(Tensor::stack(&texts.iter().map(|t| &known[t]).collect::<Vec<_>>(), 0))
}

/// Rows of texts that are not cached.
fn compute(config: &Config, encoder: &Encoder<'_>, texts: &[String]) -> Result<BTreeMap<String, Tensor>> {
    let (params, net, tokenizer): (Params, _, _) = match encoder {
        Encoder::Published => (encoders::text(config)?, &config.text.tower.bert, &config.text.tokenizer),
        Encoder::Tuned => (tune_text::load(config)?, &config.text.tower.bert, &config.text.tokenizer),
        Encoder::Teacher(t) => {
            let loaded =
                weights::text::load(weights::read_tensors(&weights::resolve(&t.weights))?, &t.bert, &[], ENCODER)?;
            (loaded, &t.bert, &t.tokenizer)
        }
    };
    let tokenizer = TextTokenizer::read(&weights::resolve(tokenizer), net.positions.min(config.text.max_tokens))?;
    let graph = pooled_graph(net);
    let progress = Progress::start(texts.len() as u64, "texts");
    // Texts of like length share a batch, so that little is padding.
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|n| texts[*n].len());
    let mut rows = BTreeMap::new();
    for batch in order.chunks(BATCH) {
        let chosen: Vec<String> = batch.iter().map(|n| texts[*n].clone()).collect();
        let (ids, mask) = tokenizer.encode(&chosen)?;
        let out = no_grad(|| run(&graph, &params, &[("input_ids", &ids), ("attention_mask", &mask)], false));
        for (row, n) in batch.iter().enumerate() {
            rows.insert(texts[*n].clone(), out["pooled"].get(row as i64).copy());
        }
        progress.advance(batch.len() as u64);
    }
    progress.finish();
    Ok(rows)
}

fn read_cache(file: &Path) -> Option<BTreeMap<String, Tensor>> {
    let mut parts: BTreeMap<String, Tensor> = Tensor::read_safetensors(file).ok()?.into_iter().collect();
    let (features, texts) = (parts.remove("features")?, Vec::<u8>::try_from(parts.remove("texts")?).ok()?);
    let texts: Vec<String> = serde_json::from_slice(&texts).ok()?;
    (texts.len() as i64 == features.size()[0]).then(|| texts.into_iter().zip(features.unbind(0)).collect())
}

fn write_cache(file: &Path, known: &BTreeMap<String, Tensor>) -> Result<()> {
    let features = Tensor::stack(&known.values().collect::<Vec<_>>(), 0);
    let texts = Tensor::from_slice(&serde_json::to_vec(&known.keys().collect::<Vec<_>>())?);
    Tensor::write_safetensors(&[("features", &features), ("texts", &texts)], file)
        .with_context(|| format!("cannot write {}", file.display()))
}

fn cache_file(config: &Config, encoder: &Encoder<'_>, texts: &[String]) -> Result<PathBuf> {
    let folder = config.data.cache().join("texts");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut hash = Sha256::new();
    match encoder {
        Encoder::Published => {
            hash.update(serde_json::to_vec(&(
                &config.text.weights,
                &config.text.keep,
                config.text.int8,
                &config.text.tower.bert,
            ))?);
        }
        Encoder::Tuned => {
            let written = std::fs::metadata(tune_text::file(config)).and_then(|m| m.modified());
            let written = written
                .context("the text tower is not tuned yet; run `esr-trainer tune-text` with this config first")?;
            hash.update(format!("tuned {written:?}"));
        }
        // One file for all texts: the teacher is slow, and is read once a run.
        Encoder::Teacher(t) => hash.update(serde_json::to_vec(&(&t.weights, &t.bert))?),
    }
    if !matches!(encoder, Encoder::Teacher(_)) {
        texts.iter().for_each(|t| hash.update(format!("{t}\n")));
    }
    let name: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    Ok(folder.join(format!("{name}.safetensors")))
}
