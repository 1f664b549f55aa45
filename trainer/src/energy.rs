//! Finds where a recording is not silent, by energy: the rule by which the paper's released preprocessing cuts Expresso's
//! conversations (librosa's `effects.split`, then merging and cutting). Knows samples, not files.

use std::ops::Range;

/// Samples of one frame.
const FRAME: usize = 2048;
/// Samples from one frame to the next.
const HOP: usize = 512;
/// Amplitudes below this count as this, as in librosa's `amplitude_to_db`.
const LEAST: f64 = 1e-5;

/// How voiced stretches become pieces, in samples.
#[derive(Clone, Copy, Debug)]
pub struct Cutting {
    /// Frames this many decibels below the loudest one are silent.
    pub top_db: f64,
    /// Stretches whose gap is at most this long are one.
    pub gap: usize,
    /// Longest piece.
    pub longest: usize,
    /// Stretches and pieces that are shorter are dropped.
    pub shortest: usize,
}

/// The stretches of samples whose frames (2,048 samples, every 512, centred, zeros beyond the ends) have an energy of at
/// most `top_db` decibels below that of the loudest frame. Equals `librosa.effects.split(samples, top_db=top_db)`.
pub fn voiced(samples: &[f32], top_db: f64) -> Vec<Range<usize>> {
    let mut sums = Vec::with_capacity(samples.len() + 1);
    sums.push(0.0f64);
    for sample in samples {
        sums.push(sums[sums.len() - 1] + f64::from(*sample) * f64::from(*sample));
    }
    let frames = 1 + samples.len() / HOP;
    let amplitude = |frame: usize| {
        let (from, until) = ((frame * HOP).saturating_sub(FRAME / 2), (frame * HOP + FRAME / 2).min(samples.len()));
        ((sums[until] - sums[from.min(until)]).max(0.0) / FRAME as f64).sqrt()
    };
    let amplitudes: Vec<f64> = (0..frames).map(amplitude).collect();
    let decibels = |a: f64| 20.0 * a.max(LEAST).log10();
    let loudest = decibels(amplitudes.iter().fold(0.0, |m, a| a.max(m)));
    let mut found: Vec<Range<usize>> = vec![];
    for (frame, amplitude) in amplitudes.iter().enumerate() {
        if decibels(*amplitude) - loudest <= -top_db {
            continue;
        }
        let (from, until) = ((frame * HOP).min(samples.len()), ((frame + 1) * HOP).min(samples.len()));
        match found.last_mut() {
            Some(last) if last.end == from => last.end = until,
            _ => found.push(from..until),
        }
    }
    found.retain(|range| !range.is_empty());
    found
}

/// Voiced stretches, those with short gaps between them merged.
pub fn merged(voiced: &[Range<usize>], gap: usize) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = vec![];
    for range in voiced {
        match all.last_mut() {
            Some(last) if range.start - last.end <= gap => last.end = range.end,
            _ => all.push(range.clone()),
        }
    }
    all
}

/// A stretch in pieces of the longest length; what is too short is dropped, be it the stretch or its last piece.
pub fn pieces(stretch: Range<usize>, longest: usize, shortest: usize) -> Vec<Range<usize>> {
    if stretch.len() < shortest {
        return vec![];
    }
    let starts = stretch.clone().step_by(longest.max(1));
    starts.map(|from| from..(from + longest).min(stretch.end)).filter(|piece| piece.len() >= shortest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tone bursts in near silence: (start, length, amplitude) in samples.
    fn bursts(length: usize, all: &[(usize, usize, f32)]) -> Vec<f32> {
        let mut samples: Vec<f32> = (0..length).map(|n| 1e-4 * (n as f32 * 0.7).sin()).collect();
        for (start, count, amplitude) in all {
            for (n, sample) in samples.iter_mut().enumerate().skip(*start).take(*count) {
                *sample += amplitude * (n as f32 * 0.3).sin();
            }
        }
        samples
    }

    #[test]
    fn the_first_and_last_frames_count() {
        let samples = bursts(20_000, &[(0, 3000, 0.5), (17_000, 3000, 0.5)]);
        let found = voiced(&samples, 30.0);
        assert_eq!((found.len(), found[0].start, found[1].end), (2, 0, 20_000));
        // A frame is voiced as soon as it touches enough of a burst: edges lie within one frame of the truth.
        assert!(found[0].end.abs_diff(3000) <= FRAME && found[1].start.abs_diff(17_000) <= FRAME, "{found:?}");
    }

    #[test]
    fn a_naive_count_of_every_frame_agrees() {
        let samples = bursts(50_000, &[(5000, 4000, 0.5), (20_000, 900, 0.02), (30_123, 7000, 0.1)]);
        for top_db in [20.0, 30.0, 60.0] {
            let level = |frame: usize| {
                let at = |n: usize| {
                    let place = (frame * HOP + n) as i64 - FRAME as i64 / 2;
                    usize::try_from(place).ok().and_then(|p| samples.get(p)).copied().unwrap_or(0.0)
                };
                let mean = (0..FRAME).map(|n| f64::from(at(n)).powi(2)).sum::<f64>() / FRAME as f64;
                20.0 * mean.sqrt().max(1e-5).log10()
            };
            let levels: Vec<f64> = (0..1 + samples.len() / HOP).map(level).collect();
            let loudest = levels.iter().fold(f64::MIN, |m, l| m.max(*l));
            let found = voiced(&samples, top_db);
            for (frame, level) in levels.iter().enumerate() {
                let inside = found.iter().any(|range| range.contains(&(frame * HOP)));
                assert_eq!(inside, level - loudest > -top_db, "frame {frame} at {top_db} dB");
            }
        }
    }

    #[test]
    fn librosa_cuts_at_the_same_samples() {
        // What librosa 0.11.0's effects.split(samples, top_db=...) gives for this signal.
        let samples = bursts(50_000, &[(5000, 4000, 0.5), (20_000, 900, 0.02), (30_123, 7000, 0.1)]);
        assert_eq!(voiced(&samples, 20.0), [4096..10_240, 29_696..37_888]);
        assert_eq!(voiced(&samples, 30.0), [4096..10_240, 29_184..38_400]);
        assert_eq!(voiced(&samples, 60.0), [4096..10_240, 19_456..22_016, 29_184..38_400]);
    }

    #[test]
    fn near_stretches_are_one_and_long_ones_are_cut() {
        assert_eq!(merged(&[0..10, 15..20, 26..30], 5), [0..20, 26..30]);
        assert_eq!(pieces(100..355, 100, 10), [100..200, 200..300, 300..355]);
        assert_eq!(pieces(100..305, 100, 10), [100..200, 200..300]);
        assert_eq!(pieces(100..105, 100, 10), Vec::<Range<usize>>::new());
    }

    #[test]
    fn silence_has_no_louder_part() {
        let all = voiced(&[0.0; 10_000], 30.0);
        assert_eq!((all.len(), all[0].clone()), (1, 0..10_000));
        assert!(voiced(&[], 30.0).is_empty());
    }
}
