//! How far estimates of near rows fall short of the truth, in their expected deviations: what a search must allow for.
//!
//! A code stands for the middle of what shares it, so the further out a row lies towards a query, the more its estimate falls short.
//! The rows nearest to a query lie furthest out, the more so the more rows there are to choose from: hence the nearest of many.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use esr_vector::Metric;

use crate::allowance;
use crate::options::BuildOptions;
use crate::page::{CLASSES, TARGETS};
use crate::parallel;
use crate::quantiser::Quantiser;
use crate::rotation::{Rotation, weighted};
use crate::surprise::{self, AllRows, between_classes, mix};
use crate::trial::{self, Kind};

/// Queries of all kinds.
const QUERIES: usize = 200;
/// Queries that one thread takes at a time.
const TOGETHER: usize = 16;
/// Most rows of the sample that each query is compared with.
const ROWS: usize = 32_768;
/// Rows that stay in a core's cache while the queries pass over them.
const BLOCK: usize = 64;
/// Near rows of each query that are looked at.
const NEAR: usize = 10;

/// A query and the row it was made from.
type Trial = (usize, Vec<f32>);

/// By how much estimates of near rows are too low.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Margins {
    /// The surprise in the middle of each class of queries, increasing.
    surprises: [f32; CLASSES],
    /// For each of [`TARGETS`]: what that share of near rows does not exceed, in expected deviations, for each class.
    quantiles: [[f32; CLASSES]; TARGETS.len()],
}

impl Margins {
    /// For an index that does not trust its estimates anyway.
    pub fn untrained() -> Self {
        Self { surprises: std::array::from_fn(|class| class as f32), quantiles: [[0.0; CLASSES]; TARGETS.len()] }
    }

    /// What a search has to allow for that may miss this share of near rows by their codes.
    pub fn at(&self, missed: f64, surprise: f32) -> f32 {
        let (column, across) = allowance::column(1.0 - missed);
        let at = |column: usize| between_classes(&self.surprises, &self.quantiles[column], surprise);
        mix(at(column - 1), at(column), across)
    }
}

/// Measures them on a sample.
pub fn measure(
    sample: &[f32],
    rotated: &[f32],
    rotation: &Rotation,
    quantiser: &Quantiser,
    options: &BuildOptions,
) -> Margins {
    let (dimension, axes) = (rotation.dimension(), rotation.axis_count());
    let all = sample.len() / dimension;
    let rows = all.min(ROWS);
    let rotated_mean = rotation.rotate_direction(&rotation.mean);
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0x3a59_1ef2);
    let queries: Vec<Trial> = (0..QUERIES.min(rows))
        .map(|number| {
            let kind = trial::KINDS[number % trial::KINDS.len()];
            let mut any = || random.random_range(0..all);
            if let Kind::Pointing(power) = kind {
                let divisors = trial::divisors(&rotation.variances, power);
                let rotated = |row: usize| &rotated[row * axes..(row + 1) * axes];
                let some = (0..trial::FURTHEST_OF).map(|_| any());
                let own = trial::furthest(some, |&row| rotated(row), &divisors).expect("some rows");
                let mut row = rotated(own).to_vec();
                trial::point(&mut row, &divisors, options.metric);
                return (own, rotation.turn_back(&row));
            }
            let own = any();
            let mut query = sample[own * dimension..(own + 1) * dimension].to_vec();
            if kind == Kind::Beside {
                trial::add_noise(&mut query, dimension, &mut random);
            }
            (own, query)
        })
        .collect();
    let mut tried = parallel::map_blocks(&queries, TOGETHER, options.threads, |queries| {
        let near = nearest(queries, &sample[..rows * dimension], dimension, options.metric);
        let tried = |((_, query), near): (&Trial, Vec<(f32, usize)>)| {
            let seen = Seen::new(query, rotation, &rotated_mean, options.metric);
            let last = near.last().map_or(0.0, |&(score, _)| score);
            let surprise = seen.all_rows.surprise(last, near.len() as f32, rows as f32);
            (surprise, shortfalls(&seen, &near, sample, rotated, rotation, quantiser))
        };
        queries.iter().zip(near).map(tried).collect()
    });
    let (surprises, classes) = surprise::classes(&mut tried, |&(surprise, _)| surprise);
    let mut quantiles = [[0.0; CLASSES]; TARGETS.len()];
    for (class, members) in classes.into_iter().enumerate() {
        let mut all: Vec<f32> = members.iter().flat_map(|(_, shortfalls)| shortfalls.iter().copied()).collect();
        all.sort_by(f32::total_cmp);
        for (quantiles, share) in quantiles.iter_mut().zip(TARGETS) {
            let place = ((share * all.len() as f32) as usize).min(all.len().saturating_sub(1));
            quantiles[class] = all.get(place).map_or(3.0, |&shortfall| shortfall.max(0.0));
        }
    }
    Margins { surprises, quantiles }
}

/// Variance of the difference between a row's product with a query and the same product with what its code stands for; the
/// query is rotated, `outside` its squared length in the directions left out.
pub fn error_of_codes(rotation: &Rotation, quantiser: &Quantiser, rotated: &[f32], outside: f32) -> f32 {
    weighted(rotated, quantiser.errors()) + outside * rotation.left_out_each()
}

/// A query with what is known of it before any row is looked at.
struct Seen<'a> {
    query: &'a [f32],
    rotated: Vec<f32>,
    base: f32,
    /// Squared length in the directions left out.
    outside: f32,
    all_rows: AllRows,
}

impl<'a> Seen<'a> {
    fn new(query: &'a [f32], rotation: &Rotation, rotated_mean: &[f32], metric: Metric) -> Self {
        let dot = esr_vector::kernels().dot;
        let rotated = rotation.rotate_direction(query);
        let outside = (dot(query, query) - dot(&rotated, &rotated)).max(0.0);
        let base = dot(query, &rotation.mean);
        let all_rows = AllRows::new(rotation, rotated_mean, metric, &rotated, base, outside);
        Self { query, rotated, base, outside, all_rows }
    }
}

/// The nearest rows of each query but its own, with their scores, best first.
fn nearest(queries: &[Trial], rows: &[f32], dimension: usize, metric: Metric) -> Vec<Vec<(f32, usize)>> {
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
    near
}

/// By how much the products of one query with some rows are underestimated.
fn shortfalls(
    seen: &Seen<'_>,
    near: &[(f32, usize)],
    sample: &[f32],
    rotated: &[f32],
    rotation: &Rotation,
    quantiser: &Quantiser,
) -> Vec<f32> {
    let (dimension, axes) = (rotation.dimension(), rotation.axis_count());
    let dot = esr_vector::kernels().dot;
    let Seen { query, rotated: direction, base, outside, .. } = seen;
    let deviation = error_of_codes(rotation, quantiser, direction, *outside).sqrt().max(f32::MIN_POSITIVE);
    let mut codes = vec![0; quantiser.group_count()];
    let mut decoded = vec![0.0; axes];
    let shortfall = |&(_, row): &(f32, usize)| {
        quantiser.encode(&mut rotated[row * axes..(row + 1) * axes].to_vec(), &mut codes);
        quantiser.decode(codes.iter().copied(), &mut decoded);
        let estimate = base + dot(direction, &decoded);
        (dot(query, &sample[row * dimension..(row + 1) * dimension]) - estimate) / deviation
    };
    near.iter().map(shortfall).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Layout;
    use crate::options::Axes;
    use crate::random::normal;

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
        let margins = measure(&sample, &rotated, &rotation, &quantiser, &options);
        let queries: Vec<Trial> =
            cloud(150, DIMENSION, &mut random).chunks_exact(DIMENSION).map(|row| (ROWS, row.to_vec())).collect();
        let near = nearest(&queries, &sample, DIMENSION, Metric::Cosine);
        let rotated_mean = rotation.rotate_direction(&rotation.mean);
        for may_miss in [0.1, 0.05, 0.01] {
            let (mut missed, mut all) = (0.0, 0.0);
            for ((_, query), near) in queries.iter().zip(&near) {
                let seen = Seen::new(query, &rotation, &rotated_mean, Metric::Cosine);
                let surprise = seen.all_rows.surprise(near[NEAR - 1].0, NEAR as f32, ROWS as f32);
                let margin = margins.at(may_miss, surprise);
                let found = shortfalls(&seen, near, &sample, &rotated, &rotation, &quantiser);
                missed += found.iter().filter(|shortfall| **shortfall > margin).count() as f64;
                all += found.len() as f64;
            }
            let missed = missed / all;
            assert!(
                missed <= 1.3 * may_miss + 0.005,
                "{missed} of the nearest rows are beyond the margin of {may_miss}"
            );
        }
    }
}
