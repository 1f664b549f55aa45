//! Ranks clips by descriptions and says how well: per corpus and style, on speakers and prompts that were never trained
//! on, beside chance and beside the two baselines fitted on the same training data.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::audio_file::waveform;
use crate::baseline::{Ridge, STRENGTHS, unit};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::data::splits::Split;
use crate::nets::log_mel::BANDS;
use crate::prepare::{Form, entry_width, open};
use crate::progress::Progress;
use crate::prompts::{Prompts, Side};
use crate::retrieval::{Quality, chance, judge};
use crate::speech_batches::role;
use crate::store::Entry;
use crate::text_features::{Encoder, pooled, text_features};
use crate::torch::run;

/// Name of the trained model among the methods.
pub const OURS: &str = "trained";
/// Names of the baselines.
pub const BASELINES: [&str; 2] = ["frozen encoder + ridge", "log-mel + ridge"];

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

/// Which model is judged.
pub enum Model<'a> {
    /// The latest checkpoint of the config's run, over cached features.
    Run,
    /// An exported bundle, from the clips' files through ONNX Runtime, as in production.
    Bundle(&'a Path),
    /// A bundle whose speech side is taken from the run's checkpoint and the cached features, after a sample of clips has shown
    /// that the bundle gives the same.
    Cached(&'a Path),
}

/// Clips of one corpus with the rows of each method.
struct Pool {
    corpus: String,
    entries: Vec<Entry>,
    ours: Tensor,
    baselines: [Tensor; 2],
}

/// Judges a model on the clips of one split; corpora that are not trained on have all their clips in the test split.
pub fn evaluate(config: &Config, model: &Model<'_>, split: Split, side: Side) -> Result<Vec<CorpusScores>> {
    let prompts = Prompts::read(&config.data.prompts)?;
    let mut store = open(config, Form::Pooled)?;
    ensure!(!store.entries.is_empty(), "the feature cache is empty; run `esr-trainer prepare` with this config first");
    let trained: &[String] = if config.data.all_speakers { &[] } else { &config.data.train };
    let corpora: Vec<&String> = trained.iter().chain(&config.data.test).collect();
    let cached = config.speech.cached_tower();
    let columns =
        Tensor::from_slice(&config.speech.tower.columns_of(&cached).context("the cache lacks a layer of the tower")?);
    let (wide, plain) = (cached.pooled_width(), config.speech.tower.whisper.width);
    let mut load = |wanted: &dyn Fn(&Entry) -> bool| -> Result<(Vec<Entry>, [Tensor; 3])> {
        let (entries, all) = store.rows(entry_width(config), wanted)?;
        let part = |from: usize, n: usize| all.narrow(1, from as i64, n as i64).copy();
        Ok((entries, [all.index_select(1, &columns), part(wide, plain), part(wide + plain, 2 * BANDS)]))
    };

    // Baselines: the frozen text encoder's space, centred by the mean of all training prompts.
    let (fit_entries, fit) = load(&|e| role(config, e) == Some(Split::Train))?;
    let (choose_entries, choose) = load(&|e| role(config, e) == Some(Split::Val) && e.variant == "original")?;
    let space = TextSpace::new(config, &prompts)?;
    let ridges = [
        fit_ridge(config, &prompts, &space, &fit_entries, &fit[1], &choose_entries, &choose[1])?,
        fit_ridge(config, &prompts, &space, &fit_entries, &fit[2], &choose_entries, &choose[2])?,
    ];

    let mut judged = judge_of(config, model)?;
    let mut results = vec![];
    for corpus in corpora {
        let (entries, [ours, plain, mel]) =
            load(&|e| e.corpus == *corpus && e.split == split && e.variant == "original")?;
        let classes: BTreeSet<&Vec<String>> = entries.iter().map(|e| &e.styles).collect();
        if classes.len() < 2 {
            continue;
        }
        let baselines = [ridges[0].apply(&plain), ridges[1].apply(&mel)];
        let pool = Pool { corpus: corpus.clone(), ours: judged.speech(&entries, &ours)?, entries, baselines };
        results.push(score(config, &prompts, &space, judged.as_mut(), &pool, side)?);
    }
    ensure!(!results.is_empty(), "no corpus has two styles in this split; is the feature cache complete?");
    Ok(results)
}

fn score(
    config: &Config,
    prompts: &Prompts,
    space: &TextSpace,
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
        let frozen = space.of(config, &texts)?;
        let queries = [
            (OURS, judged.texts(config, &texts)?, &pool.ours),
            (BASELINES[0], frozen.shallow_clone(), &pool.baselines[0]),
            (BASELINES[1], frozen, &pool.baselines[1]),
        ];
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

/// Where embeddings of the judged model come from.
pub(crate) trait Judge {
    /// Unit vectors of clips: by their files or by their pooled features, a row each.
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor>;
    /// Unit vectors of texts.
    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor>;
}

/// Opens a model.
pub(crate) fn judge_of(config: &Config, model: &Model<'_>) -> Result<Box<dyn Judge>> {
    Ok(match model {
        Model::Run => Box::new(RunJudge::new(config)?),
        Model::Bundle(folder) => Box::new(BundleJudge::new(folder)?),
        Model::Cached(folder) => Box::new(CachedJudge {
            run: RunJudge::new(config)?,
            bundle: BundleJudge::new(folder)?,
            longest: config.data.longest,
        }),
    })
}

struct RunJudge {
    params: crate::torch::Params,
    speech: crate::graph::Graph,
    text: crate::graph::Graph,
}

impl RunJudge {
    fn new(config: &Config) -> Result<Self> {
        let state = Checkpoint::load(&config.data.work, None)?;
        let params = state.context("there is no checkpoint; run `esr-trainer train` with this config first")?.best();
        ensure!(
            config.training.unfreeze_from == 0,
            "this run changed the speech encoder, so cached features do not show it; export it and evaluate with --bundle"
        );
        let (speech, text) =
            (config.speech.tower.record_head(config.dimension), config.text.tower.record_head(config.dimension));
        Ok(Self { params, speech, text })
    }
}

impl Judge for RunJudge {
    fn speech(&mut self, _: &[Entry], pooled: &Tensor) -> Result<Tensor> {
        Ok(no_grad(|| run(&self.speech, &self.params, &[("pooled", pooled)], false))["embedding"].shallow_clone())
    }

    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor> {
        let pooled = text_features(config, texts)?;
        Ok(no_grad(|| run(&self.text, &self.params, &[("pooled", &pooled)], false))["embedding"].shallow_clone())
    }
}

struct BundleJudge {
    encoder: esr_encoder::Encoder,
}

impl BundleJudge {
    fn new(folder: &Path) -> Result<Self> {
        let bundle = esr_encoder::Bundle::open(folder)?;
        let runtime = esr_encoder::Runtime::load(&esr_encoder::runtime::default_library(), 1)?;
        Ok(Self { encoder: esr_encoder::Encoder::load(&bundle, &runtime)? })
    }
}

impl Judge for BundleJudge {
    fn speech(&mut self, entries: &[Entry], _: &Tensor) -> Result<Tensor> {
        let progress = Progress::start(entries.len() as u64, "clips through the bundle");
        let mut rows = vec![];
        let rate = self.encoder.sample_rate();
        for batch in entries.chunks(4) {
            let clips = batch.iter().map(|e| waveform(&e.path, rate)).collect::<Result<Vec<_>>>()?;
            let embedded = self.encoder.embed_speech(&clips, &esr_encoder::Cancel::default())?;
            rows.extend(embedded.iter().map(|e| Tensor::from_slice(e.as_slice())));
            progress.advance(batch.len() as u64);
        }
        progress.finish();
        Ok(Tensor::stack(&rows, 0))
    }

    fn texts(&mut self, _: &Config, texts: &[String]) -> Result<Tensor> {
        let mut rows = vec![];
        for batch in texts.chunks(32) {
            let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
            let embedded = self.encoder.embed_texts(&batch, &esr_encoder::Cancel::default())?;
            rows.extend(embedded.iter().map(|e| Tensor::from_slice(e.as_slice())));
        }
        Ok(Tensor::stack(&rows, 0))
    }
}

/// Clips of each corpus that go through the bundle when its speech side is taken from the cache.
const SAMPLE: usize = 30;
/// Cosine by which the two may differ: 16-bit features, and other clips in the batch.
const SAMPLE_TOLERANCE: f64 = 0.005;

struct CachedJudge {
    run: RunJudge,
    bundle: BundleJudge,
    longest: f32,
}

impl Judge for CachedJudge {
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor> {
        let rows = self.run.speech(entries, pooled)?;
        // The embedder averages over the windows of a long clip, the cache holds its beginning.
        let long = |n: &usize| entries[*n].seconds >= self.longest;
        let step = entries.len().div_ceil(SAMPLE).max(1);
        let chosen: Vec<usize> = (0..entries.len()).filter(|n| n % step == 0 || long(n)).collect();
        let sample: Vec<Entry> = chosen.iter().map(|n| entries[*n].clone()).collect();
        let served = self.bundle.speech(&sample, pooled)?;
        for (row, n) in chosen.iter().enumerate() {
            let (own, served) = (rows.get(*n as i64), served.get(row as i64));
            let cosine = (&own * &served).sum(Kind::Float).double_value(&[]);
            ensure!(
                long(n) || cosine > 1.0 - SAMPLE_TOLERANCE,
                "the bundle is not this run's: they embed {} with cosine {cosine}",
                entries[*n].path.display()
            );
            rows.get(*n as i64).copy_(&served);
        }
        Ok(rows)
    }

    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor> {
        self.bundle.texts(config, texts)
    }
}

/// The frozen text encoder's space, centred.
struct TextSpace {
    centre: Tensor,
}

impl TextSpace {
    fn new(config: &Config, prompts: &Prompts) -> Result<Self> {
        let all: BTreeSet<String> =
            prompts.styles().flat_map(|s| prompts.of_class(&[s.to_string()], Side::Train)).collect();
        let features = unit(&pooled(config, &Encoder::Published, &all.into_iter().collect::<Vec<_>>())?);
        Ok(Self { centre: features.mean_dim([0i64].as_slice(), true, Kind::Float) })
    }

    /// Unit vectors of texts.
    fn of(&self, config: &Config, texts: &[String]) -> Result<Tensor> {
        Ok(unit(&(unit(&pooled(config, &Encoder::Published, texts)?) - &self.centre)))
    }
}

/// The ridge whose penalty ranks the validation speakers best.
fn fit_ridge(
    config: &Config,
    prompts: &Prompts,
    space: &TextSpace,
    entries: &[Entry],
    features: &Tensor,
    choose: &[Entry],
    choose_features: &Tensor,
) -> Result<Ridge> {
    let classes: Vec<String> = entries.iter().map(Entry::class).collect();
    let mut known: BTreeMap<String, Tensor> = BTreeMap::new();
    for entry in entries.iter().chain(choose) {
        if let Slot::Vacant(slot) = known.entry(entry.class()) {
            let texts = space.of(config, &prompts.of_class(&entry.styles, Side::Train))?;
            slot.insert(unit(&texts.mean_dim([0i64].as_slice(), true, Kind::Float)).squeeze_dim(0));
        }
    }
    let targets = Tensor::stack(&classes.iter().map(|c| &known[c]).collect::<Vec<_>>(), 0);
    let mut best: Option<(f64, Ridge)> = None;
    for strength in STRENGTHS {
        let ridge = Ridge::fit(features, &targets, &classes, strength)?;
        let mut all = vec![];
        if !choose.is_empty() {
            let clips = ridge.apply(choose_features);
            for corpus in &config.data.train {
                let rows: Vec<i64> =
                    (0..choose.len()).filter(|n| choose[*n].corpus == *corpus).map(|n| n as i64).collect();
                let styles: BTreeSet<String> = rows.iter().map(|n| choose[*n as usize].class()).collect();
                if styles.len() < 2 {
                    continue;
                }
                let clips = clips.index_select(0, &Tensor::from_slice(&rows));
                for style in styles {
                    let scores = Vec::<f32>::try_from(clips.matmul(&known[&style]))?;
                    let relevant: Vec<bool> = rows.iter().map(|n| choose[*n as usize].class() == style).collect();
                    all.push(judge(&scores, &relevant));
                }
            }
        }
        let precision = Quality::mean(&all).precision;
        if best.as_ref().is_none_or(|(p, _)| precision > *p) {
            best = Some((precision, ridge));
        }
    }
    Ok(best.expect("at least one strength was tried").1)
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
