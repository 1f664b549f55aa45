//! Signal processing on 16 kHz waveforms: transformations that make a style (whisper, fast, slow, projected, soft, high,
//! low) and transformations that must not change it (gain, noise, band limits, small speed changes, crops).
//! Knows samples only; which clip gets what is decided in `variants`.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::nets::log_mel::SAMPLE_RATE;

const RATE: f32 = SAMPLE_RATE as f32;

/// Multiplies by a gain in decibels.
pub fn gain(samples: &mut [f32], decibels: f32) {
    let factor = 10f32.powf(decibels / 20.0);
    samples.iter_mut().for_each(|s| *s *= factor);
}

/// Scales to a root mean square level over the loud part, in decibels of full scale.
pub fn level(samples: &mut [f32], decibels: f32) {
    let loud = loud_rms(samples).max(1e-6);
    gain(samples, decibels - 20.0 * loud.log10());
}

/// Level of the louder half of the 20 ms frames, as a root mean square.
pub fn loud_rms(samples: &[f32]) -> f32 {
    let mut energies: Vec<f32> =
        samples.chunks(320).map(|c| c.iter().map(|s| s * s).sum::<f32>() / c.len() as f32).collect();
    energies.sort_by(f32::total_cmp);
    let louder = &energies[energies.len() / 2..];
    (louder.iter().sum::<f32>() / louder.len().max(1) as f32).sqrt()
}

/// Adds noise at a ratio in decibels below the loud part; `colour` 0 is white, towards 1 deeper.
pub fn add_noise(samples: &mut [f32], ratio: f32, colour: f32, random: &mut ChaCha8Rng) {
    let target = loud_rms(samples) * 10f32.powf(-ratio / 20.0);
    let mut state = 0.0;
    let noise: Vec<f32> = samples
        .iter()
        .map(|_| {
            state = colour * state + random.random_range(-1.0f32..1.0);
            state
        })
        .collect();
    let scale = target / rms(&noise).max(1e-9);
    samples.iter_mut().zip(noise).for_each(|(s, n)| *s += n * scale);
}

/// Second-order low-pass or high-pass (Butterworth, Audio EQ Cookbook form).
pub fn filter(samples: &mut [f32], hertz: f32, high_pass: bool) {
    let w = 2.0 * std::f32::consts::PI * hertz / RATE;
    let alpha = w.sin() / std::f32::consts::SQRT_2;
    let side = if high_pass { -(1.0 + w.cos()) } else { 1.0 - w.cos() };
    let b0 = side.abs() / 2.0;
    let (b1, a0, a1, a2) = (side, 1.0 + alpha, -2.0 * w.cos(), 1.0 - alpha);
    let (mut x1, mut x2, mut y1, mut y2) = (0.0, 0.0, 0.0, 0.0);
    for s in samples {
        let y = (b0 * *s + b1 * x1 + b0 * x2 - a1 * y1 - a2 * y2) / a0;
        (x2, x1, y2, y1) = (x1, *s, y1, y);
        *s = y;
    }
}

/// Tilts the spectrum: `amount` > 0 brings out the high frequencies (first difference), < 0 dulls them.
pub fn tilt(samples: &mut [f32], amount: f32) {
    let before = rms(samples);
    let mut last = 0.0;
    for s in samples.iter_mut() {
        let x = *s;
        // A zero for brightness, a pole for dullness: both first order.
        *s = if amount >= 0.0 { x - amount * last } else { x - amount * last * 0.9 };
        last = if amount >= 0.0 { x } else { *s };
    }
    let scale = before / rms(samples).max(1e-9);
    samples.iter_mut().for_each(|s| *s *= scale);
}

/// Soft saturation; louder input is bent more.
pub fn saturate(samples: &mut [f32], drive: f32) {
    samples.iter_mut().for_each(|s| *s = (*s * drive).tanh() / drive.tanh());
}

/// Reduces the loudness range: quiet parts come up, `ratio` 1 leaves everything, 0.5 halves the range in decibels.
pub fn compress(samples: &mut [f32], ratio: f32) {
    let reference = loud_rms(samples).max(1e-6);
    let mut envelope = 0.0f32;
    for s in samples {
        envelope = (envelope * 0.998).max(s.abs());
        let level = (envelope / reference).max(0.03);
        *s *= level.powf(ratio - 1.0).min(4.0);
    }
}

/// Plays faster by `factor`, pitch and all, by interpolation.
pub fn resample(samples: &[f32], factor: f32) -> Vec<f32> {
    let mut source = samples.to_vec();
    if factor > 1.0 {
        filter(&mut source, 7600.0 / factor, false);
    }
    let length = (samples.len() as f32 / factor) as usize;
    (0..length).map(|i| cubic(&source, i as f32 * factor)).collect()
}

/// Plays faster by `factor` and keeps the pitch: overlapping pieces, each moved to where it fits its neighbour best.
pub fn stretch(samples: &[f32], factor: f32) -> Vec<f32> {
    const PIECE: usize = 512;
    const HOP: usize = PIECE / 2;
    const SEARCH: usize = 160;
    if samples.len() < 2 * PIECE + 2 * SEARCH {
        return samples.to_vec();
    }
    let length = (samples.len() as f32 / factor) as usize;
    let window: Vec<f32> =
        (0..PIECE).map(|n| 0.5 - 0.5 * (2.0 * std::f32::consts::PI * (n as f32 + 0.5) / PIECE as f32).cos()).collect();
    let mut out = vec![0.0; length + PIECE];
    let mut natural = 0usize;
    let last = samples.len() - PIECE - 1;
    for piece in 0..length / HOP {
        let ideal = ((piece * HOP) as f32 * factor) as usize;
        let start = if piece == 0 {
            0
        } else {
            let from = ideal.saturating_sub(SEARCH).min(last);
            let to = (ideal + SEARCH).min(last);
            best_fit(samples, natural.min(last), from, to, PIECE)
        };
        for n in 0..PIECE {
            out[piece * HOP + n] += samples[start + n] * window[n];
        }
        natural = start + HOP;
    }
    out.truncate(length);
    out
}

/// Raises the pitch by `factor` and keeps the tempo.
pub fn shift_pitch(samples: &[f32], factor: f32) -> Vec<f32> {
    resample(&stretch(samples, 1.0 / factor), factor)
}

/// Voice replaced by breath: per frame, the vocal tract (linear prediction) is excited by noise instead of the voice's
/// pulses, loudness differences shrink and the spectrum is flattened.
pub fn whisper(samples: &[f32], random: &mut ChaCha8Rng) -> Vec<f32> {
    const FRAME: usize = 400;
    const HOP: usize = 100;
    const ORDER: usize = 20;
    let mut bright = samples.to_vec();
    let mut last = 0.0;
    for s in bright.iter_mut() {
        (*s, last) = (*s - 0.9 * last, *s);
    }
    let window: Vec<f32> =
        (0..FRAME).map(|n| 0.5 - 0.5 * (2.0 * std::f32::consts::PI * (n as f32 + 0.5) / FRAME as f32).cos()).collect();
    let reference = loud_rms(&bright).max(1e-6);
    let breath: Vec<f32> = (0..samples.len() + FRAME).map(|_| random.random_range(-1.0f32..1.0)).collect();
    let flatten = random.random_range(0.55..0.8f32);
    let mut out = vec![0.0; samples.len() + FRAME];
    let mut start = 0;
    while start < samples.len() {
        let piece: Vec<f32> = (0..FRAME).map(|n| bright.get(start + n).copied().unwrap_or(0.0) * window[n]).collect();
        let energy = rms(&piece) * 1.63;
        if energy > reference * 1e-3 {
            let coefficients = predict(&piece, ORDER);
            let mut voiced = vec![0.0f32; FRAME];
            for n in 0..FRAME {
                let past: f32 = (1..=ORDER.min(n)).map(|k| coefficients[k] * voiced[n - k]).sum();
                voiced[n] = breath[start + n] - past;
            }
            let loudness = reference * (energy / reference).powf(flatten);
            let scale = loudness / rms(&voiced).max(1e-9) * HOP as f32 / FRAME as f32 * 2.0;
            for n in 0..FRAME {
                out[start + n] += voiced[n] * window[n] * scale;
            }
        }
        start += HOP;
    }
    out.truncate(samples.len());
    // Part of the brightening stays: whisper lacks the low-frequency energy of a voice.
    let mut state = 0.0;
    for s in out.iter_mut() {
        state = 0.55 * state + *s;
        *s = state;
    }
    out
}

/// A louder effort of the same voice: brighter, denser, slightly higher, a little saturated.
pub fn project(samples: &[f32], random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut out =
        if random.random_bool(0.6) { shift_pitch(samples, random.random_range(1.05..1.22)) } else { samples.to_vec() };
    tilt(&mut out, random.random_range(0.35..0.75));
    filter(&mut out, random.random_range(120.0..250.0), true);
    compress(&mut out, random.random_range(0.55..0.8));
    level(&mut out, random.random_range(-14.0..-8.0));
    saturate(&mut out, random.random_range(1.0..2.5));
    out
}

/// A gentler effort of the same voice: duller, quieter, with a little breath.
pub fn soften(samples: &[f32], random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut out = samples.to_vec();
    tilt(&mut out, -random.random_range(0.3..0.6f32));
    if random.random_bool(0.5) {
        let breath = whisper(samples, random);
        let share = random.random_range(0.05..0.25);
        out.iter_mut().zip(breath).for_each(|(o, b)| *o += share * b);
    }
    level(&mut out, random.random_range(-40.0..-28.0));
    out
}

/// Removes silence at both ends, leaving a little.
pub fn trim(samples: &[f32]) -> &[f32] {
    let margin = RATE as usize / 20;
    let loud = loud_rms(samples) * 0.03;
    let voiced = |c: &[f32]| rms(c) > loud;
    let Some(first) = samples.chunks(160).position(voiced) else { return samples };
    let last = samples.chunks(160).rposition(voiced).unwrap_or(first);
    &samples[(first * 160).saturating_sub(margin)..((last + 1) * 160 + margin).min(samples.len())]
}

/// A random stretch of at most `longest` samples.
pub fn crop<'a>(samples: &'a [f32], longest: usize, random: &mut ChaCha8Rng) -> &'a [f32] {
    if samples.len() <= longest {
        return samples;
    }
    let start = random.random_range(0..=samples.len() - longest);
    &samples[start..start + longest]
}

fn rms(samples: &[f32]) -> f32 {
    (samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}

fn cubic(samples: &[f32], at: f32) -> f32 {
    let i = at as isize;
    let t = at - i as f32;
    let s = |k: isize| samples[(i + k).clamp(0, samples.len() as isize - 1) as usize];
    let (a, b, c, d) = (s(-1), s(0), s(1), s(2));
    b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
}

/// Where in `from..=to` the signal resembles the piece at `natural` most: coarse steps, then each sample nearby.
fn best_fit(samples: &[f32], natural: usize, from: usize, to: usize, piece: usize) -> usize {
    let likeness = |start: usize| {
        let pairs = samples[natural..natural + piece].iter().zip(&samples[start..start + piece]).step_by(2);
        let (mut dot, mut energy) = (0.0, 1e-9);
        pairs.for_each(|(a, b)| {
            dot += a * b;
            energy += b * b;
        });
        dot / f32::sqrt(energy)
    };
    let best = |range: &mut dyn Iterator<Item = usize>| {
        range.map(|s| (likeness(s), s)).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(from, |(_, s)| s)
    };
    let coarse = best(&mut (from..=to).step_by(4));
    best(&mut (coarse.saturating_sub(3).max(from)..=(coarse + 3).min(to)))
}

/// Linear prediction by Levinson's recursion: coefficients `a[0] = 1, a[1..]` of the error filter.
fn predict(frame: &[f32], order: usize) -> Vec<f32> {
    let mut correlation: Vec<f32> =
        (0..=order).map(|lag| frame[lag..].iter().zip(frame).map(|(a, b)| a * b).sum()).collect();
    correlation[0] = correlation[0] * 1.0005 + 1e-9;
    let mut a = vec![0.0f32; order + 1];
    a[0] = 1.0;
    let mut error = correlation[0];
    for i in 1..=order {
        let sum: f32 = (0..i).map(|k| a[k] * correlation[i - k]).sum();
        let reflection = -sum / error;
        let before = a.clone();
        for k in 1..=i {
            a[k] = before[k] + reflection * before[i - k];
        }
        error *= 1.0 - reflection * reflection;
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn voice(hertz: f32, seconds: f32) -> Vec<f32> {
        let wave = |n: usize| {
            let t = n as f32 / RATE;
            (1..=12).map(|k| (2.0 * std::f32::consts::PI * hertz * k as f32 * t).sin() / k as f32).sum::<f32>() * 0.1
        };
        (0..(seconds * RATE) as usize).map(wave).collect()
    }

    /// Largest normalised autocorrelation at pitch lags, and its lag: voices score near 1, whispers low.
    fn periodicity(s: &[f32]) -> (f32, usize) {
        let s = &s[2000..6000];
        let energy: f32 = s.iter().map(|x| x * x).sum();
        (40..320)
            .map(|lag| (s[lag..].iter().zip(s).map(|(a, b)| a * b).sum::<f32>() / energy, lag))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap()
    }

    #[test]
    fn whisper_removes_the_pitch() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let clip = voice(140.0, 1.0);
        assert!(periodicity(&clip).0 > 0.9);
        let breath = whisper(&clip, &mut random);
        assert_eq!(breath.len(), clip.len());
        assert!(periodicity(&breath).0 < 0.5, "{:?}", periodicity(&breath));
    }

    #[test]
    fn stretch_changes_length_and_keeps_pitch() {
        let clip = voice(160.0, 1.5);
        for factor in [0.7, 1.5] {
            let out = stretch(&clip, factor);
            assert!((out.len() as f32 * factor / clip.len() as f32 - 1.0).abs() < 0.02);
            let (strength, lag) = periodicity(&out);
            assert!(strength > 0.8 && lag.abs_diff(100) <= 2, "{factor}: {strength} at {lag}");
        }
    }

    #[test]
    fn pitch_shift_keeps_length() {
        let clip = voice(160.0, 1.5);
        let out = shift_pitch(&clip, 1.25);
        assert!((out.len() as f32 / clip.len() as f32 - 1.0).abs() < 0.02);
        assert!(periodicity(&out).1.abs_diff(80) <= 2, "{:?}", periodicity(&out));
    }

    #[test]
    fn everything_stays_finite_on_odd_input() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for clip in [vec![], vec![0.0; 3], vec![0.0; 9000], vec![1.0; 9000], voice(100.0, 0.2)] {
            let mut noisy = clip.clone();
            add_noise(&mut noisy, 10.0, 0.9, &mut random);
            for out in [
                whisper(&clip, &mut random),
                project(&clip, &mut random),
                soften(&clip, &mut random),
                stretch(&clip, 1.3),
                trim(&clip).to_vec(),
                noisy,
            ] {
                assert!(out.iter().all(|s| s.is_finite()));
            }
        }
    }
}
