//! Data, a table in memory and a naive oracle.
#![allow(dead_code)]

use std::collections::BTreeMap;

use esr_ivf::memory::MemoryStore;
use esr_ivf::structure::normalised;
use esr_ivf::{Axes, BuildOptions, RowSource, Silent};
use esr_ivf::{ExactVectors, Key, RowId, Search, SearchOptions, TableVectors, current};
use esr_vector::Metric;
use esr_vector::metric::distance;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A normal variable, near enough.
pub fn normal(random: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

pub fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// How vectors are drawn.
pub struct Source {
    pub dimension: usize,
    map: Vec<f32>,
    inner: usize,
    centres: Vec<f32>,
    offset: Vec<f32>,
}

impl Source {
    /// Clusters in a space of `inner` dimensions, which lies somewhere in all of them.
    pub fn clustered(dimension: usize, inner: usize, clusters: usize, seed: u64) -> Self {
        let mut r = random(seed);
        let map = (0..inner * dimension).map(|_| normal(&mut r) / (inner as f32).sqrt()).collect();
        let centres = (0..clusters * inner).map(|_| normal(&mut r)).collect();
        let offset = (0..dimension).map(|_| 0.3 * normal(&mut r)).collect();
        Self { dimension, map, inner, centres, offset }
    }

    pub fn row(&self, r: &mut ChaCha8Rng) -> Vec<f32> {
        let cluster = r.random_range(0..self.centres.len() / self.inner);
        self.row_of(cluster, r)
    }

    fn row_of(&self, cluster: usize, r: &mut ChaCha8Rng) -> Vec<f32> {
        let inside: Vec<f32> =
            (0..self.inner).map(|i| self.centres[cluster * self.inner + i] + 0.5 * normal(r)).collect();
        let mut row = self.offset.clone();
        for (i, x) in inside.iter().enumerate() {
            for (j, y) in row.iter_mut().enumerate() {
                *y += x * self.map[i * self.dimension + j];
            }
        }
        row.iter_mut().for_each(|y| *y += 0.05 * normal(r));
        row
    }

    /// Beside the rows: a row with as much noise in all directions.
    pub fn beside(&self, r: &mut ChaCha8Rng) -> Vec<f32> {
        let row = self.row(r);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(|x| x + 1.5 * length / (self.dimension as f32).sqrt() * normal(r)).collect()
    }
}

/// Rows that differ much along some directions and little along others, where a few stand out: as recordings differ by
/// speaker and microphone, while a style is rare and shows in little. Each trait is that of a few clusters.
pub struct Rare {
    dimension: usize,
    common: Source,
    /// Directions, `count x dimension`.
    traits: Vec<f32>,
}

impl Rare {
    const CLUSTERS: usize = 50;

    pub fn new(dimension: usize, traits: usize, seed: u64) -> Self {
        let mut r = random(seed);
        let traits = (0..traits * dimension).map(|_| normal(&mut r) / (dimension as f32).sqrt()).collect();
        Self { dimension, common: Source::clustered(dimension, 12, Self::CLUSTERS, seed + 1), traits }
    }

    pub fn row(&self, r: &mut ChaCha8Rng) -> Vec<f32> {
        let cluster = r.random_range(0..Self::CLUSTERS);
        let mut row = self.common.row_of(cluster, r);
        let traits = self.traits.len() / self.dimension;
        let outstanding =
            if r.random_range(0..5) == 0 { (cluster + Self::CLUSTERS * r.random_range(0..3)) % traits } else { traits };
        for (number, direction) in self.traits.chunks_exact(self.dimension).enumerate() {
            let degree = if number == outstanding { 12.0 * r.random::<f32>() } else { 0.0 };
            let amount = normal(r) + degree;
            row.iter_mut().zip(direction).for_each(|(x, d)| *x += amount * d);
        }
        normalised(Metric::Cosine, &row).expect("a row of some length")
    }

    /// What describes one of the traits, and the others a little.
    pub fn description(&self, r: &mut ChaCha8Rng) -> Vec<f32> {
        let described = r.random_range(0..self.traits.len() / self.dimension);
        let mut query = vec![0.0; self.dimension];
        for (number, direction) in self.traits.chunks_exact(self.dimension).enumerate() {
            let amount = if number == described { 1.0 } else { 0.2 * normal(r) };
            query.iter_mut().zip(direction).for_each(|(x, d)| *x += amount * d);
        }
        normalised(Metric::Cosine, &query).expect("a query of some length")
    }
}

/// A table: rows by their place.
#[derive(Clone, Default)]
pub struct Table {
    pub rows: BTreeMap<RowId, Option<Vec<f32>>>,
    next: u32,
}

impl Table {
    pub fn of(rows: impl IntoIterator<Item = Option<Vec<f32>>>) -> Self {
        let mut table = Self::default();
        for row in rows {
            table.add(row);
        }
        table
    }

    pub fn add(&mut self, row: Option<Vec<f32>>) -> RowId {
        let id = RowId { block: self.next / 3, offset: (self.next % 3 + 1) as u16 };
        self.next += 1;
        self.rows.insert(id, row);
        id
    }

    /// The `k` nearest rows that pass a filter.
    pub fn nearest(
        &self,
        metric: Metric,
        query: &[f32],
        k: usize,
        passes: impl Fn(RowId) -> bool,
    ) -> Vec<(f64, RowId)> {
        let mut all: Vec<(f64, RowId)> = self
            .rows
            .iter()
            .filter(|(id, _)| passes(**id))
            .filter_map(|(id, row)| row.as_ref().map(|row| (distance(metric, row, query), *id)))
            .filter(|(distance, _)| !distance.is_nan())
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.truncate(k);
        all
    }
}

impl RowSource for Table {
    fn estimated_rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn scan(&mut self, each: &mut dyn FnMut(RowId, Key<'_>)) {
        for (id, row) in &self.rows {
            each(*id, row.as_ref().map_or(Key::Null, |row| Key::Vector(row)));
        }
    }
}

impl TableVectors for Table {
    fn vector(&mut self, row: RowId, into: &mut Vec<f32>) -> bool {
        let Some(Some(vector)) = self.rows.get(&row) else { return false };
        into.clear();
        into.extend_from_slice(vector);
        true
    }
}

/// Exact distances for one query.
pub struct Exact<'a> {
    pub table: &'a Table,
    pub metric: Metric,
    pub query: &'a [f32],
}

impl ExactVectors for Exact<'_> {
    fn distance(&mut self, row: RowId) -> Option<f64> {
        self.table.rows.get(&row)?.as_ref().map(|vector| distance(self.metric, vector, self.query))
    }
}

pub fn options(metric: Metric, dimension: usize) -> BuildOptions {
    BuildOptions {
        metric,
        dimension: dimension as u32,
        lists: 0,
        axes: Axes::Learned,
        threads: 2,
        memory_bytes: 64 << 20,
        seed: 1,
    }
}

pub fn built(table: &Table, options: &BuildOptions) -> MemoryStore {
    let store = MemoryStore::default();
    esr_ivf::build(&store, &mut table.clone(), options, &mut Silent).unwrap();
    store
}

pub fn search(store: &MemoryStore, query: &[f32], target_recall: f64) -> Search {
    let structure = current(store, &mut None).unwrap();
    Search::new(structure, query, SearchOptions { target_recall, probes: None })
}

/// The first `k` rows that pass a filter, as an executor above the index would take them.
pub fn found(
    store: &MemoryStore,
    table: &Table,
    metric: Metric,
    query: &[f32],
    target: f64,
    k: usize,
    passes: impl Fn(RowId) -> bool,
) -> Vec<RowId> {
    let mut search = search(store, query, target);
    let mut exact = Exact { table, metric, query };
    let mut rows = Vec::new();
    while rows.len() < k {
        let Some(neighbor) = search.next(store, &mut exact).unwrap() else { break };
        if passes(neighbor.row) {
            rows.push(neighbor.row);
        }
    }
    rows
}

/// Mean share of the true nearest rows that were found.
#[allow(clippy::too_many_arguments)]
pub fn recall(
    store: &MemoryStore,
    table: &Table,
    metric: Metric,
    queries: &[Vec<f32>],
    target: f64,
    k: usize,
    passes: impl Fn(RowId) -> bool,
) -> f64 {
    let mut sum = 0.0;
    for query in queries {
        let truth = table.nearest(metric, query, k, &passes);
        let rows = found(store, table, metric, query, target, truth.len(), &passes);
        assert_eq!(rows.len(), truth.len(), "fewer rows than there are");
        // A row as near as the last true one is as good.
        let limit = truth.last().map_or(f64::NAN, |last| last.0) + 1e-6;
        let hits = rows
            .iter()
            .filter(|row| table.rows[row].as_ref().is_some_and(|row| distance(metric, row, query) <= limit))
            .count();
        sum += hits as f64 / truth.len().max(1) as f64;
    }
    sum / queries.len() as f64
}
