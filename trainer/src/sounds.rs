//! Sounds of the body, made from nothing: noise, pulses of a voice and short impulses go through the resonances of a mouth
//! that is drawn at random. There is no free corpus of coughs, yawns and clicks; these stand in for one, and only roughly.
//! Knows samples only; how many are made is decided in `variants`.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::nets::log_mel::SAMPLE_RATE;
use crate::resonance::Resonance;

const RATE: f32 = SAMPLE_RATE as f32;

/// Sounds that can be made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sound {
    Coughing,
    ThroatClearing,
    Sneezing,
    NoseBlowing,
    Panting,
    Sighing,
    Yawning,
    Moaning,
    Crying,
    Screaming,
    LipPopping,
    LipSmacking,
    TongueClicking,
    TeethGrinding,
    TeethChattering,
}

impl Sound {
    /// The style it stands for.
    pub fn style(self) -> &'static str {
        match self {
            Self::Coughing => "coughing",
            Self::ThroatClearing => "throat-clearing",
            Self::Sneezing => "sneezing",
            Self::NoseBlowing => "nose-blowing",
            Self::Panting => "panting",
            Self::Sighing => "sighing",
            Self::Yawning => "yawning",
            Self::Moaning => "moaning",
            Self::Crying => "crying",
            Self::Screaming => "screaming",
            Self::LipPopping => "lip-popping",
            Self::LipSmacking => "lip-smacking",
            Self::TongueClicking => "tongue-clicking",
            Self::TeethGrinding => "teeth-grinding",
            Self::TeethChattering => "teeth-chattering",
        }
    }
}

/// First three resonances in hertz with the strength of the second and third.
type Shape = ([f32; 3], [f32; 2]);

const OPEN: Shape = ([760.0, 1250.0, 2550.0], [0.6, 0.3]);
const MIDDLE: Shape = ([520.0, 1500.0, 2500.0], [0.5, 0.3]);
const ROUND: Shape = ([400.0, 850.0, 2300.0], [0.5, 0.1]);
const CLOSED: Shape = ([260.0, 1050.0, 2200.0], [0.15, 0.05]);
const SPREAD: Shape = ([420.0, 1900.0, 2700.0], [0.6, 0.4]);

/// One sound of 0.5 to 4 seconds, as some microphone in some room would take it.
pub fn sound(kind: Sound, random: &mut ChaCha8Rng) -> Vec<f32> {
    let size = random.random_range(0.88..1.22);
    let mut mouth = Mouth { random, size, out: vec![] };
    match kind {
        Sound::Coughing => mouth.cough(),
        Sound::ThroatClearing => mouth.clear_throat(),
        Sound::Sneezing => mouth.sneeze(),
        Sound::NoseBlowing => mouth.blow_nose(),
        Sound::Panting => mouth.pant(),
        Sound::Sighing => mouth.sigh(),
        Sound::Yawning => mouth.yawn(),
        Sound::Moaning => mouth.moan(),
        Sound::Crying => mouth.cry(),
        Sound::Screaming => mouth.scream(),
        Sound::LipPopping => mouth.clicks(Click { hertz: (350.0, 1100.0), sharpness: 5.0, wet: 0, gap: (0.2, 0.8) }),
        Sound::TongueClicking => {
            mouth.clicks(Click { hertz: (1000.0, 3200.0), sharpness: 9.0, wet: 0, gap: (0.2, 0.7) })
        }
        Sound::LipSmacking => mouth.clicks(Click { hertz: (1200.0, 4200.0), sharpness: 2.5, wet: 7, gap: (0.2, 0.6) }),
        Sound::TeethChattering => {
            mouth.clicks(Click { hertz: (1800.0, 5000.0), sharpness: 6.0, wet: 0, gap: (0.06, 0.13) })
        }
        Sound::TeethGrinding => mouth.grind(),
    }
    let (out, random) = (mouth.out, mouth.random);
    record(out, random)
}

/// A little room, a band limit, noise and some level.
fn record(dry: Vec<f32>, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut out = dry.clone();
    out.resize(dry.len() + (0.15 * RATE) as usize, 0.0);
    let strength = random.random_range(0.0..0.35f32);
    for _ in 0..40 {
        let seconds: f32 = random.random_range(0.003..0.14);
        let gain = strength * (-seconds / 0.05).exp() * random.random_range(-1.0..1.0);
        let delay = (seconds * RATE) as usize;
        dry.iter().enumerate().for_each(|(n, s)| out[n + delay] += gain * s);
    }
    augment::filter(&mut out, random.random_range(3400.0..7600.0), false);
    augment::filter(&mut out, random.random_range(50.0..160.0), true);
    augment::add_noise(&mut out, random.random_range(22.0..50.0), random.random_range(0.0..0.97), random);
    augment::level(&mut out, random.random_range(-32.0..-14.0));
    out
}

struct Click {
    hertz: (f32, f32),
    /// Resonance over bandwidth: how long it rings.
    sharpness: f32,
    /// Small clicks that crowd around each large one.
    wet: usize,
    gap: (f32, f32),
}

struct Mouth<'a> {
    random: &'a mut ChaCha8Rng,
    /// Resonances of a shorter vocal tract lie higher.
    size: f32,
    out: Vec<f32>,
}

impl Mouth<'_> {
    fn draw(&mut self, low: f32, high: f32) -> f32 {
        self.random.random_range(low..high)
    }

    fn pause(&mut self, low: f32, high: f32) {
        let length = self.out.len() + (self.draw(low, high) * RATE) as usize;
        self.out.resize(length, 0.0);
    }

    fn noise(&mut self, seconds: f32) -> Vec<f32> {
        (0..(seconds * RATE) as usize).map(|_| self.random.random_range(-1.0f32..1.0)).collect()
    }

    /// Pulses of the vocal folds; `pitch` in hertz over time from 0 to 1, `rough` from 0 to 1.
    fn voice(&mut self, seconds: f32, rough: f32, pitch: impl Fn(f32) -> f32) -> Vec<f32> {
        let length = (seconds * RATE) as usize;
        let (mut phase, mut loud, mut speed) = (0.0f32, 1.0f32, 1.0f32);
        let mut out: Vec<f32> = (0..length)
            .map(|n| {
                phase += pitch(n as f32 / length as f32) * speed / RATE;
                if phase >= 1.0 {
                    phase -= 1.0;
                    loud = 1.0 - rough * self.random.random_range(0.0..0.8f32);
                    speed = 1.0 + (0.01 + 0.25 * rough) * self.random.random_range(-1.0..1.0f32);
                }
                loud * (1.0 - 2.0 * phase)
            })
            .collect();
        augment::filter(&mut out, 4500.0, false);
        out
    }

    /// A source through the mouth as it moves from one shape to another.
    fn through(&self, source: &[f32], from: Shape, to: Shape) -> Vec<f32> {
        const WIDTHS: [f32; 3] = [110.0, 160.0, 260.0];
        let mut out = vec![0.0; source.len()];
        for (k, width) in WIDTHS.into_iter().enumerate() {
            let gain = |s: Shape| if k == 0 { 1.0 } else { s.1[k - 1] };
            let mut ring = Resonance::default();
            for (n, (o, s)) in out.iter_mut().zip(source).enumerate() {
                let t = n as f32 / source.len() as f32;
                if n % 64 == 0 {
                    ring.tune((from.0[k] + t * (to.0[k] - from.0[k])) * self.size, width);
                }
                *o += (gain(from) + t * (gain(to) - gain(from))) * ring.step(*s);
            }
        }
        // Some of the source is heard beside the resonances.
        out.iter_mut().zip(source).for_each(|(o, s)| *o += 0.03 * s);
        out
    }

    /// Appends a piece that rises and falls; `rise` and `fall` are shares of its length.
    fn say(&mut self, mut piece: Vec<f32>, loud: f32, rise: f32, fall: f32) {
        let power = augment::loud_rms(&piece).max(1e-6);
        let length = piece.len() as f32;
        for (n, s) in piece.iter_mut().enumerate() {
            let t = n as f32 / length;
            let envelope = (t / rise).min(1.0) * (-(t - rise).max(0.0) / fall).exp() * ((1.0 - t) * 12.0).min(1.0);
            *s *= envelope * loud * 0.1 / power;
        }
        self.out.extend(piece);
    }

    fn breath(&mut self, seconds: f32, loud: f32, from: Shape, to: Shape, rise: f32, fall: f32) {
        let noise = self.noise(seconds);
        let piece = self.through(&noise, from, to);
        self.say(piece, loud, rise, fall);
    }

    fn cough(&mut self) {
        for _ in 0..self.random.random_range(1..=4) {
            let (rough, hertz, voiced) = (self.draw(0.4, 1.0), self.draw(110.0, 420.0), self.draw(0.0, 0.7));
            // The folds burst open, air rushes out, and they close again on some voice.
            let burst = self.draw(0.03, 0.07);
            let noise = self.noise(burst);
            self.say(noise, 2.0, 0.05, 0.6);
            let seconds = self.draw(0.12, 0.35);
            let mut source = self.noise(seconds);
            let voice = self.voice(seconds, rough, |t| hertz * (1.1 - 0.4 * t));
            source.iter_mut().zip(voice).for_each(|(s, v)| *s += voiced * 2.0 * v);
            let piece = self.through(&source, OPEN, MIDDLE);
            self.say(piece, 1.3, 0.02, 0.35);
            self.pause(0.08, 0.5);
        }
    }

    fn clear_throat(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            let (rough, hertz, seconds) = (self.draw(0.5, 1.0), self.draw(75.0, 200.0), self.draw(0.18, 0.55));
            let mut source = self.voice(seconds, rough, |t| hertz * (1.0 + 0.2 * t));
            let noise = self.noise(seconds);
            let breathy = self.draw(0.2, 0.9);
            source.iter_mut().zip(noise).for_each(|(s, n)| *s += breathy * n);
            let piece = self.through(&source, MIDDLE, CLOSED);
            self.say(piece, 1.0, 0.1, 0.9);
            self.pause(0.05, 0.35);
        }
    }

    fn sneeze(&mut self) {
        for _ in 0..self.random.random_range(1..=2) {
            for _ in 0..self.random.random_range(0..=2) {
                let seconds = self.draw(0.15, 0.5);
                let hertz = self.draw(180.0, 380.0);
                let mut source = self.noise(seconds);
                let voice = self.voice(seconds, 0.2, |t| hertz * (1.0 + 0.3 * t));
                source.iter_mut().zip(voice).for_each(|(s, v)| *s += 0.5 * v);
                let piece = self.through(&source, MIDDLE, OPEN);
                self.say(piece, 0.35, 0.8, 0.5);
                self.pause(0.02, 0.15);
            }
            let seconds = self.draw(0.1, 0.3);
            let mut hiss = self.noise(seconds);
            augment::filter(&mut hiss, self.draw(1500.0, 3500.0), true);
            self.say(hiss, 2.2, 0.05, 0.4);
            let (seconds, hertz) = (self.draw(0.1, 0.4), self.draw(150.0, 420.0));
            let mut source = self.voice(seconds, 0.3, |t| hertz * (1.2 - 0.5 * t));
            let noise = self.noise(seconds);
            source.iter_mut().zip(noise).for_each(|(s, n)| *s += 0.6 * n);
            let piece = self.through(&source, SPREAD, ROUND);
            self.say(piece, 1.2, 0.03, 0.4);
            self.pause(0.1, 0.5);
        }
    }

    fn blow_nose(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            let (seconds, flutter, depth) = (self.draw(0.35, 1.2), self.draw(18.0, 75.0), self.draw(0.2, 1.0));
            let mut source = self.noise(seconds);
            let gate = self.voice(seconds, 0.8, |t| flutter * (1.0 - 0.3 * t));
            source.iter_mut().zip(gate).for_each(|(s, g)| *s *= 1.0 - depth * (0.5 + 0.5 * g));
            let nose = ([self.draw(250.0, 500.0), self.draw(900.0, 1500.0), self.draw(2000.0, 3400.0)], [0.9, 0.8]);
            let piece = self.through(&source, nose, nose);
            self.say(piece, 1.0, 0.15, 1.2);
            self.pause(0.1, 0.5);
        }
    }

    fn pant(&mut self) {
        let (seconds, loud) = (self.draw(0.13, 0.32), self.draw(0.3, 0.9));
        let voiced = self.draw(-0.4, 0.4).max(0.0);
        for _ in 0..self.random.random_range(3..=7) {
            self.breath(seconds * 0.9, loud * 0.7, SPREAD, SPREAD, 0.5, 0.5);
            self.pause(0.0, 0.06);
            let mut source = self.noise(seconds);
            let voice = self.voice(seconds, 0.3, |t| 210.0 - 50.0 * t);
            source.iter_mut().zip(voice).for_each(|(s, v)| *s += voiced * v);
            let piece = self.through(&source, OPEN, MIDDLE);
            self.say(piece, loud, 0.25, 0.5);
            self.pause(0.0, 0.08);
        }
    }

    fn sigh(&mut self) {
        if self.random.random_bool(0.6) {
            let seconds = self.draw(0.25, 0.7);
            self.breath(seconds, 0.4, SPREAD, SPREAD, 0.6, 0.6);
            self.pause(0.02, 0.2);
        }
        let (seconds, hertz, voiced) = (self.draw(0.6, 1.6), self.draw(110.0, 300.0), self.draw(-0.6, 0.8).max(0.0));
        let mut source = self.noise(seconds);
        let voice = self.voice(seconds, 0.1, |t| hertz * (1.1 - 0.4 * t));
        let fade = voice.len() as f32;
        source.iter_mut().zip(voice).enumerate().for_each(|(n, (s, v))| *s += voiced * (1.0 - n as f32 / fade) * v);
        let piece = self.through(&source, OPEN, ROUND);
        self.say(piece, 0.8, 0.15, 0.4);
    }

    fn yawn(&mut self) {
        let seconds = self.draw(0.4, 1.3);
        self.breath(seconds, 0.35, MIDDLE, OPEN, 0.7, 1.0);
        let (seconds, hertz, breathy) = (self.draw(0.8, 2.0), self.draw(150.0, 380.0), self.draw(0.2, 1.5));
        let mut source = self.voice(seconds, 0.1, |t| hertz * (0.9 + 0.5 * t - 0.95 * t * t));
        let noise = self.noise(seconds);
        source.iter_mut().zip(noise).for_each(|(s, n)| *s += breathy * n);
        let piece = self.through(&source, OPEN, ROUND);
        self.say(piece, 0.9, 0.3, 0.5);
    }

    fn moan(&mut self) {
        for _ in 0..self.random.random_range(1..=2) {
            let (seconds, hertz, bend) = (self.draw(0.6, 1.6), self.draw(110.0, 380.0), self.draw(-0.3, 0.2));
            let mut source =
                self.voice(seconds, 0.15, |t| hertz * (1.0 + bend * t + 0.15 * (t * std::f32::consts::PI).sin()));
            let noise = self.noise(seconds);
            let breathy = self.draw(0.0, 0.4);
            source.iter_mut().zip(noise).for_each(|(s, n)| *s += breathy * n);
            let shapes = [CLOSED, ROUND, MIDDLE, OPEN];
            let (from, to) = (shapes[self.random.random_range(0..3)], shapes[self.random.random_range(0..4)]);
            let piece = self.through(&source, from, to);
            self.say(piece, 0.8, 0.25, 1.0);
            self.pause(0.05, 0.3);
        }
    }

    fn cry(&mut self) {
        let (hertz, shake) = (self.draw(230.0, 520.0), self.draw(0.02, 0.09));
        for _ in 0..self.random.random_range(1..=3) {
            for _ in 0..self.random.random_range(1..=4) {
                let (seconds, wobble) = (self.draw(0.12, 0.5), self.draw(5.0, 9.0));
                let mut source = self.voice(seconds, 0.25, |t| {
                    hertz * (1.15 - 0.35 * t) * (1.0 + shake * (t * seconds * wobble * std::f32::consts::TAU).sin())
                });
                let noise = self.noise(seconds);
                source.iter_mut().zip(noise).for_each(|(s, n)| *s += 0.3 * n);
                let piece = self.through(&source, OPEN, MIDDLE);
                self.say(piece, 0.9, 0.1, 0.7);
                self.pause(0.02, 0.12);
            }
            // A sobbing breath in.
            let seconds = self.draw(0.1, 0.35);
            self.breath(seconds, 0.45, SPREAD, MIDDLE, 0.4, 0.4);
            self.pause(0.03, 0.2);
        }
    }

    fn scream(&mut self) {
        let (seconds, hertz, rough) = (self.draw(0.5, 1.8), self.draw(450.0, 1400.0), self.draw(0.0, 0.5));
        let rattle = self.draw(45.0, 110.0);
        let mut source = self.voice(seconds, rough * 0.3, |t| hertz * (0.8 + 0.5 * t.min(0.3) / 0.3 - 0.25 * t));
        source.iter_mut().enumerate().for_each(|(n, s)| {
            *s *= 1.0 - rough * (0.5 + 0.5 * (n as f32 / RATE * rattle * std::f32::consts::TAU).sin());
        });
        let open: Shape = ([950.0, 1600.0, 2900.0], [0.9, 0.8]);
        let mut piece = self.through(&source, open, open);
        augment::level(&mut piece, -12.0);
        augment::saturate(&mut piece, 2.0);
        self.say(piece, 1.5, 0.08, 2.5);
    }

    fn clicks(&mut self, click: Click) {
        // All clicks of one take are by the same mouth.
        let (hertz, gap) = (self.draw(click.hertz.0, click.hertz.1), self.draw(click.gap.0, click.gap.1));
        let count = (self.draw(0.7, 2.5) / gap).ceil().clamp(1.0, 24.0) as usize;
        for _ in 0..count {
            let mut piece = vec![0.0; (0.11 * RATE) as usize];
            let loud = self.draw(0.5, 1.0);
            for n in 0..=click.wet {
                let start = if n == 0 { 0 } else { (self.draw(0.0, 0.07) * RATE) as usize };
                let strength = if n == 0 { loud } else { loud * self.draw(0.05, 0.7) };
                let (mut ring, mut second) = (Resonance::default(), Resonance::default());
                let at = hertz * self.draw(0.9, 1.1);
                ring.tune(at, at / click.sharpness);
                second.tune((at * 2.3).min(7000.0), at / click.sharpness * 2.0);
                let impulse = (self.draw(0.0005, 0.003) * RATE) as usize;
                for (k, out) in piece[start..].iter_mut().enumerate() {
                    let push = if k < impulse { self.random.random_range(-1.0..1.0f32) } else { 0.0 };
                    *out += strength * (ring.step(push) + 0.4 * second.step(push) + 0.1 * push);
                }
            }
            self.out.extend(piece);
            let rest = (gap * self.draw(0.8, 1.2) - 0.11).max(-0.08);
            let length = (self.out.len() as f32 + rest * RATE) as usize;
            self.out.resize(length, 0.0);
        }
    }

    fn grind(&mut self) {
        let (low, high) = (self.draw(900.0, 2500.0), self.draw(3500.0, 6500.0));
        for _ in 0..self.random.random_range(2..=5) {
            let (seconds, stick, depth) = (self.draw(0.2, 0.7), self.draw(20.0, 140.0), self.draw(0.4, 1.0));
            let mut piece = self.noise(seconds);
            // Teeth stick and slip.
            let slips = self.voice(seconds, 1.0, |t| stick * (0.8 + 0.4 * t));
            piece.iter_mut().zip(slips).for_each(|(s, g)| *s *= 1.0 - depth * (0.5 + 0.5 * g));
            augment::filter(&mut piece, low, true);
            augment::filter(&mut piece, high, false);
            let loud = self.draw(0.5, 1.0);
            self.say(piece, loud, 0.3, 1.0);
            self.pause(0.02, 0.3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const ALL: [Sound; 15] = [
        Sound::Coughing,
        Sound::ThroatClearing,
        Sound::Sneezing,
        Sound::NoseBlowing,
        Sound::Panting,
        Sound::Sighing,
        Sound::Yawning,
        Sound::Moaning,
        Sound::Crying,
        Sound::Screaming,
        Sound::LipPopping,
        Sound::LipSmacking,
        Sound::TongueClicking,
        Sound::TeethGrinding,
        Sound::TeethChattering,
    ];

    #[test]
    fn every_sound_is_finite_heard_and_of_sensible_length() {
        for kind in ALL {
            for seed in 0..20 {
                let made = sound(kind, &mut ChaCha8Rng::seed_from_u64(seed));
                let seconds = made.len() as f32 / RATE;
                assert!((0.3..9.0).contains(&seconds), "{kind:?} {seed}: {seconds} s");
                assert!(made.iter().all(|s| s.is_finite()), "{kind:?} {seed}");
                assert!(augment::loud_rms(&made) > 1e-3, "{kind:?} {seed}");
            }
        }
    }
}
