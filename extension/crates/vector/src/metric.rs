//! Distances as SQL names them, over the kernels of this CPU.
//!
//! Both slices must have the same length: whoever holds untrusted input checks it at the door.

use crate::kernel::{CosineParts, kernels, scalar};

/// What "near" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `<=>`: one minus the cosine of the angle, 0 to 2.
    Cosine,
    /// `<->`: Euclidean distance.
    Euclidean,
    /// `<#>`: the inner product, negated so that smaller is nearer.
    InnerProduct,
}

/// The distance of two vectors of equal length under a metric.
///
/// # Panics
/// If the lengths differ: a bug of the caller.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    match metric {
        Metric::Cosine => cosine_distance(a, b),
        Metric::Euclidean => l2_distance(a, b),
        Metric::InnerProduct => -inner_product(a, b),
    }
}

/// The function behind a metric, for whoever measures many pairs.
pub fn of(metric: Metric) -> fn(&[f32], &[f32]) -> f64 {
    match metric {
        Metric::Cosine => cosine_distance,
        Metric::Euclidean => l2_distance,
        Metric::InnerProduct => |a, b| -inner_product(a, b),
    }
}

/// One minus the cosine of the angle between `a` and `b`, clamped to `[0, 2]`; NaN if either has length zero, which
/// PostgreSQL sorts after every number.
///
/// # Panics
/// If the lengths differ.
pub fn cosine_distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions reached a kernel");
    let parts = (kernels().cosine)(a, b);
    let squares = f64::from(parts.a_squared) * f64::from(parts.b_squared);
    // Sums that left the normal range of f32 have lost digits (or everything): say it again in f64.
    if in_normal_range(parts.a_squared) && in_normal_range(parts.b_squared) {
        from_cosine(f64::from(parts.dot) / squares.sqrt())
    } else {
        let exact = scalar::cosine_f64(a, b);
        from_cosine(exact.dot / (exact.a_squared.sqrt() * exact.b_squared.sqrt()))
    }
}

/// Euclidean distance.
///
/// # Panics
/// If the lengths differ.
pub fn l2_distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions reached a kernel");
    let squared = (kernels().l2_squared)(a, b);
    if in_normal_range(squared) { f64::from(squared).sqrt() } else { scalar::l2_squared_f64(a, b).sqrt() }
}

/// Inner product.
///
/// # Panics
/// If the lengths differ.
pub fn inner_product(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions reached a kernel");
    let product = (kernels().dot)(a, b);
    if product.is_finite() { f64::from(product) } else { scalar::dot_f64(a, b) }
}

/// Length of a vector.
pub fn norm(a: &[f32]) -> f64 {
    let CosineParts { a_squared, .. } = (kernels().cosine)(a, a);
    if in_normal_range(a_squared) { f64::from(a_squared).sqrt() } else { scalar::dot_f64(a, a).sqrt() }
}

fn in_normal_range(sum: f32) -> bool {
    // Far enough above the smallest normal number that lost subnormal terms cannot matter.
    (1e-30..=f32::MAX).contains(&sum)
}

fn from_cosine(cosine: f64) -> f64 {
    // `clamp` keeps NaN, and rounding must not make a vector further than 2 or nearer than 0.
    1.0 - cosine.clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        assert_eq!(cosine_distance(&[1.0, 0.0], &[0.0, 2.0]), 1.0);
        assert_eq!(cosine_distance(&[1.0, 1.0], &[-3.0, -3.0]), 2.0);
        assert_eq!(cosine_distance(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(l2_distance(&[0.0, 0.0], &[3.0, 4.0]), 5.0);
        assert_eq!(distance(Metric::InnerProduct, &[1.0, 2.0], &[3.0, 4.0]), -11.0);
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
    }

    #[test]
    fn a_zero_vector_has_no_direction() {
        assert!(cosine_distance(&[0.0; 9], &[1.0; 9]).is_nan());
        assert!(cosine_distance(&[0.0; 9], &[0.0; 9]).is_nan());
    }

    #[test]
    fn sums_outside_the_range_of_f32_keep_their_meaning() {
        let huge = [3.0e38_f32; 7];
        let tiny = [1.0e-40_f32; 7];
        for vector in [huge, tiny] {
            assert!(cosine_distance(&vector, &vector).abs() < 1e-6);
            assert!((cosine_distance(&vector, &vector.map(|x| -x)) - 2.0).abs() < 1e-6);
        }
        assert!((l2_distance(&huge, &[0.0; 7]) / (3.0e38 * 7f64.sqrt()) - 1.0).abs() < 1e-6);
        assert!((norm(&tiny) / (1.0e-40 * 7f64.sqrt()) - 1.0).abs() < 1e-3);
        assert!((inner_product(&huge, &huge) / 6.3e77 - 1.0).abs() < 1e-3);
        assert!((l2_distance(&tiny, &[0.0; 7]) / (1.0e-40 * 7f64.sqrt()) - 1.0).abs() < 1e-3);
    }
}
