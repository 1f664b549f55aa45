//! Kernels for 64-bit ARM: four lanes, four sums in flight.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::{CosineParts, Kernels, neon_codes, scalar};

const LANES: usize = 4;

/// The kernels, if this CPU has the instructions.
pub(super) fn detect() -> Option<Kernels> {
    std::arch::is_aarch64_feature_detected!("neon").then_some(Kernels {
        name: "neon",
        // SAFETY: handed out only after the feature was detected.
        dot: |a, b| unsafe { dot(a, b) },
        // SAFETY: handed out only after the feature was detected.
        l2_squared: |a, b| unsafe { l2_squared(a, b) },
        // SAFETY: handed out only after the feature was detected.
        cosine: |a, b| unsafe { cosine(a, b) },
        // SAFETY: handed out only after the feature was detected.
        lookup_sums: |tables, codes, sums| unsafe { neon_codes::lookup_sums(tables, codes, sums) },
        // The compiler vectorises the plain loops.
        dot_bytes: scalar::dot_bytes,
        above: scalar::above,
        upper_tails: scalar::upper_tails,
    })
}

#[target_feature(enable = "neon")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 4];
    for_each(a, b, |i, x, y| sums[i] = vfmaq_f32(sums[i], x, y));
    total(sums)
}

#[target_feature(enable = "neon")]
fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 4];
    for_each(a, b, |i, x, y| {
        let difference = vsubq_f32(x, y);
        sums[i] = vfmaq_f32(sums[i], difference, difference);
    });
    total(sums)
}

#[target_feature(enable = "neon")]
fn cosine(a: &[f32], b: &[f32]) -> CosineParts {
    let zero = [vdupq_n_f32(0.0); 4];
    let (mut dots, mut xs, mut ys) = (zero, zero, zero);
    for_each(a, b, |i, x, y| {
        dots[i] = vfmaq_f32(dots[i], x, y);
        xs[i] = vfmaq_f32(xs[i], x, x);
        ys[i] = vfmaq_f32(ys[i], y, y);
    });
    CosineParts { dot: total(dots), a_squared: total(xs), b_squared: total(ys) }
}

/// Calls `step(slot, x, y)` for every block, the last one padded with zeros, which add nothing to any of the sums.
#[inline]
#[target_feature(enable = "neon")]
fn for_each(a: &[f32], b: &[f32], mut step: impl FnMut(usize, float32x4_t, float32x4_t)) {
    assert_eq!(a.len(), b.len());
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let padded = |rest: &[f32]| {
        let mut block = [0f32; LANES];
        block[..rest.len()].copy_from_slice(rest);
        block
    };
    for (i, (x, y)) in a_blocks.iter().zip(b_blocks).enumerate() {
        // SAFETY: both arrays are exactly the 16 bytes read.
        let (x, y) = unsafe { (vld1q_f32(x.as_ptr()), vld1q_f32(y.as_ptr())) };
        step(i % 4, x, y);
    }
    let (x, y) = (padded(a_rest), padded(b_rest));
    // SAFETY: as above.
    let (x, y) = unsafe { (vld1q_f32(x.as_ptr()), vld1q_f32(y.as_ptr())) };
    step(0, x, y);
}

#[inline]
#[target_feature(enable = "neon")]
fn total(sums: [float32x4_t; 4]) -> f32 {
    vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])))
}
