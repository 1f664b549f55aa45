//! Kernels for x86-64 CPUs with AVX2 and FMA: eight lanes, four sums in flight.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CosineParts, Kernels, avx2_codes};

const LANES: usize = 8;

/// The kernels, if this CPU has the instructions.
pub(super) fn detect() -> Option<Kernels> {
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Kernels {
        name: "avx2",
        // SAFETY: handed out only after both features were detected.
        dot: |a, b| unsafe { dot(a, b) },
        // SAFETY: handed out only after both features were detected.
        l2_squared: |a, b| unsafe { l2_squared(a, b) },
        // SAFETY: handed out only after both features were detected.
        cosine: |a, b| unsafe { cosine(a, b) },
        // SAFETY: handed out only after AVX2 was detected.
        lookup_sums: |tables, codes, sums| unsafe { avx2_codes::lookup_sums(tables, codes, sums) },
        // SAFETY: handed out only after AVX2 was detected.
        dot_bytes: |bytes, signed| unsafe { avx2_codes::dot_bytes(bytes, signed) },
        // SAFETY: handed out only after AVX2 was detected.
        above: |scores, limit| unsafe { avx2_codes::above(scores, limit) },
        // SAFETY: handed out only after AVX2 was detected.
        upper_tails: |threshold, scale, centres, inverses, weights| unsafe {
            avx2_codes::upper_tails(threshold, scale, centres, inverses, weights)
        },
    })
}

#[target_feature(enable = "avx2,fma")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let blocks = Blocks::new(a, b);
    let mut sums = [_mm256_setzero_ps(); 4];
    blocks.for_each(|i, x, y| sums[i] = _mm256_fmadd_ps(x, y, sums[i]));
    blocks.rest().fold(total(sums), |sum, (x, y)| x.mul_add(y, sum))
}

#[target_feature(enable = "avx2,fma")]
fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let blocks = Blocks::new(a, b);
    let mut sums = [_mm256_setzero_ps(); 4];
    blocks.for_each(|i, x, y| {
        let difference = _mm256_sub_ps(x, y);
        sums[i] = _mm256_fmadd_ps(difference, difference, sums[i]);
    });
    blocks.rest().fold(total(sums), |sum, (x, y)| (x - y).mul_add(x - y, sum))
}

#[target_feature(enable = "avx2,fma")]
fn cosine(a: &[f32], b: &[f32]) -> CosineParts {
    let blocks = Blocks::new(a, b);
    let zero = [_mm256_setzero_ps(); 4];
    let (mut dots, mut xs, mut ys) = (zero, zero, zero);
    blocks.for_each(|i, x, y| {
        dots[i] = _mm256_fmadd_ps(x, y, dots[i]);
        xs[i] = _mm256_fmadd_ps(x, x, xs[i]);
        ys[i] = _mm256_fmadd_ps(y, y, ys[i]);
    });
    let start = CosineParts { dot: total(dots), a_squared: total(xs), b_squared: total(ys) };
    blocks.rest().fold(start, |parts, (x, y)| CosineParts {
        dot: x.mul_add(y, parts.dot),
        a_squared: x.mul_add(x, parts.a_squared),
        b_squared: y.mul_add(y, parts.b_squared),
    })
}

/// Two slices of equal length, walked eight elements at a time.
struct Blocks<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl<'a> Blocks<'a> {
    fn new(a: &'a [f32], b: &'a [f32]) -> Self {
        assert_eq!(a.len(), b.len());
        Self { a, b }
    }

    /// Calls `step(slot, x, y)` for every whole block; `slot` cycles through 0..4.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn for_each(&self, mut step: impl FnMut(usize, __m256, __m256)) {
        let (a_blocks, _) = self.a.as_chunks::<LANES>();
        let (b_blocks, _) = self.b.as_chunks::<LANES>();
        let (a_quads, a_rest) = a_blocks.as_chunks::<4>();
        let (b_quads, b_rest) = b_blocks.as_chunks::<4>();
        for (x, y) in a_quads.iter().zip(b_quads) {
            for slot in 0..4 {
                step(slot, load(&x[slot]), load(&y[slot]));
            }
        }
        for (slot, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
            step(slot, load(x), load(y));
        }
    }

    /// The elements after the last whole block.
    fn rest(&self) -> impl Iterator<Item = (f32, f32)> + 'a {
        let (_, a) = self.a.as_chunks::<LANES>();
        let (_, b) = self.b.as_chunks::<LANES>();
        a.iter().copied().zip(b.iter().copied())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(block: &[f32; LANES]) -> __m256 {
    // SAFETY: the array is exactly the 32 bytes read, and loadu asks for no alignment.
    unsafe { _mm256_loadu_ps(block.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn total(sums: [__m256; 4]) -> f32 {
    let four = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let half = _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four));
    let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
}
