//! Queries to try an index with before anybody searches it.
//!
//! Some are like the rows. Others are what descriptions in words are to speech: they lie beside the rows, or they point at
//! what few rows have, along directions in which rows hardly differ (a text encoder is trained to tell styles apart, not to
//! follow what varies most).

use rand_chacha::ChaCha8Rng;

use esr_vector::Metric;

use crate::random::normal;

/// Where a query lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It is a row.
    Like,
    /// It lies off the rows, in all directions.
    Beside,
    /// It points from the middle of all rows to a row far out, with each axis divided by its variance to this power: at a
    /// half, all axes count alike (the row is whitened); above, the less rows differ along an axis, the more it counts.
    Pointing(f32),
}

/// Kinds that are tried, as often each.
pub const KINDS: [Kind; 5] =
    [Kind::Like, Kind::Beside, Kind::Pointing(0.25), Kind::Pointing(0.5), Kind::Pointing(0.75)];

/// A query that points at a row points at the one furthest out of so many.
pub const FURTHEST_OF: usize = 16;

/// Length of the noise in a query that lies beside the rows, over that of the part that does not.
const NOISE: f32 = 1.5;

/// How much further from the middle of all rows than a row a query lies that points there, where only directions count.
const BEYOND: f32 = 3.0;

/// No axis is taken to vary less than this share of the first one.
const LEAST_SHARE: f32 = 1e-5;

/// Adds noise to each coordinate of a query of `dimension` elements; returns its standard deviation.
pub fn add_noise(query: &mut [f32], dimension: usize, random: &mut ChaCha8Rng) -> f32 {
    let length = (esr_vector::kernels().dot)(query, query).sqrt();
    let noise = NOISE * length / (dimension as f32).sqrt();
    query.iter_mut().for_each(|x| *x += noise * normal(random));
    noise
}

/// What a query that points at a row divides each axis by: its variance to a power.
pub fn divisors(variances: &[f32], power: f32) -> Vec<f32> {
    let least = (LEAST_SHARE * variances.first().copied().unwrap_or(1.0)).max(f32::MIN_POSITIVE);
    variances.iter().map(|variance| variance.max(least).powf(power)).collect()
}

/// Which of some rows, rotated and relative to the middle of all rows, lies furthest out for a query that points there.
pub fn furthest<'a, T>(rows: impl Iterator<Item = T>, row: impl Fn(&T) -> &'a [f32], divisors: &[f32]) -> Option<T> {
    let with_reach = rows.map(|item| (reach(row(&item), divisors), item));
    with_reach.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, item)| item)
}

fn reach(row: &[f32], divisors: &[f32]) -> f32 {
    row.iter().zip(divisors).map(|(x, divisor)| (x / divisor).powi(2)).sum()
}

/// Turns a row, rotated and relative to the middle of all rows, into what a query that points at it adds to the middle.
pub fn point(row: &mut [f32], divisors: &[f32], metric: Metric) {
    let length = |row: &[f32]| (esr_vector::kernels().dot)(row, row).sqrt();
    let before = length(row);
    row.iter_mut().zip(divisors).for_each(|(x, divisor)| *x /= divisor);
    let beyond = if metric == Metric::Euclidean { 1.0 } else { BEYOND };
    let factor = beyond * before / length(row).max(f32::MIN_POSITIVE);
    row.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_points_where_rows_hardly_differ() {
        let variances = [4.0, 1.0, 0.01];
        let mut row = [2.0, 1.0, 0.1];
        point(&mut row, &divisors(&variances, 0.5), Metric::Euclidean);
        // One deviation along each axis.
        assert!(row.iter().all(|x| (x - row[0]).abs() < 1e-6), "{row:?}");
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 5.01).abs() < 1e-4, "it is as long as the row: {row:?}");
        let mut beyond = [2.0, 1.0, 0.1];
        point(&mut beyond, &divisors(&variances, 0.0), Metric::Cosine);
        assert_eq!(beyond, [6.0, 3.0, 0.3].map(|x: f32| x));
        let reach = |row: &[f32]| reach(row, &divisors(&variances, 0.5));
        assert!(reach(&[0.0, 0.0, 0.4]) > reach(&[4.0, 1.0, 0.1]));
        point(&mut [0.0; 3], &divisors(&[0.0; 3], 0.5), Metric::Cosine);
    }
}
