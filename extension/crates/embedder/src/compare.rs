//! `esr-embedder compare`: the same clips and texts on the CPU and on a GPU in each of its precisions, alone and in batches.
//! What the golden vectors check for a few inputs at every start, this measures for many. Knows no sockets.

use esr_audio::Waveform;
use esr_encoder::device::{Device, DeviceOptions, Precision, Provider};
use esr_encoder::encoder::SHORTEST_SHARE;
use esr_encoder::golden::{GENERATOR_RATE, Generator, waveform};
use esr_encoder::{Batch, Bundle, Cancel, Embedding, Encoder, Parts, RunError, Runtime, backend};

use crate::bench::text;

/// Lengths of the clips, in seconds. Each stands for a batch, whose other clips are as much shorter as batches allow.
const SECONDS: [f64; 14] = [0.3, 0.5, 0.62, 0.8, 1.0, 1.37, 1.9, 2.5, 3.0, 4.21, 5.7, 7.9, 10.0, 12.0];
const TEXTS: usize = 32;

/// Largest cosine distance to the CPU's embedding that still is the same embedding, by the numbers products are made in: 32-bit
/// products differ by the order of their sums, the others by their rounding.
pub fn tolerance(device: Device) -> f64 {
    match device {
        Device::Cpu | Device::Cuda { precision: Precision::Float32, .. } => 1e-6,
        Device::Cuda { precision: Precision::Tf32 | Precision::Float16, .. } => 1e-5,
    }
}

/// How far embeddings of some inputs are from the CPU's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Difference {
    /// Largest cosine distance.
    pub distance: f64,
    /// Largest difference of one element.
    pub element: f64,
    /// Embeddings compared.
    pub count: usize,
}

impl Difference {
    fn add(&mut self, expected: &Embedding, got: &Embedding) {
        self.count += 1;
        self.distance = self.distance.max(expected.cosine_distance(got));
        let pairs = expected.as_slice().iter().zip(got.as_slice());
        self.element = pairs.map(|(a, b)| f64::from((a - b).abs())).fold(self.element, f64::max);
    }
}

/// The inputs, as rows of batches.
struct Inputs {
    clips: Vec<Vec<Vec<f32>>>,
    texts: Vec<Vec<i64>>,
}

/// Compares on the device of `options`, in one precision if it is given and in all otherwise; prints a line for each. Returns whether
/// all were within `tolerance`, or [`tolerance`]. Fails where the device cannot be had.
pub fn run(
    bundle: &Bundle,
    runtime: &Runtime,
    options: DeviceOptions,
    precision: Option<Precision>,
    allowed: Option<f64>,
) -> Result<bool, Box<dyn std::error::Error>> {
    let load = |options: DeviceOptions| -> Result<Parts, Box<dyn std::error::Error>> {
        let runtime = runtime.clone().on(options)?;
        // Without the golden check, which would hide how far off it is.
        Ok(Encoder::with_towers(bundle, runtime.towers(bundle)?)?.into_parts())
    };
    let mut reference = load(DeviceOptions { provider: Provider::Cpu, ..options })?;
    let inputs = inputs(&reference)?;
    let expected_clips = alone(&mut reference, inputs.clips.iter().flatten().map(|row| Batch::speech(&[row])))?;
    let expected_texts = alone(&mut reference, inputs.texts.iter().map(|row| Batch::text(&[row])))?;
    println!("{:<18} {:<22} {:>6} {:>16} {:>14}", "device", "input", "rows", "cosine distance", "one element");
    let mut within = true;
    let precisions = match precision {
        Some(one) => vec![one],
        None if options.provider == Provider::Cpu => vec![Precision::Float32],
        None => Precision::NAMES.iter().map(|(precision, _)| *precision).collect(),
    };
    for precision in precisions {
        let mut parts = load(DeviceOptions { cuda_precision: precision, ..options })?;
        let device = parts.towers.device;
        let clips = alone(&mut parts, inputs.clips.iter().flatten().map(|row| Batch::speech(&[row])))?;
        let batched = inputs.clips.iter().map(|rows| Batch::speech(&slices(rows)));
        let batched_clips = alone(&mut parts, batched)?;
        let texts = alone(&mut parts, inputs.texts.iter().map(|row| Batch::text(&[row])))?;
        let batched_texts = alone(&mut parts, std::iter::once(Batch::text(&slices(&inputs.texts))))?;
        let allowed = allowed.unwrap_or(tolerance(device));
        for (name, expected, got) in [
            ("clips, alone", &expected_clips, clips),
            ("clips, in batches", &expected_clips, batched_clips),
            ("texts, alone", &expected_texts, texts),
            ("texts, in one batch", &expected_texts, batched_texts),
        ] {
            let mut difference = Difference::default();
            expected.iter().zip(&got).for_each(|(expected, got)| difference.add(expected, got));
            let Difference { distance, element, count } = difference;
            // Written so that NaN is too far.
            let is_near = distance <= allowed && count == expected.len();
            let verdict = if is_near { "" } else { "  TOO FAR" };
            let device = device.to_string();
            println!("{device:<18} {name:<22} {count:>6} {distance:>16.2e} {element:>14.2e}{verdict}");
            within &= is_near;
        }
        println!("{device:<18} allowed cosine distance {allowed:.0e}", device = device.to_string());
    }
    Ok(within)
}

fn slices<T>(rows: &[Vec<T>]) -> Vec<&[T]> {
    rows.iter().map(Vec::as_slice).collect()
}

fn inputs(parts: &Parts) -> Result<Inputs, Box<dyn std::error::Error>> {
    let mut clips = Vec::new();
    for (at, seconds) in SECONDS.into_iter().enumerate() {
        let mut batch = Vec::new();
        for (share, hz) in [(1.0, 90.0), (0.95, 140.0), (SHORTEST_SHARE, 215.0)] {
            let hz = hz + 7.0 * at as f64;
            let generator = Generator::Harmonic { hz, seconds: seconds * share, seed: at as u64 };
            batch.extend(parts.preparer.speech(Waveform::new(waveform(&generator), GENERATOR_RATE)?)?);
        }
        clips.push(batch);
    }
    let texts = (0..TEXTS).map(|at| parts.preparer.text(&text(at))).collect::<Result<_, esr_encoder::TextError>>()?;
    Ok(Inputs { clips, texts })
}

/// The embeddings of all batches, one after the other.
fn alone(parts: &mut Parts, batches: impl Iterator<Item = Batch>) -> Result<Vec<Embedding>, RunError> {
    let mut embeddings = Vec::new();
    for batch in batches {
        let tower = match batch {
            Batch::Speech { .. } => &mut parts.towers.speech,
            Batch::Text { .. } => &mut parts.towers.text,
        };
        embeddings.extend(backend::run(&mut **tower, &batch, &Cancel::default())?);
    }
    Ok(embeddings)
}
