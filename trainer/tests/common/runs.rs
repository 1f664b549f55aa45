//! What tests that train have in common: the right to draw random numbers, generated sounds, and what a run has learned.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use esr_trainer::checkpoint::Checkpoint;

/// libtorch has one random generator per process: tests that train must not draw from it at the same time.
pub fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    alone
}

/// The best weights of the run in a folder.
pub fn weights_of(work: &Path) -> Vec<(String, Vec<f32>)> {
    let best = Checkpoint::load(work, None).unwrap().unwrap().best();
    best.into_iter().map(|(k, t)| (k, Vec::try_from(t.flatten(0, -1)).unwrap())).collect()
}

/// A WAV file of `length` frames with a tone (hertz) and a share of noise on each channel; a voice is a little higher than the one
/// before. The noise goes on from `state`.
pub fn write_tones(file: &Path, rate: u32, length: usize, channels: &[(f32, f32)], voice: usize, state: &mut u32) {
    let format = hound::WavSpec {
        channels: channels.len() as u16,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(file, format).unwrap();
    for n in 0..length {
        for (hertz, noise) in channels {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (*state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let pitch = hertz * (1.0 + 0.02 * voice as f32);
            let tone = (n as f32 / rate as f32 * pitch * std::f32::consts::TAU).sin();
            writer.write_sample(((tone * 0.4 + random * noise) * 12_000.0) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}
