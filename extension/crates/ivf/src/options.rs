//! What an index should be like, as whoever builds or maintains it says.

use esr_vector::Metric;

/// What an index should be like.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions {
    /// Which distance it ranks by.
    pub metric: Metric,
    /// Elements of its vectors.
    pub dimension: u32,
    /// Lists; 0 lets the number of rows decide.
    pub lists: u32,
    /// Where the axes of codes and centroids come from.
    pub axes: Axes,
    /// Threads for arithmetic.
    pub threads: usize,
    /// Bytes of memory for the sample and for rows that wait to be written.
    pub memory_bytes: usize,
    /// The same rows and the same seed give the same index.
    pub seed: u64,
}

/// Along which directions rows are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// The principal components of a sample.
    Learned,
    /// A random rotation, which knows nothing of the rows; for measuring what learning brings.
    Random,
}

/// Most lists an index may be given.
pub const MAX_LISTS: u32 = 262_144;

/// Lists for a number of rows: reading centroids and reading rows then cost about the same.
pub fn default_lists(rows: u64) -> u32 {
    ((2.0 * (rows as f64).sqrt()).round() as u32).clamp(1, (rows / 32).clamp(1, u64::from(MAX_LISTS)) as u32)
}
