//! What a build learns from a sample: directions, codes, centroids, and how rows scatter around them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use esr_vector::Metric;

use crate::build::{BuildOptions, MAX_LISTS, Phase, Progress, default_lists};
use crate::calibrate;
use crate::estimate::error_of_codes;
use crate::k_means;
use crate::page::{Layout, TARGETS};
use crate::quantiser::Quantiser;
use crate::random::{normal, some_rows};
use crate::rotation::Rotation;
use crate::structure::Model;

/// With fewer rows nothing is learned: such an index measures every row, which is quick.
pub const MIN_TRAINING_ROWS: u64 = 512;

/// Rows of the sample for each list.
const ROWS_PER_LIST: usize = 64;
/// Rows that are enough to learn directions and codes from.
const ROTATION_ROWS: usize = 16_384;

/// A model and centroids, not yet on pages.
pub struct Trained {
    /// Directions, codes, scatter.
    pub model: Model,
    /// `lists x axes`.
    pub centroids: Vec<f32>,
    /// Whether rows were there to learn from.
    pub is_trained: bool,
    /// Mean squared distance of the sample from its centroids.
    pub scatter: f32,
}

/// How many rows a sample should have.
pub fn sample_rows(rows: u64, options: &BuildOptions) -> usize {
    let lists = if options.lists == 0 { default_lists(rows) } else { options.lists } as usize;
    let affordable = options.memory_bytes / 2 / (4 * options.dimension as usize).max(1);
    // More than the memory may hold only where less would teach nothing.
    (lists * ROWS_PER_LIST).max(ROTATION_ROWS).min(affordable).max(2 * MIN_TRAINING_ROWS as usize)
}

/// Learns from a sample of `count` rows.
pub fn train(
    sample: &[f32],
    count: u64,
    options: &BuildOptions,
    progress: &mut dyn Progress,
    pause: &mut dyn FnMut(),
) -> Trained {
    if count < MIN_TRAINING_ROWS {
        return untrained(options);
    }
    let dimension = options.dimension as usize;
    let rows = sample.len() / dimension;
    let enough = ROTATION_ROWS.max(8 * dimension);
    let rotation = if rows <= enough {
        Rotation::train(sample, dimension, options.seed)
    } else {
        let some = some_rows(sample, dimension, enough, &mut ChaCha8Rng::seed_from_u64(options.seed));
        Rotation::train(&some, dimension, options.seed)
    };
    pause();
    let rotated = rotation.rotate_rows(sample);
    let axes = rotation.axis_count();
    let groups = Layout::most_groups(dimension, options.metric == Metric::Euclidean);
    let quantiser = Quantiser::train(&rotated, &rotation.variances, groups, options.seed);
    pause();
    progress.phase(Phase::Clustering, 0);
    let lists = if options.lists == 0 { default_lists(count) } else { options.lists.min(MAX_LISTS) };
    let lists = (lists as usize).min(rows);
    let centroids = k_means::train(&rotated, axes, lists, options.seed, options.threads, pause);
    let nearest = k_means::assign(&rotated, axes, &centroids, options.threads);
    let mut scatter = vec![0.0f64; axes];
    for (row, &(list, _)) in rotated.chunks_exact(axes).zip(&nearest) {
        let centroid = &centroids[list as usize * axes..(list as usize + 1) * axes];
        for ((sum, x), c) in scatter.iter_mut().zip(row).zip(centroid) {
            *sum += f64::from(x - c).powi(2);
        }
    }
    let scatter: Vec<f32> = scatter.iter().map(|sum| (sum / rows as f64) as f32).collect();
    let total = scatter.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let left_out = rotation.left_out / (dimension - axes).max(1) as f32;
    let margins = margins(sample, &rotated, &rotation, &quantiser, options);
    let model = Model { rotation, quantiser, scatter, scatter_left_out: left_out, margins };
    Trained { model, centroids, is_trained: true, scatter: total }
}

/// One list and a guessed codebook.
pub fn untrained(options: &BuildOptions) -> Trained {
    let dimension = options.dimension as usize;
    let rotation = Rotation::identity(dimension, 1.0 / dimension as f32);
    let groups = Layout::most_groups(dimension, options.metric == Metric::Euclidean);
    let quantiser = Quantiser::untrained(&rotation.variances, groups, options.seed);
    let scatter = rotation.variances.clone();
    let centroids = vec![0.0; rotation.axis_count()];
    let margins = vec![0.0; TARGETS.len()];
    let model = Model { rotation, quantiser, scatter, scatter_left_out: 1.0 / dimension as f32, margins };
    Trained { model, centroids, is_trained: false, scatter: 1.0 }
}

/// How far estimates of near rows fall short, see [`Model::margins`]: queries like the rows and beside them, each against
/// some rows of the sample, exactly and by codes.
fn margins(
    sample: &[f32],
    rotated: &[f32],
    rotation: &Rotation,
    quantiser: &Quantiser,
    options: &BuildOptions,
) -> Vec<f32> {
    const QUERIES: usize = 256;
    const ROWS: usize = 4096;
    const NEAR: usize = 8;
    let (dimension, axes) = (rotation.dimension(), rotation.axis_count());
    let rows = (sample.len() / dimension).min(ROWS);
    let dot = esr_vector::kernels().dot;
    let half_norms = if options.metric == Metric::Euclidean { 0.5 } else { 0.0 };
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0x3a59_1ef2);
    let mut codes = vec![0; quantiser.group_count()];
    let mut decoded = vec![0.0; axes];
    let mut shortfalls = Vec::with_capacity(QUERIES * NEAR);
    for number in 0..QUERIES.min(rows) {
        let own = random.random_range(0..sample.len() / dimension);
        let mut query = sample[own * dimension..(own + 1) * dimension].to_vec();
        if number % 2 == 1 {
            let noise = dot(&query, &query).sqrt() * calibrate::NOISE / (dimension as f32).sqrt();
            query.iter_mut().for_each(|x| *x += noise * normal(&mut random));
        }
        let direction = rotation.rotate_direction(&query);
        let outside = (dot(&query, &query) - dot(&direction, &direction)).max(0.0);
        let deviation = error_of_codes(rotation, quantiser, &direction, outside).sqrt().max(f32::MIN_POSITIVE);
        let score = |row: usize| {
            let vector = &sample[row * dimension..(row + 1) * dimension];
            dot(&query, vector) - half_norms * dot(vector, vector)
        };
        let mut near: Vec<(f32, usize)> = (0..rows).filter(|&row| row != own).map(|row| (score(row), row)).collect();
        let kept = NEAR.min(near.len());
        if kept == 0 {
            continue;
        }
        near.select_nth_unstable_by(kept - 1, |a, b| b.0.total_cmp(&a.0));
        for &(_, row) in &near[..kept] {
            let original = &rotated[row * axes..(row + 1) * axes];
            quantiser.encode(&mut original.to_vec(), &mut codes);
            quantiser.decode(codes.iter().copied(), &mut decoded);
            let vector = &sample[row * dimension..(row + 1) * dimension];
            let estimate = dot(&query, &rotation.mean) + dot(&direction, &decoded);
            shortfalls.push((dot(&query, vector) - estimate) / deviation);
        }
    }
    shortfalls.sort_by(f32::total_cmp);
    let quantile = |share: f32| {
        let place = (share * shortfalls.len() as f32) as usize;
        shortfalls.get(place.min(shortfalls.len().saturating_sub(1))).map_or(3.0, |&shortfall| shortfall.max(0.0))
    };
    TARGETS.iter().map(|&share| quantile(share)).collect()
}
