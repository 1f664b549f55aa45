//! Writes a fine-tuned run as a bundle that the embedder serves. Padding is always masked there, and texts are pooled over
//! their own tokens, whatever training did: the answer to a request must not depend on who asks at the same time.

use std::path::Path;

use anyhow::{Context, Result};
use tch::Device;

use super::config::Finetune;
use super::evaluate::{CorpusQuality, table};
use super::trained::load;
use crate::export::{CARD_FILE, Parts, opened, write, write_bundle};
use crate::onnx::Precision;
use crate::tokenizer::TextTokenizer;
use crate::weights;

/// Writes the latest checkpoint of a run to `folder` and opens it again through ONNX Runtime; returns the bundle's tag.
pub fn export(config: &Finetune, folder: &Path, precision: Precision, results: &[CorpusQuality]) -> Result<u64> {
    let params = load(config, Device::Cpu)?
        .context("there is no checkpoint; run `esr-trainer finetune` with this config first")?;
    let parts = Parts {
        name: &config.name,
        version: &config.version,
        seed: config.seed,
        dimension: config.dimension,
        data: &config.data,
        card: &config.card,
        max_tokens: config.text.max_tokens,
        speech: &config.speech.net.record_served(config.dimension),
        text: &config.text.net.record_served(config.dimension),
        params: &params,
        tokenizer: &TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?,
        precision,
    };
    write_bundle(folder, &parts)?;
    write(folder, CARD_FILE, card(config, results).as_bytes())?;
    opened(folder)
}

fn card(config: &Finetune, results: &[CorpusQuality]) -> String {
    let card = &config.card;
    let mut out =
        format!("# {} {}\n\n{}\n\nLicence: {}.\n", config.name, config.version, card.description, card.licence);
    out += "\n## What it is made of\n\n";
    card.provenance.iter().for_each(|(name, terms)| out += &format!("- {name}: {terms}\n"));
    out += &format!("- Trained on: {}. Seed {}.\n", config.data.train.join(", "), config.seed);
    if !card.weaknesses.is_empty() {
        out += "\n## What it is bad at\n\n";
        card.weaknesses.iter().for_each(|w| out += &format!("- {w}\n"));
    }
    if !results.is_empty() {
        out += "\n## Results\n\nTest clips of each corpus, each style asked with the mean of its training prompts (the paper's protocol, in exact \
                expectation over 400 clips of other styles or all there are).\n\n";
        out += &table(results);
    }
    card.notes.iter().for_each(|note| out += &format!("\n{note}\n"));
    out
}
