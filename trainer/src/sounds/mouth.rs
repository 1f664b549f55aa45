//! A mouth drawn at random: what goes in is noise or pulses of a voice, what comes out has its resonances.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::RATE;
use crate::augment;
use crate::resonance::Resonance;

/// First three resonances in hertz with the strength of the second and third.
pub(super) type Shape = ([f32; 3], [f32; 2]);

pub(super) const OPEN: Shape = ([760.0, 1250.0, 2550.0], [0.6, 0.3]);
pub(super) const MIDDLE: Shape = ([520.0, 1500.0, 2500.0], [0.5, 0.3]);
pub(super) const ROUND: Shape = ([400.0, 850.0, 2300.0], [0.5, 0.1]);
pub(super) const CLOSED: Shape = ([260.0, 1050.0, 2200.0], [0.15, 0.05]);
pub(super) const SPREAD: Shape = ([420.0, 1900.0, 2700.0], [0.6, 0.4]);

pub(super) struct Mouth<'a> {
    pub(super) random: &'a mut ChaCha8Rng,
    /// Resonances of a shorter vocal tract lie higher.
    pub(super) size: f32,
    pub(super) out: Vec<f32>,
}

impl Mouth<'_> {
    pub(super) fn draw(&mut self, low: f32, high: f32) -> f32 {
        self.random.random_range(low..high)
    }

    pub(super) fn pause(&mut self, low: f32, high: f32) {
        let length = self.out.len() + (self.draw(low, high) * RATE) as usize;
        self.out.resize(length, 0.0);
    }

    pub(super) fn noise(&mut self, seconds: f32) -> Vec<f32> {
        (0..(seconds * RATE) as usize).map(|_| self.random.random_range(-1.0f32..1.0)).collect()
    }

    /// Pulses of the vocal folds; `pitch` in hertz over time from 0 to 1, `rough` from 0 to 1.
    pub(super) fn voice(&mut self, seconds: f32, rough: f32, pitch: impl Fn(f32) -> f32) -> Vec<f32> {
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
    pub(super) fn through(&self, source: &[f32], from: Shape, to: Shape) -> Vec<f32> {
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
    pub(super) fn say(&mut self, mut piece: Vec<f32>, loud: f32, rise: f32, fall: f32) {
        let power = augment::loud_rms(&piece).max(1e-6);
        let length = piece.len() as f32;
        for (n, s) in piece.iter_mut().enumerate() {
            let t = n as f32 / length;
            let envelope = (t / rise).min(1.0) * (-(t - rise).max(0.0) / fall).exp() * ((1.0 - t) * 12.0).min(1.0);
            *s *= envelope * loud * 0.1 / power;
        }
        self.out.extend(piece);
    }

    pub(super) fn breath(&mut self, seconds: f32, loud: f32, from: Shape, to: Shape, rise: f32, fall: f32) {
        let noise = self.noise(seconds);
        let piece = self.through(&noise, from, to);
        self.say(piece, loud, rise, fall);
    }
}
