//! A linear classifier of styles, whose rows become the bank's keys.

use tch::{Device, Kind, Tensor};

use crate::optimiser::{AdamW, half_cosine};
use crate::torch::Params;

const STEPS: usize = 400;
const RATE: f64 = 0.3;

/// Rows `[classes, width]` of the softmax regression without intercept of `owners` on `places` `[rows, width]` that minimises
/// half the squared length of all rows plus `errors` times the summed cross entropy, classes weighing the same (Fan et al.,
/// "LIBLINEAR", 2008). `start` `[classes, width]` is where the search begins. The problem is convex: what is found does not
/// depend on it.
pub(super) fn softmax_regression(places: &Tensor, owners: &[i64], start: &Tensor, errors: f64) -> Tensor {
    let classes = start.size()[0];
    let owners = Tensor::from_slice(owners);
    let marks = owners.one_hot(classes).to_kind(Kind::Float);
    let count = marks.sum_dim_intlist([0i64].as_slice(), false, Kind::Float).clamp_min(1.0);
    // A row's weight makes all classes count as much as if they had the mean number of rows.
    let weights = (count.reciprocal() * (owners.size()[0] as f64 / classes as f64)).index_select(0, &owners);
    let penalty = 0.5 / (errors * owners.size()[0] as f64);
    let rows = start.copy().set_requires_grad(true);
    let params = Params::from([("rows".to_string(), rows)]);
    let mut adam = AdamW::default();
    for step in 0..STEPS {
        let rows = &params["rows"];
        let logits = places.matmul(&rows.transpose(0, 1)).log_softmax(1, Kind::Float);
        let each: Tensor = (logits * &marks).sum_dim_intlist([1i64].as_slice(), false, Kind::Float) * &weights;
        let loss: Tensor = (rows * rows).sum(Kind::Float) * penalty - each.mean(Kind::Float);
        loss.backward();
        let rate = RATE * half_cosine(step as f64 / STEPS as f64);
        adam.step(&params, |_| rate);
    }
    params["rows"].detach().to_device(Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::unit;

    /// The gradient of what is minimised, at `rows`.
    fn slope(places: &Tensor, owners: &[i64], rows: &Tensor, errors: f64) -> f64 {
        let marks = Tensor::from_slice(owners).one_hot(rows.size()[0]).to_kind(Kind::Float);
        let wrong = places.matmul(&rows.transpose(0, 1)).softmax(1, Kind::Float) - marks;
        let gradient: Tensor = rows + wrong.transpose(0, 1).matmul(places) * errors;
        gradient.abs().max().double_value(&[])
    }

    #[test]
    fn finds_the_minimum_from_anywhere_and_tells_more_apart_than_means() {
        tch::manual_seed(5);
        let (each, classes) = (30, 4);
        // Classes that share a strong direction along which their members differ, and differ in weak ones.
        let owners: Vec<i64> = (0..classes * each).map(|n| n / each).collect();
        let common = Tensor::randn([classes * each, 1], (Kind::Float, Device::Cpu)) * 2.0;
        let noise = Tensor::randn([classes * each, 6], (Kind::Float, Device::Cpu)) * 0.2;
        let own = Tensor::from_slice(&owners).one_hot(classes).to_kind(Kind::Float).constant_pad_nd([0, 2]) * 0.6;
        let drift = common.matmul(&Tensor::from_slice(&[1f32, 0.5, 0.0, 0.0, 1.0, 0.0]).unsqueeze(0));
        let places = unit(&(own + noise + drift));
        let zero = Tensor::zeros([classes, 6], (Kind::Float, Device::Cpu));
        let found = softmax_regression(&places, &owners, &zero, 10.0);
        let elsewhere = softmax_regression(&places, &owners, &(&zero + 1.0), 10.0);
        assert!(found.allclose(&elsewhere, 1e-2, 1e-2, false), "{found} {elsewhere}");
        assert!(slope(&places, &owners, &found, 10.0) < 0.05 * slope(&places, &owners, &zero, 10.0));
        let sums = Tensor::zeros([classes, 6], (Kind::Float, Device::Cpu));
        let means = unit(&sums.index_add(0, &Tensor::from_slice(&owners), &places));
        let right = |rows: &Tensor| {
            let named = places.matmul(&rows.transpose(0, 1)).argmax(1, false);
            named.eq_tensor(&Tensor::from_slice(&owners)).sum(Kind::Int64).int64_value(&[])
        };
        assert!(right(&found) > right(&means) + 5, "{} {}", right(&found), right(&means));
    }
}
