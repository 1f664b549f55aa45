//! The specification, in loops simple enough to be read as such and shaped so that the compiler vectorises them.

use super::{BLOCK_ROWS, CosineParts, Kernels};

pub(super) const KERNELS: Kernels = Kernels { name: "scalar", dot, l2_squared, cosine, lookup_sums, dot_bytes };

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
