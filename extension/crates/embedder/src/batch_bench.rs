//! `esr-embedder bench --batches`: what a batch is worth on this machine, and how much an embedding depends on its batch
//! mates. The budgets in `encoder.rs` and the tolerance in the README are read off here.

use std::time::Duration;

use esr_encoder::{Batch, Cancel, EmbedError, Embedding, Encoder, Parts, RunError, backend};
use serde::Serialize;

use crate::bench::{clip, repeat, text};

/// Rows of the batches.
const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Lengths of clips, in seconds.
const CLIPS: [f64; 3] = [1.0, 3.0, 10.0];
/// Longest speech batch, in seconds.
const LONGEST: f64 = 64.0;

/// One batch size.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What was computed.
    pub input: String,
    /// How many at once.
    pub rows: usize,
    /// Wall time of each, milliseconds.
    pub ms_each: f64,
    /// Processor time of each, milliseconds.
    pub cpu_ms_each: f64,
    /// Resident memory afterwards, bytes.
    pub memory: u64,
}

/// The whole table.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Threads of one run.
    pub threads: usize,
    /// By input and size.
    pub lines: Vec<Line>,
    /// Largest cosine distance between an embedding made alone and one made beside longer rows, as long as batches allow.
    pub padded_distance: f64,
    /// Largest difference of one of its elements.
    pub padded_element: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{:<24} {:>5} {:>10} {:>10} {:>10}", "input", "rows", "ms each", "CPU ms", "memory MB")?;
        for Line { input, rows, ms_each, cpu_ms_each, memory } in &self.lines {
            let memory = *memory as f64 / 1e6;
            writeln!(out, "{input:<24} {rows:>5} {ms_each:>10.2} {cpu_ms_each:>10.2} {memory:>10.0}")?;
        }
        writeln!(out, "threads: {}", self.threads)?;
        writeln!(out, "alone and beside longer rows: cosine distance up to {:.1e}", self.padded_distance)?;
        write!(out, "                              one element up to {:.1e}", self.padded_element)
    }
}

/// Measures every size for about `seconds` in all.
pub fn run(encoder: Encoder, threads: usize, seconds: f64) -> Result<Report, EmbedError> {
    let mut parts = encoder.into_parts();
    let (padded_distance, padded_element) = mates(&mut parts)?;
    let mut lines = Vec::new();
    let each = Duration::from_secs_f64(seconds / 26.0);
    for length in CLIPS {
        for rows in SIZES.into_iter().filter(|rows| *rows as f64 * length <= LONGEST) {
            let clips: Vec<Vec<f32>> = (0..rows).map(|at| samples(&parts, at, length)).collect();
            let batch = Batch::speech(&clips.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let tower = &mut *parts.towers.speech;
            let median = repeat(each, |_| Ok(backend::run(tower, &batch, &Cancel::default()).map(drop)?))?;
            lines.push(line(format!("clip of {length} s"), rows, &median));
        }
    }
    for rows in SIZES.into_iter().chain([256]) {
        let texts = tokens(&parts, rows)?;
        let batch = Batch::text(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let tower = &mut *parts.towers.text;
        let median = repeat(each, |_| Ok(backend::run(tower, &batch, &Cancel::default()).map(drop)?))?;
        lines.push(line(format!("text of {} tokens", texts[0].len()), rows, &median));
    }
    Ok(Report { threads, lines, padded_distance, padded_element })
}

fn line(input: String, rows: usize, median: &crate::bench::Median) -> Line {
    Line {
        input,
        rows,
        ms_each: median.wall * 1e3 / rows as f64,
        cpu_ms_each: median.processor * 1e3 / rows as f64,
        memory: crate::statistics::Memory::now().resident,
    }
}

fn samples(parts: &Parts, at: usize, seconds: f64) -> Vec<f32> {
    let rate = parts.preparer.sample_rate();
    let mut samples = clip(at, rate, seconds).into_samples();
    samples.resize((seconds * f64::from(rate)) as usize, 0.0);
    samples
}

/// Texts of one length, so that nothing is padding.
fn tokens(parts: &Parts, rows: usize) -> Result<Vec<Vec<i64>>, EmbedError> {
    let encode = |at: usize| {
        let text = text(at % 32);
        parts.preparer.text(&text).map_err(|source| EmbedError::Text { item: at, source })
    };
    let longest = (0..32).map(encode).collect::<Result<Vec<_>, _>>()?.into_iter().max_by_key(Vec::len);
    Ok(vec![longest.unwrap_or_default(); rows])
}

/// How far embeddings move when longer rows are in the batch: the shortest row that batches allow beside the longest.
fn mates(parts: &mut Parts) -> Result<(f64, f64), EmbedError> {
    let cancel = Cancel::default();
    let (mut distance, mut element) = (0f64, 0f64);
    let mut compare = |alone: &Embedding, beside: &Embedding| {
        distance = distance.max(alone.cosine_distance(beside));
        let differences = alone.as_slice().iter().zip(beside.as_slice()).map(|(a, b)| f64::from((a - b).abs()));
        element = differences.fold(element, f64::max);
    };
    for (at, seconds) in [0.6, 1.0, 2.3, 4.7, 9.9].into_iter().enumerate() {
        let short = samples(parts, at, seconds);
        let long = samples(parts, at + 7, seconds / SHORTEST);
        let alone = backend::run(&mut *parts.towers.speech, &Batch::speech(&[&short]), &cancel)?;
        for rows in [vec![&short[..], &long], vec![&long[..], &short, &long]] {
            let beside = backend::run(&mut *parts.towers.speech, &Batch::speech(&rows), &cancel)?;
            let place = rows.iter().position(|row| row.len() == short.len()).unwrap_or(0);
            compare(&alone[0], &beside[place]);
        }
    }
    let texts: Vec<Vec<i64>> = (0..32)
        .map(|at| parts.preparer.text(&text(at)).map_err(|source| EmbedError::Text { item: at, source }))
        .collect::<Result<_, _>>()?;
    let all: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
    let beside = backend::run(&mut *parts.towers.text, &Batch::text(&all), &cancel)?;
    for (row, beside) in all.iter().zip(&beside) {
        let alone = backend::run(&mut *parts.towers.text, &Batch::text(&[row]), &cancel)?;
        compare(&alone[0], beside);
    }
    if distance.is_nan() {
        return Err(EmbedError::Run(RunError::Runtime("embeddings are not numbers".into())));
    }
    Ok((distance, element))
}

/// As batches of the server allow.
const SHORTEST: f64 = esr_encoder::encoder::SHORTEST_SHARE;
