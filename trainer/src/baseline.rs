//! The two baselines every result is printed beside: features of an untrained encoder, or statistics of the log-mel
//! spectrogram, mapped to the frozen text encoder's space by ridge regression on the same training data.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

/// A linear map from standardised features to a text space.
pub struct Ridge {
    mean: Tensor,
    scale: Tensor,
    map: Tensor,
}

/// Strengths of the penalty that are tried, as multiples of the number of clips.
pub const STRENGTHS: [f64; 6] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

impl Ridge {
    /// Fits `features` `[clips, width]` to `targets` `[clips, text width]`. Every class weighs the same however many clips
    /// it has.
    pub fn fit(features: &Tensor, targets: &Tensor, classes: &[String], strength: f64) -> Result<Self> {
        let mut counts: BTreeMap<&String, f64> = BTreeMap::new();
        classes.iter().for_each(|c| *counts.entry(c).or_default() += 1.0);
        let weight: Vec<f64> = classes.iter().map(|c| classes.len() as f64 / counts[c] / counts.len() as f64).collect();
        let weight = Tensor::from_slice(&weight).unsqueeze(1);
        let x = features.to_kind(Kind::Double);
        let mean = x.mean_dim([0i64].as_slice(), true, Kind::Double);
        let scale = x.std_dim([0i64].as_slice(), false, true).clamp_min(1e-6);
        let x = (x - &mean) / &scale;
        let weighted = (&x * weight).transpose(0, 1);
        let width = x.size()[1];
        let penalty = Tensor::eye(width, (Kind::Double, x.device())) * (strength * classes.len() as f64);
        let normal = weighted.matmul(&x) + penalty;
        let map = Tensor::f_linalg_solve(&normal, &weighted.matmul(&targets.to_kind(Kind::Double)), true)
            .context("the ridge equations have no solution")?;
        Ok(Self { mean, scale, map })
    }

    /// Predicted text vectors of unit length.
    pub fn apply(&self, features: &Tensor) -> Tensor {
        unit(&((features.to_kind(Kind::Double) - &self.mean) / &self.scale).matmul(&self.map).to_kind(Kind::Float))
    }
}

/// Rows of unit length.
pub fn unit(rows: &Tensor) -> Tensor {
    let square: Tensor = rows * rows;
    rows / square.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float).sqrt().clamp_min(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn finds_a_linear_map() {
        tch::manual_seed(4);
        let x = Tensor::randn([200, 6], (Kind::Float, Device::Cpu));
        let truth = Tensor::randn([6, 3], (Kind::Float, Device::Cpu));
        let y = x.matmul(&truth);
        let classes: Vec<String> = (0..200).map(|n| (n % 5).to_string()).collect();
        let got = Ridge::fit(&x, &y, &classes, 1e-6).unwrap().apply(&x);
        let cosine: Tensor = got * unit(&y);
        let mean = cosine.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float).double_value(&[]);
        assert!(mean > 0.99, "mean cosine {mean}");
    }
}
