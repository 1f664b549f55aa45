//! Ranks clips as the paper does: each style is asked with the mean of the unit vectors of its training prompts, among the
//! clips of its own corpus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::config::Finetune;
use super::embed::Embedder;
use super::trained::load;
use crate::data::Clip;
use crate::data::splits::Split;
use crate::figure::{Series, Words, lines};
use crate::prepare::list_of;
use crate::prompts::{Prompts, Side};
use crate::protocol::bootstrap::Estimate;
use crate::protocol::lengths::{Bin, by_length};
use crate::protocol::pool::{Asked, Heard, Pool, Rows};
use crate::protocol::ranking::{average_precision, rank};
use crate::protocol::recall::{PLACES, Recall, TRIALS, exact, sampled};
use crate::protocol::{exchange, scatter};
use crate::report::Figure;
use crate::retrieval::DISTRACTORS;
use crate::torch::Params;

/// The seed of the sampled trials in the released code.
const TRIAL_SEED: u64 = 42;
/// Clips that a drawing in the plane needs.
const FEWEST_DRAWN: usize = 20;

/// How well one style is found, or a mean of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// R@1, R@5, R@10 and R@20 in exact expectation over the distractors.
    pub recall: Recall,
    /// The same by as many sampled trials a style as the released code makes.
    pub sampled: Recall,
    /// Average precision with all clips of the style relevant.
    pub precision: f64,
}

impl Found {
    /// Element-wise mean.
    pub fn mean<'a>(all: impl IntoIterator<Item = &'a Found> + Clone) -> Found {
        let count = all.clone().into_iter().count().max(1) as f64;
        Found {
            recall: Recall::mean(all.clone().into_iter().map(|f| f.recall)),
            sampled: Recall::mean(all.clone().into_iter().map(|f| f.sampled)),
            precision: all.into_iter().map(|f| f.precision).sum::<f64>() / count,
        }
    }
}

/// Results on the test clips of one corpus.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CorpusQuality {
    /// Its name.
    pub corpus: String,
    /// Clips that are ranked.
    pub clips: usize,
    /// Unweighted mean over styles.
    pub mean: Found,
    /// What a random ranking gets.
    pub chance: Found,
    /// Each style.
    pub styles: BTreeMap<String, Found>,
    /// By length of the clip that is to be found (the paper's Figure 3), shortest first; bins with few clips are left out.
    pub lengths: Vec<ByLength>,
}

/// Results on clips of like length.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ByLength {
    /// The lengths in words.
    pub name: String,
    /// Mean length in seconds.
    pub seconds: f64,
    /// Clips.
    pub clips: usize,
    /// R@1, R@5, R@10 and R@20, mean over the clips, with intervals from drawing the clips again.
    pub recall: [Estimate; 4],
}

/// A run on its test clips.
pub struct Evaluation {
    /// Results by corpus.
    pub corpora: Vec<CorpusQuality>,
    /// The vectors behind them: clips, and each prompt of each style.
    pub pools: Vec<(Pool, Vec<Asked>)>,
}

impl Evaluation {
    /// Figures: R@1 by length of utterance, and both modalities in the plane for each corpus with enough clips.
    pub fn figures(&self, seed: u64) -> Result<Vec<Figure>> {
        let mut figures = vec![];
        let curve = |c: &CorpusQuality| Series {
            name: c.corpus.clone(),
            points: c
                .lengths
                .iter()
                .map(|b| (b.seconds, [b.recall[0].value, b.recall[0].low, b.recall[0].high]))
                .collect(),
            dashed: false,
        };
        let curves: Vec<Series> = self.corpora.iter().filter(|c| c.lengths.len() > 1).map(curve).collect();
        if !curves.is_empty() {
            let words = Words { title: "R@1 by length of utterance", x: "mean length of the bin's clips, s", y: "R@1" };
            figures.push(Figure { name: "by-length".into(), svg: lines(words, &curves, false)? });
        }
        for (pool, asked) in self.pools.iter().filter(|(pool, _)| pool.clips.len() >= FEWEST_DRAWN) {
            let svg = scatter::draw(pool, asked, false, seed)?;
            figures.push(Figure { name: format!("tsne-{}", pool.name), svg });
        }
        Ok(figures)
    }

    /// Writes all vectors and rankings to a file for `esr-benches protocol`, which ranks the same through SQL.
    pub fn write_vectors(&self, file: &Path) -> Result<()> {
        let together = |(pool, asked): &(Pool, Vec<Asked>)| {
            (pool.clone(), asked.iter().map(|a| Asked::together(&a.style, &a.queries)).collect())
        };
        exchange::write(file, &self.pools.iter().map(together).collect::<Vec<_>>(), DISTRACTORS)
    }
}

/// Judges the latest checkpoint of a run on the test clips of every corpus that has some of two styles or more.
pub fn evaluate(config: &Finetune) -> Result<Evaluation> {
    let device = config.training.device.device()?;
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
    ensure!(!found.corpora.is_empty(), "no corpus has test clips of two styles");
    Ok(found)
}

/// The results as a table for a terminal or a model card.
pub fn table(results: &[CorpusQuality]) -> String {
    let mut out = String::from(
        "| corpus | clips | R@1 | R@5 | R@10 | R@20 | mAP | R@1 by trials | chance R@1, mAP |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for r in results {
        let places: String = r.mean.recall.0.iter().map(|r| format!("{r:.3} | ")).collect();
        out += &format!(
            "| {} | {} | {places}{:.3} | {:.3} | {:.3}, {:.3} |\n",
            r.corpus, r.clips, r.mean.precision, r.mean.sampled.0[0], r.chance.recall.0[0], r.chance.precision
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
    let all: Vec<Found> = found.corpora.iter().flat_map(|c| c.styles.values().copied()).collect();
    Ok((!all.is_empty()).then(|| Found::mean(&all).precision))
}

fn judged(
    config: &Finetune,
    params: &Params,
    prompts: &Prompts,
    clips: &[Clip],
    longest: Option<f32>,
    device: Device,
) -> Result<Evaluation> {
    let embedder = Embedder::new(config, params, device)?;
    let corpora: BTreeSet<&String> = clips.iter().map(|c| &c.corpus).collect();
    let mut found = Evaluation { corpora: vec![], pools: vec![] };
    for corpus in corpora {
        let own: Vec<Clip> = clips.iter().filter(|c| c.corpus == *corpus).cloned().collect();
        let classes: BTreeSet<&Vec<String>> = own.iter().map(|c| &c.styles).collect();
        if classes.len() < 2 {
            continue;
        }
        let (vectors, seconds) = embedder.clips(&own, longest)?;
        let heard = |(c, seconds): (&Clip, f32)| Heard {
            path: c.path.display().to_string(),
            speaker: c.speaker.clone(),
            style: c.class(),
            seconds,
            ..Heard::default()
        };
        let pool = Pool {
            name: corpus.clone(),
            clips: own.iter().zip(seconds).map(heard).collect(),
            rows: Rows::of(&vectors)?,
        };
        let (mut styles, mut by_chance, mut asked) = (BTreeMap::new(), vec![], vec![]);
        for class in classes {
            let style = class.join(" + ");
            let prompts = Rows::of(&embedder.texts(&prompts.of_class(class, Side::Train))?)?;
            let relevant = pool.relevant(&style);
            by_chance.push(chance(&relevant));
            let scores = pool.rows.scores(Asked::together(&style, &prompts).queries.row(0));
            let ranking = rank(&scores, &relevant);
            let one = Found {
                recall: exact(&ranking, DISTRACTORS),
                sampled: sampled(&scores, &relevant, DISTRACTORS, TRIALS, TRIAL_SEED),
                precision: average_precision(&ranking),
            };
            styles.insert(style.clone(), one);
            asked.push(Asked { style, queries: prompts });
        }
        let (mean, chance) = (Found::mean(styles.values()), Found::mean(&by_chance));
        let together: Vec<Asked> = asked.iter().map(|a| Asked::together(&a.style, &a.queries)).collect();
        let bin = |b: Bin| ByLength { name: b.name(), seconds: f64::from(b.seconds), clips: b.clips, recall: b.recall };
        let lengths = by_length(&pool, &together, DISTRACTORS, TRIAL_SEED).into_iter().map(bin).collect();
        found.corpora.push(CorpusQuality { corpus: corpus.clone(), clips: own.len(), mean, chance, styles, lengths });
        found.pools.push((pool, asked));
    }
    Ok(found)
}

/// What a random ranking gets.
fn chance(relevant: &[bool]) -> Found {
    let positives = relevant.iter().filter(|r| **r).count();
    let drawn = (relevant.len() - positives).min(DISTRACTORS) as f64;
    let recall = Recall(PLACES.map(|place| (place as f64 / (drawn + 1.0)).min(1.0)));
    let precision = crate::retrieval::chance(relevant.len(), positives).precision;
    Found { recall, sampled: recall, precision }
}
