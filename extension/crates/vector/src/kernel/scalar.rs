//! The specification, in loops simple enough to be read as such and shaped so that the compiler vectorises them.

use super::{BLOCK_ROWS, CosineParts, Kernels};

pub(super) const KERNELS: Kernels =
    Kernels { name: "scalar", dot, l2_squared, cosine, lookup_sums, dot_bytes, above, upper_tails };

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

/// See [`Kernels::lookup_sums`].
pub fn lookup_sums(tables: &[u8], codes: &[u8], sums: &mut [u16; BLOCK_ROWS]) {
    assert_eq!(tables.len(), codes.len());
    *sums = [0; BLOCK_ROWS];
    let (tables, rest) = tables.as_chunks::<16>();
    let (codes, _) = codes.as_chunks::<16>();
    assert!(rest.is_empty() && tables.len().is_multiple_of(2), "tables come in pairs of 16 bytes");
    for (table, codes) in tables.iter().zip(codes) {
        for (row, &byte) in codes.iter().enumerate() {
            let (low, high) = (usize::from(byte & 15), usize::from(byte >> 4));
            sums[row] = sums[row].wrapping_add(table[low].into());
            sums[row + 16] = sums[row + 16].wrapping_add(table[high].into());
        }
    }
}

/// See [`Kernels::dot_bytes`].
pub fn dot_bytes(bytes: &[u8], signed: &[i8]) -> i32 {
    assert_eq!(bytes.len(), signed.len());
    bytes.iter().zip(signed).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

/// See [`Kernels::above`].
pub fn above(scores: &[f32; BLOCK_ROWS], limit: f32) -> u32 {
    scores.iter().enumerate().fold(0, |bits, (row, &score)| bits | u32::from(score > limit) << row)
}

/// See [`Kernels::upper_tails`].
#[inline(always)]
pub fn upper_tails(threshold: f32, scale: f32, centres: &[f32], inverses: &[f32], weights: &[f32]) -> f32 {
    assert!(centres.len() == inverses.len() && centres.len() == weights.len());
    let ((centres, a), (inverses, b), (weights, c)) =
        (centres.as_chunks::<LANES>(), inverses.as_chunks::<LANES>(), weights.as_chunks::<LANES>());
    let mut lanes = [0f32; LANES];
    for ((centres, inverses), weights) in centres.iter().zip(inverses).zip(weights) {
        for lane in 0..LANES {
            lanes[lane] += weights[lane] * upper_tail((threshold - centres[lane]) * (inverses[lane] * scale));
        }
    }
    let rest = a.iter().zip(b).zip(c);
    let rest = rest.map(|((centre, inverse), weight)| weight * upper_tail((threshold - centre) * (inverse * scale)));
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

/// Probability that a standard normal variable exceeds `z`, within .01. Free of branches and calls, so that many can be
/// computed at once.
#[inline(always)]
fn upper_tail(z: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    let x = z.abs();
    let power = -x * (0.717 * LOG2_E + 0.416 * LOG2_E * x);
    // Two to that power: its whole part is the exponent of a float, its fraction a parabola within .3 %.
    let biased = power.max(-120.0) + 127.0;
    let whole = biased as i32;
    let fraction = biased - whole as f32;
    let tail = 0.5 * f32::from_bits((whole as u32) << 23) * (1.0 + fraction * (0.6565 + 0.3435 * fraction));
    if z >= 0.0 { tail } else { 1.0 - tail }
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
