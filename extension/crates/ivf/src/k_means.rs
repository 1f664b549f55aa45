//! Centroids: Lloyd's algorithm on a sample, coarse clusters first.
//!
//! Clustering into thousands of lists at once would compare every row with every centroid in every round. The sample is
//! divided into about sqrt(k) coarse clusters, each of those into its share of the k, and two rounds over all of them
//! mend the borders. Points are rotated vectors, `rows x axes`; deterministic for a seed.

use ndarray::{ArrayView2, linalg::general_mat_mul};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::parallel;
use crate::random::some_rows;

const ROUNDS: usize = 8;
const GLOBAL_ROUNDS: usize = 2;

/// Up to this many centroids are found in one step.
const SMALL: usize = 48;

/// Rows compared with all centroids at a time: keeps the block of products in the cache.
const BLOCK: usize = 256;

/// Where the centroids of a sample lie; `k x axes`, fewer if there are fewer points.
pub fn train(points: &[f32], axes: usize, k: usize, seed: u64, threads: usize, pause: &mut dyn FnMut()) -> Vec<f32> {
    let rows = points.len() / axes;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    if rows <= k {
        return points.to_vec();
    }
    if k <= SMALL {
        return lloyd(points, axes, some_rows(points, axes, k, &mut random), ROUNDS, threads, &mut random, pause);
    }
    let coarse_count = (k as f64).sqrt().ceil() as usize;
    let coarse = some_rows(points, axes, coarse_count, &mut random);
    let coarse = lloyd(points, axes, coarse, ROUNDS, threads, &mut random, pause);
    let nearest = assign(points, axes, &coarse, threads);
    let mut members = vec![Vec::new(); coarse_count];
    for (row, &(cluster, _)) in nearest.iter().enumerate() {
        members[cluster as usize].extend_from_slice(&points[row * axes..(row + 1) * axes]);
    }
    let mut centroids = Vec::with_capacity(k * axes);
    let (mut rows_left, mut k_left) = (rows, k);
    for cluster in &members {
        let size = cluster.len() / axes;
        let share = (k_left * size).div_ceil(rows_left.max(1)).min(k_left).min(size);
        rows_left -= size;
        if share > 0 {
            let first = some_rows(cluster, axes, share, &mut random);
            centroids.extend(lloyd(cluster, axes, first, ROUNDS, threads, &mut random, pause));
            k_left -= share;
        }
    }
    lloyd(points, axes, centroids, GLOBAL_ROUNDS, threads, &mut random, pause)
}

/// The nearest centroid of each point and the squared distance to it.
pub fn assign(points: &[f32], axes: usize, centroids: &[f32], threads: usize) -> Vec<(u32, f32)> {
    let halves: Vec<f32> = centroids.chunks_exact(axes).map(|c| 0.5 * squared(c)).collect();
    let centroids = ArrayView2::from_shape((halves.len(), axes), centroids).expect("k x axes");
    parallel::map_blocks(points, axes * BLOCK, threads, |block| {
        let rows = block.len() / axes;
        let view = ArrayView2::from_shape((rows, axes), block).expect("rows x axes");
        let mut products = ndarray::Array2::zeros((rows, halves.len()));
        general_mat_mul(1.0, &view, &centroids.t(), 0.0, &mut products);
        let nearest = |row: usize| {
            let products = products.row(row);
            let products = products.as_slice().expect("standard layout");
            let (best, value) = largest_difference(products, &halves);
            (best as u32, (squared(&block[row * axes..(row + 1) * axes]) - 2.0 * value).max(0.0))
        };
        (0..rows).map(nearest).collect()
    })
}

/// Index and value of the largest `a - b`.
fn largest_difference(a: &[f32], b: &[f32]) -> (usize, f32) {
    // Eight running winners, so that the compiler can compare eight at a time.
    const LANES: usize = 8;
    let mut best = [(f32::NEG_INFINITY, 0u32); LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (i, (x, y)) in a_blocks.iter().zip(b_blocks).enumerate() {
        for lane in 0..LANES {
            let value = x[lane] - y[lane];
            if value > best[lane].0 {
                best[lane] = (value, (i * LANES + lane) as u32);
            }
        }
    }
    let rest = a_rest.iter().zip(b_rest).enumerate().map(|(i, (x, y))| (x - y, (a.len() - a_rest.len() + i) as u32));
    let winner = best.into_iter().chain(rest).reduce(|a, b| if b.0 > a.0 { b } else { a });
    winner.map_or((0, 0.0), |(value, index)| (index as usize, value))
}

fn squared(vector: &[f32]) -> f32 {
    (esr_vector::kernels().dot)(vector, vector)
}

fn lloyd(
    points: &[f32],
    axes: usize,
    mut centroids: Vec<f32>,
    rounds: usize,
    threads: usize,
    random: &mut ChaCha8Rng,
    pause: &mut dyn FnMut(),
) -> Vec<f32> {
    let k = centroids.len() / axes;
    if k == 0 {
        return centroids;
    }
    for _ in 0..rounds {
        pause();
        let nearest = assign(points, axes, &centroids, threads);
        let mut sizes = vec![0u32; k];
        let mut sums = vec![0.0f32; k * axes];
        for (point, &(cluster, _)) in points.chunks_exact(axes).zip(&nearest) {
            let cluster = cluster as usize;
            sizes[cluster] += 1;
            let sum = &mut sums[cluster * axes..(cluster + 1) * axes];
            sum.iter_mut().zip(point).for_each(|(sum, x)| *sum += x);
        }
        for cluster in 0..k {
            let target = &mut centroids[cluster * axes..(cluster + 1) * axes];
            if sizes[cluster] > 0 {
                let scale = 1.0 / sizes[cluster] as f32;
                target.iter_mut().zip(&sums[cluster * axes..]).for_each(|(c, sum)| *c = sum * scale);
            } else {
                // An empty cluster helps where points are badly served: the farthest of a few random ones.
                let farthest = (0..16)
                    .map(|_| random.random_range(0..nearest.len()))
                    .max_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1))
                    .expect("sixteen candidates");
                target.copy_from_slice(&points[farthest * axes..(farthest + 1) * axes]);
            }
        }
    }
    centroids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clustered_data;

    fn error(points: &[f32], axes: usize, centroids: &[f32]) -> f64 {
        assign(points, axes, centroids, 1).iter().map(|&(_, distance)| f64::from(distance)).sum()
    }

    #[test]
    fn assignment_is_what_a_naive_search_says() {
        let points = clustered_data(300, 9, 12, 1);
        let centroids = clustered_data(13, 9, 12, 2);
        for threads in [1, 3] {
            for (point, (cluster, distance)) in points.chunks_exact(9).zip(assign(&points, 9, &centroids, threads)) {
                let naive: Vec<f32> = centroids
                    .chunks_exact(9)
                    .map(|c| c.iter().zip(point).map(|(x, y)| (x - y) * (x - y)).sum())
                    .collect();
                let best = naive.iter().copied().fold(f32::INFINITY, f32::min);
                assert!((naive[cluster as usize] - best).abs() < 1e-4);
                assert!((distance - best).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn clusters_are_found_and_coarse_first_costs_little() {
        let points = clustered_data(4000, 8, 100, 3);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let flat = lloyd(&points, 8, some_rows(&points, 8, 100, &mut random), 10, 1, &mut random, &mut || ());
        let coarse_first = train(&points, 8, 100, 1, 2, &mut || ());
        assert_eq!(coarse_first.len(), 800);
        let (flat, coarse_first) = (error(&points, 8, &flat), error(&points, 8, &coarse_first));
        assert!(coarse_first < 1.15 * flat, "{coarse_first} against {flat}");
    }

    #[test]
    fn equal_points_and_few_points_are_no_trouble() {
        assert_eq!(train(&[1.0; 60], 3, 5, 1, 1, &mut || ()).len(), 15);
        assert_eq!(train(&[1.0, 2.0], 1, 5, 1, 1, &mut || ()), [1.0, 2.0]);
        assert!(train(&[1.0; 6000], 3, 100, 1, 1, &mut || ()).iter().all(|x| *x == 1.0));
    }
}
