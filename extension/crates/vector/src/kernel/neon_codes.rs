//! Kernels over 4-bit codes for 64-bit ARM: one group of 32 rows at a time.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::BLOCK_ROWS;

/// See [`super::Kernels::lookup_sums`].
#[target_feature(enable = "neon")]
pub(super) fn lookup_sums(tables: &[u8], codes: &[u8], sums: &mut [u16; BLOCK_ROWS]) {
    assert_eq!(tables.len(), codes.len());
    let (tables, rest) = tables.as_chunks::<16>();
    let (codes, _) = codes.as_chunks::<16>();
    assert!(rest.is_empty() && tables.len().is_multiple_of(2), "tables come in pairs of 16 bytes");
    let half = vdupq_n_u8(0x0f);
    let mut totals = [vdupq_n_u16(0); 4];
    for (table, codes) in tables.iter().zip(codes) {
        // SAFETY: both arrays are exactly the 16 bytes read.
        let (table, codes) = unsafe { (vld1q_u8(table.as_ptr()), vld1q_u8(codes.as_ptr())) };
        let low = vqtbl1q_u8(table, vandq_u8(codes, half));
        let high = vqtbl1q_u8(table, vshrq_n_u8::<4>(codes));
        totals[0] = vaddw_u8(totals[0], vget_low_u8(low));
        totals[1] = vaddw_high_u8(totals[1], low);
        totals[2] = vaddw_u8(totals[2], vget_low_u8(high));
        totals[3] = vaddw_high_u8(totals[3], high);
    }
    for (total, rows) in totals.into_iter().zip(sums.as_chunks_mut::<8>().0) {
        // SAFETY: the array is exactly the 16 bytes written.
        unsafe { vst1q_u16(rows.as_mut_ptr(), total) };
    }
}
