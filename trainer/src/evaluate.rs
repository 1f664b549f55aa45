//! Ranks clips by descriptions and says how well: per corpus and style, on speakers and prompts that were never trained
//! on, beside chance and beside the two baselines fitted on the same training data.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::baselines::Baselines;
pub use crate::baselines::NAMES as BASELINES;
use crate::config::Config;
use crate::data::splits::Split;
pub use crate::judges::Model;
use crate::judges::{Judge, judge_of};
use crate::prepare::{entry, list};
use crate::prompts::{Prompts, Side};
use crate::retrieval::{Quality, chance, judge};
use crate::store::Entry;
use crate::variants::Variant;

/// Name of the trained model among the methods.
pub const OURS: &str = "trained";

/// Results of one way of ranking on one corpus.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scores {
    /// Mean over styles, each prompt asked alone.
    pub single: Quality,
    /// Mean over styles, asked with the mean of all prompts of the style.
    pub ensemble: Quality,
    /// Per style, each prompt asked alone.
    pub styles: BTreeMap<String, Quality>,
}

/// Results on one corpus.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CorpusScores {
    /// Corpus name.
    pub corpus: String,
    /// Whether other speakers of it were trained on.
    pub trained_on: bool,
    /// Clips that are ranked.
    pub clips: usize,
    /// Their speakers.
    pub speakers: usize,
    /// What a random ranking gets.
    pub chance: Quality,
    /// Results by method.
    pub methods: BTreeMap<String, Scores>,
}

/// Clips of one corpus with the rows of each method.
struct Pool {
    corpus: String,
    entries: Vec<Entry>,
    ours: Tensor,
    baselines: Option<[Tensor; 2]>,
}

/// Judges a model on the clips of one split; corpora that are not trained on have all their clips in the test split. Without
/// `beside` the baselines are left out, and no feature cache is needed where the model needs none.
pub fn evaluate(
    config: &Config,
    model: &Model<'_>,
    split: Split,
    side: Side,
    beside: bool,
) -> Result<Vec<CorpusScores>> {
    let prompts = Prompts::read(&config.data.prompts)?;
    let trained: &[String] = if config.data.all_speakers { &[] } else { &config.data.train };
    let corpora: Vec<&String> = trained.iter().chain(&config.data.test).collect();
    ensure!(
        beside || config.training.waveforms.is_some() || matches!(model, Model::Bundle(_)),
        "this run's clips are in the feature cache, beside which the baselines cost nothing; leave --alone out"
    );
    let mut baselines = if beside { Some(Baselines::fit(config, &prompts)?) } else { None };
    let listed = if beside { vec![] } else { list(config, &prompts)? };
    let mut judged = judge_of(config, model)?;
    let mut results = vec![];
    for corpus in corpora {
        let (entries, ours, by_baselines) = match &mut baselines {
            Some(baselines) => {
                let rows = baselines.rows(&|e| e.corpus == *corpus && e.split == split && e.variant == "original")?;
                let by_baselines = baselines.speech(&rows);
                let (entries, [ours, ..]) = rows;
                (entries, ours, Some(by_baselines))
            }
            None => {
                let own = listed.iter().filter(|l| l.clip.corpus == *corpus && l.split == split);
                let entries = own.map(|l| entry(&l.clip, l.split, Variant::Original)).collect();
                (entries, Tensor::default(), None)
            }
        };
        let classes: BTreeSet<&Vec<String>> = entries.iter().map(|e| &e.styles).collect();
        if classes.len() < 2 {
            continue;
        }
        let ours = judged.speech(&entries, &ours)?;
        let pool = Pool { corpus: corpus.clone(), ours, entries, baselines: by_baselines };
        results.push(score(config, &prompts, baselines.as_ref(), judged.as_mut(), &pool, side)?);
    }
    ensure!(!results.is_empty(), "no corpus has two styles in this split; is the feature cache complete?");
    Ok(results)
}

fn score(
    config: &Config,
    prompts: &Prompts,
    baselines: Option<&Baselines>,
    judged: &mut dyn Judge,
    pool: &Pool,
    side: Side,
) -> Result<CorpusScores> {
    let classes: BTreeSet<&Vec<String>> = pool.entries.iter().map(|e| &e.styles).collect();
    let mut methods: BTreeMap<String, (Vec<Quality>, Scores)> = BTreeMap::new();
    let mut by_chance = vec![];
    for class in classes {
        let relevant: Vec<bool> = pool.entries.iter().map(|e| e.styles == *class).collect();
        by_chance.push(chance(relevant.len(), relevant.iter().filter(|r| **r).count()));
        let texts = prompts.of_class(class, side);
        let mut queries = vec![(OURS, judged.texts(config, &texts)?, &pool.ours)];
        if let (Some(baselines), Some(clips)) = (baselines, &pool.baselines) {
            let frozen = baselines.texts(config, &texts)?;
            queries.extend(BASELINES.into_iter().zip(clips).map(|(name, c)| (name, frozen.shallow_clone(), c)));
        }
        for (name, queries, clips) in queries {
            let rank = |query: &Tensor| -> Result<Quality> {
                Ok(judge(&Vec::<f32>::try_from(clips.matmul(query))?, &relevant))
            };
            let each = (0..queries.size()[0]).map(|n| rank(&queries.get(n))).collect::<Result<Vec<_>>>()?;
            let together = rank(&queries.mean_dim([0i64].as_slice(), false, Kind::Float))?;
            let (ensembles, scores) = methods.entry(name.into()).or_default();
            ensembles.push(together);
            scores.styles.insert(class.join(" + "), Quality::mean(&each));
        }
    }
    let finish = |(name, (ensembles, mut scores)): (String, (Vec<Quality>, Scores))| {
        scores.single = Quality::mean(scores.styles.values());
        scores.ensemble = Quality::mean(&ensembles);
        (name, scores)
    };
    let speakers: BTreeSet<&String> = pool.entries.iter().map(|e| &e.speaker).collect();
    Ok(CorpusScores {
        corpus: pool.corpus.clone(),
        trained_on: config.data.train.contains(&pool.corpus),
        clips: pool.entries.len(),
        speakers: speakers.len(),
        chance: Quality::mean(&by_chance),
        methods: methods.into_iter().map(finish).collect(),
    })
}

/// The results as a table for a terminal or a model card.
pub fn table(results: &[CorpusScores]) -> String {
    let mut out = String::from(
        "| corpus | clips, speakers | ranked by | R@1 | R@5 | R@10 | mAP | P@1 | mAP, P@1 with prompts averaged |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let line = |q: &Quality| {
        format!("{:.3} | {:.3} | {:.3} | {:.3} | {:.3}", q.recall_1, q.recall_5, q.recall_10, q.precision, q.first)
    };
    let both = |q: &Quality| format!("{:.3}, {:.3}", q.precision, q.first);
    for r in results {
        let seen = if r.trained_on { "other speakers trained on" } else { "never trained on" };
        for method in [OURS, BASELINES[0], BASELINES[1]] {
            let Some(s) = r.methods.get(method) else { continue };
            let (name, size) = if method == OURS {
                (format!("**{}** ({seen})", r.corpus), format!("{}, {}", r.clips, r.speakers))
            } else {
                Default::default()
            };
            out += &format!("| {name} | {size} | {method} | {} | {} |\n", line(&s.single), both(&s.ensemble));
        }
        out += &format!("| | | chance | {} | {} |\n", line(&r.chance), both(&r.chance));
    }
    out
}

/// Per style results of the trained model.
pub fn style_table(results: &[CorpusScores]) -> String {
    let mut out = String::from("| corpus | style | R@1 | R@5 | R@10 | mAP | P@1 |\n|---|---|---|---|---|---|---|\n");
    for r in results {
        for (style, q) in r.methods.get(OURS).map(|s| &s.styles).into_iter().flatten() {
            out += &format!(
                "| {} | {style} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} |\n",
                r.corpus, q.recall_1, q.recall_5, q.recall_10, q.precision, q.first
            );
        }
    }
    out
}
