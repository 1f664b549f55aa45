//! A learned rotation: the directions in which the rows vary, most first.
//!
//! Principal components of a sample. Embeddings of style lie near a space of few dimensions, so a code spends its bits on
//! the leading directions, and those that hardly vary are left out. Knows vectors, not codes or pages.

use nalgebra::DMatrix;
use ndarray::{ArrayView2, Axis};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::random::normal;

/// Most directions that are kept, so that neither a query's rotation nor a centroid grows without bound.
pub const MAX_AXES: usize = 512;

/// Share of the variance that may be left out with the last directions, if those vary alike: noise. What is left out makes
/// estimates a little less exact, so that a few more rows are measured; each direction costs every query and every code.
const NEGLIGIBLE: f64 = 0.015;

/// A direction that varies this many times as much as those after it do on average is no noise. Rows may hardly differ
/// along it, but a description in words may point just there.
const DISTINCT: f64 = 4.0;

/// Share of the variance that may be left out in any case.
const NOTHING: f64 = 1e-4;

/// Above this dimension all eigenvectors would take too long; the leading ones are found by iteration.
const FULL_EIGEN_DIMENSIONS: usize = 1024;

/// A sample of this many rows a dimension is trusted to show every direction in which rows vary.
const ROWS_PER_DIMENSION: usize = 4;

/// `y = axes * (x - mean)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// Mean of the sample; `dimension` elements.
    pub mean: Vec<f32>,
    /// Orthonormal rows, `axes x dimension`.
    pub axes: Vec<f32>,
    /// Variance of the sample along each axis, not increasing.
    pub variances: Vec<f32>,
    /// Variance of the sample in all directions left out, summed.
    pub left_out: f32,
}

impl Rotation {
    /// The rotation of a sample of `rows x dimension`; with fewer than two rows, [`Rotation::identity`].
    pub fn train(sample: &[f32], dimension: usize, seed: u64) -> Self {
        let rows = sample.len() / dimension;
        if rows < 2 {
            return Self::identity(dimension, 1.0 / dimension as f32);
        }
        let view = ArrayView2::from_shape((rows, dimension), sample).expect("a whole number of rows");
        let mean = view.mean_axis(Axis(0)).expect("at least one row");
        let centred = &view - &mean;
        let total: f64 = centred.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / rows as f64;
        let (axes, mut variances) = if dimension <= FULL_EIGEN_DIMENSIONS {
            let covariance = centred.t().dot(&centred).mapv(|x| f64::from(x) / rows as f64);
            all_axes(covariance.as_slice().expect("standard layout"), dimension)
        } else {
            leading_axes(&centred.view(), seed)
        };
        // A small sample spans few directions; rows to come may vary in all of them.
        let is_trusted = rows >= ROWS_PER_DIMENSION * dimension;
        let floor = if is_trusted { 0.0 } else { (0.1 * total / dimension as f64) as f32 };
        variances.iter_mut().for_each(|variance| *variance = variance.max(floor));
        let kept = if is_trusted { axes_to_keep(&variances, total, dimension) } else { variances.len().min(MAX_AXES) };
        variances.truncate(kept);
        let sum = |variances: &[f32]| variances.iter().map(|&v| f64::from(v)).sum::<f64>();
        let left_out = (total - sum(&variances)).max(0.0) as f32;
        Self { mean: mean.to_vec(), axes: axes[..kept * dimension].to_vec(), variances, left_out }
    }

    /// Axes drawn at random, for a sample of at least two rows: the variance is spread over all of them.
    pub fn random(sample: &[f32], dimension: usize, seed: u64) -> Self {
        let rows = sample.len() / dimension;
        let kept = dimension.min(MAX_AXES);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let drawn = DMatrix::from_fn(dimension, kept, |_, _| normal(&mut random));
        let basis = drawn.qr().q();
        let view = ArrayView2::from_shape((rows, dimension), sample).expect("a whole number of rows");
        let mean = view.mean_axis(Axis(0)).expect("at least one row").to_vec();
        let mut rotation = Self { mean, axes: basis.as_slice().to_vec(), variances: vec![0.0; kept], left_out: 0.0 };
        for row in rotation.rotate_rows(sample).chunks_exact(kept) {
            rotation.variances.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x / rows as f32);
        }
        let mut order: Vec<usize> = (0..kept).collect();
        order.sort_by(|&a, &b| rotation.variances[b].total_cmp(&rotation.variances[a]));
        let axes =
            order.iter().flat_map(|&i| rotation.axes[i * dimension..(i + 1) * dimension].iter().copied()).collect();
        let variances = order.iter().map(|&i| rotation.variances[i]).collect();
        Self { axes, variances, ..rotation }
    }

    /// The first axes as they are, for an index without rows to learn from.
    pub fn identity(dimension: usize, variance: f32) -> Self {
        let kept = dimension.min(MAX_AXES);
        let mut axes = vec![0.0; kept * dimension];
        (0..kept).for_each(|i| axes[i * dimension + i] = 1.0);
        let left_out = variance * (dimension - kept) as f32;
        Self { mean: vec![0.0; dimension], axes, variances: vec![variance; kept], left_out }
    }

    /// Number of axes.
    pub fn axis_count(&self) -> usize {
        self.variances.len()
    }

    /// Variance in each of the directions left out.
    pub fn left_out_each(&self) -> f32 {
        self.left_out / (self.dimension() - self.axis_count()).max(1) as f32
    }

    /// Elements of a vector.
    pub fn dimension(&self) -> usize {
        self.mean.len()
    }

    /// Rotates many rows, `rows x dimension` to `rows x axes`.
    pub fn rotate_rows(&self, rows: &[f32]) -> Vec<f32> {
        let (dimension, kept) = (self.dimension(), self.axis_count());
        let count = rows.len() / dimension;
        let view = ArrayView2::from_shape((count, dimension), rows).expect("a whole number of rows");
        let axes = ArrayView2::from_shape((kept, dimension), &self.axes).expect("axes x dimension");
        let mean = ArrayView2::from_shape((1, dimension), &self.mean).expect("one mean");
        let shift = mean.dot(&axes.t());
        let rotated = view.dot(&axes.t()) - &shift;
        rotated.as_standard_layout().into_owned().into_raw_vec_and_offset().0
    }

    /// The row that a rotated one stands for.
    pub fn turn_back(&self, rotated: &[f32]) -> Vec<f32> {
        let mut row = self.mean.clone();
        for (&x, axis) in rotated.iter().zip(self.axes.chunks_exact(self.dimension())) {
            row.iter_mut().zip(axis).for_each(|(y, a)| *y += x * a);
        }
        row
    }

    /// Rotates the direction of a query: like a row, but without taking the mean away.
    pub fn rotate_direction(&self, query: &[f32]) -> Vec<f32> {
        let dot = esr_vector::kernels().dot;
        self.axes.chunks_exact(self.dimension()).map(|axis| dot(axis, query)).collect()
    }
}

/// How many of the leading axes matter, at least one; `variances` do not increase and may not be those of all dimensions.
fn axes_to_keep(variances: &[f32], total: f64, dimension: usize) -> usize {
    let mut left = total;
    for (kept, &variance) in variances.iter().enumerate().take(MAX_AXES) {
        let variance = f64::from(variance);
        let after = (left - variance).max(0.0) / (dimension - kept - 1).max(1) as f64;
        let is_noise = left <= NEGLIGIBLE * total && variance <= DISTINCT * after;
        if kept > 0 && (is_noise || left <= NOTHING * total) {
            return kept;
        }
        left -= variance;
    }
    variances.len().min(MAX_AXES)
}

/// All eigenvectors of a symmetric matrix, largest eigenvalue first.
fn all_axes(covariance: &[f64], dimension: usize) -> (Vec<f32>, Vec<f32>) {
    let eigen = DMatrix::from_row_slice(dimension, dimension, covariance).symmetric_eigen();
    let mut order: Vec<usize> = (0..dimension).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let axes = order.iter().flat_map(|&i| eigen.eigenvectors.column(i).iter().map(|&x| x as f32).collect::<Vec<_>>());
    (axes.collect(), order.iter().map(|&i| eigen.eigenvalues[i].max(0.0) as f32).collect())
}

/// The leading eigenvectors of a wide sample's covariance by subspace iteration (Halko, Martinsson and Tropp, "Finding
/// structure with randomness", 2011, algorithm 4.4), never forming the covariance.
fn leading_axes(centred: &ArrayView2<'_, f32>, seed: u64) -> (Vec<f32>, Vec<f32>) {
    const ROUNDS: usize = 2;
    let (rows, dimension) = centred.dim();
    let wanted = MAX_AXES.min(dimension);
    let sample = DMatrix::from_fn(rows, dimension, |i, j| centred[(i, j)]);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut basis = DMatrix::from_fn(dimension, wanted, |_, _| random.random_range(-1.0f32..1.0));
    for _ in 0..=ROUNDS {
        let mut product = sample.transpose() * (&sample * &basis);
        // A little of everything, so that directions the sample does not span still give a basis.
        let little = 1e-5 * product.amax().max(f32::MIN_POSITIVE);
        product.iter_mut().for_each(|x| *x += little * random.random_range(-1.0f32..1.0));
        basis = product.qr().q();
    }
    let projected = &sample * &basis;
    let small = (projected.transpose() * &projected) / rows as f32;
    let eigen = small.symmetric_eigen();
    let mut order: Vec<usize> = (0..wanted).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let vectors = basis * &eigen.eigenvectors;
    let axes = order.iter().flat_map(|&i| vectors.column(i).iter().copied().collect::<Vec<_>>()).collect();
    (axes, order.iter().map(|&i| eigen.eigenvalues[i].max(0.0)).collect())
}

/// Variance along a rotated direction, given that along each axis.
pub fn weighted(rotated: &[f32], weights: &[f32]) -> f32 {
    rotated.iter().zip(weights).map(|(q, weight)| q * q * weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::flat_data;

    #[test]
    fn axes_are_orthonormal_and_variance_falls() {
        for (dimension, is_random) in [1, 2, 7, 40].into_iter().flat_map(|d| [(d, false), (d, true)]) {
            let sample = flat_data(500, dimension, 3, 1);
            let rotation = if is_random {
                Rotation::random(&sample, dimension, 1)
            } else {
                Rotation::train(&sample, dimension, 1)
            };
            assert!(rotation.variances.is_sorted_by(|a, b| a >= b));
            for (i, a) in rotation.axes.chunks_exact(dimension).enumerate() {
                for (j, b) in rotation.axes.chunks_exact(dimension).enumerate() {
                    let dot: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                    assert!((dot - f32::from(i == j)).abs() < 1e-4, "{dimension}: axes {i} and {j}: {dot}");
                }
            }
        }
    }

    #[test]
    fn directions_that_do_not_vary_are_left_out() {
        let rotation = Rotation::train(&flat_data(500, 40, 3, 1), 40, 1);
        assert!(rotation.axis_count() <= 4, "{} axes", rotation.axis_count());
    }

    #[test]
    fn an_axis_of_little_variance_is_kept_if_the_rest_varies_less() {
        // Three axes hold 99 % of the variance, two more .9 % of it, the rest is noise.
        let variances = [50.0, 30.0, 19.0, 0.6, 0.3, 0.002, 0.002, 0.002, 0.002, 0.002];
        assert_eq!(axes_to_keep(&variances, variances.iter().map(|&v| f64::from(v)).sum(), 10), 5);
        let even = [50.0, 30.0, 19.0, 0.2, 0.2, 0.2, 0.2, 0.2];
        assert_eq!(axes_to_keep(&even, 100.0, 8), 3);
        assert_eq!(axes_to_keep(&[1.0, 0.0, 0.0], 1.0, 3), 1);
        assert_eq!(axes_to_keep(&[0.0, 0.0], 0.0, 2), 1);
    }

    #[test]
    fn a_small_sample_is_not_trusted_to_show_every_direction() {
        let rotation = Rotation::train(&flat_data(20, 40, 3, 1), 40, 1);
        assert_eq!(rotation.axis_count(), 40);
    }

    #[test]
    fn the_iteration_finds_what_the_eigenvectors_say() {
        let sample = flat_data(300, 60, 4, 2);
        let view = ArrayView2::from_shape((300, 60), &sample).unwrap();
        let centred = &view - &view.mean_axis(Axis(0)).unwrap();
        let (_, exact) = all_axes(centred.t().dot(&centred).mapv(|x| f64::from(x) / 300.0).as_slice().unwrap(), 60);
        let (_, found) = leading_axes(&centred.view(), 1);
        for (want, got) in exact.iter().zip(&found).take(4) {
            assert!((want - got).abs() < 0.02 * want, "{want} {got}");
        }
    }
}
