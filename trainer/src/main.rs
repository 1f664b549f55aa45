//! The `esr-trainer` program: reads arguments, calls one function of the library, prints.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use esr_trainer::config::Config;
use esr_trainer::prepare::{self, Form};

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
        /// Cache all frames after this layer instead of pooled features; needed when training.unfreeze_from is set.
        #[arg(long)]
        frames: Option<usize>,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tch::set_num_threads(arguments.threads as i32);
    match arguments.command {
        Command::Prepare { config, frames } => {
            let config = Config::read(&config)?;
            let form = frames.map_or(Form::Pooled, |layer| Form::Frames { layer });
            let added = prepare::prepare(&config, form)?;
            println!("{added} clips and copies cached in {}", prepare::folder(&config, form).display());
            Ok(())
        }
    }
}
