//! AdamW over named parameters, with its state open so that a run can be continued exactly.

use std::collections::BTreeMap;

use tch::{Tensor, no_grad};

use crate::torch::Params;

const FIRST_DECAY: f64 = 0.9;
const SECOND_DECAY: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// What is left of a learning rate `at` (0 to 1) a run, as it falls from one to zero along half a cosine.
pub fn half_cosine(at: f64) -> f64 {
    0.5 + 0.5 * (std::f64::consts::PI * at).cos()
}

/// Running moments and the number of steps taken.
#[derive(Default)]
pub struct AdamW {
    /// Weight decay, decoupled from the gradient.
    pub decay: f64,
    /// Whether parameters of one axis (biases, gains) are decayed too, as PyTorch does by default.
    pub decay_all: bool,
    /// Steps taken.
    pub steps: i64,
    /// Steps that had been taken before each parameter's first gradient: what joins later, such as the discriminator, starts
    /// its running moments then.
    pub begun: BTreeMap<String, i64>,
    /// First and second moment of each parameter.
    pub moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    /// Moves each parameter that has a gradient, at its own `rate`, and clears the gradients.
    pub fn step(&mut self, params: &Params, rate: impl Fn(&str) -> f64) {
        self.steps += 1;
        no_grad(|| {
            for (name, tensor) in params.iter().filter(|(_, t)| t.requires_grad()) {
                let mut gradient = tensor.grad();
                if !gradient.defined() {
                    continue;
                }
                let own = (self.steps - *self.begun.entry(name.clone()).or_insert(self.steps - 1)) as i32;
                let (first_fix, second_fix) = (1.0 - FIRST_DECAY.powi(own), 1.0 - SECOND_DECAY.powi(own));
                let (first, second) =
                    self.moments.entry(name.clone()).or_insert_with(|| (tensor.zeros_like(), tensor.zeros_like()));
                let _ = first.g_mul_scalar_(FIRST_DECAY).g_add_(&(&gradient * (1.0 - FIRST_DECAY)));
                let _ = second.g_mul_scalar_(SECOND_DECAY).g_add_(&(&gradient * &gradient * (1.0 - SECOND_DECAY)));
                let rate = rate(name);
                let mut target = tensor.shallow_clone();
                if tensor.dim() > 1 || self.decay_all {
                    let _ = target.g_mul_scalar_(1.0 - rate * self.decay);
                }
                let change = (&*first / first_fix) / ((&*second / second_fix).sqrt() + EPSILON);
                let _ = target.g_sub_(&(change * rate));
                let _ = gradient.zero_();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn finds_the_bottom_of_a_bowl() {
        let x = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let params = Params::from([("x".to_string(), x.shallow_clone())]);
        let mut adam = AdamW::default();
        for _ in 0..300 {
            (&x * &x).sum(Kind::Float).backward();
            adam.step(&params, |_| 0.05);
        }
        assert!(x.abs().max().double_value(&[]) < 0.02);
    }

    #[test]
    fn a_parameter_that_joins_late_starts_like_an_early_one() {
        let one = || Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (early, late) = (one(), one());
        let params =
            Params::from([("early".to_string(), early.shallow_clone()), ("late".to_string(), late.shallow_clone())]);
        let mut adam = AdamW::default();
        for step in 0..50 {
            let loss: Tensor = if step < 49 { &early * 2.0 } else { &early * 2.0 + &late * 2.0 };
            loss.sum(Kind::Float).backward();
            adam.step(&params, |_| 0.01);
        }
        // The first step of Adam is the rate itself, whatever the gradient.
        assert!((late.double_value(&[0]) - 0.99).abs() < 1e-6, "{}", late.double_value(&[0]));
    }

    #[test]
    fn steps_are_those_of_torch() {
        // torch.optim.AdamW([x], lr=0.1, weight_decay=0.1), gradient 2x of x = 1: by hand from its documentation.
        let x = Tensor::ones([1], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let params = Params::from([("x".to_string(), x.shallow_clone())]);
        let mut adam = AdamW { decay: 0.1, decay_all: true, ..AdamW::default() };
        let (mut by_hand, mut first, mut second) = (1.0f64, 0.0f64, 0.0f64);
        for step in 1..=3 {
            (&x * &x).sum(Kind::Double).backward();
            adam.step(&params, |_| 0.1);
            let gradient = 2.0 * by_hand;
            by_hand *= 1.0 - 0.1 * 0.1;
            first = 0.9 * first + 0.1 * gradient;
            second = 0.999 * second + 0.001 * gradient * gradient;
            let (m, v) = (first / (1.0 - 0.9f64.powi(step)), second / (1.0 - 0.999f64.powi(step)));
            by_hand -= 0.1 * m / (v.sqrt() + 1e-8);
            assert!((x.double_value(&[0]) - by_hand).abs() < 1e-9);
        }
    }
}
