//! How far estimates of near rows fall short of the truth, in their expected deviations: what a search must allow for.
//!
//! A code stands for the middle of what shares it, so the further out a row lies towards a query, the more its estimate falls short.
//! The rows nearest to a query lie furthest out, the more so the more rows there are to choose from: hence the nearest of many.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use esr_vector::Metric;

use crate::build::BuildOptions;
use crate::calibrate;
use crate::estimate::error_of_codes;
use crate::page::TARGETS;
use crate::parallel;
use crate::quantiser::Quantiser;
use crate::random::normal;
use crate::rotation::Rotation;

/// Queries, half of them like the rows and half beside them.
const QUERIES: usize = 192;
/// Queries that one thread takes at a time.
const TOGETHER: usize = 16;
/// Most rows of the sample that each query is compared with.
const ROWS: usize = 32_768;
/// Rows that stay in a core's cache while the queries pass over them.
const BLOCK: usize = 64;
/// Near rows of each query that are looked at.
const NEAR: usize = 10;

/// Quantiles of the shortfall, a recall target each; see [`crate::structure::Model::margins`].
pub fn margins(
    sample: &[f32],
    rotated: &[f32],
    rotation: &Rotation,
    quantiser: &Quantiser,
    options: &BuildOptions,
) -> Vec<f32> {
    let dimension = rotation.dimension();
    let all = sample.len() / dimension;
    let rows = all.min(ROWS);
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0x3a59_1ef2);
    let queries: Vec<(usize, Vec<f32>)> = (0..QUERIES.min(rows))
        .map(|number| {
            let own = random.random_range(0..all);
            let mut query = sample[own * dimension..(own + 1) * dimension].to_vec();
            if number % 2 == 1 {
                let dot = esr_vector::kernels().dot;
                let noise = dot(&query, &query).sqrt() * calibrate::NOISE / (dimension as f32).sqrt();
                query.iter_mut().for_each(|x| *x += noise * normal(&mut random));
            }
            (own, query)
        })
        .collect();
    let mut shortfalls = parallel::map_blocks(&queries, TOGETHER, options.threads, |queries| {
        let near = nearest(queries, &sample[..rows * dimension], dimension, options.metric);
        let pairs = queries.iter().zip(near);
        pairs.flat_map(|((_, query), near)| shortfalls(query, &near, sample, rotated, rotation, quantiser)).collect()
    });
    shortfalls.sort_by(f32::total_cmp);
    let quantile = |share: f32| {
        let place = (share * shortfalls.len() as f32) as usize;
        shortfalls.get(place.min(shortfalls.len().saturating_sub(1))).map_or(3.0, |&shortfall| shortfall.max(0.0))
    };
    TARGETS.iter().map(|&share| quantile(share)).collect()
}

/// The nearest rows of each query but its own.
fn nearest(queries: &[(usize, Vec<f32>)], rows: &[f32], dimension: usize, metric: Metric) -> Vec<Vec<usize>> {
    let dot = esr_vector::kernels().dot;
    let half_norms = if metric == Metric::Euclidean { 0.5 } else { 0.0 };
    let mut near: Vec<Vec<(f32, usize)>> = vec![Vec::with_capacity(NEAR + 1); queries.len()];
    for (number, block) in rows.chunks(BLOCK * dimension).enumerate() {
        for ((own, query), near) in queries.iter().zip(&mut near) {
            for (place, vector) in block.chunks_exact(dimension).enumerate() {
                let row = number * BLOCK + place;
                let mut score = dot(query, vector);
                if half_norms > 0.0 {
                    score -= half_norms * dot(vector, vector);
                }
                let is_near = near.len() < NEAR || near.last().is_some_and(|&(last, _)| score > last);
                if is_near && row != *own {
                    near.insert(near.partition_point(|&(other, _)| other >= score), (score, row));
                    near.truncate(NEAR);
                }
            }
        }
    }
    near.into_iter().map(|near| near.into_iter().map(|(_, row)| row).collect()).collect()
}

/// By how much the products of one query with some rows are underestimated.
fn shortfalls(
    query: &[f32],
    near: &[usize],
    sample: &[f32],
    rotated: &[f32],
    rotation: &Rotation,
    quantiser: &Quantiser,
) -> Vec<f32> {
    let (dimension, axes) = (rotation.dimension(), rotation.axis_count());
    let dot = esr_vector::kernels().dot;
    let direction = rotation.rotate_direction(query);
    let outside = (dot(query, query) - dot(&direction, &direction)).max(0.0);
    let deviation = error_of_codes(rotation, quantiser, &direction, outside).sqrt().max(f32::MIN_POSITIVE);
    let mut codes = vec![0; quantiser.group_count()];
    let mut decoded = vec![0.0; axes];
    let shortfall = |&row: &usize| {
        quantiser.encode(&mut rotated[row * axes..(row + 1) * axes].to_vec(), &mut codes);
        quantiser.decode(codes.iter().copied(), &mut decoded);
        let estimate = dot(query, &rotation.mean) + dot(&direction, &decoded);
        (dot(query, &sample[row * dimension..(row + 1) * dimension]) - estimate) / deviation
    };
    near.iter().map(shortfall).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Layout;
    use crate::build::Axes;

    /// A cloud without clusters whose directions vary less and less, on the unit sphere.
    fn cloud(rows: usize, dimension: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
        let mut cloud = Vec::with_capacity(rows * dimension);
        for _ in 0..rows {
            let row: Vec<f32> = (0..dimension).map(|j| normal(random) * (j as f32 + 1.0).powf(-0.37)).collect();
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            cloud.extend(row.iter().map(|x| x / length));
        }
        cloud
    }

    #[test]
    fn few_of_the_nearest_of_many_rows_fall_further_short_than_the_margins_say() {
        const ROWS: usize = 24_000;
        const DIMENSION: usize = 96;
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let sample = cloud(ROWS, DIMENSION, &mut random);
        let options = BuildOptions {
            metric: Metric::Cosine,
            dimension: DIMENSION as u32,
            lists: 0,
            axes: Axes::Learned,
            threads: 1,
            memory_bytes: 64 << 20,
            seed: 1,
        };
        let rotation = Rotation::train(&sample[..8192 * DIMENSION], DIMENSION, 1);
        let rotated = rotation.rotate_rows(&sample);
        // As coarse as the codes of vectors of 512 elements are.
        let groups = Layout::most_groups(DIMENSION, false).min(DIMENSION / 2) & !1;
        let quantiser = Quantiser::train(&rotated, &rotation.variances, groups, 1);
        let margins = margins(&sample, &rotated, &rotation, &quantiser, &options);
        let queries: Vec<(usize, Vec<f32>)> =
            cloud(150, DIMENSION, &mut random).chunks_exact(DIMENSION).map(|row| (ROWS, row.to_vec())).collect();
        let near = nearest(&queries, &sample, DIMENSION, Metric::Cosine);
        let found: Vec<f32> = queries
            .iter()
            .zip(&near)
            .flat_map(|((_, query), near)| shortfalls(query, near, &sample, &rotated, &rotation, &quantiser))
            .collect();
        for (target, margin) in TARGETS.iter().zip(&margins).filter(|(target, _)| [0.9, 0.95, 0.99].contains(*target)) {
            let missed = found.iter().filter(|shortfall| *shortfall > margin).count() as f32 / found.len() as f32;
            assert!(
                missed <= 1.3 * (1.0 - target) + 0.005,
                "{missed} of the nearest rows are beyond the margin of {target}"
            );
        }
    }
}
