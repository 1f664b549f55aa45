//! What the frozen text encoder says about texts, computed once and kept beside the feature cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tch::{Tensor, no_grad};

use crate::config::Config;
use crate::encoders;
use crate::progress::Progress;
use crate::tokenizer::TextTokenizer;
use crate::torch::run;
use crate::weights;

const BATCH: usize = 64;

/// Pooled features `[texts, width]` of the frozen text encoder, in the order of `texts`.
pub fn text_features(config: &Config, texts: &[String]) -> Result<Tensor> {
    let file = cache_file(config, texts)?;
    if let Ok(known) = Tensor::read_safetensors(&file) {
        let known: BTreeMap<String, Tensor> = known.into_iter().collect();
        if let Some(features) = known.get("features").filter(|f| f.size()[0] == texts.len() as i64) {
            return Ok(features.shallow_clone());
        }
    }
    let params = encoders::text(config)?;
    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let graph = config.text.tower.record_pooled();
    let progress = Progress::start(texts.len() as u64, "texts");
    // Texts of like length share a batch, so that little is padding.
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|n| texts[*n].len());
    let mut rows: Vec<Option<Tensor>> = (0..texts.len()).map(|_| None).collect();
    for batch in order.chunks(BATCH) {
        let chosen: Vec<String> = batch.iter().map(|n| texts[*n].clone()).collect();
        let (ids, mask) = tokenizer.encode(&chosen)?;
        let out = no_grad(|| run(&graph, &params, &[("input_ids", &ids), ("attention_mask", &mask)], false));
        for (row, n) in batch.iter().enumerate() {
            rows[*n] = Some(out["pooled"].get(row as i64).copy());
        }
        progress.advance(batch.len() as u64);
    }
    progress.finish();
    let rows: Vec<Tensor> = rows.into_iter().flatten().collect();
    let features = Tensor::stack(&rows, 0);
    Tensor::write_safetensors(&[("features", &features)], &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(features)
}

fn cache_file(config: &Config, texts: &[String]) -> Result<PathBuf> {
    let folder = config.data.work.join("texts");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&(&config.text.weights, &config.text.keep, config.text.int8, &config.text.tower.bert))?);
    texts.iter().for_each(|t| hash.update(format!("{t}\n")));
    let name: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    Ok(folder.join(format!("{name}.safetensors")))
}
