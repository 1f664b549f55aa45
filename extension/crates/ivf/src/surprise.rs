//! How far out the answer to a query lies.
//!
//! A query that is answered by what is common is the easy case: many lists hold rows about as near, and how scores scatter
//! can be foreseen. A query that points at something rare finds a few rows far outside of what is usual, codes fall shorter
//! there and what lists hold is harder to foresee. The score of the answer tells which it is.

use esr_vector::Metric;

use crate::page::CLASSES;
use crate::rotation::{Rotation, weighted};

/// The scores of all rows against one query, taken as normal.
#[derive(Debug, Clone, Copy)]
pub struct AllRows {
    middle: f32,
    /// One over the standard deviation.
    inverse: f32,
}

impl AllRows {
    /// For a rotated query, given the rotated mean row, the query's product with the mean row and its squared length in the
    /// directions left out.
    pub fn new(
        rotation: &Rotation,
        rotated_mean: &[f32],
        metric: Metric,
        rotated: &[f32],
        base: f32,
        outside: f32,
    ) -> Self {
        let left_out = outside * rotation.left_out_each();
        let (middle, variance) = if metric == Metric::Euclidean {
            // Half the squared length is taken away: m r + |r|^2 / 2 for a row m + r, and |m|^2 / 2.
            let dot = esr_vector::kernels().dot;
            let from_mean: Vec<f32> = rotated.iter().zip(rotated_mean).map(|(q, m)| q - m).collect();
            let varies = rotation.variances.iter().sum::<f32>() + rotation.left_out;
            let of_lengths = 0.5 * dot(&rotation.variances, &rotation.variances);
            let middle = base - 0.5 * (dot(&rotation.mean, &rotation.mean) + varies);
            (middle, weighted(&from_mean, &rotation.variances) + left_out + of_lengths)
        } else {
            (base, weighted(rotated, &rotation.variances) + left_out)
        };
        Self { middle, inverse: 1.0 / variance.sqrt().max(f32::MIN_POSITIVE) }
    }

    /// How surprising it is that `rank` of `rows` rows score higher than this: the common logarithm of `rank` over the number
    /// of rows that would, were their scores normal.
    pub fn surprise(&self, score: f32, rank: f32, rows: f32) -> f32 {
        rank.max(1.0).log10() - rows.max(1.0).log10() - log_upper_tail((score - self.middle) * self.inverse)
    }
}

/// What is known of each class of queries, at the surprise of one: in between, and as for the outermost class beyond it.
pub fn between_classes(surprises: &[f32; CLASSES], known: &[f32; CLASSES], surprise: f32) -> f32 {
    let class = surprises.partition_point(|&middle| middle <= surprise);
    if class == 0 || class == CLASSES {
        return known[class.min(CLASSES - 1)];
    }
    let along = (surprise - surprises[class - 1]) / (surprises[class] - surprises[class - 1]);
    mix(known[class - 1], known[class], along)
}

/// Divides what was tried, in the order of its surprise, into classes; says what is in the middle of each, increasing. A class is
/// empty only if nothing was tried.
pub fn classes<T>(tried: &mut [T], surprise: impl Fn(&T) -> f32) -> ([f32; CLASSES], [&[T]; CLASSES]) {
    tried.sort_by(|a, b| surprise(a).total_cmp(&surprise(b)));
    let count = tried.len();
    let members = std::array::from_fn(|class| {
        let first = (class * count / CLASSES).min(count.saturating_sub(1));
        &tried[first..((class + 1) * count / CLASSES).max(first + 1).min(count)]
    });
    let mut middles = [0.0; CLASSES];
    for class in 0..CLASSES {
        let members: &[T] = members[class];
        let least = if class == 0 { f32::NEG_INFINITY } else { middles[class - 1] + 1e-3 };
        middles[class] = members.get(members.len() / 2).map_or(class as f32, &surprise).max(least);
    }
    (middles, members)
}

/// Common logarithm of the probability that a standard normal variable exceeds `z`, within .01 (Börjesson and Sundberg, "Simple
/// approximations of the error function Q(x) for communications applications", 1979, equation 13).
fn log_upper_tail(z: f32) -> f32 {
    const A: f32 = 0.339;
    const B: f32 = 5.510;
    let x = z.abs();
    let log_density = -0.5 * x * x - 0.5 * std::f32::consts::TAU.ln();
    let log = (log_density - ((1.0 - A) * x + A * (x * x + B).sqrt()).ln()) * std::f32::consts::LOG10_E;
    if z >= 0.0 { log } else { (1.0 - 10f32.powf(log)).log10() }
}

/// Between `a` and `b`, at share `t` of the way.
pub(crate) fn mix(a: f32, b: f32, t: f32) -> f32 {
    a * (1.0 - t) + b * t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_tails() {
        for (z, want) in
            [(0.0, 0.5f64), (1.0, 0.158_655), (3.0, 1.3499e-3), (6.0, 9.866e-10), (-1.0, 0.841_345), (-6.0, 1.0)]
        {
            let got = log_upper_tail(z);
            assert!((f64::from(got) - want.log10()).abs() < 0.01, "{z}: {got} instead of {}", want.log10());
        }
        assert!(log_upper_tail(40.0).is_finite() && log_upper_tail(-40.0) == 0.0);
    }

    #[test]
    fn classes_are_of_one_size_and_increase() {
        let mut tried: Vec<f32> = (0..103).map(|i| ((i * 37) % 103) as f32).collect();
        let (middles, members) = classes(&mut tried, |&x| x);
        assert!(middles.is_sorted());
        assert_eq!(members.iter().map(|members| members.len()).sum::<usize>(), 103);
        assert!(members.iter().all(|members| (25..=26).contains(&members.len())));
        for few in 0..CLASSES {
            let mut tried = vec![1.0; few];
            let (middles, members) = classes(&mut tried, |&x| x);
            assert!(middles.is_sorted_by(|a, b| a < b), "{middles:?}");
            assert_eq!(members.iter().all(|members| !members.is_empty()), few > 0);
        }
    }

    #[test]
    fn between_classes_it_is_between_them() {
        let (surprises, known) = ([0.0, 1.0, 3.0, 4.0], [5.0, 6.0, 8.0, 0.0]);
        for (surprise, want) in [(-9.0, 5.0), (0.0, 5.0), (0.5, 5.5), (2.0, 7.0), (3.75, 2.0), (4.0, 0.0), (9.0, 0.0)] {
            assert_eq!(between_classes(&surprises, &known, surprise), want, "{surprise}");
        }
    }
}
