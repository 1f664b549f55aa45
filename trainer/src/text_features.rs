//! What the text encoders say about texts, computed once and kept beside the feature cache.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tch::{Device, Tensor, no_grad};

use crate::by_length::by_length;
use crate::config::{Config, Tuning};
use crate::encoders;
use crate::graph::Graph;
use crate::kept::{Kept, hash};
use crate::nets::text_tower::{ENCODER, pooled_graph};
use crate::progress::Progress;
use crate::tokenizer::TextTokenizer;
use crate::torch::{Params, run};
use crate::{tuned_text, weights};

const BATCH: usize = 128;

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

thread_local! {
    /// What is known of each encoder, by folder and key: its files are read once a run.
    static KNOWN: RefCell<BTreeMap<(PathBuf, String), Kept>> = const { RefCell::new(BTreeMap::new()) };
}

/// Pooled features `[texts, width]`, in the order of `texts`; what is computed is kept.
pub fn pooled(config: &Config, encoder: &Encoder<'_>, texts: &[String]) -> Result<Tensor> {
    let of_encoder = (config.data.cache().join("texts"), key(config, encoder)?);
    KNOWN.with_borrow_mut(|all| {
        let kept = match all.entry(of_encoder) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let kept = Kept::open(&new.key().0, &new.key().1)?;
                new.insert(kept)
            }
        };
        kept.rows(texts, |places| {
            let missing: Vec<String> = places.iter().map(|n| texts[*n].clone()).collect();
            compute(config, encoder, &missing)
        })
    })
}

/// Rows of texts that are not cached.
fn compute(config: &Config, encoder: &Encoder<'_>, texts: &[String]) -> Result<Tensor> {
    let (params, net, tokenizer): (Params, _, _) = match encoder {
        Encoder::Published => (encoders::text(config)?, &config.text.tower.bert, &config.text.tokenizer),
        Encoder::Tuned => (tuned_text::load(config)?, &config.text.tower.bert, &config.text.tokenizer),
        Encoder::Teacher(t) => {
            let loaded =
                weights::text::load(weights::read_tensors(&weights::resolve(&t.weights))?, &t.bert, &[], ENCODER)?;
            (loaded, &t.bert, &t.tokenizer)
        }
    };
    let tokenizer = TextTokenizer::read(&weights::resolve(tokenizer), net.positions.min(config.text.max_tokens))?;
    rows(config, &tokenizer, &pooled_graph(net), &params, "pooled", texts)
}

/// One output of a graph over token ids for each text, `[texts, width]`, where the config's tuning is computed.
pub(crate) fn rows(
    config: &Config,
    tokenizer: &TextTokenizer,
    graph: &Graph,
    params: &Params,
    output: &str,
    texts: &[String],
) -> Result<Tensor> {
    let device = config.text.tuning.as_ref().map_or(Ok(Device::Cpu), |tuning| tuning.device.device())?;
    let params: Params = params.iter().map(|(name, t)| (name.clone(), t.to_device(device))).collect();
    let progress = Progress::start(texts.len() as u64, "texts");
    let mut computed = tokens_by_length(tokenizer, texts, BATCH, device, |inputs| {
        progress.advance(inputs[0].1.size()[0] as u64);
        let rows = no_grad(|| run(graph, &params, inputs, false))[output].to_device(Device::Cpu);
        BTreeMap::from([(output.to_string(), rows)])
    })?;
    progress.finish();
    computed.remove(output).context("there are no texts")
}

/// Rows of all texts, in their order, from `compute`, which gets the tokens (`input_ids`, `attention_mask`) of at most `batch` texts of like
/// length at a time.
///
/// # Errors
/// If a text cannot be tokenised.
pub(crate) fn tokens_by_length(
    tokenizer: &TextTokenizer,
    texts: &[String],
    batch: usize,
    device: Device,
    mut compute: impl FnMut(&[(&str, &Tensor)]) -> BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let lengths: Vec<usize> = texts.iter().map(String::len).collect();
    by_length(&lengths, batch, |chosen| {
        let chosen: Vec<String> = chosen.iter().map(|n| texts[*n].clone()).collect();
        let (ids, mask) = tokenizer.encode(&chosen)?;
        let (ids, mask) = (ids.to_device(device), mask.to_device(device));
        Ok(compute(&[("input_ids", &ids), ("attention_mask", &mask)]))
    })
}

/// What decides an encoder's rows, as the beginning of a file's name.
fn key(config: &Config, encoder: &Encoder<'_>) -> Result<String> {
    Ok(match encoder {
        Encoder::Published => hash(serde_json::to_vec(&(
            &config.text.weights,
            &config.text.keep,
            config.text.int8,
            &config.text.tower.bert,
        ))?),
        Encoder::Tuned => {
            let written = std::fs::metadata(tuned_text::file(config)).and_then(|m| m.modified());
            let written = written
                .context("the text tower is not tuned yet; run `esr-trainer tune-text` with this config first")?;
            hash(format!("tuned {written:?}"))
        }
        Encoder::Teacher(t) => hash(serde_json::to_vec(&(&t.weights, &t.bert))?),
    })
}
