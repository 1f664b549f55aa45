//! Ranks clips as the paper does: each style is asked with the mean of the unit vectors of its training prompts, among the
//! clips of its own corpus.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::config::Finetune;
use super::embed::Embedder;
use super::train::load;
use crate::data::Clip;
use crate::data::splits::Split;
use crate::prepare::list_of;
use crate::prompts::{Prompts, Side};
use crate::retrieval::{Quality, chance, judge};
use crate::torch::Params;

/// Results on the test clips of one corpus.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CorpusQuality {
    /// Its name.
    pub corpus: String,
    /// Clips that are ranked.
    pub clips: usize,
    /// Unweighted mean over styles: R@k in exact expectation over the distractors, average precision.
    pub mean: Quality,
    /// What a random ranking gets.
    pub chance: Quality,
    /// Each style.
    pub styles: BTreeMap<String, Quality>,
}

/// Judges the latest checkpoint of a run on the test clips of every corpus that has some of two styles or more.
pub fn evaluate(config: &Finetune) -> Result<Vec<CorpusQuality>> {
    let device = config.training.device()?;
    let params = load(config, device)?.with_context(|| {
        format!(
            "there is no checkpoint in {}; run `esr-trainer finetune` with this config first",
            config.data.work.display()
        )
    })?;
    let prompts = Prompts::read(&config.data.prompts)?;
    let clips: Vec<Clip> =
        list_of(&config.data, &prompts)?.into_iter().filter(|l| l.split == Split::Test).map(|l| l.clip).collect();
    let found = judged(config, &params, &prompts, &clips, None, device)?;
    ensure!(!found.is_empty(), "no corpus has test clips of two styles");
    Ok(found)
}

/// The results as a table for a terminal or a model card.
pub fn table(results: &[CorpusQuality]) -> String {
    let mut out =
        String::from("| corpus | clips | R@1 | R@5 | R@10 | mAP | chance R@1 |\n|---|---|---|---|---|---|---|\n");
    for r in results {
        let q = &r.mean;
        out += &format!(
            "| {} | {} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} |\n",
            r.corpus, r.clips, q.recall_1, q.recall_5, q.recall_10, q.precision, r.chance.recall_1
        );
    }
    out
}

/// Mean average precision over corpora and styles.
pub fn mean_precision(
    config: &Finetune,
    params: &Params,
    prompts: &Prompts,
    clips: &[Clip],
    device: Device,
) -> Result<Option<f64>> {
    let found = judged(config, params, prompts, clips, Some(config.training.validation_crop), device)?;
    let all: Vec<Quality> = found.iter().flat_map(|c| c.styles.values().copied()).collect();
    Ok((!all.is_empty()).then(|| Quality::mean(&all).precision))
}

fn judged(
    config: &Finetune,
    params: &Params,
    prompts: &Prompts,
    clips: &[Clip],
    longest: Option<f32>,
    device: Device,
) -> Result<Vec<CorpusQuality>> {
    let embedder = Embedder::new(config, params, device)?;
    let corpora: BTreeSet<&String> = clips.iter().map(|c| &c.corpus).collect();
    let mut found = vec![];
    for corpus in corpora {
        let own: Vec<Clip> = clips.iter().filter(|c| c.corpus == *corpus).cloned().collect();
        let classes: BTreeSet<&Vec<String>> = own.iter().map(|c| &c.styles).collect();
        if classes.len() < 2 {
            continue;
        }
        let rows = embedder.clips(&own, longest)?;
        let (mut styles, mut by_chance) = (BTreeMap::new(), vec![]);
        for class in classes {
            let query = query(&embedder, &prompts.of_class(class, Side::Train))?;
            let scores = Vec::<f32>::try_from(rows.matmul(&query))?;
            let relevant: Vec<bool> = own.iter().map(|c| c.styles == *class).collect();
            by_chance.push(chance(own.len(), relevant.iter().filter(|r| **r).count()));
            styles.insert(class.join(" + "), judge(&scores, &relevant));
        }
        let mean = Quality::mean(styles.values());
        let chance = Quality::mean(&by_chance);
        found.push(CorpusQuality { corpus: corpus.clone(), clips: own.len(), mean, chance, styles });
    }
    Ok(found)
}

/// The mean of the unit vectors of several prompts; its length does not change a ranking.
fn query(embedder: &Embedder<'_>, prompts: &[String]) -> Result<Tensor> {
    Ok(embedder.texts(prompts)?.mean_dim([0i64].as_slice(), false, Kind::Float))
}
