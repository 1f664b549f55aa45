//! Kernels over 4-bit codes and bytes for x86-64 CPUs with AVX2: two groups of 32 rows at a time.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::BLOCK_ROWS;

/// See [`super::Kernels::lookup_sums`].
#[target_feature(enable = "avx2")]
pub(super) fn lookup_sums(tables: &[u8], codes: &[u8], sums: &mut [u16; BLOCK_ROWS]) {
    assert_eq!(tables.len(), codes.len());
    let (tables, rest) = tables.as_chunks::<32>();
    let (codes, _) = codes.as_chunks::<32>();
    assert!(rest.is_empty(), "tables come in pairs of 16 bytes");
    let half = _mm256_set1_epi8(0x0f);
    // Bytes are added as pairs: once with the odd one above the even one, once the odd one alone. At the end the odd sums
    // are taken out of the first; all of it modulo 65,536.
    let [mut pairs_low, mut odd_low, mut pairs_high, mut odd_high] = [_mm256_setzero_si256(); 4];
    for (table, codes) in tables.iter().zip(codes) {
        let (table, codes) = (load(table), load(codes));
        let low = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, half));
        let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), half));
        pairs_low = _mm256_add_epi16(pairs_low, low);
        odd_low = _mm256_add_epi16(odd_low, _mm256_srli_epi16::<8>(low));
        pairs_high = _mm256_add_epi16(pairs_high, high);
        odd_high = _mm256_add_epi16(odd_high, _mm256_srli_epi16::<8>(high));
    }
    let (first, second) = sums.split_at_mut(16);
    store_rows(pairs_low, odd_low, first);
    store_rows(pairs_high, odd_high, second);
}

/// Adds the two groups' sums and puts the 16 rows in order.
#[target_feature(enable = "avx2")]
fn store_rows(pairs: __m256i, odd: __m256i, sums: &mut [u16]) {
    let even = _mm256_sub_epi16(pairs, _mm256_slli_epi16::<8>(odd));
    let even = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256::<1>(even));
    let odd = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256::<1>(odd));
    assert_eq!(sums.len(), 16);
    // SAFETY: the slice has 16 elements, which are the 32 bytes written, and storeu asks for no alignment.
    unsafe {
        _mm_storeu_si128(sums.as_mut_ptr().cast(), _mm_unpacklo_epi16(even, odd));
        _mm_storeu_si128(sums.as_mut_ptr().add(8).cast(), _mm_unpackhi_epi16(even, odd));
    }
}

/// See [`super::Kernels::dot_bytes`].
#[target_feature(enable = "avx2")]
pub(super) fn dot_bytes(bytes: &[u8], signed: &[i8]) -> i32 {
    assert_eq!(bytes.len(), signed.len());
    let (byte_blocks, byte_rest) = bytes.as_chunks::<32>();
    let (signed_blocks, signed_rest) = signed.as_chunks::<32>();
    let ones = _mm256_set1_epi16(1);
    let mut total = _mm256_setzero_si256();
    for (x, y) in byte_blocks.iter().zip(signed_blocks) {
        // SAFETY: the array is exactly the 32 bytes read, and loadu asks for no alignment.
        let y = unsafe { _mm256_loadu_si256(y.as_ptr().cast()) };
        total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(load(x), y), ones));
    }
    let half = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
    let quarter = _mm_add_epi32(half, _mm_shuffle_epi32::<0b0100_1110>(half));
    let sum = _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<0b1011_0001>(quarter)));
    byte_rest.iter().zip(signed_rest).fold(sum, |sum, (&x, &y)| sum + i32::from(x) * i32::from(y))
}

/// See [`super::Kernels::above`].
#[target_feature(enable = "avx2")]
pub(super) fn above(scores: &[f32; BLOCK_ROWS], limit: f32) -> u32 {
    let limit = _mm256_set1_ps(limit);
    let (eights, _) = scores.as_chunks::<8>();
    eights.iter().enumerate().fold(0, |bits, (i, eight)| {
        // SAFETY: the array is exactly the 32 bytes read, and loadu asks for no alignment.
        let eight = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
        let is_above = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(eight, limit));
        bits | (is_above as u32) << (8 * i)
    })
}

/// See [`super::Kernels::upper_tails`]: the plain loop, for the compiler to vectorise with these instructions.
#[target_feature(enable = "avx2")]
pub(super) fn upper_tails(threshold: f32, scale: f32, centres: &[f32], inverses: &[f32], weights: &[f32]) -> f32 {
    super::scalar::upper_tails(threshold, scale, centres, inverses, weights)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(block: &[u8; 32]) -> __m256i {
    // SAFETY: the array is exactly the 32 bytes read, and loadu asks for no alignment.
    unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
}
