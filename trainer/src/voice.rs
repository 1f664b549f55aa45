//! Pitch, its movement, tempo and the size of the mouth of a voice, each changed by itself: pitch-synchronous overlap-add (Moulines
//! and Charpentier, "Pitch-synchronous waveform processing techniques for text-to-speech synthesis using diphones", 1990).
//! Knows samples only.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::augment::resample;
use crate::nets::log_mel::SAMPLE_RATE;

const RATE: f32 = SAMPLE_RATE as f32;
/// Samples between two measurements of the pitch: 5 ms.
pub const HOP: usize = 80;
/// Pitches of voices, hertz.
const LOWEST: f32 = 65.0;
const HIGHEST: f32 = 500.0;
/// Normalised autocorrelation from which on a piece counts as voiced.
const VOICED: f32 = 0.55;
/// Samples between two marks where there is no voice.
const UNVOICED: f32 = 80.0;

/// Pitch in hertz every [`HOP`] samples, 0 where there is no voice: the lag at which the signal resembles itself most, the shortest
/// of those that are nearly as good.
pub fn pitch(samples: &[f32]) -> Vec<f32> {
    let [shortest, longest] = [RATE / HIGHEST, RATE / LOWEST].map(|lag| lag as usize);
    let window = 2 * longest;
    let loud = crate::augment::loud_rms(samples) * 0.1;
    let mut raw: Vec<f32> = (0..samples.len() / HOP)
        .map(|frame| {
            let start = (frame * HOP).saturating_sub(window / 2).min(samples.len().saturating_sub(window + longest));
            let Some(piece) = samples.get(start..start + window + longest) else { return 0.0 };
            let energy = |from: usize| piece[from..from + window].iter().step_by(2).map(|x| x * x).sum::<f32>();
            let own = energy(0);
            if (own / (window / 2) as f32).sqrt() < loud || own <= 1e-9 {
                return 0.0;
            }
            let likeness: Vec<f32> = (shortest..=longest)
                .map(|lag| {
                    let pairs = piece[..window].iter().step_by(2).zip(piece[lag..].iter().step_by(2));
                    pairs.map(|(a, b)| a * b).sum::<f32>() / (own * energy(lag)).sqrt().max(1e-9)
                })
                .collect();
            let best = likeness.iter().copied().fold(0.0, f32::max);
            if best < VOICED {
                return 0.0;
            }
            // Twice the period fits as well; a peak, not the slope before it.
            let is_peak = |n: usize| {
                (n == 0 || likeness[n] >= likeness[n - 1])
                    && likeness.get(n + 1).is_none_or(|next| likeness[n] >= *next)
            };
            let first = (0..likeness.len()).find(|n| likeness[*n] > 0.92 * best && is_peak(*n));
            first.map_or(0.0, |n| RATE / (shortest + n) as f32)
        })
        .collect();
    let before = raw.clone();
    for n in 1..before.len().saturating_sub(1) {
        let mut near = [before[n - 1], before[n], before[n + 1]];
        near.sort_by(f32::total_cmp);
        raw[n] = near[1];
    }
    raw
}

/// The middle pitch of the voiced frames; `None` where there are too few to speak of a voice.
pub fn middle(pitch: &[f32]) -> Option<f32> {
    let mut voiced: Vec<f32> = pitch.iter().copied().filter(|hertz| *hertz > 0.0).collect();
    voiced.sort_by(f32::total_cmp);
    (voiced.len() >= 20).then(|| voiced[voiced.len() / 2])
}

/// Says the same at another pitch and tempo; resonances stay. `wanted` gives the pitch in hertz for the pitch
/// that there was; a `tempo` of 2 takes half as long.
pub fn speak(samples: &[f32], pitch: &[f32], tempo: f32, wanted: impl Fn(f32) -> f32) -> Vec<f32> {
    let marks = marks(samples, pitch);
    let length = (samples.len() as f32 / tempo) as usize;
    let mut out = vec![0.0; length];
    let (mut at, mut nearest) = (0.0f32, 0);
    while (at as usize) < length {
        let source = at * tempo;
        while nearest + 1 < marks.len() && (marks[nearest + 1].0 - source).abs() <= (marks[nearest].0 - source).abs() {
            nearest += 1;
        }
        let Some(&(mark, hertz)) = marks.get(nearest) else { break };
        let period = if hertz > 0.0 { RATE / hertz } else { UNVOICED };
        let step = if hertz > 0.0 { RATE / wanted(hertz).clamp(40.0, 1000.0) } else { UNVOICED };
        // Two periods around the mark; closer together they overlap more.
        let scale = (step / period).clamp(0.4, 2.0);
        let half = period as isize;
        for offset in -half..=half {
            let (from, to) = (mark as isize + offset, at as isize + offset);
            if let (Some(x), Some(y)) = (
                usize::try_from(from).ok().and_then(|n| samples.get(n)),
                usize::try_from(to).ok().and_then(|n| out.get_mut(n)),
            ) {
                *y += scale * x * (0.5 + 0.5 * (std::f32::consts::PI * offset as f32 / (half + 1) as f32).cos());
            }
        }
        at += step;
    }
    out
}

/// Where periods lie, with the pitch there: in a voice one a period, at its loudest point.
fn marks(samples: &[f32], pitch: &[f32]) -> Vec<(f32, f32)> {
    let mut marks = vec![];
    let mut at = 0.0f32;
    while (at as usize) < samples.len() {
        let hertz = pitch.get(at as usize / HOP).copied().unwrap_or(0.0);
        if hertz == 0.0 {
            marks.push((at, 0.0));
            at += UNVOICED;
            continue;
        }
        let period = RATE / hertz;
        let from = (at - 0.25 * period).max(0.0) as usize;
        let to = ((at + 0.25 * period) as usize + 1).min(samples.len());
        let loudest = (from..to).max_by(|a, b| samples[*a].abs().total_cmp(&samples[*b].abs())).unwrap_or(at as usize);
        marks.push((loudest as f32, hertz));
        at = (loudest as f32).max(at - 0.25 * period) + period;
    }
    marks
}

/// A child's voice: a shorter mouth and a high voice. `None` without a voice.
pub fn child(samples: &[f32], random: &mut ChaCha8Rng) -> Option<Vec<f32>> {
    let pitch = pitch(samples);
    let middle = middle(&pitch)?;
    let mouth = random.random_range(1.15..1.3) * if middle < 160.0 { 1.12 } else { 1.0 };
    let raise = random.random_range(260.0..380.0) / middle;
    // Played faster, resonances and pitch rise alike and time shrinks: the rest is left to `speak`.
    let spoken = speak(samples, &pitch, 1.0 / mouth * random.random_range(0.9..1.1), |hertz| hertz * raise / mouth);
    Some(resample(&spoken, mouth))
}

/// As adults speak to small children: higher, with wide movements, slower. `None` without a voice.
pub fn child_directed(samples: &[f32], random: &mut ChaCha8Rng) -> Option<Vec<f32>> {
    let pitch = pitch(samples);
    let middle = middle(&pitch)?;
    let (raise, widen) = (random.random_range(1.15..1.5), random.random_range(1.4..2.0));
    let tempo = 1.0 / random.random_range(1.0..1.35);
    Some(speak(samples, &pitch, tempo, |hertz| middle * raise * (hertz / middle).powf(widen)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// A voice of one pitch with one resonance, hertz.
    fn voice(hertz: f32, resonance: f32, seconds: f32) -> Vec<f32> {
        let mut mouth = crate::resonance::Resonance::default();
        mouth.tune(resonance, 120.0);
        let period = RATE / hertz;
        let pulse = |n: usize| f32::from(u8::from((n as f32 / period).floor() != ((n as f32 - 1.0) / period).floor()));
        (0..(seconds * RATE) as usize).map(|n| mouth.step(pulse(n) + 1e-4)).collect()
    }

    fn heard(samples: &[f32]) -> f32 {
        middle(&pitch(samples)).unwrap()
    }

    /// The loudest frequency between 300 and 3000 Hz, by the energy that a narrow resonance lets pass.
    fn resonance_of(samples: &[f32]) -> f32 {
        let energy = |hertz: f32| {
            let mut ear = crate::resonance::Resonance::default();
            ear.tune(hertz, 300.0);
            samples.iter().map(|x| ear.step(*x).powi(2)).sum::<f32>()
        };
        (6..60).map(|n| 50.0 * n as f32).max_by(|a, b| energy(*a).total_cmp(&energy(*b))).unwrap()
    }

    #[test]
    fn pitch_is_heard_where_there_is_a_voice() {
        for hertz in [90.0, 140.0, 230.0, 400.0] {
            let found = heard(&voice(hertz, 800.0, 1.0));
            assert!((found / hertz - 1.0).abs() < 0.03, "{found} for {hertz}");
        }
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let noise: Vec<f32> = (0..16_000).map(|_| random.random_range(-0.1f32..0.1)).collect();
        assert!(middle(&pitch(&noise)).is_none());
        assert!(middle(&pitch(&[0.0; 9000])).is_none() && pitch(&[0.1; 50]).is_empty());
    }

    #[test]
    fn pitch_moves_and_resonances_stay() {
        let clip = voice(140.0, 1000.0, 1.5);
        let spoken = speak(&clip, &pitch(&clip), 1.0, |hertz| 1.5 * hertz);
        assert!((heard(&spoken) / 210.0 - 1.0).abs() < 0.04, "{}", heard(&spoken));
        assert!((resonance_of(&spoken) / resonance_of(&clip) - 1.0).abs() < 0.12, "{}", resonance_of(&spoken));
        assert!(spoken.len().abs_diff(clip.len()) < 10);
    }

    #[test]
    fn tempo_changes_and_pitch_stays() {
        let clip = voice(140.0, 1000.0, 1.5);
        for tempo in [0.6, 1.6] {
            let spoken = speak(&clip, &pitch(&clip), tempo, |hertz| hertz);
            assert!((spoken.len() as f32 * tempo / clip.len() as f32 - 1.0).abs() < 0.01);
            assert!((heard(&spoken) / 140.0 - 1.0).abs() < 0.04, "{} at {tempo}", heard(&spoken));
        }
    }

    #[test]
    fn a_child_has_a_higher_voice_and_a_shorter_mouth() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let clip = voice(120.0, 1000.0, 1.5);
        let child = child(&clip, &mut random).unwrap();
        assert!((250.0..400.0).contains(&heard(&child)), "{}", heard(&child));
        assert!(resonance_of(&child) > 1.1 * resonance_of(&clip), "{}", resonance_of(&child));
        assert!((child.len() as f32 / clip.len() as f32 - 1.0).abs() < 0.2);
    }

    #[test]
    fn odd_input_has_no_voice() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for clip in [vec![], vec![0.0; 3], vec![0.0; 9000], vec![1.0; 9000]] {
            for out in [child(&clip, &mut random), child_directed(&clip, &mut random)] {
                assert!(out.into_iter().flatten().all(f32::is_finite));
            }
        }
    }
}
