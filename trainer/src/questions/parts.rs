//! What each part of the paper's recipe is worth, and what others add to it: the same features, trained with one part left out or
//! put in, over several seeds (the paper's Table III on corpora that anyone can get, and the options beyond it).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::config::Config;
use crate::data::splits::Split;
use crate::evaluate::{Model, OURS, evaluate};
use crate::figure::{Words, bars};
use crate::nets::speech_tower::Pooling;
use crate::paper::interval;
use crate::prepare::{Form, ensure_complete};
use crate::prompts::Side;
use crate::report::{Answer, Cell, Figure, Table};
use crate::train::train;

/// Arguments of `esr-trainer question parts`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Config file with the recipe.
    #[arg(long, default_value = "trainer/configs/paper.toml")]
    pub config: PathBuf,
    /// Config file of the run whose features are cached, with the same encoder.
    #[arg(long, default_value = "trainer/configs/default.toml")]
    pub cached: PathBuf,
    /// Added to the config's seed, each of which is trained.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    pub seeds: Vec<u64>,
    /// Epochs of each training; the stages begin at the same shares of them as in the config.
    #[arg(long, default_value_t = 30)]
    pub epochs: usize,
    /// Clips a step.
    #[arg(long, default_value_t = 128)]
    pub batch: usize,
    /// Learning rate of projections and heads; higher than the config's, as there are fewer steps.
    #[arg(long, default_value_t = 7e-4)]
    pub rate: f64,
    /// Only the variants whose names contain one of these.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Folder for tables as JSON and figures as SVG.
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// A change of the recipe.
struct Variant {
    name: &'static str,
    /// Its name in the figure, where there is little room.
    label: &'static str,
    change: fn(&mut Config),
}

/// The recipe itself comes first; what follows up to [`CLAIMS`] is what the paper's Table III leaves out.
const VARIANTS: [Variant; 22] = [
    Variant { name: "the paper's recipe", label: "recipe", change: |_| {} },
    Variant { name: "without adversary", label: "- adversary", change: |c| c.training.discriminator = 0.0 },
    Variant { name: "without prompt augmentation", label: "- prompts", change: |c| c.training.single_prompt = true },
    Variant { name: "without classifier", label: "- classifier", change: |c| c.training.classifier = 0.0 },
    Variant { name: "adversary at 1.1 (as released)", label: "adv. 1.1", change: |c| c.training.discriminator = 1.1 },
    Variant {
        name: "without classifier and adversary",
        label: "- both",
        change: |c| (c.training.classifier, c.training.discriminator) = (0.0, 0.0),
    },
    Variant { name: "with several positives", label: "+ positives", change: |c| c.training.multi_positive = true },
    Variant {
        name: "with several positives, without classifier",
        label: "+ pos. - cls.",
        change: |c| (c.training.multi_positive, c.training.classifier) = (true, 0.0),
    },
    Variant { name: "with sigmoid loss", label: "sigmoid", change: |c| c.training.sigmoid = true },
    Variant { name: "with classifier tied to text", label: "tied", change: |c| c.training.tied_classifier = true },
    Variant {
        name: "with balanced sampling",
        label: "balanced",
        change: |c| (c.training.class_balance, c.training.corpus_balance) = (1.0, 0.5),
    },
    Variant { name: "with deviations beside means", label: "deviations", change: |c| c.speech.tower.deviation = true },
    Variant { name: "with layers 1 to 3", label: "layers", change: |c| c.speech.tower.layers = vec![1, 2, 3] },
    Variant { name: "with speaker adversary", label: "speakers", change: |c| c.training.speaker_adversary = 0.1 },
    Variant {
        name: "with speaker adversary at 1",
        label: "speakers 1",
        change: |c| c.training.speaker_adversary = 1.0,
    },
    Variant { name: "without altered copies", label: "- copies", change: |c| c.augment.copies = 0.0 },
    Variant { name: "with attentive pooling", label: "attention", change: attentive },
    Variant {
        name: "with attentive statistics",
        label: "att. stat.",
        change: |c| {
            attentive(c);
            c.speech.tower.deviation = true;
        },
    },
    Variant {
        name: "with captions of pitch, rate, loudness",
        label: "captions",
        change: |c| c.training.attribute_prompts = 0.3,
    },
    Variant { name: "with noise of recordings", label: "noise", change: |c| c.training.channel_noise = 3.25 },
    Variant { name: "with averaged weights", label: "average", change: |c| c.training.average = 0.99 },
    Variant { name: "drawn to the class by cosine alone", label: "cosine", change: drawn },
];

/// Variants that the paper's Table III has.
const CLAIMS: std::ops::RangeInclusive<usize> = 1..=3;

/// Learned weights of the frames, which must be cached: `prepare --frames` with the last layer.
fn attentive(config: &mut Config) {
    config.speech.tower.pooling = Pooling::Attentive;
    config.training.unfreeze_from = config.speech.tower.last() + 1;
}

/// The losses of the default config.
fn drawn(config: &mut Config) {
    let t = &mut config.training;
    (t.contrastive, t.classifier, t.discriminator, t.alignment) = (0.0, 0.0, 0.0, 1.0);
}

/// What one training got: means over the corpora with training speakers, and over those that were never heard.
#[derive(Clone, Copy, Default)]
struct Got {
    seen: [f64; 3],
    unseen: [f64; 3],
}

/// Asks.
///
/// # Errors
/// If the feature cache is missing or was made with another encoder.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    ensure!(!arguments.seeds.is_empty() && arguments.epochs > 0, "--seeds and --epochs must not be empty");
    let base = shortened(arguments)?;
    let wanted = |v: &&Variant| {
        arguments.only.is_empty()
            || v.name == VARIANTS[0].name
            || arguments.only.iter().any(|o| v.name.contains(o.as_str()))
    };
    let variants: Vec<&Variant> = VARIANTS.iter().filter(wanted).collect();
    ensure_complete(&Config::read(&arguments.cached)?, Form::Pooled)?;
    variants.iter().try_for_each(|variant| ensure_cached(&base, variant))?;
    let mut results: Vec<(&Variant, Vec<Got>)> = vec![];
    for variant in variants {
        let mut got = vec![];
        for seed in &arguments.seeds {
            let mut config = base.clone();
            (variant.change)(&mut config);
            if config.training.classifier == 0.0 {
                // The first stage trains with the classifier alone; without one there is no such stage.
                config.training.contrastive_from = 0;
            }
            config.training.reseed = *seed;
            let folder: String = variant.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
            config.data.work = base.data.work.join("parts").join(format!("{folder}-{}-{seed}", arguments.epochs));
            eprintln!("{}, seed {seed}", variant.name);
            train(&config, false, None)?;
            got.push(judged(&config)?);
        }
        results.push((variant, got));
    }
    answer(&results, arguments)
}

/// Says what is missing before anything is trained.
fn ensure_cached(base: &Config, variant: &Variant) -> Result<()> {
    let mut config = base.clone();
    (variant.change)(&mut config);
    let Some(layer) = config.training.unfreeze_from.checked_sub(1) else { return Ok(()) };
    ensure_complete(&config, Form::Frames { layer })
        .with_context(|| format!("{:?} needs frames; --only can leave it out", variant.name))
}

/// The recipe with fewer epochs over another run's features.
fn shortened(arguments: &Arguments) -> Result<Config> {
    let mut config = Config::read(&arguments.config)?;
    let cached = Config::read(&arguments.cached)?;
    ensure!(
        config.speech.weights == cached.speech.weights && config.text.weights == cached.text.weights,
        "{} and {} name different encoders",
        arguments.config.display(),
        arguments.cached.display()
    );
    // What is cached, and of which clips, is the other run's matter.
    (config.augment, config.seed) = (cached.augment.clone(), cached.seed);
    (config.speech.int8, config.speech.cached_layers) = (cached.speech.int8, cached.speech.cached_layers.clone());
    config.speech.tower.trim = cached.speech.tower.trim;
    config.speech.tower.pooling = cached.speech.tower.pooling;
    config.data = crate::config::Data { cache: Some(cached.data.cache().to_path_buf()), ..cached.data.clone() };
    let t = &mut config.training;
    let scaled = |epoch: usize| (epoch * arguments.epochs).div_ceil(t.epochs.max(1));
    (t.contrastive_from, t.discriminator_from) = (scaled(t.contrastive_from), scaled(t.discriminator_from));
    t.discriminator_rate *= arguments.rate / t.rate;
    (t.epochs, t.batch, t.rate) = (arguments.epochs, arguments.batch, arguments.rate);
    t.checkpoint_every = arguments.epochs;
    Ok(config)
}

fn judged(config: &Config) -> Result<Got> {
    let scores = evaluate(config, &Model::Run, Split::Test, Side::Heldout, true)?;
    let mean = |trained_on: bool| -> Result<[f64; 3]> {
        let mut sums = [0.0; 3];
        let corpora: Vec<_> = scores.iter().filter(|s| s.trained_on == trained_on).collect();
        for corpus in &corpora {
            let own = corpus.methods.get(OURS).context("a corpus was not judged")?.single;
            let values = [own.recall_1, own.precision, own.first];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value / corpora.len() as f64);
        }
        Ok(sums)
    };
    Ok(Got { seen: mean(true)?, unseen: mean(false)? })
}

fn answer(results: &[(&Variant, Vec<Got>)], arguments: &Arguments) -> Result<Answer> {
    let title = format!(
        "Mean over corpora, speakers and descriptions never trained on, single prompts; {} epochs of {} clips a step, {} seed(s), ± half \
         the 95 % interval over seeds",
        arguments.epochs,
        arguments.batch,
        arguments.seeds.len()
    );
    let mut table = Table::new(
        title,
        &[
            "",
            "trained corpora: R@1",
            "mAP",
            "P@1",
            "corpora never heard: R@1",
            "mAP",
            "P@1",
            "mAP against the first row",
        ],
    );
    let shown = |values: Vec<f64>| -> Cell {
        let (mean, half) = interval(&values);
        half.map_or(format!("{mean:.3}"), |half| format!("{mean:.3} ± {half:.3}")).into()
    };
    let base = &results[0].1;
    let mut series = [("trained corpora".to_string(), vec![]), ("corpora never heard".to_string(), vec![])];
    let mut remarks = vec![];
    for (number, (variant, got)) in results.iter().enumerate() {
        let mut row: Vec<Cell> = vec![variant.name.into()];
        row.extend((0..3).map(|i| shown(got.iter().map(|g| g.seen[i]).collect())));
        row.extend((0..3).map(|i| shown(got.iter().map(|g| g.unseen[i]).collect())));
        let pairs = || got.iter().zip(base);
        let differences: Vec<f64> = pairs().map(|(g, b)| g.unseen[1] - b.unseen[1]).collect();
        row.push(if number == 0 { Cell::Nothing } else { shown(differences) });
        table.row(row);
        for ((_, bars), values) in series.iter_mut().zip([
            got.iter().map(|g| g.seen[1]).collect::<Vec<_>>(),
            got.iter().map(|g| g.unseen[1]).collect::<Vec<_>>(),
        ]) {
            let (mean, half) = interval(&values);
            let half = half.unwrap_or(0.0);
            bars.push([mean, mean - half, mean + half]);
        }
        if CLAIMS.clone().any(|claim| VARIANTS[claim].name == variant.name) {
            let lost: Vec<f64> = pairs().map(|(g, b)| b.seen[0] - g.seen[0]).collect();
            let (mean, half) = interval(&lost);
            let verdict = match half {
                Some(half) if mean > half => "costs R@1 there, as the paper says",
                Some(half) if -mean > half => "gains R@1 there, against the paper",
                Some(_) => "makes no difference that these seeds can tell, against the paper",
                None => "was tried with one seed only",
            };
            remarks.push(format!(
                "{}: R@1 on speakers of the training corpora falls by {mean:.3}{}: leaving it out {verdict}.",
                variant.name,
                half.map_or(String::new(), |half| format!(" ± {half:.3}"))
            ));
        }
    }
    let names: Vec<String> = results.iter().map(|(variant, _)| variant.label.to_string()).collect();
    let words = Words { title: "Parts of the recipe", x: "", y: "mAP, single held-out prompts" };
    let figures = vec![Figure { name: "parts".into(), svg: bars(words, &names, &series)? }];
    Ok(Answer { name: "parts".into(), tables: vec![table], figures, remarks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_changes_something_and_all_differ() {
        let arguments = Arguments {
            config: "configs/paper.toml".into(),
            cached: "configs/default.toml".into(),
            seeds: vec![0],
            epochs: 21,
            batch: 64,
            rate: 1e-3,
            only: vec![],
            output: None,
        };
        let base = shortened(&arguments).unwrap();
        assert_eq!(
            (base.training.contrastive_from, base.training.discriminator_from, base.training.epochs),
            (1, 2, 21)
        );
        let mut seen = std::collections::BTreeSet::new();
        for variant in &VARIANTS {
            let mut config = base.clone();
            (variant.change)(&mut config);
            assert!(seen.insert(serde_json::to_string(&config).unwrap()), "{} is like another", variant.name);
        }
    }
}
