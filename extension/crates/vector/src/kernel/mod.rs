//! The inner loops, one file per instruction set, chosen once per process.
//!
//! A level is a value: holding [`Kernels`] proves that the CPU has the instructions it uses. `scalar` is the
//! specification; unsafe code lives only in the files of this folder.

pub mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

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
}

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
