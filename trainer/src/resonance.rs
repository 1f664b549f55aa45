//! One resonance of a mouth, as a digital filter. Knows samples only.

use crate::nets::log_mel::SAMPLE_RATE;

const RATE: f32 = SAMPLE_RATE as f32;

/// A second-order band-pass with peak gain one (Audio EQ Cookbook).
#[derive(Default)]
pub struct Resonance {
    gain: f32,
    back: [f32; 2],
    input: [f32; 2],
    output: [f32; 2],
}

impl Resonance {
    /// Moves the peak to a frequency with a width, both in hertz.
    pub fn tune(&mut self, hertz: f32, width: f32) {
        let w = std::f32::consts::TAU * hertz.min(0.46 * RATE) / RATE;
        let alpha = w.sin() * width / (2.0 * hertz);
        self.gain = alpha / (1.0 + alpha);
        self.back = [-2.0 * w.cos() / (1.0 + alpha), (1.0 - alpha) / (1.0 + alpha)];
    }

    /// The next sample.
    pub fn step(&mut self, x: f32) -> f32 {
        let y = self.gain * (x - self.input[1]) - self.back[0] * self.output[0] - self.back[1] * self.output[1];
        (self.input, self.output) = ([x, self.input[0]], [y, self.output[0]]);
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment;

    #[test]
    fn a_resonance_passes_its_own_frequency_and_little_else() {
        let heard = |hertz: f32| {
            let mut ring = Resonance::default();
            ring.tune(1000.0, 100.0);
            let out: Vec<f32> =
                (0..8000).map(|n| ring.step((n as f32 / RATE * hertz * std::f32::consts::TAU).sin())).collect();
            augment::loud_rms(&out[4000..])
        };
        assert!(heard(1000.0) > 0.65 && heard(300.0) < 0.1 && heard(3000.0) < 0.1);
    }
}
