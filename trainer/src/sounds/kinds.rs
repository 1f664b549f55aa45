//! How each sound is made: which sources go through the mouth, in what order.

use rand::Rng;

use super::RATE;
use super::mouth::{CLOSED, MIDDLE, Mouth, OPEN, ROUND, SPREAD, Shape};
use crate::augment;
use crate::resonance::Resonance;

/// Short impulses that ring in the mouth.
pub(super) struct Click {
    pub(super) hertz: (f32, f32),
    /// Resonance over bandwidth: how long it rings.
    pub(super) sharpness: f32,
    /// Small clicks that crowd around each large one.
    pub(super) wet: usize,
    pub(super) gap: (f32, f32),
}

impl Mouth<'_> {
    pub(super) fn cough(&mut self) {
        for _ in 0..self.random.random_range(1..=4) {
            let (rough, hertz, voiced) = (self.draw(0.4, 1.0), self.draw(110.0, 420.0), self.draw(0.0, 0.7));
            // The folds burst open, air rushes out, and they close again on some voice.
            let burst = self.draw(0.03, 0.07);
            let noise = self.noise(burst);
            self.say(noise, 2.0, 0.05, 0.6);
            let seconds = self.draw(0.12, 0.35);
            let mut source = self.noise(seconds);
            let voice = self.voice(seconds, rough, |t| hertz * (1.1 - 0.4 * t));
            add(&mut source, &voice, voiced * 2.0);
            let piece = self.through(&source, OPEN, MIDDLE);
            self.say(piece, 1.3, 0.02, 0.35);
            self.pause(0.08, 0.5);
        }
    }

    pub(super) fn clear_throat(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            let (rough, hertz, seconds) = (self.draw(0.5, 1.0), self.draw(75.0, 200.0), self.draw(0.18, 0.55));
            let mut source = self.voice(seconds, rough, |t| hertz * (1.0 + 0.2 * t));
            let noise = self.noise(seconds);
            let breathy = self.draw(0.2, 0.9);
            add(&mut source, &noise, breathy);
            let piece = self.through(&source, MIDDLE, CLOSED);
            self.say(piece, 1.0, 0.1, 0.9);
            self.pause(0.05, 0.35);
        }
    }

    pub(super) fn sneeze(&mut self) {
        for _ in 0..self.random.random_range(1..=2) {
            for _ in 0..self.random.random_range(0..=2) {
                let seconds = self.draw(0.15, 0.5);
                let hertz = self.draw(180.0, 380.0);
                let mut source = self.noise(seconds);
                let voice = self.voice(seconds, 0.2, |t| hertz * (1.0 + 0.3 * t));
                add(&mut source, &voice, 0.5);
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
            add(&mut source, &noise, 0.6);
            let piece = self.through(&source, SPREAD, ROUND);
            self.say(piece, 1.2, 0.03, 0.4);
            self.pause(0.1, 0.5);
        }
    }

    pub(super) fn blow_nose(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            let (seconds, flutter, depth) = (self.draw(0.35, 1.2), self.draw(18.0, 75.0), self.draw(0.2, 1.0));
            let mut source = self.noise(seconds);
            let gate = self.voice(seconds, 0.8, |t| flutter * (1.0 - 0.3 * t));
            chop(&mut source, &gate, depth);
            let nose = ([self.draw(250.0, 500.0), self.draw(900.0, 1500.0), self.draw(2000.0, 3400.0)], [0.9, 0.8]);
            let piece = self.through(&source, nose, nose);
            self.say(piece, 1.0, 0.15, 1.2);
            self.pause(0.1, 0.5);
        }
    }

    pub(super) fn pant(&mut self) {
        let (seconds, loud) = (self.draw(0.13, 0.32), self.draw(0.3, 0.9));
        let voiced = self.draw(-0.4, 0.4).max(0.0);
        for _ in 0..self.random.random_range(3..=7) {
            self.breath(seconds * 0.9, loud * 0.7, SPREAD, SPREAD, 0.5, 0.5);
            self.pause(0.0, 0.06);
            let mut source = self.noise(seconds);
            let voice = self.voice(seconds, 0.3, |t| 210.0 - 50.0 * t);
            add(&mut source, &voice, voiced);
            let piece = self.through(&source, OPEN, MIDDLE);
            self.say(piece, loud, 0.25, 0.5);
            self.pause(0.0, 0.08);
        }
    }

    pub(super) fn sigh(&mut self) {
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

    pub(super) fn yawn(&mut self) {
        let seconds = self.draw(0.4, 1.3);
        self.breath(seconds, 0.35, MIDDLE, OPEN, 0.7, 1.0);
        let (seconds, hertz, breathy) = (self.draw(0.8, 2.0), self.draw(150.0, 380.0), self.draw(0.2, 1.5));
        let mut source = self.voice(seconds, 0.1, |t| hertz * (0.9 + 0.5 * t - 0.95 * t * t));
        let noise = self.noise(seconds);
        add(&mut source, &noise, breathy);
        let piece = self.through(&source, OPEN, ROUND);
        self.say(piece, 0.9, 0.3, 0.5);
    }

    pub(super) fn moan(&mut self) {
        for _ in 0..self.random.random_range(1..=2) {
            let (seconds, hertz, bend) = (self.draw(0.6, 1.6), self.draw(110.0, 380.0), self.draw(-0.3, 0.2));
            let mut source =
                self.voice(seconds, 0.15, |t| hertz * (1.0 + bend * t + 0.15 * (t * std::f32::consts::PI).sin()));
            let noise = self.noise(seconds);
            let breathy = self.draw(0.0, 0.4);
            add(&mut source, &noise, breathy);
            let shapes = [CLOSED, ROUND, MIDDLE, OPEN];
            let (from, to) = (shapes[self.random.random_range(0..3)], shapes[self.random.random_range(0..4)]);
            let piece = self.through(&source, from, to);
            self.say(piece, 0.8, 0.25, 1.0);
            self.pause(0.05, 0.3);
        }
    }

    pub(super) fn cry(&mut self) {
        let (hertz, shake) = (self.draw(230.0, 520.0), self.draw(0.02, 0.09));
        for _ in 0..self.random.random_range(1..=3) {
            for _ in 0..self.random.random_range(1..=4) {
                let (seconds, wobble) = (self.draw(0.12, 0.5), self.draw(5.0, 9.0));
                let mut source = self.voice(seconds, 0.25, |t| {
                    hertz * (1.15 - 0.35 * t) * (1.0 + shake * (t * seconds * wobble * std::f32::consts::TAU).sin())
                });
                let noise = self.noise(seconds);
                add(&mut source, &noise, 0.3);
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

    pub(super) fn scream(&mut self) {
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

    pub(super) fn clicks(&mut self, click: Click) {
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

    pub(super) fn grind(&mut self) {
        let (low, high) = (self.draw(900.0, 2500.0), self.draw(3500.0, 6500.0));
        for _ in 0..self.random.random_range(2..=5) {
            let (seconds, stick, depth) = (self.draw(0.2, 0.7), self.draw(20.0, 140.0), self.draw(0.4, 1.0));
            let mut piece = self.noise(seconds);
            // Teeth stick and slip.
            let slips = self.voice(seconds, 1.0, |t| stick * (0.8 + 0.4 * t));
            chop(&mut piece, &slips, depth);
            augment::filter(&mut piece, low, true);
            augment::filter(&mut piece, high, false);
            let loud = self.draw(0.5, 1.0);
            self.say(piece, loud, 0.3, 1.0);
            self.pause(0.02, 0.3);
        }
    }
}

/// Adds one source to another.
fn add(source: &mut [f32], other: &[f32], gain: f32) {
    source.iter_mut().zip(other).for_each(|(s, o)| *s += gain * o);
}

/// Lets pulses (-1 to 1) take up to `depth` of a sound away.
fn chop(sound: &mut [f32], pulses: &[f32], depth: f32) {
    sound.iter_mut().zip(pulses).for_each(|(s, p)| *s *= 1.0 - depth * (0.5 + 0.5 * p));
}
