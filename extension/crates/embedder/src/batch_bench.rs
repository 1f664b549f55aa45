//! `esr-embedder bench --batches`: what a batch is worth on this machine, and how much an embedding depends on its batch
//! mates. The budgets in `encoder.rs` and the tolerance in the README are read off here.

use std::time::Duration;

use esr_encoder::device::Device;
use esr_encoder::{
    Batch, Bundle, Cancel, EmbedError, Embedding, Encoder, LoadError, Parts, RunError, Runtime, backend,
};
use serde::Serialize;

use crate::bench::{Median, clip, repeat, text};

/// What is put into batches on a device.
struct Plan {
    /// Clips of a batch.
    clips: &'static [usize],
    /// Longest speech batch, in seconds.
    longest: f64,
    /// Texts of a batch.
    texts: &'static [usize],
    /// Clips of a batch of unforeseen length.
    mixed: usize,
}

const CPU: Plan =
    Plan { clips: &[1, 2, 4, 8, 16, 32, 64], longest: 64.0, texts: &[1, 2, 4, 8, 16, 32, 64, 256], mixed: 2 };
const GPU: Plan = Plan { clips: &[1, 4, 16, 32, 64, 96], longest: 96.0, texts: &[1, 8, 64, 256, 1024], mixed: 32 };

/// Lengths of clips, in seconds.
const CLIPS: [f64; 3] = [1.0, 3.0, 10.0];
/// Lengths of clips where every batch has another one, in seconds; their mean is one of [`CLIPS`].
const MIXED: std::ops::Range<f64> = 2.0..4.0;
const MIXED_STEP: f64 = 0.01;

/// One batch size.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What was computed.
    pub input: String,
    /// How many at once.
    pub rows: usize,
    /// How many a second.
    pub per_second: f64,
    /// Wall time of each, milliseconds.
    pub ms_each: f64,
    /// Processor time of each, milliseconds.
    pub cpu_ms_each: f64,
    /// Floating point operations of its matrix products and convolutions, in 1e9; multiplying and adding are two.
    pub gflop_each: f64,
    /// Those operations a second, in 1e12.
    pub tflops: f64,
    /// Resident memory afterwards, bytes.
    pub memory: u64,
}

/// The whole table.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where the model ran, and in which numbers.
    pub device: String,
    /// Threads of one run.
    pub threads: usize,
    /// Operations a second, in 1e12, that large matrix products alone reach there.
    pub limit_tflops: f64,
    /// By input and size.
    pub lines: Vec<Line>,
    /// Largest cosine distance between an embedding made alone and one made beside longer rows, as long as batches allow.
    pub padded_distance: f64,
    /// Largest difference of one of its elements.
    pub padded_element: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            out,
            "{:<24} {:>5} {:>10} {:>9} {:>9} {:>11} {:>8} {:>8} {:>10}",
            "input", "rows", "a second", "ms each", "CPU ms", "GFLOP each", "TFLOP/s", "of limit", "memory MB"
        )?;
        for line in &self.lines {
            let Line { input, rows, per_second, ms_each, cpu_ms_each, gflop_each, tflops, memory } = line;
            let (memory, share) = (*memory as f64 / 1e6, 100.0 * tflops / self.limit_tflops);
            writeln!(
                out,
                "{input:<24} {rows:>5} {per_second:>10.1} {ms_each:>9.3} {cpu_ms_each:>9.3} {gflop_each:>11.3} \
                 {tflops:>8.3} {share:>6.1} % {memory:>10.0}"
            )?;
        }
        writeln!(out, "device: {}, threads: {}", self.device, self.threads)?;
        writeln!(out, "limit: large matrix products alone reach {:.3} TFLOP/s", self.limit_tflops)?;
        writeln!(out, "alone and beside longer rows: cosine distance up to {:.1e}", self.padded_distance)?;
        write!(out, "                              one element up to {:.1e}", self.padded_element)
    }
}

/// Measures every size for about `seconds` in all, after the device's limit.
pub fn run(
    encoder: Encoder,
    bundle: &Bundle,
    runtime: &Runtime,
    threads: usize,
    seconds: f64,
) -> Result<Report, LoadError> {
    let mut parts = encoder.into_parts();
    let device = parts.towers.device;
    let limit_tflops = runtime.product_rate(device)? / 1e12;
    let failed = |error: EmbedError| LoadError::Model(error.to_string());
    let (padded_distance, padded_element) = mates(&mut parts).map_err(failed)?;
    let lines = lines(&mut parts, bundle, runtime, seconds).map_err(failed)?;
    Ok(Report { device: device.to_string(), threads, limit_tflops, lines, padded_distance, padded_element })
}

fn lines(parts: &mut Parts, bundle: &Bundle, runtime: &Runtime, seconds: f64) -> Result<Vec<Line>, EmbedError> {
    let plan = if parts.towers.device == Device::Cpu { CPU } else { GPU };
    let mut lines = Vec::new();
    let each = Duration::from_secs_f64(seconds / 26.0);
    let never = Cancel::default();
    for length in CLIPS {
        let one = samples(parts, 0, length);
        let cost = runtime.operations(bundle, &Batch::speech(&[&one]))?;
        for rows in plan.clips.iter().copied().filter(|rows| *rows as f64 * length <= plan.longest) {
            let clips: Vec<Vec<f32>> = (0..rows).map(|at| samples(parts, at, length)).collect();
            let batch = Batch::speech(&clips.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let median = repeat(each, |_| Ok(backend::run(&mut *parts.towers.speech, &batch, &never).map(drop)?))?;
            lines.push(line(format!("clip of {length} s"), rows, cost, &median));
        }
    }
    let long: Vec<Vec<f32>> = (0..plan.mixed).map(|at| samples(parts, at, MIXED.end)).collect();
    let middle = (MIXED.start + MIXED.end) / 2.0;
    let cost = runtime.operations(bundle, &Batch::speech(&[&samples(parts, 0, middle)]))?;
    let steps = ((MIXED.end - MIXED.start) / MIXED_STEP) as usize;
    let rate = f64::from(parts.preparer.sample_rate());
    let median = repeat(each.max(Duration::from_millis(200)), |round| {
        // A stride without a common factor: neighbours differ, and no length comes twice before all have come.
        let length = MIXED.start + (round * 77 % steps) as f64 * MIXED_STEP;
        let clips: Vec<&[f32]> = long.iter().map(|clip| &clip[..(length * rate) as usize]).collect();
        Ok(backend::run(&mut *parts.towers.speech, &Batch::speech(&clips), &never).map(drop)?)
    })?;
    let (start, end) = (MIXED.start, MIXED.end);
    lines.push(line(format!("{start} to {end} s, new lengths"), plan.mixed, cost, &median));
    for rows in plan.texts.iter().copied() {
        let texts = tokens(parts, rows)?;
        let batch = Batch::text(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let cost = runtime.operations(bundle, &Batch::text(&[&texts[0]]))?;
        let median = repeat(each, |_| Ok(backend::run(&mut *parts.towers.text, &batch, &never).map(drop)?))?;
        lines.push(line(format!("text of {} tokens", texts[0].len()), rows, cost, &median));
    }
    Ok(lines)
}

fn line(input: String, rows: usize, cost: u64, median: &Median) -> Line {
    let (rows_f, cost) = (rows as f64, cost as f64);
    let per_second = rows_f / median.wall;
    Line {
        input,
        rows,
        per_second,
        ms_each: 1e3 / per_second,
        cpu_ms_each: median.processor * 1e3 / rows_f,
        gflop_each: cost / 1e9,
        tflops: cost * per_second / 1e12,
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
