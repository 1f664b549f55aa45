//! AdamW over named parameters, with its state open so that a run can be continued exactly.

use std::collections::BTreeMap;

use tch::{Tensor, no_grad};

use crate::torch::Params;

const FIRST_DECAY: f64 = 0.9;
const SECOND_DECAY: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Running moments and the number of steps taken.
#[derive(Default)]
pub struct AdamW {
    /// Weight decay, decoupled from the gradient.
    pub decay: f64,
    /// Steps taken.
    pub steps: i64,
    /// First and second moment of each parameter.
    pub moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    /// Moves each parameter that has a gradient, at its own `rate`, and clears the gradients. Parameters of one axis
    /// (biases, gains) are not decayed.
    pub fn step(&mut self, params: &Params, rate: impl Fn(&str) -> f64) {
        self.steps += 1;
        let (first_fix, second_fix) =
            (1.0 - FIRST_DECAY.powi(self.steps as i32), 1.0 - SECOND_DECAY.powi(self.steps as i32));
        no_grad(|| {
            for (name, tensor) in params.iter().filter(|(_, t)| t.requires_grad()) {
                let mut gradient = tensor.grad();
                if !gradient.defined() {
                    continue;
                }
                let (first, second) =
                    self.moments.entry(name.clone()).or_insert_with(|| (tensor.zeros_like(), tensor.zeros_like()));
                let _ = first.g_mul_scalar_(FIRST_DECAY).g_add_(&(&gradient * (1.0 - FIRST_DECAY)));
                let _ = second.g_mul_scalar_(SECOND_DECAY).g_add_(&(&gradient * &gradient * (1.0 - SECOND_DECAY)));
                let rate = rate(name);
                let mut target = tensor.shallow_clone();
                if tensor.dim() > 1 {
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
}
