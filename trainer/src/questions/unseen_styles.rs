//! Styles that no training clip shows: those of other corpora, and each style of a trained corpus in turn, left out while
//! the head is trained anew. The text encoder knows their words in either case; their sound is new.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{mean, separation};
use crate::config::Config;
use crate::data::splits::Split;
use crate::evaluate::Model;
use crate::figure::{Words, bars};
use crate::prompts::Side;
use crate::protocol::command::Subject;
use crate::protocol::ground::{Ground, together};
use crate::protocol::pool::{Asked, Pool};
use crate::protocol::ranking::{average_precision, rank};
use crate::protocol::recall::exact;
use crate::report::{Answer, Figure, Table};
use crate::retrieval::{DISTRACTORS, chance};
use crate::store::Entry;
use crate::train::train;

/// Styles with fewer clips in a corpus say nothing.
const FEWEST: usize = 5;

/// Arguments of `esr-trainer question unseen-styles`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Corpora and output. The run's checkpoint is asked, and trained anew without each style.
    #[command(flatten)]
    pub subject: Subject,
    /// Styles to leave out in turn; all of the corpus `from` when none is named.
    #[arg(long, value_delimiter = ',')]
    pub leave_out: Vec<String>,
    /// Trained corpus whose styles are left out.
    #[arg(long, default_value = "crema_d")]
    pub from: String,
    /// Epochs of each training; those of the config when it is not given. The run with all styles is trained as long.
    #[arg(long)]
    pub epochs: Option<usize>,
}

/// How well one style is found in one pool.
struct Found {
    recall_1: f64,
    recall_5: f64,
    precision: f64,
    separation: f64,
}

fn find(pool: &Pool, style: &str, query: &[f32]) -> Found {
    let ranking = rank(&pool.rows.scores(query), &pool.relevant(style));
    let recall = exact(&ranking, DISTRACTORS);
    let (precision, separation) = (average_precision(&ranking), separation(&ranking));
    Found { recall_1: recall.0[0], recall_5: recall.0[1], precision, separation }
}

/// Asks.
///
/// # Errors
/// If the run or its data are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    ensure!(subject.bundle.is_none(), "unseen-styles trains heads anew and asks those; leave --bundle out");
    let config = Config::read(&subject.config)?;
    let never = never_trained(&config, subject)?;
    let (left_out, figure) = leave_out(&config, arguments)?;
    Ok(Answer {
        name: "unseen-styles".into(),
        tables: vec![never, left_out],
        figures: vec![Figure { name: "unseen-styles".into(), svg: figure }],
        remarks: vec![
            "\"Nearest seen\" asks with the trained style whose description is nearest in the shared space: what one gets without \
             any idea of the new style."
                .into(),
        ],
    })
}

fn never_trained(config: &Config, subject: &Subject) -> Result<Table> {
    let mut ground = Ground::open(config, &Model::Run)?;
    let trained = ground.trained_styles();
    let mut table = Table::new(
        format!(
            "Styles that were never trained, in other corpora ({DISTRACTORS} others or all; held-out prompts averaged)"
        ),
        &[
            "corpus",
            "style",
            "clips",
            "R@1",
            "R@5",
            "mAP",
            "mAP by chance",
            "separation",
            "nearest seen",
            "mAP of that",
        ],
    );
    for corpus in subject.corpora(&ground)? {
        let pool = ground.pool(&corpus, subject.split, |_| true)?;
        let new: Vec<String> = pool
            .styles()
            .into_iter()
            .filter(|(style, clips)| clips.len() >= FEWEST && !style.split(" + ").any(|s| trained.contains(s)))
            .map(|(style, _)| style.to_string())
            .collect();
        for style in new {
            let query = query(&mut ground, &style)?;
            let found = find(&pool, &style, &query);
            let (other, nearest) = nearest(&mut ground, &query, &trained, &style)?;
            let relevant = pool.relevant(&style).iter().filter(|r| **r).count();
            table.row(vec![
                corpus.clone().into(),
                style.clone().into(),
                relevant.into(),
                found.recall_1.into(),
                found.recall_5.into(),
                found.precision.into(),
                chance(pool.clips.len(), relevant).precision.into(),
                found.separation.into(),
                other.into(),
                find(&pool, &style, &nearest).precision.into(),
            ]);
        }
    }
    Ok(table)
}

fn leave_out(config: &Config, arguments: &Arguments) -> Result<(Table, String)> {
    let mut config = config.clone();
    config.training.epochs = arguments.epochs.unwrap_or(config.training.epochs);
    let styles =
        if arguments.leave_out.is_empty() { styles_of(&config, &arguments.from)? } else { arguments.leave_out.clone() };
    let whole = trained_without(&config, None)?;
    let mut table = Table::new(
        format!(
            "Each style left out of training in turn ({} epochs), {DISTRACTORS} others or all; held-out prompts averaged",
            config.training.epochs
        ),
        &[
            "left out",
            "corpus",
            "clips",
            "R@5 trained",
            "R@5 left out",
            "mAP trained",
            "mAP left out",
            "mAP nearest seen",
            "mAP by chance",
            "separation trained",
            "separation left out",
        ],
    );
    let (mut groups, mut series) =
        (vec![], ["trained", "left out", "nearest seen", "chance"].map(|n| (n.to_string(), vec![])));
    for style in &styles {
        let without = trained_without(&config, Some(style))?;
        let (mut before, mut after) = (Ground::open(&whole, &Model::Run)?, Ground::open(&without, &Model::Run)?);
        let seen = after.trained_styles();
        let mut over_corpora = [vec![], vec![], vec![], vec![]];
        for corpus in arguments.subject.corpora(&before)? {
            let pool = before.pool(&corpus, Split::Test, |_| true)?;
            let relevant = pool.relevant(style).iter().filter(|r| **r).count();
            if relevant < FEWEST {
                continue;
            }
            let trained = find(&pool, style, &query(&mut before, style)?);
            let pool = after.pool(&corpus, Split::Test, |_| true)?;
            let asked = query(&mut after, style)?;
            let left = find(&pool, style, &asked);
            let (_, nearest) = nearest(&mut after, &asked, &seen, style)?;
            let nearest = find(&pool, style, &nearest);
            let by_chance = chance(pool.clips.len(), relevant).precision;
            table.row(vec![
                style.clone().into(),
                corpus.clone().into(),
                relevant.into(),
                trained.recall_5.into(),
                left.recall_5.into(),
                trained.precision.into(),
                left.precision.into(),
                nearest.precision.into(),
                by_chance.into(),
                trained.separation.into(),
                left.separation.into(),
            ]);
            let values = [trained.precision, left.precision, nearest.precision, by_chance];
            over_corpora.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
        }
        if over_corpora[0].is_empty() {
            continue;
        }
        groups.push(style.clone());
        for ((_, bars), values) in series.iter_mut().zip(over_corpora) {
            let value = mean(values);
            bars.push([value, value, value]);
        }
    }
    let words = Words { title: "mAP of a style that is trained or left out, mean over corpora", x: "", y: "mAP" };
    Ok((table, bars(words, &groups, &series)?))
}

fn styles_of(config: &Config, corpus: &str) -> Result<Vec<String>> {
    let ground = Ground::open(config, &Model::Run)?;
    let entries = ground.entries(corpus, Split::Test);
    let styles: BTreeSet<String> = entries.iter().filter(|e| e.styles.len() == 1).map(Entry::class).collect();
    ensure!(styles.len() > 1, "{corpus} has fewer than two styles to leave out; name another with --from");
    Ok(styles.into_iter().collect())
}

/// A run like the config's, without a style, trained unless it is there already.
fn trained_without(config: &Config, style: Option<&str>) -> Result<Config> {
    let mut run = config.clone();
    run.data.cache = Some(config.data.cache().to_path_buf());
    run.data.without = style.iter().map(|s| (*s).to_string()).collect();
    let name = style.map_or("with-all".into(), |s| format!("without-{}", s.replace(' ', "-")));
    run.data.work = config.data.work.join("questions").join(format!("{name}-{}", config.training.epochs));
    eprintln!("training {}", run.data.work.display());
    train(&run, false, None)?;
    Ok(run)
}

fn query(ground: &mut Ground<'_>, style: &str) -> Result<Vec<f32>> {
    let asked = [ground.asked_style(style, Side::Heldout)?];
    Ok(together(&asked)[0].queries.row(0).to_vec())
}

/// The trained style whose held-out description is nearest to a query, with its query.
fn nearest(
    ground: &mut Ground<'_>,
    query: &[f32],
    trained: &BTreeSet<String>,
    but: &str,
) -> Result<(String, Vec<f32>)> {
    let mut best: Option<(f64, String, Vec<f32>)> = None;
    for style in trained.iter().filter(|style| *style != but) {
        let other: Asked = together(&[ground.asked_style(style, Side::Heldout)?]).remove(0);
        let row = other.queries.row(0);
        let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-9);
        let dot: f64 = row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let cosine = dot / length(row) / length(query);
        if best.as_ref().is_none_or(|(known, _, _)| cosine > *known) {
            best = Some((cosine, style.clone(), row.to_vec()));
        }
    }
    let (_, style, row) = best.ok_or_else(|| anyhow::anyhow!("no style was trained"))?;
    Ok((style, row))
}
