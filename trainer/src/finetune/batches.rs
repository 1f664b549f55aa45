//! Clips as zero-padded batches of waveforms, decoded by other threads while the last batch is computed. Knows no network.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::audio_file;
use crate::data::Clip;
use crate::nets::log_mel::SAMPLE_RATE;

/// Batches that wait decoded.
const AHEAD: usize = 2;

/// How long a waveform may be, in samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Shorter clips are repeated up to this, as the embedder does.
    pub shortest: usize,
    /// Longer clips are cut to this; `None` keeps them whole.
    pub longest: Option<usize>,
}

impl Window {
    /// From seconds.
    pub fn seconds(shortest: f32, longest: Option<f32>) -> Self {
        let samples = |s: f32| (s * SAMPLE_RATE as f32) as usize;
        Self { shortest: samples(shortest), longest: longest.map(samples) }
    }
}

/// The clips of an epoch in random order, `batch` at a time; what is left over is left out.
pub fn shuffled(clips: usize, batch: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..clips).collect();
    order.shuffle(&mut stream(seed, epoch, 0));
    order.chunks_exact(batch).map(<[usize]>::to_vec).collect()
}

/// Random numbers of one thing in one epoch: the same whatever was drawn before, so that a resumed run repeats an unbroken
/// one and threads don't matter.
pub fn stream(seed: u64, epoch: usize, thing: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(epoch as u64));
    random.set_stream(thing);
    random
}

/// A waveform inside the window: cut at a random place when there are random numbers, else at its beginning.
pub fn fitted(samples: Vec<f32>, window: Window, random: Option<&mut ChaCha8Rng>) -> Vec<f32> {
    let mut samples = audio_file::at_least(samples, window.shortest);
    if let Some(longest) = window.longest.filter(|l| *l < samples.len()) {
        let start = random.map_or(0, |r| r.random_range(0..=samples.len() - longest));
        samples.drain(..start);
        samples.truncate(longest);
    }
    samples
}

/// What `one` makes of each item, in their order, by so many threads. The first error ends it.
pub fn in_threads<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    one: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let one = &one;
    let share = items.len().div_ceil(workers.max(1)).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = items
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(one).collect::<Result<Vec<_>>>()))
            .collect();
        let mut all = vec![];
        for part in parts {
            all.extend(part.join().map_err(|_| anyhow!("a decoding thread panicked"))??);
        }
        Ok(all)
    })
}

/// Calls `use_batch` with the rows and waveforms of each batch in order. `crops` are the seed and epoch of random crops;
/// without them clips are cut at their beginning. The first error ends it.
pub fn for_each(
    clips: &[Clip],
    batches: &[Vec<usize>],
    window: Window,
    crops: Option<(u64, usize)>,
    workers: usize,
    mut use_batch: impl FnMut(&[usize], &[Vec<f32>]) -> Result<()>,
) -> Result<()> {
    let one = |row: usize| -> Result<Vec<f32>> {
        let path: &Path = &clips[row].path;
        let samples = audio_file::read(path)?;
        anyhow::ensure!(!samples.is_empty(), "{} holds no sound", path.display());
        // Stream 0 shuffles.
        let mut random = crops.map(|(seed, epoch)| stream(seed, epoch, row as u64 + 1));
        Ok(fitted(samples, window, random.as_mut()))
    };
    let decode = |rows: &[usize]| in_threads(rows, workers, |row| one(*row));
    let decode = &decode;
    thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        scope.spawn(move || {
            for rows in batches {
                // The other end is gone when a batch could not be used.
                if send.send(decode(rows)).is_err() {
                    break;
                }
            }
        });
        for rows in batches {
            let waveforms = receive.recv().context("the decoding thread ended early")??;
            use_batch(rows, &waveforms)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clip_comes_once_an_epoch_in_another_order() {
        let (first, second) = (shuffled(10, 3, 7, 0), shuffled(10, 3, 7, 1));
        assert_eq!((first.len(), second.len()), (3, 3));
        let mut seen: Vec<usize> = first.concat();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 9);
        assert_ne!(first, second);
        assert_eq!(first, shuffled(10, 3, 7, 0));
    }

    #[test]
    fn crops_are_random_pieces_and_short_clips_repeat() {
        let clip: Vec<f32> = (0..100).map(|n| n as f32).collect();
        let window = Window { shortest: 10, longest: Some(30) };
        let starts: std::collections::BTreeSet<u32> = (0..50)
            .map(|epoch| {
                let got = fitted(clip.clone(), window, Some(&mut stream(1, epoch, 5)));
                assert_eq!(got.len(), 30);
                assert!(got.windows(2).all(|w| w[1] == w[0] + 1.0));
                got[0] as u32
            })
            .collect();
        assert!(starts.len() > 20 && *starts.last().unwrap() <= 70, "{starts:?}");
        assert_eq!(fitted(clip.clone(), window, None)[0], 0.0);
        assert_eq!(fitted(vec![1.0, 2.0, 3.0], window, None), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
        assert_eq!(fitted(clip, Window { longest: None, ..window }, None).len(), 100);
    }
}
