//! What every operation on an index needs, held in memory: rotation, codebook, centroids.
//!
//! Read from the pages once and kept until the generation on the meta page changes. Centroids are bytes, so that those of
//! thousands of lists stay in the CPU's cache.

use std::sync::Arc;

use esr_vector::Metric;
use esr_vector::kernel::MAX_SIGNED;
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

use crate::allowance::Allowances;
use crate::block::Layout;
use crate::chain;
use crate::confidence::ListScore;
use crate::margins::Margins;
use crate::page::{self, FIRST_LIST, Kind, ListEntry, Meta, PageHeader};
use crate::quantiser::{CODES, Quantiser};
use crate::rotation::Rotation;
use crate::store::{BlockNumber, NO_BLOCK, PageStore, StoreError};

/// What training found out; a byte stream over the model pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Directions.
    pub rotation: Rotation,
    /// Codes.
    pub quantiser: Quantiser,
    /// Mean squared distance of a row from its centroid along each axis.
    pub scatter: Vec<f32>,
    /// The same in the directions left out, for each of them.
    pub scatter_left_out: f32,
    /// By how much estimates of near rows are too low.
    pub margins: Margins,
}

/// A list's entry in the directory, without its centroid.
#[derive(Debug, Clone, Copy)]
pub struct List {
    /// First page.
    pub head: BlockNumber,
    /// Version at the last count.
    pub version: u32,
    /// Rows at the last count.
    pub rows: u32,
    /// Size of a step of the centroid's bytes.
    pub step: f32,
    /// See [`ListEntry::spread`].
    pub spread: f32,
    /// See [`ListEntry::norm`].
    pub norm: f32,
    /// Squared length of the centroid.
    pub squared: f32,
}

/// See the module.
#[derive(Debug)]
pub struct Structure {
    /// As it was when this was read.
    pub meta: Meta,
    /// Metric of the index.
    pub metric: Metric,
    /// Layout of list pages.
    pub layout: Layout,
    /// Rotation, codebook, scatter.
    pub model: Model,
    /// All lists, the two without centroid first.
    pub lists: Vec<List>,
    /// `lists x axes`.
    centroids: Vec<u8>,
    /// The rotated mean, which rows have taken away.
    shift: Vec<f32>,
}

/// A query ready to be compared with centroids.
pub struct ByteDirection {
    signed: Vec<i8>,
    step: f32,
    sum: f32,
}

impl ByteDirection {
    /// Rounds a rotated vector to 129 steps an axis.
    pub fn new(rotated: &[f32]) -> Self {
        let most = rotated.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let step = (most / f32::from(MAX_SIGNED)).max(f32::MIN_POSITIVE);
        // Rounds half up; `round` is a call into the C library for each element.
        let signed: Vec<i8> = rotated.iter().map(|x| ((x / step + 256.5) as i32 - 256) as i8).collect();
        let sum = signed.iter().map(|&x| f32::from(x)).sum();
        Self { signed, step, sum }
    }
}

/// The structure of an index, read again only if it has changed since.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn current<S: PageStore>(store: &S, cached: &mut Option<Arc<Structure>>) -> Result<Arc<Structure>, StoreError> {
    let meta = chain::meta(store)?;
    if let Some(structure) = cached
        && structure.meta.generation == meta.generation
        && structure.meta.tag == meta.tag
    {
        return Ok(Arc::clone(structure));
    }
    let structure = Arc::new(Structure::load(store, meta)?);
    *cached = Some(Arc::clone(&structure));
    Ok(structure)
}

impl Structure {
    fn load<S: PageStore>(store: &S, meta: Meta) -> Result<Self, StoreError> {
        let damaged = |problem: &str| StoreError::Damaged { block: page::META_BLOCK, problem: problem.into() };
        let bytes = chain::read_stream(store, Kind::Model, meta.model.get(), meta.model_bytes.get() as usize)?;
        let model: Model = postcard::from_bytes(&bytes).map_err(|_| damaged("its model cannot be read"))?;
        let axes = usize::from(meta.axes.get());
        let dimension = meta.dimension.get() as usize;
        let is_sound = model.rotation.axis_count() == axes
            && model.rotation.dimension() == dimension
            && model.rotation.axes.len() == axes * dimension
            && model.quantiser.group_count() == usize::from(meta.groups.get())
            && model.quantiser.is_sound(axes)
            && model.scatter.len() == axes;
        if !is_sound {
            return Err(damaged("the parts of its model do not belong together"));
        }
        let metric = metric(meta.metric.get()).ok_or_else(|| damaged("its metric is unknown"))?;
        let layout = layout(&meta);
        let shift = model.rotation.rotate_direction(&model.rotation.mean);
        let mut structure = Self { meta, metric, layout, model, lists: Vec::new(), centroids: Vec::new(), shift };
        structure.load_directory(store)?;
        Ok(structure)
    }

    fn load_directory<S: PageStore>(&mut self, store: &S) -> Result<(), StoreError> {
        let axes = self.axes();
        let count = self.meta.lists.get() as usize;
        let mut block = self.meta.directory.get();
        while self.lists.len() < count {
            let page = store.read(block)?;
            let header: &PageHeader = page::read(&page, block, Kind::Directory)?;
            for position in 0..page::entries_per_page(axes).min(count - self.lists.len()) {
                let (entry, centroid) = ListEntry::ref_from_prefix(&page[page::entry_range(axes, position)])
                    .expect("an entry's range holds an entry");
                let step = entry.step.get();
                let squared: f32 = centroid.iter().map(|&byte| ((f32::from(byte) - 128.0) * step).powi(2)).sum();
                self.lists.push(List {
                    head: entry.head.get(),
                    version: entry.version.get(),
                    rows: entry.rows.get(),
                    step,
                    spread: entry.spread.get(),
                    norm: entry.norm.get(),
                    squared,
                });
                self.centroids.extend_from_slice(centroid);
            }
            block = header.next.get();
            if block == NO_BLOCK && self.lists.len() < count {
                let problem = format!("it has {} of {count} lists", self.lists.len());
                return Err(StoreError::Damaged { block: page::META_BLOCK, problem });
            }
        }
        Ok(())
    }

    /// Rotated axes.
    pub fn axes(&self) -> usize {
        self.model.rotation.axis_count()
    }

    /// Elements of a vector.
    pub fn dimension(&self) -> usize {
        self.model.rotation.dimension()
    }

    /// The metric of the index.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The model tag of the indexed embeddings, 0 if none had one yet.
    pub fn tag(&self) -> u64 {
        self.meta.tag.get()
    }

    /// Lists with a centroid.
    pub fn list_count(&self) -> usize {
        self.lists.len() - FIRST_LIST as usize
    }

    /// Bytes of memory this takes, about.
    pub fn memory_bytes(&self) -> usize {
        let axes = self.axes();
        self.centroids.len()
            + size_of_val(self.lists.as_slice())
            + 4 * (self.model.rotation.axes.len() + axes * CODES * 2 + axes * 4)
    }

    /// Whether the codebook was learned from rows.
    pub fn is_trained(&self) -> bool {
        self.meta.is_trained.get() != 0
    }

    /// A row as the index sees it: of unit length under cosine. `None` if it has no distance to anything.
    pub fn normalised(&self, vector: &[f32]) -> Option<Vec<f32>> {
        normalised(self.metric, vector)
    }

    /// Rotates a row (normalised already).
    pub fn rotate_row(&self, row: &[f32]) -> Vec<f32> {
        let mut rotated = self.model.rotation.rotate_direction(row);
        rotated.iter_mut().zip(&self.shift).for_each(|(x, shift)| *x -= shift);
        rotated
    }

    /// The rotated mean row.
    pub fn rotated_mean(&self) -> &[f32] {
        &self.shift
    }

    /// The bytes of a list's centroid.
    pub fn centroid(&self, list: u32) -> &[u8] {
        let axes = self.axes();
        &self.centroids[list as usize * axes..(list as usize + 1) * axes]
    }

    /// Inner product of a rotated vector with a list's centroid.
    fn product(&self, list: u32, direction: &ByteDirection) -> f32 {
        let dot = (esr_vector::kernels().dot_bytes)(self.centroid(list), &direction.signed);
        self.lists[list as usize].step * direction.step * (dot as f32 - 128.0 * direction.sum)
    }

    /// The list whose centroid is nearest to a rotated row.
    pub fn nearest_list(&self, rotated: &[f32]) -> u32 {
        let direction = ByteDirection::new(rotated);
        let nearness = |list: u32| self.product(list, &direction) - 0.5 * self.lists[list as usize].squared;
        (FIRST_LIST..self.lists.len() as u32)
            .map(|list| (list, nearness(list)))
            .reduce(|a, b| if b.1 > a.1 { b } else { a })
            .map_or(FIRST_LIST, |(list, _)| list)
    }

    /// Every list from `first` on as a query sees it; `base` is the query's product with the mean row, `deviation` that of
    /// the scores in a list of average spread.
    pub fn score_lists(&self, first: u32, rotated: &[f32], base: f32, deviation: f32) -> Vec<ListScore> {
        let direction = ByteDirection::new(rotated);
        let norms = if self.metric == Metric::Euclidean { 0.5 } else { 0.0 };
        (first..self.lists.len() as u32)
            .map(|number| {
                let list = &self.lists[number as usize];
                ListScore {
                    list: number,
                    centre: base + self.product(number, &direction) - norms * list.norm,
                    deviation: deviation * list.spread.max(1e-6).sqrt(),
                    // A list that was empty when rows were counted may not be now.
                    rows: list.rows.max(1) as f32,
                }
            })
            .collect()
    }

    /// By how much an estimate may be too low, in its expected deviations, for the row still to be measured, where the
    /// answer lies so far out. It covers all but half of the share of near rows that a search for `target` recall may miss,
    /// and of those only the ones at the edge of what was asked for are missed.
    pub fn margin(&self, target: f64, surprise: f32) -> f32 {
        if !self.is_trained() || target >= 1.0 {
            return f32::INFINITY;
        }
        self.model.margins.at(0.5 * (1.0 - target), surprise)
    }

    /// What the calibration allows a search for `target` recall.
    pub fn allowances(&self, target: f64) -> Allowances {
        Allowances::new(&self.meta, target)
    }
}

/// See [`Structure::normalised`].
pub fn normalised(metric: Metric, vector: &[f32]) -> Option<Vec<f32>> {
    if metric != Metric::Cosine {
        return Some(vector.to_vec());
    }
    let norm = esr_vector::metric::norm(vector);
    if norm == 0.0 {
        return None;
    }
    Some(vector.iter().map(|&x| (f64::from(x) / norm) as f32).collect())
}

/// How rows lie on the list pages of an index.
pub fn layout(meta: &Meta) -> Layout {
    Layout { groups: meta.groups.get().into(), has_norms: metric(meta.metric.get()) == Some(Metric::Euclidean) }
}

/// The metric that a number on the meta page stands for.
pub fn metric(number: u16) -> Option<Metric> {
    [Metric::Cosine, Metric::Euclidean, Metric::InnerProduct].get(usize::from(number)).copied()
}

/// The number that stands for a metric on the meta page.
pub fn metric_number(metric: Metric) -> u16 {
    match metric {
        Metric::Cosine => 0,
        Metric::Euclidean => 1,
        Metric::InnerProduct => 2,
    }
}

/// A centroid as bytes, with the size of their step.
pub fn centroid_bytes(centroid: &[f32]) -> (f32, Vec<u8>) {
    let most = centroid.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let step = (most / 127.0).max(f32::MIN_POSITIVE);
    (step, centroid.iter().map(|x| ((x / step).round() + 128.0) as u8).collect())
}
