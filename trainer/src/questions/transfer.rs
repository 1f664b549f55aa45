//! Training on all corpora but one and testing on that one, beside chance and the two baselines fitted on the same data:
//! what a user with another kind of recordings may expect.

use anyhow::{Result, ensure};

use crate::config::Config;
use crate::data::splits::Split;
use crate::evaluate::{BASELINES, Model, OURS, evaluate};
use crate::figure::{Words, bars};
use crate::prompts::Side;
use crate::report::{Answer, Cell, Figure, Table};
use crate::train::train;

/// Arguments of `esr-trainer question transfer`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Config file of the run whose features are cached.
    #[arg(long, default_value = "trainer/configs/default.toml")]
    pub config: std::path::PathBuf,
    /// Corpora to test on in turn.
    #[arg(long, value_delimiter = ',', default_value = "crema_d,ravdess,nemo,ased,turev,urdu,emogator")]
    pub corpora: Vec<String>,
    /// Corpora with the same speakers, which are left out together: groups of names joined by `+`.
    #[arg(long, value_delimiter = ',', default_value = "ravdess+ravdess_song")]
    pub together: Vec<String>,
    /// Epochs of each training; those of the config when it is not given.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Added to the config's seed, each of which is trained.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub seeds: Vec<u64>,
    /// Folder for tables as JSON and figures as SVG.
    #[arg(long)]
    pub output: Option<std::path::PathBuf>,
}

/// Asks.
///
/// # Errors
/// If the feature cache is missing or a corpus is not in the config.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let config = Config::read(&arguments.config)?;
    let mut table = Table::new(
        "Trained on all other corpora with all their speakers, tested on one that was never heard; held-out prompts",
        &["corpus", "clips", "ranked by", "R@1", "R@5", "R@10", "mAP", "P@1", "mAP, prompts averaged"],
    );
    let names = [OURS, BASELINES[0], BASELINES[1], "chance"];
    let mut series = names.map(|name| (name.to_string(), vec![]));
    for corpus in &arguments.corpora {
        let mut of_seeds = vec![];
        for seed in &arguments.seeds {
            let run = without(&config, corpus, arguments, *seed)?;
            eprintln!("training {}", run.data.work.display());
            train(&run, false, None)?;
            of_seeds.extend(evaluate(&run, &Model::Run, Split::Test, Side::Heldout, true)?);
        }
        let first = &of_seeds[0];
        for (method, (_, bars)) in names.iter().zip(&mut series) {
            let lines: Vec<[f64; 6]> = of_seeds
                .iter()
                .map(|scores| {
                    let (single, ensemble) = match scores.methods.get(*method) {
                        Some(s) => (s.single, s.ensemble),
                        None => (scores.chance, scores.chance),
                    };
                    [
                        single.recall_1,
                        single.recall_5,
                        single.recall_10,
                        single.precision,
                        single.first,
                        ensemble.precision,
                    ]
                })
                .collect();
            let of = |column: usize| super::mean(lines.iter().map(|line| line[column]));
            let mut row: Vec<Cell> = vec![corpus.clone().into(), first.clips.into(), (*method).into()];
            row.extend((0..6).map(|column| of(column).into()));
            table.row(row);
            let spread = super::deviation(&lines.iter().map(|line| line[3]).collect::<Vec<_>>());
            bars.push([of(3), of(3) - spread, of(3) + spread]);
        }
    }
    let words = Words { title: "mAP on a corpus that was never heard", x: "", y: "mAP, single held-out prompts" };
    let figures = vec![Figure { name: "transfer".into(), svg: bars(words, &arguments.corpora, &series)? }];
    Ok(Answer { name: "transfer".into(), tables: vec![table], figures, remarks: vec![] })
}

/// The run that has never heard a corpus.
///
/// # Errors
/// If the config does not know the corpus, or nothing is left to train on.
pub fn without(config: &Config, corpus: &str, arguments: &Arguments, seed: u64) -> Result<Config> {
    let mut run = config.clone();
    let all: Vec<String> = config.data.train.iter().chain(&config.data.test).cloned().collect();
    ensure!(all.iter().any(|c| c == corpus), "the config has no corpus {corpus:?}; it has {}", all.join(", "));
    let group = arguments.together.iter().find(|group| group.split('+').any(|c| c == corpus));
    let left_out = |c: &String| c == corpus || group.is_some_and(|group| group.split('+').any(|g| g == c));
    run.data.train = all.iter().filter(|c| !left_out(c)).cloned().collect();
    ensure!(!run.data.train.is_empty(), "without {corpus} there is nothing to train on");
    run.data.test = vec![corpus.into()];
    run.data.all_speakers = true;
    run.data.cache = Some(config.data.cache().to_path_buf());
    run.training.reseed = seed;
    run.training.epochs = arguments.epochs.unwrap_or(config.training.epochs);
    // Weights that were chosen for the config's own corpora say nothing about others: between by size and all alike.
    run.training.corpus_weight.clear();
    run.training.corpus_balance = 0.5;
    run.training.domains.clear();
    run.data.work =
        config.data.work.join("questions").join(format!("transfer-{corpus}-{}-{seed}", run.training.epochs));
    Ok(run)
}
