//! What a room, a microphone and a line do to a voice: changes of recording that must not change the style. Knows samples only.

use std::f32::consts::PI;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::augment;
use crate::nets::log_mel::SAMPLE_RATE;

const RATE: f32 = SAMPLE_RATE as f32;

/// The clip as some other equipment might have recorded it: speed within a semitone, a room, an uneven microphone, band
/// limits, noise, overload and gain, each drawn anew and most left out.
pub fn rerecord(samples: &[f32], random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut out = if random.random_bool(0.4) {
        augment::resample(samples, random.random_range(0.94..1.06))
    } else {
        samples.to_vec()
    };
    if random.random_bool(0.4) {
        let wet = random.random_range(0.05..0.45);
        reverberate(&mut out, random.random_range(0.1..0.7), wet, random);
    }
    if random.random_bool(0.6) {
        for _ in 0..random.random_range(1..=4) {
            // Centres evenly over the octaves from 80 Hz to 6 kHz.
            let hertz = 80.0 * 75f32.powf(random.random::<f32>());
            peak(&mut out, hertz, random.random_range(0.4..2.0), random.random_range(-9.0..9.0));
        }
    }
    if random.random_bool(0.3) {
        augment::tilt(&mut out, random.random_range(-0.4..0.4));
    }
    if random.random_bool(0.3) {
        augment::filter(&mut out, random.random_range(2600.0..7200.0), false);
    }
    if random.random_bool(0.3) {
        augment::filter(&mut out, random.random_range(60.0..350.0), true);
    }
    if random.random_bool(0.6) {
        augment::add_noise(&mut out, random.random_range(8.0..45.0), random.random_range(0.0..0.98), random);
    }
    if random.random_bool(0.1) {
        augment::saturate(&mut out, random.random_range(1.0..4.0));
    }
    augment::gain(&mut out, random.random_range(-14.0..10.0));
    out
}

/// Adds a room's decaying echoes: `seconds` until they have fallen by 60 dB, `wet` their share of the amplitude. Four comb
/// filters and two all-passes (Schroeder, "Natural sounding artificial reverberation", 1962) with delays drawn anew.
pub fn reverberate(samples: &mut [f32], seconds: f32, wet: f32, random: &mut ChaCha8Rng) {
    let mut echo = vec![0.0f32; samples.len()];
    for _ in 0..4 {
        let delay = random.random_range(0.012..0.045f32);
        let feedback = 10f32.powf(-3.0 * delay / seconds);
        let mut line = vec![0.0f32; ((delay * RATE) as usize).max(1)];
        let mut at = 0;
        for (out, dry) in echo.iter_mut().zip(&*samples) {
            let delayed = line[at];
            *out += delayed * 0.25;
            line[at] = dry + delayed * feedback;
            at = if at + 1 == line.len() { 0 } else { at + 1 };
        }
    }
    for _ in 0..2 {
        let mut line = vec![0.0f32; ((random.random_range(0.0015..0.006f32) * RATE) as usize).max(1)];
        let mut at = 0;
        for x in &mut echo {
            let delayed = line[at];
            let kept = *x + delayed * 0.7;
            *x = delayed - kept * 0.7;
            line[at] = kept;
            at = if at + 1 == line.len() { 0 } else { at + 1 };
        }
    }
    samples.iter_mut().zip(echo).for_each(|(s, e)| *s = *s * (1.0 - wet) + e * wet * 2.0);
}

/// Raises or lowers a band around `hertz` by `decibels` (peaking filter of the Audio EQ Cookbook); `quality` is its sharpness.
pub fn peak(samples: &mut [f32], hertz: f32, quality: f32, decibels: f32) {
    let w = 2.0 * PI * hertz / RATE;
    let (alpha, a) = (w.sin() / (2.0 * quality), 10f32.powf(decibels / 40.0));
    let a0 = 1.0 + alpha / a;
    let (b0, b1, b2) = ((1.0 + alpha * a) / a0, -2.0 * w.cos() / a0, (1.0 - alpha * a) / a0);
    let a2 = (1.0 - alpha / a) / a0;
    let (mut x1, mut x2, mut y1, mut y2) = (0.0, 0.0, 0.0, 0.0);
    for s in samples {
        let y = b0 * *s + b1 * (x1 - y1) + b2 * x2 - a2 * y2;
        (x2, x1, y2, y1) = (x1, *s, y1, y);
        *s = y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn tone(hertz: f32) -> Vec<f32> {
        (0..16_000).map(|n| (2.0 * PI * hertz * n as f32 / RATE).sin() * 0.1).collect()
    }

    fn rms(samples: &[f32]) -> f32 {
        (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
    }

    #[test]
    fn a_peak_raises_its_band_and_leaves_the_others() {
        for (hertz, expected) in [(1000.0, 6.0), (60.0, 0.0), (7000.0, 0.0)] {
            let (before, mut after) = (tone(hertz), tone(hertz));
            peak(&mut after, 1000.0, 2.0, 6.0);
            let gained = 20.0 * (rms(&after[4000..]) / rms(&before[4000..])).log10();
            assert!((gained - expected).abs() < 0.5, "{hertz} Hz: {gained} dB");
        }
    }

    #[test]
    fn echoes_decay_in_the_time_they_are_given() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let level = |seconds: f32, random: &mut ChaCha8Rng| {
            let mut click = vec![0.0f32; 16_000];
            click[0] = 1.0;
            reverberate(&mut click, seconds, 0.5, random);
            20.0 * (rms(&click[4800..6400]) / rms(&click[1600..3200])).log10()
        };
        // Two tenths of a second later: 60 dB of decay take `seconds`.
        let (short, long) = (level(0.3, &mut random), level(1.2, &mut random));
        assert!((short + 40.0).abs() < 9.0 && (long + 10.0).abs() < 5.0, "{short} dB, {long} dB");
    }

    #[test]
    fn rerecorded_clips_are_finite_and_of_about_the_same_length() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        for clip in [vec![], vec![0.0; 5], vec![0.0; 4000], tone(200.0)] {
            for _ in 0..50 {
                let out = rerecord(&clip, &mut random);
                assert!(out.iter().all(|s| s.is_finite()));
                assert!(out.len().abs_diff(clip.len()) <= clip.len() / 12 + 1);
            }
        }
    }
}
