//! The inner loops, one file per instruction set, chosen once per process.
//!
//! A level is a value: holding [`Kernels`] proves that the CPU has the instructions it uses. `scalar` is the
//! specification; unsafe code lives only in the files of this folder.

pub mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_codes;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_codes;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_codes;

use std::sync::LazyLock;

/// The three sums that a cosine needs, gathered in one pass over both vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CosineParts {
    /// Sum of `a[i] * b[i]`.
    pub dot: f32,
    /// Sum of `a[i]^2`.
    pub a_squared: f32,
    /// Sum of `b[i]^2`.
    pub b_squared: f32,
}

/// One instruction set's kernels. Every function wants slices of equal length and panics otherwise.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub name: &'static str,
    /// Inner product.
    pub dot: fn(&[f32], &[f32]) -> f32,
    /// Squared Euclidean distance.
    pub l2_squared: fn(&[f32], &[f32]) -> f32,
    /// Inner product and both squared lengths.
    pub cosine: fn(&[f32], &[f32]) -> CosineParts,
    /// For a block of [`BLOCK_ROWS`] rows: the sum over all groups of what each row's 4-bit code stands for.
    ///
    /// `tables` holds 16 bytes a group, the numbers that the 16 codes stand for. `codes` holds 16 bytes a group as well: the
    /// low half of byte `i` is the code of row `i`, the high half that of row `i + 16`. The number of groups is even. Sums
    /// are modulo 65,536, so at most 257 groups are exact whatever the tables hold. (The memory layout of "fast scan", see
    /// André, Kermarrec and Le Scouarnec, "Cache locality is not enough", VLDB 2015.)
    pub lookup_sums: fn(tables: &[u8], codes: &[u8], sums: &mut [u16; BLOCK_ROWS]),
    /// Inner product of bytes with signed bytes of at most [`MAX_SIGNED`], exactly.
    pub dot_bytes: fn(bytes: &[u8], signed: &[i8]) -> i32,
    /// A bit for each score above a limit.
    pub above: fn(scores: &[f32; BLOCK_ROWS], limit: f32) -> u32,
    /// See [`UpperTails`].
    pub upper_tails: UpperTails,
}

/// How many of the things spread around `centres` are expected above a threshold: the sum of `weights[i]` times the
/// probability, within .01, that a standard normal variable exceeds `(threshold - centres[i]) * inverses[i] * scale`.
pub type UpperTails = fn(threshold: f32, scale: f32, centres: &[f32], inverses: &[f32], weights: &[f32]) -> f32;

/// Rows that [`Kernels::lookup_sums`] handles at a time.
pub const BLOCK_ROWS: usize = 32;

/// Largest absolute value that [`Kernels::dot_bytes`] takes: two products of 255 and this still fit 16 bits.
pub const MAX_SIGNED: i8 = 64;

static BEST: LazyLock<Kernels> = LazyLock::new(|| *available().last().expect("scalar is always there"));

/// The fastest kernels this CPU can run.
pub fn kernels() -> &'static Kernels {
    &BEST
}

/// Every level this CPU can run, slowest first; the first is always `scalar`.
pub fn available() -> Vec<Kernels> {
    [
        Some(scalar::KERNELS),
        #[cfg(target_arch = "x86_64")]
        avx2::detect(),
        #[cfg(target_arch = "x86_64")]
        avx512::detect(),
        #[cfg(target_arch = "aarch64")]
        neon::detect(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
