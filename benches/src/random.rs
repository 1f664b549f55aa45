//! Random vectors, and a random rotation that is cheap to apply.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Elements of every vector.
pub const DIMENSIONS: usize = 512;

/// A generator of its own for each stream of a seed.
pub fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}

/// A random rotation that costs `n log n`.
pub struct Rotation {
    signs: [Vec<f32>; 2],
}

impl Rotation {
    /// Draws one.
    pub fn new(random: &mut ChaCha8Rng) -> Self {
        let mut signs = || (0..DIMENSIONS).map(|_| if random.random() { 1.0 } else { -1.0 }).collect();
        Self { signs: [signs(), signs()] }
    }

    /// Turns a vector.
    pub fn turn(&self, vector: &mut [f32]) {
        for signs in &self.signs {
            vector.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            walsh_hadamard(vector);
        }
    }
}

/// The orthonormal Walsh-Hadamard transform; wants a power of two.
fn walsh_hadamard(vector: &mut [f32]) {
    let mut half = 1;
    while half < vector.len() {
        for pair in vector.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (vector.len() as f32).sqrt();
    vector.iter_mut().for_each(|x| *x *= scale);
}

/// A unit vector, every direction equally likely.
pub fn direction(random: &mut ChaCha8Rng, dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dimensions];
    gaussian(random, &mut vector, 1.0);
    scale_to(&mut vector, 1.0);
    vector
}

/// Fills with independent normal numbers (Box and Muller's method).
pub fn gaussian(random: &mut ChaCha8Rng, out: &mut [f32], deviation: f32) {
    for pair in out.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt() * deviation;
        let (sine, cosine) = (random.random::<f32>() * std::f32::consts::TAU).sin_cos();
        pair[0] = radius * cosine;
        if let Some(second) = pair.get_mut(1) {
            *second = radius * sine;
        }
    }
}

/// Scales to a length; a zero vector stays what it is.
pub fn scale_to(vector: &mut [f32], length: f32) {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x *= length / norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rotation_keeps_lengths_and_angles() {
        let mut random = generator(1, 0);
        let rotation = Rotation::new(&mut random);
        let (mut a, mut b) = (direction(&mut random, DIMENSIONS), direction(&mut random, DIMENSIONS));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let before = dot(&a, &b);
        rotation.turn(&mut a);
        rotation.turn(&mut b);
        assert!((dot(&a, &b) - before).abs() < 1e-5);
        assert!((dot(&a, &a) - 1.0).abs() < 1e-5);
    }
}
