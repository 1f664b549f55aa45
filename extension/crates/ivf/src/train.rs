//! What a build learns from a sample: directions, codes, centroids, and how rows scatter around them.

use std::borrow::Cow;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use esr_vector::Metric;

use crate::block::Layout;
use crate::k_means;
use crate::margins::{self, Margins};
use crate::options::{Axes, BuildOptions, MAX_LISTS, default_lists};
use crate::progress::{Phase, Progress};
use crate::quantiser::Quantiser;
use crate::random::some_rows;
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
    let some = if rows <= enough {
        Cow::Borrowed(sample)
    } else {
        Cow::Owned(some_rows(sample, dimension, enough, &mut ChaCha8Rng::seed_from_u64(options.seed)))
    };
    let rotation = match options.axes {
        Axes::Learned => Rotation::train(&some, dimension, options.seed),
        Axes::Random => Rotation::random(&some, dimension, options.seed),
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
    let left_out = rotation.left_out_each();
    let margins = margins::measure(sample, &rotated, &rotation, &quantiser, options);
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
    let margins = Margins::untrained();
    let model = Model { rotation, quantiser, scatter, scatter_left_out: 1.0 / dimension as f32, margins };
    Trained { model, centroids, is_trained: false, scatter: 1.0 }
}
