//! Kernels over 4-bit codes and bytes for x86-64 CPUs with AVX-512BW: four groups of 32 rows at a time.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{BLOCK_ROWS, avx2_codes};

/// See [`super::Kernels::lookup_sums`].
#[target_feature(enable = "avx512f,avx512bw,avx2")]
pub(super) fn lookup_sums(tables: &[u8], codes: &[u8], sums: &mut [u16; BLOCK_ROWS]) {
    assert_eq!(tables.len(), codes.len());
    let (table_blocks, table_rest) = tables.as_chunks::<64>();
    let (code_blocks, code_rest) = codes.as_chunks::<64>();
    let half = _mm512_set1_epi8(0x0f);
    // As in the AVX2 kernel: bytes added as pairs, and the odd ones alone.
    let [mut pairs_low, mut odd_low, mut pairs_high, mut odd_high] = [_mm512_setzero_si512(); 4];
    for (table, codes) in table_blocks.iter().zip(code_blocks) {
        // SAFETY: both arrays are exactly the 64 bytes read, and loadu asks for no alignment.
        let (table, codes) =
            unsafe { (_mm512_loadu_si512(table.as_ptr().cast()), _mm512_loadu_si512(codes.as_ptr().cast())) };
        let low = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, half));
        let high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), half));
        pairs_low = _mm512_add_epi16(pairs_low, low);
        odd_low = _mm512_add_epi16(odd_low, _mm512_srli_epi16::<8>(low));
        pairs_high = _mm512_add_epi16(pairs_high, high);
        odd_high = _mm512_add_epi16(odd_high, _mm512_srli_epi16::<8>(high));
    }
    // The pair that is left, if the number of pairs is odd.
    avx2_codes::lookup_sums(table_rest, code_rest, sums);
    let (first, second) = sums.split_at_mut(16);
    add_rows(pairs_low, odd_low, first);
    add_rows(pairs_high, odd_high, second);
}

/// Adds the four groups' sums of 16 rows to `sums`, in order.
#[target_feature(enable = "avx512f,avx512bw,avx2")]
fn add_rows(pairs: __m512i, odd: __m512i, sums: &mut [u16]) {
    let even = fold(_mm512_sub_epi16(pairs, _mm512_slli_epi16::<8>(odd)));
    let odd = fold(odd);
    assert_eq!(sums.len(), 16);
    // SAFETY: the slice has 16 elements, which are the 32 bytes read and written; no alignment is asked for.
    unsafe {
        let first: *mut __m128i = sums.as_mut_ptr().cast();
        let second = first.add(1);
        _mm_storeu_si128(first, _mm_add_epi16(_mm_loadu_si128(first), _mm_unpacklo_epi16(even, odd)));
        _mm_storeu_si128(second, _mm_add_epi16(_mm_loadu_si128(second), _mm_unpackhi_epi16(even, odd)));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2")]
fn fold(groups: __m512i) -> __m128i {
    let half = _mm256_add_epi16(_mm512_castsi512_si256(groups), _mm512_extracti64x4_epi64::<1>(groups));
    _mm_add_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// See [`super::Kernels::dot_bytes`].
#[target_feature(enable = "avx512f,avx512bw,avx2")]
pub(super) fn dot_bytes(bytes: &[u8], signed: &[i8]) -> i32 {
    assert_eq!(bytes.len(), signed.len());
    let (byte_blocks, byte_rest) = bytes.as_chunks::<64>();
    let (signed_blocks, signed_rest) = signed.as_chunks::<64>();
    let ones = _mm512_set1_epi16(1);
    let mut total = _mm512_setzero_si512();
    for (x, y) in byte_blocks.iter().zip(signed_blocks) {
        // SAFETY: both arrays are exactly the 64 bytes read, and loadu asks for no alignment.
        let (x, y) = unsafe { (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_loadu_si512(y.as_ptr().cast())) };
        total = _mm512_add_epi32(total, _mm512_madd_epi16(_mm512_maddubs_epi16(x, y), ones));
    }
    _mm512_reduce_add_epi32(total) + avx2_codes::dot_bytes(byte_rest, signed_rest)
}

/// See [`super::Kernels::above`].
#[target_feature(enable = "avx512f")]
pub(super) fn above(scores: &[f32; BLOCK_ROWS], limit: f32) -> u32 {
    let limit = _mm512_set1_ps(limit);
    let (halves, _) = scores.as_chunks::<16>();
    halves.iter().enumerate().fold(0, |bits, (i, half)| {
        // SAFETY: the array is exactly the 64 bytes read, and loadu asks for no alignment.
        let half = unsafe { _mm512_loadu_ps(half.as_ptr()) };
        bits | u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(half, limit)) << (16 * i)
    })
}

/// See [`super::Kernels::upper_tails`]: the plain loop, for the compiler to vectorise with these instructions.
#[target_feature(enable = "avx512f")]
pub(super) fn upper_tails(threshold: f32, scale: f32, centres: &[f32], inverses: &[f32], weights: &[f32]) -> f32 {
    super::scalar::upper_tails(threshold, scale, centres, inverses, weights)
}
