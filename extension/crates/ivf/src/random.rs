//! Seeded chance, where more than one file needs it.

use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

/// A normal variable, near enough.
pub fn normal(random: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

/// At most `most` of the rows of `rows x width`, each at most once.
pub fn some_rows(rows: &[f32], width: usize, most: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let count = rows.len() / width;
    let chosen = index::sample(random, count, most.min(count));
    chosen.iter().flat_map(|row| rows[row * width..(row + 1) * width].iter().copied()).collect()
}
