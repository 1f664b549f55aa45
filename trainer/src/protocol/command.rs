//! `esr-trainer protocol`: the paper's protocol on every corpus of a config, as tables and figures.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::bootstrap::{Estimates, REPLICATES, estimate};
use super::ground::{Ground, together};
use super::lengths::by_length;
use super::pool::{Asked, Pool};
use super::recall::{PLACES, Recall, TRIALS, sampled};
use super::{exchange, scatter};
use crate::config::Config;
use crate::data::splits::Split;
use crate::evaluate::Model;
use crate::figure::{Series, Words, lines};
use crate::prompts::Side;
use crate::report::{Answer, Cell, Figure, Table};
use crate::retrieval::DISTRACTORS;

/// Which model is asked, and about what.
#[derive(Clone, Debug, clap::Args)]
pub struct Subject {
    /// Config file of the run.
    #[arg(long, default_value = "trainer/configs/default.toml")]
    pub config: PathBuf,
    /// Ask this exported bundle instead of the run's checkpoint; what it says about a clip is kept.
    #[arg(long)]
    pub bundle: Option<PathBuf>,
    /// Which speakers: val or test. Corpora that are not trained on belong to test.
    #[arg(long, value_enum, default_value = "test")]
    pub split: Split,
    /// Only these corpora; all of the config's when none is named.
    #[arg(long, value_delimiter = ',')]
    pub corpora: Vec<String>,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Folder for tables as JSON and figures as SVG.
    #[arg(long)]
    pub output: Option<PathBuf>,
}

impl Subject {
    /// The model.
    pub fn model(&self) -> Model<'_> {
        self.bundle.as_deref().map_or(Model::Run, Model::Bundle)
    }

    /// The named corpora, or all that have two styles in the split.
    ///
    /// # Errors
    /// If a named one is not in the config.
    pub fn corpora(&self, ground: &Ground<'_>) -> Result<Vec<String>> {
        let known = ground.corpora(self.split);
        if let Some(unknown) = self.corpora.iter().find(|c| !known.contains(c)) {
            anyhow::bail!("the config has no clips of {unknown:?} in this split; it has {}", known.join(", "));
        }
        let two = |corpus: &String| {
            let entries = ground.entries(corpus, self.split);
            entries.iter().any(|e| e.styles != entries[0].styles)
        };
        let asked = |corpus: &String| self.corpora.is_empty() || self.corpora.contains(corpus);
        Ok(known.into_iter().filter(|corpus| asked(corpus) && two(corpus)).collect())
    }

    /// Prints an answer and writes its files where a folder is named.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn give(&self, answer: &Answer) -> Result<()> {
        print!("{}", answer.markdown());
        self.output.as_ref().map_or(Ok(()), |folder| answer.write(folder))
    }
}

/// Arguments of `esr-trainer protocol`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
    /// Clips of other styles in a trial; all there are where there are fewer.
    #[arg(long, default_value_t = DISTRACTORS)]
    pub negatives: usize,
    /// Trials a style of the sampled form.
    #[arg(long, default_value_t = TRIALS)]
    pub trials: usize,
    /// How often clips are drawn again for the intervals.
    #[arg(long, default_value_t = REPLICATES)]
    pub replicates: usize,
    /// Corpora that are drawn in the plane.
    #[arg(long, value_delimiter = ',')]
    pub draw: Vec<String>,
    /// Also write all vectors, the paper's queries and what came of them to this file, for `esr-benches protocol`.
    #[arg(long)]
    pub embeddings: Option<PathBuf>,
}

/// Runs the protocol.
///
/// # Errors
/// If the model or its data are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    let corpora = subject.corpora(&ground)?;
    ensure!(!corpora.is_empty(), "no corpus has two styles in this split; is the feature cache complete?");
    let mut answer = Answer { name: "protocol".into(), ..Answer::default() };
    let mut overall = Table::new(
        format!("One clip of the style among {} of others, mean over styles", arguments.negatives),
        &["corpus", "clips, styles", "asked with", "R@1", "R@5", "R@10", "R@20"],
    );
    let mut styles = Table::new(
        "Each style, training prompts averaged",
        &["corpus", "style", "clips", "R@1", "R@5", "R@10", "R@20"],
    );
    let mut by_seconds = Table::new(
        "By length of the clip that is to be found, training prompts averaged, mean over clips",
        &["corpus", "length", "clips", "R@1", "R@5", "R@10", "R@20"],
    );
    let mut curves = vec![];
    let mut exchanged = vec![];
    for corpus in corpora {
        let pool = ground.pool(&corpus, subject.split, |_| true)?;
        let (seen, unseen) = (ground.asked(&pool, Side::Train)?, ground.asked(&pool, Side::Heldout)?);
        let papers = together(&seen);
        let size = format!("{}, {}", pool.clips.len(), seen.len());
        let estimates = estimate(&pool, &papers, arguments.negatives, arguments.replicates, subject.seed);
        let mut line = |how: &str, values: [Cell; 4]| {
            let mut row: Vec<Cell> = vec![corpus.clone().into(), size.clone().into(), how.into()];
            row.extend(values);
            overall.row(row);
        };
        line("training prompts averaged (the paper), exact", estimates.mean.map(Cell::from));
        let trials = trials(&pool, &papers, arguments, subject.seed);
        line(&format!("the same, {} trials a style", arguments.trials), trials.0.map(Cell::from));
        for (how, asked) in
            [("held-out prompts averaged, exact", together(&unseen)), ("held-out prompts alone, exact", unseen.clone())]
        {
            let estimates = estimate(&pool, &asked, arguments.negatives, arguments.replicates, subject.seed);
            line(how, estimates.mean.map(Cell::from));
        }
        line("chance", by_chance(&pool, &estimates, arguments.negatives).map(Cell::from));
        for (style, clips, recall) in &estimates.styles {
            let mut row: Vec<Cell> = vec![corpus.clone().into(), style.clone().into(), (*clips).into()];
            row.extend(recall.map(Cell::from));
            styles.row(row);
        }
        let bins = by_length(&pool, &papers, arguments.negatives, subject.seed);
        for bin in &bins {
            let mut row: Vec<Cell> = vec![corpus.clone().into(), bin.name().into(), bin.clips.into()];
            row.extend(bin.recall.map(Cell::from));
            by_seconds.row(row);
        }
        if bins.len() > 2 {
            let points =
                bins.iter().map(|b| (f64::from(b.seconds), [b.recall[0].value, b.recall[0].low, b.recall[0].high]));
            curves.push(Series { name: corpus.clone(), points: points.collect(), dashed: false });
        }
        if arguments.draw.contains(&corpus) {
            for (name, centred) in [("tsne", false), ("tsne-centred", true)] {
                let svg = scatter::draw(&pool, &unseen, centred, subject.seed)?;
                answer.figures.push(Figure { name: format!("{name}-{corpus}"), svg });
            }
        }
        if arguments.embeddings.is_some() {
            exchanged.push((pool, papers));
        }
    }
    if !curves.is_empty() {
        let words = Words { title: "R@1 by length of utterance", x: "mean length of the bin's clips, s", y: "R@1" };
        answer.figures.push(Figure { name: "by-length".into(), svg: lines(words, &curves, false)? });
    }
    answer.tables = vec![overall, styles, by_seconds];
    if let Some(file) = &arguments.embeddings {
        exchange::write(file, &exchanged, arguments.negatives)?;
        answer.remarks.push(format!("Vectors, queries and rankings are in {}.", file.display()));
    }
    Ok(answer)
}

fn trials(pool: &Pool, asked: &[Asked], arguments: &Arguments, seed: u64) -> Recall {
    Recall::mean(asked.iter().map(|asked| {
        let scores = pool.rows.scores(asked.queries.row(0));
        sampled(&scores, &pool.relevant(&asked.style), arguments.negatives, arguments.trials, seed)
    }))
}

fn by_chance(pool: &Pool, estimates: &Estimates, negatives: usize) -> [f64; 4] {
    let of = |clips: &usize| {
        let drawn = (pool.clips.len() - clips).min(negatives);
        Recall(PLACES.map(|place| (place as f64 / (drawn + 1) as f64).min(1.0)))
    };
    Recall::mean(estimates.styles.iter().map(|(_, clips, _)| of(clips))).0
}
