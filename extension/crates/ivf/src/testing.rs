//! Seeded data for the tests of this crate.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::random::normal;

/// Rows that vary in few directions: `rows x dimension`.
pub fn flat_data(rows: usize, dimension: usize, inner: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let map: Vec<f32> = (0..inner * dimension).map(|_| normal(&mut random)).collect();
    let mut row = || {
        let inside: Vec<f32> = (0..inner).map(|_| normal(&mut random)).collect();
        (0..dimension).map(|j| (0..inner).map(|i| inside[i] * map[i * dimension + j]).sum()).collect::<Vec<f32>>()
    };
    (0..rows).flat_map(|_| row()).collect()
}

/// Rows around random centres: `rows x dimension`.
pub fn clustered_data(rows: usize, dimension: usize, clusters: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let centres: Vec<f32> = (0..clusters * dimension).map(|_| normal(&mut random)).collect();
    let mut row = || {
        let cluster = random.random_range(0..clusters);
        (0..dimension).map(|j| centres[cluster * dimension + j] + 0.4 * normal(&mut random)).collect::<Vec<f32>>()
    };
    (0..rows).flat_map(|_| row()).collect()
}
