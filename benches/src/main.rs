//! `esr-benches`: the end-to-end benchmarks, through SQL, on a private cluster. Run by `make bench`.
//!
//! CPU time comes from the process accounting of the backend, so that a noisy machine matters less.

mod binary;
mod changing_data;
mod data;
mod exact;
mod filtered;
mod index_bench;
mod latency;
mod limit;
mod load;
mod measure;
mod plot;
mod progress;
mod protocol;
mod random;
mod real;
mod report;
mod rotation;
mod search;
mod systems;
mod truth;
mod writing;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Benchmarks of esr through SQL. The PostgreSQL that is used is the one that ESR_PG_BIN names.
#[derive(Parser)]
#[command(version)]
enum Arguments {
    /// Indexes side by side: recall, CPU and latency of a query, building, changing data.
    Index(index_bench::IndexArguments),
    /// Draw the plot of one or more results of `index`, and print their tables.
    Plot {
        /// What `index` wrote.
        #[arg(required = true)]
        results: Vec<PathBuf>,
        /// The plot.
        #[arg(long, value_name = "FILE", default_value = "target/bench/plot.svg")]
        output: PathBuf,
    },
    /// The index with learned and with random axes, in memory.
    Rotation(rotation::RotationArguments),
    /// Exact scans over all rows.
    Exact,
    /// How long an embedding takes.
    Latency,
    /// Texts of many sessions at once, alone and beside a backfill of clips.
    Load(load::LoadArguments),
    /// Many sessions while statements are cancelled, sessions terminated and the embedder killed.
    Storm(load::StormArguments),
    /// The paper's protocol through SQL, compared with what the trainer found in memory.
    Protocol(protocol::ProtocolArguments),
    /// How fast clips get into a table.
    Writing(writing::WritingArguments),
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Index(arguments) => index_bench::run(&arguments),
        Arguments::Plot { results, output } => {
            let reports = results.iter().map(|path| report::Report::read(path)).collect::<Result<Vec<_>>>()?;
            reports.iter().for_each(|report| print!("{}", report.tables()));
            plot::write(&reports, &output)?;
            println!("wrote {}", output.display());
            Ok(())
        }
        Arguments::Rotation(arguments) => rotation::run(&arguments),
        Arguments::Exact => exact::run(),
        Arguments::Latency => latency::run(),
        Arguments::Load(arguments) => load::run(&arguments),
        Arguments::Storm(arguments) => load::run_storm(&arguments),
        Arguments::Protocol(arguments) => protocol::run(&arguments),
        Arguments::Writing(arguments) => writing::run(&arguments),
    }
}
