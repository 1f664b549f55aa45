//! The vectors that are measured: seeded generators, the same on every machine.
//!
//! Every set consists of unit vectors, so that cosine, inner product and Euclidean distance rank alike and each system may
//! use the metric it is fastest with. Row `i` depends on the seed and on `i` alone: the first 100,000 rows of a million
//! are the 100,000-row set.
//!
//! A *latent* vector is drawn first, then turned by a fixed random rotation (twice: random signs, then a Walsh-Hadamard
//! transform), so that no structure is aligned with an axis.
//!
//! **clustered**, like embeddings of style: 64 of the 512 latent coordinates carry the structure. There are
//! [`CLUSTERS`] centres, unit vectors, drawn around [`STYLES`] parents (0.75 parent, 0.66 of its own, before scaling to
//! length 1); the share of cluster `c` falls as `(c + 10)^-0.7`. A row is its centre plus Gaussian noise of length about
//! [`SPREAD`] in the 64 coordinates plus Gaussian noise of length about [`AMBIENT`] in the other 448, scaled to length 1.
//! *Data-like* queries are further rows. *Text-like* queries lie off the rows' subspace: a point of the subspace (half
//! of the queries a centre plus noise of length 0.5, half the mean of two centres plus such noise) scaled to length 0.5,
//! plus one direction outside it that all texts share, of length 0.7, plus noise outside it of length about 0.5, scaled to
//! length 1.
//!
//! **hard**: one cloud without clusters. Latent coordinate `j` is Gaussian with deviation `(j + 1)^-HARD_DECAY`, scaled
//! to length 1. Text-like queries: such a vector of length 0.7 plus a direction that all share of length 0.4 plus noise in all
//! coordinates of length about 0.6, scaled to length 1.

use std::sync::Mutex;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::random::{DIMENSIONS, Rotation, direction, gaussian, generator, scale_to};

/// Latent coordinates that carry the structure of the clustered set.
const INTRINSIC: usize = 64;
/// Clusters of the clustered set.
const CLUSTERS: usize = 1000;
/// Parents that the clusters' centres are drawn around.
const STYLES: usize = 40;
/// Length of a row's noise within the subspace, its centre having length 1.
const SPREAD: f32 = 1.25;
/// Length of a row's noise outside the subspace.
const AMBIENT: f32 = 0.1;
/// How fast the deviations of the hard set's latent coordinates fall.
const HARD_DECAY: f32 = 0.37;
/// Rows that share a random stream.
const CHUNK: usize = 1024;

/// Random streams: one for the set's fixed parts, then one a chunk for each kind of vector.
const FIXED_STREAM: u64 = 0;
const ROW_STREAMS: u64 = 1;
const TEXT_STREAMS: u64 = 1 << 40;
const LIKE_STREAMS: u64 = 1 << 41;

/// Vectors of one dimension, back to back.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    values: Vec<f32>,
}

impl Vectors {
    /// Takes elements back to back; what is left after the last whole vector is dropped.
    pub fn new(mut values: Vec<f32>) -> Self {
        values.truncate(values.len() / DIMENSIONS * DIMENSIONS);
        Self { values }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len() / DIMENSIONS
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// One of them.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * DIMENSIONS..(index + 1) * DIMENSIONS]
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(DIMENSIONS)
    }

    /// Copies those from `start` up to `end`.
    pub fn slice(&self, start: usize, end: usize) -> Vectors {
        Vectors { values: self.values[start * DIMENSIONS..end * DIMENSIONS].to_vec() }
    }

    /// Takes away those from `index` on.
    pub fn split_off(&mut self, index: usize) -> Vectors {
        Vectors { values: self.values.split_off((index * DIMENSIONS).min(self.values.len())) }
    }
}

/// What queries are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryKind {
    /// Off the data's manifold, as descriptions are.
    TextLike,
    /// Drawn as the rows are.
    DataLike,
}

impl QueryKind {
    /// Both, the one that counts first.
    pub const ALL: [QueryKind; 2] = [QueryKind::TextLike, QueryKind::DataLike];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            QueryKind::TextLike => "text-like",
            QueryKind::DataLike => "data-like",
        }
    }
}

/// A set of rows with its queries.
pub struct Dataset {
    /// Rows to index; their ids are their positions.
    pub rows: Vectors,
    /// Rows to add later; their ids go on from there.
    pub later: Vectors,
    /// Queries that lie off the data's manifold.
    pub text_like: Vectors,
    /// Queries like the rows.
    pub data_like: Vectors,
}

impl Dataset {
    /// The queries of a kind.
    pub fn queries(&self, kind: QueryKind) -> &Vectors {
        match kind {
            QueryKind::TextLike => &self.text_like,
            QueryKind::DataLike => &self.data_like,
        }
    }

    /// A row by its id, be it there from the start or added later.
    pub fn by_id(&self, id: usize) -> Option<&[f32]> {
        let n = self.rows.len();
        if id < n { Some(self.rows.row(id)) } else { (id - n < self.later.len()).then(|| self.later.row(id - n)) }
    }
}

/// How many vectors of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows from the start.
    pub rows: usize,
    /// Rows added later.
    pub later: usize,
    /// Queries of each kind.
    pub queries: usize,
}

/// The clustered set.
pub fn clustered(seed: u64, sizes: Sizes) -> Dataset {
    let shape = Clustered::new(seed);
    dataset(seed, sizes, |random, out| shape.row(random, out), |random, out| shape.text(random, out))
}

/// The hard set.
pub fn hard(seed: u64, sizes: Sizes) -> Dataset {
    let shape = Hard::new(seed);
    dataset(seed, sizes, |random, out| shape.row(random, out), |random, out| shape.text(random, out))
}

fn dataset(
    seed: u64,
    sizes: Sizes,
    row: impl Fn(&mut ChaCha8Rng, &mut [f32]) + Sync,
    text: impl Fn(&mut ChaCha8Rng, &mut [f32]) + Sync,
) -> Dataset {
    let mut rows = fill(seed, ROW_STREAMS, sizes.rows + sizes.later, &row);
    let later = rows.split_off(sizes.rows);
    Dataset {
        rows,
        later,
        text_like: fill(seed, TEXT_STREAMS, sizes.queries, &text),
        data_like: fill(seed, LIKE_STREAMS, sizes.queries, &row),
    }
}

/// Draws `count` vectors on all processors.
fn fill(seed: u64, stream: u64, count: usize, draw: &(impl Fn(&mut ChaCha8Rng, &mut [f32]) + Sync)) -> Vectors {
    let mut values = vec![0.0; count * DIMENSIONS];
    let chunks = Mutex::new(values.chunks_mut(CHUNK * DIMENSIONS).enumerate());
    std::thread::scope(|scope| {
        for _ in 0..crate::measure::processors() {
            scope.spawn(|| {
                loop {
                    let next = chunks.lock().map(|mut chunks| chunks.next());
                    let Ok(Some((index, chunk))) = next else { break };
                    let mut random = generator(seed, stream + index as u64);
                    for vector in chunk.chunks_exact_mut(DIMENSIONS) {
                        draw(&mut random, vector);
                    }
                }
            });
        }
    });
    Vectors { values }
}

struct Clustered {
    rotation: Rotation,
    centres: Vec<Vec<f32>>,
    /// Running sums of the clusters' shares.
    shares: Vec<f32>,
    /// What all texts share, outside the subspace.
    gap: Vec<f32>,
}

impl Clustered {
    fn new(seed: u64) -> Self {
        let mut random = generator(seed, FIXED_STREAM);
        let rotation = Rotation::new(&mut random);
        let parents: Vec<Vec<f32>> = (0..STYLES).map(|_| direction(&mut random, INTRINSIC)).collect();
        let centres = (0..CLUSTERS)
            .map(|_| {
                let parent = &parents[random.random_range(0..STYLES)];
                let mut centre = direction(&mut random, INTRINSIC);
                centre.iter_mut().zip(parent).for_each(|(own, parent)| *own = 0.66 * *own + 0.75 * parent);
                scale_to(&mut centre, 1.0);
                centre
            })
            .collect();
        let mut sum = 0.0;
        let shares = (0..CLUSTERS)
            .map(|c| {
                sum += (c as f32 + 10.0).powf(-0.7);
                sum
            })
            .collect();
        let gap = direction(&mut random, DIMENSIONS - INTRINSIC);
        Self { rotation, centres, shares, gap }
    }

    fn centre(&self, random: &mut ChaCha8Rng) -> &[f32] {
        let total = self.shares.last().copied().unwrap_or_default();
        let at = random.random::<f32>() * total;
        &self.centres[self.shares.partition_point(|share| *share <= at).min(CLUSTERS - 1)]
    }

    fn row(&self, random: &mut ChaCha8Rng, out: &mut [f32]) {
        let centre = self.centre(random);
        let (inside, outside) = out.split_at_mut(INTRINSIC);
        gaussian(random, inside, SPREAD / (INTRINSIC as f32).sqrt());
        inside.iter_mut().zip(centre).for_each(|(x, c)| *x += c);
        gaussian(random, outside, AMBIENT / ((DIMENSIONS - INTRINSIC) as f32).sqrt());
        scale_to(out, 1.0);
        self.rotation.turn(out);
    }

    fn text(&self, random: &mut ChaCha8Rng, out: &mut [f32]) {
        let mixed = random.random::<bool>();
        let (first, second) = (self.centre(random), self.centre(random));
        let (inside, outside) = out.split_at_mut(INTRINSIC);
        gaussian(random, inside, 0.5 / (INTRINSIC as f32).sqrt());
        for (i, x) in inside.iter_mut().enumerate() {
            *x += if mixed { (first[i] + second[i]) / 2.0 } else { first[i] };
        }
        scale_to(inside, 0.5);
        gaussian(random, outside, 0.5 / ((DIMENSIONS - INTRINSIC) as f32).sqrt());
        outside.iter_mut().zip(&self.gap).for_each(|(x, gap)| *x += 0.7 * gap);
        scale_to(out, 1.0);
        self.rotation.turn(out);
    }
}

struct Hard {
    rotation: Rotation,
    deviations: Vec<f32>,
    gap: Vec<f32>,
}

impl Hard {
    fn new(seed: u64) -> Self {
        let mut random = generator(seed, FIXED_STREAM);
        let rotation = Rotation::new(&mut random);
        let deviations = (0..DIMENSIONS).map(|j| (j as f32 + 1.0).powf(-HARD_DECAY)).collect();
        Self { rotation, deviations, gap: direction(&mut random, DIMENSIONS) }
    }

    fn row(&self, random: &mut ChaCha8Rng, out: &mut [f32]) {
        gaussian(random, out, 1.0);
        out.iter_mut().zip(&self.deviations).for_each(|(x, deviation)| *x *= deviation);
        scale_to(out, 1.0);
        self.rotation.turn(out);
    }

    fn text(&self, random: &mut ChaCha8Rng, out: &mut [f32]) {
        let mut noise = [0.0; DIMENSIONS];
        gaussian(random, &mut noise, 0.6 / (DIMENSIONS as f32).sqrt());
        gaussian(random, out, 1.0);
        out.iter_mut().zip(&self.deviations).for_each(|(x, deviation)| *x *= deviation);
        scale_to(out, 0.7);
        for (i, x) in out.iter_mut().enumerate() {
            *x += 0.4 * self.gap[i] + noise[i];
        }
        scale_to(out, 1.0);
        self.rotation.turn(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_unit_length_and_do_not_depend_on_how_many_are_asked_for() {
        for make in [clustered, hard] {
            let small = make(3, Sizes { rows: 1500, later: 10, queries: 20 });
            let large = make(3, Sizes { rows: 2100, later: 0, queries: 20 });
            assert_eq!((small.rows.len(), small.later.len(), large.rows.len()), (1500, 10, 2100));
            assert_eq!(small.rows.row(1499), large.rows.row(1499));
            assert_eq!(small.by_id(1505), Some(large.rows.row(1505)));
            assert_eq!(small.by_id(1510), None);
            for vector in small.rows.iter().chain(small.text_like.iter()).chain(small.data_like.iter()) {
                let norm: f32 = vector.iter().map(|x| x * x).sum();
                assert!((norm - 1.0).abs() < 1e-4, "length {norm}");
            }
        }
    }
}
