//! The `esr-trainer` program: reads arguments, calls one function of the library, prints.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use esr_trainer::config::Config;
use esr_trainer::data::splits::Split;
use esr_trainer::evaluate::{self, Model};
use esr_trainer::finetune::config::Finetune;
use esr_trainer::onnx::Precision;
use esr_trainer::prepare::{self, Form};
use esr_trainer::prompts::Side;
use esr_trainer::{
    checkpoint, export, finetune, fuse, paper, place, placed, protocol, questions, soup, train, tune_text,
};

/// Trains the speech and text encoders of esr.
///
/// The usual order is: scripts/fetch-weights.sh (once), then prepare, train, evaluate, export with the same config.
/// Every step can be interrupted and started again; it continues where it was.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Threads of the tensor library; the default leaves a shared machine some room.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
    /// Replace a setting of the config, such as --set training.encoder_rate=1e-4; may be given several times. Not for
    /// finetune and paper.
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Cache what the frozen speech encoder says about every clip and its altered copies.
    ///
    /// Decodes each clip of the config's corpora once, makes the altered copies the config asks for (whispered, faster,
    /// noisier, ...) and stores 16-bit features below data.work. Training then needs no audio and takes minutes.
    Prepare {
        /// Config file, such as trainer/configs/default.toml.
        #[arg(long)]
        config: PathBuf,
        /// Cache all frames after this layer instead of pooled features, about 50 kB a second of sound; needed when
        /// training.unfreeze_from is set and for attentive pooling.
        #[arg(long)]
        frames: Option<usize>,
    },
    /// Teach the text encoder the words of speaking style, from the training prompts and a larger text encoder.
    ///
    /// Only for configs with [text.tuning]; run it before train. Takes minutes.
    TuneText {
        /// Config file.
        #[arg(long)]
        config: PathBuf,
        /// Go on from the text encoder of this bundle, which must be of the same size and styles, for text.tuning.more_steps.
        #[arg(long)]
        from: Option<PathBuf>,
    },
    /// Train the projections and heads (and, if the config says so, the last encoder blocks, or the whole speech encoder).
    ///
    /// With training.waveforms the encoder is trained from waveforms that are altered anew each time; use a GPU. Continues
    /// from the latest checkpoint in data.work. Writes one line of metrics.jsonl an epoch.
    Train {
        /// Config file.
        #[arg(long)]
        config: PathBuf,
        /// Begin anew even if there is a checkpoint.
        #[arg(long)]
        restart: bool,
        /// Stop after this many epochs; the same command without it goes on to the end.
        #[arg(long)]
        until: Option<usize>,
    },
    /// Average the parameters of several runs that began alike, as the checkpoint of the config's run.
    ///
    /// The runs differ in rates, losses or seeds (--set); their mean ranks clips of other corpora better than each.
    Soup {
        /// Config file of the run that the mean becomes.
        #[arg(long)]
        config: PathBuf,
        /// Work folders of the runs.
        #[arg(required = true, num_args = 2..)]
        runs: Vec<PathBuf>,
    },
    /// Find out where a finished run's speech side places styles that no clip shows but that can be made (augment.shown).
    ///
    /// Their descriptions are answered with that from then on, also by `export`. Minutes on one core.
    Place {
        /// Config file of the run.
        #[arg(long)]
        config: PathBuf,
    },
    /// Add what log-mel statistics alone say of a clip to a bundle's speech side (speech.fusion), as another bundle.
    ///
    /// A linear map is fitted to the training clips in the feature cache; no weight of the encoders changes. Half a minute on one
    /// core.
    Fuse {
        /// Config file of the bundle.
        #[arg(long)]
        config: PathBuf,
        /// The bundle whose speech side has no such part yet.
        #[arg(long)]
        from: PathBuf,
        /// Folder to write.
        #[arg(long)]
        bundle: PathBuf,
    },
    /// Rank clips by descriptions and print how well that works, beside chance and two baselines.
    ///
    /// Uses speakers and prompts that were not trained on. Without --bundle the latest checkpoint is judged on cached
    /// features, which takes seconds; with --bundle every clip's file goes through ONNX Runtime as in production, once.
    Evaluate {
        /// Config file of the run.
        #[arg(long, default_value = "trainer/configs/default.toml")]
        config: PathBuf,
        /// Judge this exported bundle.
        #[arg(long)]
        bundle: Option<PathBuf>,
        /// Leave the baselines out, which need the feature cache: for a bundle, or a run from waveforms.
        #[arg(long)]
        alone: bool,
        /// Which speakers: val or test. Corpora that are not trained on belong to test.
        #[arg(long, value_enum, default_value = "test")]
        split: Split,
        /// Which prompts: heldout or train.
        #[arg(long, value_enum, default_value = "heldout")]
        prompts: Side,
        /// Also write all numbers to this JSON file.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Also print every style.
        #[arg(long)]
        styles: bool,
        /// Write the tables into the bundle's MODEL_CARD.md (needs --bundle).
        #[arg(long, requires = "bundle")]
        card: bool,
    },
    /// Train a whole speech encoder from waveforms, as the paper does, beside a frozen text encoder.
    ///
    /// Continues from the latest checkpoint. Then ranks the test clips and prints the results; with --bundle it also writes a
    /// bundle that the embedder can serve. Configs are in trainer/configs/paper.
    Finetune {
        /// Config file.
        #[arg(long)]
        config: PathBuf,
        /// Another seed than the config's, in a work folder of its own.
        #[arg(long)]
        seed: Option<u64>,
        /// Begin anew even if there is a checkpoint.
        #[arg(long)]
        restart: bool,
        /// Stop after this many epochs, without ranking; the same command without it goes on to the end.
        #[arg(long)]
        until: Option<usize>,
        /// Folder for the bundle.
        #[arg(long)]
        bundle: Option<PathBuf>,
        /// Also write all vectors and rankings of the test clips to this file, for `esr-benches protocol`.
        #[arg(long)]
        embeddings: Option<PathBuf>,
    },
    /// Run all eight pairs of encoders of the paper, and the ablations of its Table III, and print the tables.
    ///
    /// Runs that are finished are not run again. At the paper's sizes it needs a GPU with 48 GB.
    Paper {
        /// Folder with the data sets.
        #[arg(long)]
        data: PathBuf,
        /// Folder with the published weights and tokenizers, in folders as the configs name them.
        #[arg(long)]
        weights: PathBuf,
        /// Folder with one config a pair.
        #[arg(long, default_value = "trainer/configs/paper")]
        configs: PathBuf,
        /// Folder for checkpoints, results.json and report.md.
        #[arg(long, default_value = "target/esr-trainer/paper")]
        work: PathBuf,
        /// Seeds, separated by commas.
        #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
        seeds: Vec<u64>,
        /// The pair whose ablations are run; '' runs none.
        #[arg(long, default_value = "emotion2vec-roberta")]
        ablate: String,
    },
    /// The paper's protocol: one clip of a style among 400 of other styles, exactly and by sampled trials.
    ///
    /// Prints R@1, R@5, R@10 and R@20 with confidence intervals, by corpus, by style and by length of utterance (the paper's
    /// Figure 3); draws that curve and, with --draw, both modalities in the plane.
    Protocol(protocol::command::Arguments),
    /// One of the paper's open questions, as tables and figures.
    #[command(subcommand)]
    Question(questions::command::Question),
    /// Write the latest checkpoint as a bundle that the embedder can serve.
    ///
    /// The bundle is opened again and checked through ONNX Runtime before the command succeeds.
    Export {
        /// Config file of the run.
        #[arg(long)]
        config: PathBuf,
        /// Folder to write, such as models/default.
        #[arg(long)]
        bundle: PathBuf,
        /// Keep encoder weights as 32-bit floats instead of int8.
        #[arg(long)]
        float: bool,
        /// Take all but the text encoder from this bundle instead of the run: the one that `tune-text --from` went on from.
        #[arg(long)]
        from: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match work(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes without a backtrace: it is the user's files or settings that are at fault.
            eprintln!("esr-trainer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: Arguments) -> Result<()> {
    let Arguments { threads, set, command } = arguments;
    tch::set_num_threads(threads as i32);
    match command {
        Command::Prepare { config, frames } => {
            let config = Config::read_with(&config, &set)?;
            let form = frames.map_or(Form::Pooled, |layer| Form::Frames { layer });
            let added = prepare::prepare(&config, form)?;
            println!("{added} clips and copies cached in {}", prepare::folder(&config, form).display());
        }
        Command::TuneText { config, from } => {
            let config = Config::read_with(&config, &set)?;
            tune_text::tune_text(&config, from.as_deref())?;
            let [trained, heldout] = tune_text::accuracy(&config)?;
            println!(
                "names the right style for {:.1} % of the training prompts and {:.1} % of the held-out ones",
                100.0 * trained,
                100.0 * heldout
            );
        }
        Command::Train { config, restart, until } => {
            let config = Config::read_with(&config, &set)?;
            if config.training.waveforms.is_none() {
                let layer = config.training.unfreeze_from.checked_sub(1);
                prepare::ensure_complete(&config, layer.map_or(Form::Pooled, |layer| Form::Frames { layer }))?;
            }
            train::train(&config, restart, until)?;
            println!("trained; the checkpoint is {}", checkpoint::file(&config.data.work).display());
        }
        Command::Soup { config, runs } => {
            let config = Config::read_with(&config, &set)?;
            soup::soup(&config, &runs)?;
            println!("the mean of {} runs is {}", runs.len(), checkpoint::file(&config.data.work).display());
        }
        Command::Place { config } => {
            let config = Config::read_with(&config, &set)?;
            let styles = place::place(&config)?;
            println!("placed {}; see {}", styles.join(", "), placed::file(&config.data.work).display());
        }
        Command::Fuse { config, from, bundle } => {
            let config = Config::read_with(&config, &set)?;
            prepare::ensure_complete(&config, Form::Pooled)?;
            let tag = fuse::fuse(&config, &from, &bundle)?;
            println!("wrote {} with tag {tag:016x}", bundle.display());
        }
        Command::Evaluate { config, bundle, alone, split, prompts, json, styles, card } => {
            let config = Config::read_with(&config, &set)?;
            let added = if alone { 0 } else { prepare::prepare(&config, Form::Pooled)? };
            if added > 0 {
                eprintln!("{added} clips were missing in the feature cache and were added");
            }
            let model = bundle.as_deref().map_or(Model::Run, Model::Bundle);
            let results = evaluate::evaluate(&config, &model, split, prompts, !alone)?;
            print!("{}", evaluate::table(&results));
            if styles {
                print!("\n{}", evaluate::style_table(&results));
            }
            if let Some(file) = json {
                std::fs::write(&file, serde_json::to_string_pretty(&results)?)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            if let (true, Some(folder)) = (card, &bundle) {
                export::write_card(&config, folder, &results)?;
            }
        }
        Command::Finetune { config, seed, restart, until, bundle, embeddings } => {
            let mut config = Finetune::read(&config)?;
            if let Some(seed) = seed {
                config = config.with_seed(seed);
            }
            finetune::train::train(&config, restart, until)?;
            println!("trained; the checkpoint is {}", checkpoint::file(&config.data.work).display());
            if until.is_none() {
                let results = finetune::evaluate::evaluate(&config)?;
                print!("{}", finetune::evaluate::table(&results.corpora));
                if let Some(file) = embeddings {
                    results.write_vectors(&file)?;
                }
                if let Some(folder) = bundle {
                    let tag = finetune::export::export(&config, &folder, Precision::Float, &results.corpora)?;
                    println!("wrote {} with tag {tag:016x}", folder.display());
                }
            }
        }
        Command::Paper { data, weights, configs, work, seeds, ablate } => {
            print!("{}", paper::run(&paper::Plan { data, weights, configs, work, seeds, ablate })?);
        }
        Command::Protocol(arguments) => arguments.subject.give(&protocol::command::run(&arguments)?)?,
        Command::Question(question) => drop(questions::command::run(&question)?),
        Command::Export { config, bundle, float, from } => {
            let config = Config::read_with(&config, &set)?;
            let precision = if float { Precision::Float } else { Precision::Int8 };
            let tag = export::export(&config, &bundle, precision, from.as_deref())?;
            println!("wrote {} with tag {tag:016x}", bundle.display());
        }
    }
    Ok(())
}
