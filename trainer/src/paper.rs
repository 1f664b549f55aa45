//! `esr-trainer paper`: every pair of encoders of the paper and the ablations of its Table III, over several seeds, with a
//! report. Each finished run leaves its results beside its checkpoint, so that an interrupted command goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::finetune::config::{Finetune, PromptUse};
use crate::finetune::evaluate::{CorpusQuality, Found, evaluate};
use crate::finetune::train::train;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Folder with the data sets; it replaces `data.root` of every config.
    pub data: PathBuf,
    /// Folder with weights and tokenizers, to which the paths in the configs are relative.
    pub weights: PathBuf,
    /// Folder with one config a pair of encoders.
    pub configs: PathBuf,
    /// Folder for checkpoints, results and the report.
    pub work: PathBuf,
    /// One run of everything for each.
    pub seeds: Vec<u64>,
    /// Name of the config whose ablations are run; empty runs none.
    pub ablate: String,
}

/// Results of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Name of the config.
    pub name: String,
    /// What was left out; empty is the full method.
    pub without: Vec<String>,
    /// Its seed.
    pub seed: u64,
    /// Results by corpus.
    pub corpora: Vec<CorpusQuality>,
}

/// A part of the method that can be left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Adversary,
    Augmentation,
    Classifier,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Adversary => "adversary",
            Self::Augmentation => "augmentation",
            Self::Classifier => "classifier",
        }
    }

    fn leave_out(self, config: &mut Finetune) {
        match self {
            Self::Adversary => config.training.discriminator = 0.0,
            Self::Augmentation => config.training.prompts = PromptUse::One,
            Self::Classifier => config.training.classifier = 0.0,
        }
    }
}

/// All combinations of parts that are left out, the full method first.
const ABLATIONS: [&[Part]; 8] = [
    &[],
    &[Part::Adversary],
    &[Part::Augmentation],
    &[Part::Classifier],
    &[Part::Adversary, Part::Augmentation],
    &[Part::Adversary, Part::Classifier],
    &[Part::Augmentation, Part::Classifier],
    &[Part::Adversary, Part::Augmentation, Part::Classifier],
];

/// Runs the plan and writes `report.md` and `results.json` to its work folder; returns the report.
pub fn run(plan: &Plan) -> Result<String> {
    ensure!(!plan.seeds.is_empty(), "no seed is named");
    let configs = read_configs(&plan.configs)?;
    let mut jobs = vec![];
    for (name, config) in &configs {
        let parts: &[&[Part]] = if *name == plan.ablate { &ABLATIONS } else { &ABLATIONS[..1] };
        jobs.extend(parts.iter().map(|parts| (name.clone(), config, *parts)));
    }
    ensure!(
        plan.ablate.is_empty() || configs.contains_key(&plan.ablate),
        "--ablate names {:?}, but the configs are {}",
        plan.ablate,
        configs.keys().cloned().collect::<Vec<_>>().join(", ")
    );
    let mut runs = vec![];
    for seed in &plan.seeds {
        for (name, config, parts) in &jobs {
            let without: Vec<String> = parts.iter().map(|p| p.name().to_string()).collect();
            let mut own = placed(plan, config)?;
            parts.iter().for_each(|part| part.leave_out(&mut own));
            let folder = without.iter().fold(name.clone(), |folder, part| format!("{folder}-without-{part}"));
            own.data.work = plan.work.join(folder);
            let own = own.with_seed(*seed);
            eprintln!("{name}{}, seed {seed}", left_out(&without, ", without "));
            // Drawings of the first seed's full runs are enough.
            let draw = without.is_empty() && *seed == plan.seeds[0];
            let corpora = finished(&own, draw).with_context(|| format!("in the run {}", own.data.work.display()))?;
            runs.push(Run { name: name.clone(), without, seed: *seed, corpora });
        }
    }
    let report = report(plan, &runs);
    write(&plan.work.join("results.json"), &serde_json::to_string_pretty(&runs)?)?;
    write(&plan.work.join("report.md"), &report)?;
    Ok(report)
}

/// Trains a run and judges it (and draws its figures), or reads what an earlier call found.
fn finished(config: &Finetune, draw: bool) -> Result<Vec<CorpusQuality>> {
    #[derive(Serialize, Deserialize)]
    struct Done {
        config: String,
        corpora: Vec<CorpusQuality>,
    }
    let file = config.data.work.join("results.json");
    let written = serde_json::to_string(config)?;
    if !file.exists() {
        train(config, false, None)?;
        let found = evaluate(config)?;
        let figures = if draw { found.figures(config.seed)? } else { vec![] };
        for figure in figures {
            write(&config.data.work.join(format!("{}.svg", figure.name)), &figure.svg)?;
        }
        let done = Done { config: written.clone(), corpora: found.corpora };
        write(&file, &serde_json::to_string(&done)?)?;
    }
    // Read back in any case, so that a second call gives the same digits.
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let done: Done = serde_json::from_str(&text).with_context(|| format!("in {}", file.display()))?;
    ensure!(
        done.config == written,
        "{} is of a run with other settings; remove the folder or name another --work",
        file.display()
    );
    Ok(done.corpora)
}

fn read_configs(folder: &Path) -> Result<BTreeMap<String, Finetune>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            let config = Finetune::read(&path)?;
            found.insert(config.name.clone(), config);
        }
    }
    ensure!(!found.is_empty(), "{} holds no config (*.toml)", folder.display());
    Ok(found)
}

/// A config with the plan's folders.
fn placed(plan: &Plan, config: &Finetune) -> Result<Finetune> {
    let weights = std::path::absolute(&plan.weights).context("--weights is empty")?;
    let mut own = config.clone();
    own.data.root.clone_from(&plan.data);
    // What is found out about the data sets once (where Expresso's conversations are silent) serves all runs.
    own.data.cache = Some(plan.work.join("data"));
    for path in [&mut own.speech.weights, &mut own.text.weights, &mut own.text.tokenizer] {
        *path = weights.join(&*path);
    }
    Ok(own)
}

/// Mean of several seeds with the half width of its 95 % confidence interval (Student's t); one value has none.
pub fn interval(values: &[f64]) -> (f64, Option<f64>) {
    // Two-sided 95 % points for 1, 2, ... degrees of freedom; beyond the table the normal one is near enough.
    const POINTS: [f64; 15] =
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131];
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, None);
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let point = POINTS.get(values.len() - 2).copied().unwrap_or(1.96);
    (mean, Some(point * (variance / n).sqrt()))
}

fn report(plan: &Plan, runs: &[Run]) -> String {
    let command = format!(
        "esr-trainer paper --data DATA --weights WEIGHTS --seeds {}{}",
        plan.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
        if plan.ablate.is_empty() { " --ablate ''".into() } else { format!(" --ablate {}", plan.ablate) }
    );
    let mut out = format!(
        "# Retrieval of speech by descriptions of its style: the paper's recipe\n\nMade by `{command}`. {} seed(s); ± is the half width of the 95 % \
         confidence interval over seeds (Student's t). R@k: one clip of the style among 400 of other styles of its corpus, or all there are, in exact \
         expectation (the last column by 1,000 sampled trials a style); each style is asked with the mean of its training prompts; unweighted mean over styles.\n",
        plan.seeds.len()
    );
    let full = |r: &&Run| r.without.is_empty();
    let names = |r: &Run| r.name.clone();
    out += &tables("Pairs of encoders", &runs.iter().filter(full).collect::<Vec<_>>(), &names);
    let ablated: Vec<&Run> = runs.iter().filter(|r| r.name == plan.ablate).collect();
    if !ablated.is_empty() {
        let names = |r: &Run| {
            if r.without.is_empty() { "full method".into() } else { left_out(&r.without, "without ") }
        };
        out += &tables(&format!("Ablations of {}", plan.ablate), &ablated, &names);
    }
    let first = ablated.first().copied().or(runs.first()).filter(|r| r.corpora.iter().any(|c| !c.lengths.is_empty()));
    if let Some(run) = first {
        out += &by_length(run);
    }
    out += "\nFigures (R@1 by length of utterance; both modalities in the plane) are beside the checkpoint of each pair's first seed, `NAME/seed-N/*.svg`.\n";
    out
}

/// One table a corpus: a row for each name in the order of first appearance, the seeds together.
fn tables(title: &str, runs: &[&Run], name: &dyn Fn(&Run) -> String) -> String {
    let mut out = format!("\n## {title}\n");
    let corpora: std::collections::BTreeSet<&String> =
        runs.iter().flat_map(|r| r.corpora.iter().map(|c| &c.corpus)).collect();
    for corpus in corpora {
        let mut rows: Vec<(String, Vec<Found>)> = vec![];
        let (mut chance, mut clips) = (Found::default(), 0);
        for run in runs {
            let Some(found) = run.corpora.iter().find(|c| c.corpus == *corpus) else { continue };
            (chance, clips) = (found.chance, found.clips);
            let name = name(run);
            match rows.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(found.mean),
                None => rows.push((name, vec![found.mean])),
            }
        }
        out += &format!(
            "\n### {corpus} ({clips} test clips)\n\n| | R@1 | R@5 | R@10 | R@20 | mAP | R@1 by trials |\n|---|---|---|---|---|---|---|\n"
        );
        rows.push(("chance".into(), vec![chance]));
        for (name, all) in rows {
            let cell = |of: &dyn Fn(&Found) -> f64| {
                let (mean, half) = interval(&all.iter().map(of).collect::<Vec<_>>());
                half.map_or(format!("{mean:.3}"), |half| format!("{mean:.3} ± {half:.3}"))
            };
            let mut cells: Vec<String> = (0..4).map(|place| cell(&|f: &Found| f.recall.0[place])).collect();
            cells.extend([cell(&|f| f.precision), cell(&|f| f.sampled.0[0])]);
            out += &format!("| {name} | {} |\n", cells.join(" | "));
        }
    }
    out
}

/// The paper's Figure 3 as a table.
fn by_length(run: &Run) -> String {
    let mut out = format!(
        "\n## By length of utterance: {}, seed {}\n\nMean over the clips of a length; the interval is from drawing these clips again.\n\n\
         | corpus | length | clips | R@1 | R@5 | R@10 | R@20 |\n|---|---|---|---|---|---|---|\n",
        run.name, run.seed
    );
    for corpus in &run.corpora {
        for bin in &corpus.lengths {
            let recall = bin.recall.map(|e| format!("{:.3} ({:.3} to {:.3})", e.value, e.low, e.high)).join(" | ");
            out += &format!("| {} | {} | {} | {recall} |\n", corpus.corpus, bin.name, bin.clips);
        }
    }
    out
}

fn left_out(parts: &[String], before: &str) -> String {
    if parts.is_empty() { String::new() } else { format!("{before}{}", parts.join(" and ")) }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_student_s() {
        assert_eq!(interval(&[0.5]), (0.5, None));
        // Mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.303.
        let (mean, half) = interval(&[1.0, 2.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (half.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_shipped_configs_are_the_eight_pairs() {
        let configs = read_configs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/paper")).unwrap();
        let names: Vec<&str> = configs.keys().map(String::as_str).collect();
        let wanted = [
            "emotion2vec-bert",
            "emotion2vec-flan-t5",
            "emotion2vec-roberta",
            "emotion2vec-t5",
            "wavlm-bert",
            "wavlm-flan-t5",
            "wavlm-roberta",
            "wavlm-t5",
        ];
        assert_eq!(names, wanted);
        for (name, config) in &configs {
            let bert = name.ends_with("-bert");
            let expected = if bert { (0.05, 15) } else { (0.1, 10) };
            assert_eq!((config.training.discriminator, config.training.discriminator_from), expected, "{name}");
            assert_eq!((config.training.epochs, config.training.batch, config.dimension), (105, 32, 512), "{name}");
        }
    }
}
