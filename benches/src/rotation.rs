//! What a learned rotation is worth over a random one: the same index in memory, built and searched with both.

use std::{fmt::Write, time::Instant};

use anyhow::{Context, Result};
use clap::Args;
use esr_ivf::memory::MemoryStore;
use esr_ivf::{Axes, BuildOptions, RowSource, Silent};
use esr_ivf::{ExactVectors, Key, PageStore, RowId, Search, SearchCounters, SearchOptions, current};
use esr_vector::Metric;

use crate::{
    data::{self, Dataset, QueryKind, Sizes, Vectors},
    measure::processors,
    random::DIMENSIONS,
    truth::Truth,
};

/// Rows asked for.
const LIMIT: usize = 10;
/// Recalls declared.
const TARGETS: [f64; 3] = [0.90, 0.95, 0.99];

/// What to compare on.
#[derive(Debug, Args)]
pub struct RotationArguments {
    /// Rows to index.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    rows: u32,
    /// Queries of each kind.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    queries: u32,
    /// Seed of data, queries and indexes.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Prints a table for the clustered and for the hard data.
pub fn run(arguments: &RotationArguments) -> Result<()> {
    let sizes = Sizes { rows: arguments.rows as usize, later: 0, queries: arguments.queries as usize };
    println!(
        "{} x {DIMENSIONS}, {} queries of each kind, LIMIT {LIMIT}, seed {}",
        sizes.rows, sizes.queries, arguments.seed
    );
    for (name, data) in
        [("clustered", data::clustered(arguments.seed, sizes)), ("hard", data::hard(arguments.seed, sizes))]
    {
        let mut text = format!(
            "\n| {name} | axes | code bytes | build s | MB | queries | target | recall | rows scanned | rows measured | us a query |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for axes in [Axes::Learned, Axes::Random] {
            compare(&data, axes, arguments.seed, &mut text)?;
        }
        print!("{text}");
    }
    Ok(())
}

fn compare(data: &Dataset, axes: Axes, seed: u64, text: &mut String) -> Result<()> {
    let store = MemoryStore::default();
    let options = BuildOptions {
        metric: Metric::Cosine,
        dimension: DIMENSIONS as u32,
        lists: 0,
        axes,
        threads: processors(),
        memory_bytes: 1 << 30,
        seed,
    };
    let start = Instant::now();
    esr_ivf::build(&store, &mut Rows(&data.rows), &options, &mut Silent).context("building")?;
    let build_s = start.elapsed().as_secs_f64();
    let megabytes = f64::from(store.block_count()) * 8192.0 / 1e6;
    let mut cached = None;
    let structure = current(&store, &mut cached).context("reading the index")?;
    for kind in QueryKind::ALL {
        let queries = data.queries(kind);
        let truth = Truth::compute(data, queries, LIMIT, |_| true);
        for target in TARGETS {
            let (mut recall, mut sum) = (0.0, SearchCounters::default());
            let mut answers = Vec::with_capacity(queries.len());
            let start = Instant::now();
            for query in queries.iter() {
                let options = SearchOptions { target_recall: target, probes: None };
                let structure = current(&store, &mut cached).context("reading the index")?;
                let mut search = Search::new(structure, query, options);
                let mut exact = Exact { rows: &data.rows, query };
                let mut answer = Vec::with_capacity(LIMIT);
                while answer.len() < LIMIT
                    && let Some(near) = search.next(&store, &mut exact).context("searching")?
                {
                    answer.push(near.row.block as i32);
                }
                let counters = search.counters();
                sum.rows_scanned += counters.rows_scanned;
                sum.rows_measured += counters.rows_measured;
                answers.push(answer);
            }
            let each = start.elapsed().as_secs_f64() * 1e6 / queries.len() as f64;
            for (number, answer) in answers.iter().enumerate() {
                recall += truth.recall(data, queries, number, answer) / queries.len() as f64;
            }
            let _ = writeln!(
                text,
                "| {axes:?} | {} | {} | {build_s:.1} | {megabytes:.0} | {} | {target:.2} | {recall:.4} | {:.0} | {:.0} | {each:.0} |",
                structure.axes(),
                structure.layout.code_bytes(),
                kind.name(),
                sum.rows_scanned as f64 / queries.len() as f64,
                sum.rows_measured as f64 / queries.len() as f64,
            );
        }
    }
    Ok(())
}

struct Rows<'a>(&'a Vectors);

impl RowSource for Rows<'_> {
    fn estimated_rows(&self) -> u64 {
        self.0.len() as u64
    }

    fn scan(&mut self, each: &mut dyn FnMut(RowId, Key<'_>)) {
        for (number, row) in self.0.iter().enumerate() {
            each(RowId { block: number as u32, offset: 1 }, Key::Vector(row));
        }
    }
}

struct Exact<'a> {
    rows: &'a Vectors,
    query: &'a [f32],
}

impl ExactVectors for Exact<'_> {
    fn distance(&mut self, row: RowId) -> Option<f64> {
        Some(1.0 - f64::from((esr_vector::kernels().dot)(self.rows.row(row.block as usize), self.query)))
    }
}
