//! Kernels for x86-64 CPUs with AVX-512F: sixteen lanes, two sums in flight, the tail by mask.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CosineParts, Kernels, avx512_codes};

const LANES: usize = 16;

/// The kernels, if this CPU has the instructions.
pub(super) fn detect() -> Option<Kernels> {
    (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx2"))
        .then_some(Kernels {
            name: "avx512",
            // SAFETY: handed out only after the feature was detected.
            dot: |a, b| unsafe { dot(a, b) },
            // SAFETY: handed out only after the feature was detected.
            l2_squared: |a, b| unsafe { l2_squared(a, b) },
            // SAFETY: handed out only after the feature was detected.
            cosine: |a, b| unsafe { cosine(a, b) },
            // SAFETY: handed out only after AVX-512BW was detected.
            lookup_sums: |tables, codes, sums| unsafe { avx512_codes::lookup_sums(tables, codes, sums) },
            // SAFETY: handed out only after AVX-512BW was detected.
            dot_bytes: |bytes, signed| unsafe { avx512_codes::dot_bytes(bytes, signed) },
            // SAFETY: handed out only after AVX-512F was detected.
            above: |scores, limit| unsafe { avx512_codes::above(scores, limit) },
            // SAFETY: handed out only after AVX-512F was detected.
            upper_tails: |threshold, scale, centres, inverses, weights| unsafe {
                avx512_codes::upper_tails(threshold, scale, centres, inverses, weights)
            },
        })
}

#[target_feature(enable = "avx512f")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    for_each(a, b, |i, x, y| sums[i] = _mm512_fmadd_ps(x, y, sums[i]));
    total(sums)
}

#[target_feature(enable = "avx512f")]
fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    for_each(a, b, |i, x, y| {
        let difference = _mm512_sub_ps(x, y);
        sums[i] = _mm512_fmadd_ps(difference, difference, sums[i]);
    });
    total(sums)
}

#[target_feature(enable = "avx512f")]
fn cosine(a: &[f32], b: &[f32]) -> CosineParts {
    let zero = [_mm512_setzero_ps(); 2];
    let (mut dots, mut xs, mut ys) = (zero, zero, zero);
    for_each(a, b, |i, x, y| {
        dots[i] = _mm512_fmadd_ps(x, y, dots[i]);
        xs[i] = _mm512_fmadd_ps(x, x, xs[i]);
        ys[i] = _mm512_fmadd_ps(y, y, ys[i]);
    });
    CosineParts { dot: total(dots), a_squared: total(xs), b_squared: total(ys) }
}

/// Calls `step(slot, x, y)` for every block, the last one padded with zeros, which add nothing to any of the sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn for_each(a: &[f32], b: &[f32], mut step: impl FnMut(usize, __m512, __m512)) {
    assert_eq!(a.len(), b.len());
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (i, (x, y)) in a_blocks.iter().zip(b_blocks).enumerate() {
        // SAFETY: both arrays are exactly the 64 bytes read, and loadu asks for no alignment.
        let (x, y) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(y.as_ptr())) };
        step(i % 2, x, y);
    }
    if !a_rest.is_empty() {
        let mask: __mmask16 = (1 << a_rest.len()) - 1;
        // SAFETY: the mask lets the load touch only the elements that are there.
        let (x, y) =
            unsafe { (_mm512_maskz_loadu_ps(mask, a_rest.as_ptr()), _mm512_maskz_loadu_ps(mask, b_rest.as_ptr())) };
        step(0, x, y);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn total(sums: [__m512; 2]) -> f32 {
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}
