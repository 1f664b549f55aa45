//! The specification, in loops simple enough to be read as such and shaped so that the compiler vectorises them.

use super::{CosineParts, Kernels};

pub(super) const KERNELS: Kernels = Kernels { name: "scalar", dot, l2_squared, cosine };

/// Independent partial sums, so that one addition need not wait for the one before.
const LANES: usize = 8;

/// Inner product.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_over_pairs(a, b, |x, y| x * y)
}

/// Squared Euclidean distance.
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    sum_over_pairs(a, b, |x, y| (x - y) * (x - y))
}

/// Inner product and both squared lengths.
pub fn cosine(a: &[f32], b: &[f32]) -> CosineParts {
    CosineParts { dot: dot(a, b), a_squared: dot(a, a), b_squared: dot(b, b) }
}

/// [`CosineParts`] in double precision, for sums that leave the range of `f32`.
pub(crate) struct ExactCosineParts {
    pub dot: f64,
    pub a_squared: f64,
    pub b_squared: f64,
}

pub(crate) fn cosine_f64(a: &[f32], b: &[f32]) -> ExactCosineParts {
    ExactCosineParts { dot: dot_f64(a, b), a_squared: dot_f64(a, a), b_squared: dot_f64(b, b) }
}

pub(crate) fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

pub(crate) fn l2_squared_f64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}

fn sum_over_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(x[lane], y[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&x, &y)| term(x, y)).sum();
    lanes.iter().sum::<f32>() + rest
}
