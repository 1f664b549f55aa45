//! The right answers: exact nearest neighbours, and how much of them an answer has. Knows no database.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};

use crate::{
    data::{Dataset, Vectors},
    measure::processors,
    progress::Progress,
};

/// Rows compared with every query before the next ones are read: they stay in a core's cache.
const BLOCK: usize = 64;
/// Two similarities this near are a tie; f32 sums differ in this order from one kernel to another.
const TIE: f32 = 2e-6;

/// For each query the similarity of its k-th nearest row.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Truth {
    /// Rows that a perfect answer has.
    rows: usize,
    /// Similarity (inner product) of the k-th nearest row, a query each.
    farthest: Vec<f32>,
}

impl Truth {
    /// Ranks the rows that `keep` lets pass for every query.
    pub fn compute(data: &Dataset, queries: &Vectors, limit: usize, keep: impl Fn(usize) -> bool + Sync) -> Self {
        let ids: Vec<usize> = (0..data.rows.len() + data.later.len()).filter(|id| keep(*id)).collect();
        let next = AtomicUsize::new(0);
        let dot = esr_vector::kernels().dot;
        let progress = Progress::new("exact neighbours", ids.len());
        let parts: Vec<Vec<Best>> = std::thread::scope(|scope| {
            let work = || {
                let mut best: Vec<Best> = (0..queries.len()).map(|_| Best::new(limit)).collect();
                loop {
                    let start = next.fetch_add(BLOCK, Ordering::Relaxed);
                    let Some(block) = ids.get(start..(start + BLOCK).min(ids.len())) else { break };
                    for (query, best) in queries.iter().zip(&mut best) {
                        for row in block.iter().filter_map(|id| data.by_id(*id)) {
                            best.offer(dot(query, row));
                        }
                    }
                    progress.at(start);
                }
                best
            };
            let threads: Vec<_> = (0..processors()).map(|_| scope.spawn(work)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let mut merged: Vec<Best> = (0..queries.len()).map(|_| Best::new(limit)).collect();
        for part in parts {
            for (all, one) in merged.iter_mut().zip(part) {
                one.nearest.into_iter().for_each(|similarity| all.offer(similarity));
            }
        }
        let farthest = merged.iter().map(|best| best.nearest.last().copied().unwrap_or(f32::INFINITY)).collect();
        Self { rows: limit.min(ids.len()), farthest }
    }

    /// How many queries there are answers for.
    pub fn len(&self) -> usize {
        self.farthest.len()
    }

    /// As [`Truth::compute`] over the rows from the start, kept in a file of `folder` for the next time.
    pub fn cached(data: &Dataset, queries: &Vectors, limit: usize, folder: &Path) -> Result<Self> {
        let key = fingerprint(data.rows.iter().step_by(data.rows.len() / 1000 + 1).chain(queries.iter()));
        let name = format!("nearest-{}x{}-{limit}-{key:016x}.json", data.rows.len(), queries.len());
        let path = folder.join(name);
        if let Ok(bytes) = fs::read(&path)
            && let Ok(truth) = serde_json::from_slice::<Truth>(&bytes)
            && truth.farthest.len() == queries.len()
        {
            return Ok(truth);
        }
        let rows = data.rows.len();
        let truth = Self::compute(data, queries, limit, |id| id < rows);
        fs::create_dir_all(folder)?;
        fs::write(&path, serde_json::to_vec(&truth)?).with_context(|| format!("writing {}", path.display()))?;
        Ok(truth)
    }

    /// The part of a query's true neighbours that an answer has. A row as near as the k-th neighbour counts, whichever of
    /// several equal rows it is; a row that comes twice counts once.
    pub fn recall(&self, data: &Dataset, queries: &Vectors, query: usize, answer: &[i32]) -> f64 {
        let dot = esr_vector::kernels().dot;
        let distinct: BTreeSet<i32> = answer.iter().copied().collect();
        let near = |id: &i32| {
            let row = usize::try_from(*id).ok().and_then(|id| data.by_id(id));
            row.is_some_and(|row| dot(queries.row(query), row) >= self.farthest[query] - TIE)
        };
        let found = distinct.iter().filter(|id| near(id)).count();
        if self.rows == 0 { 1.0 } else { found.min(self.rows) as f64 / self.rows as f64 }
    }
}

/// The highest few numbers offered so far, highest first.
struct Best {
    nearest: Vec<f32>,
    limit: usize,
}

impl Best {
    fn new(limit: usize) -> Self {
        Self { nearest: Vec::with_capacity(limit + 1), limit }
    }

    fn offer(&mut self, similarity: f32) {
        if self.nearest.len() == self.limit && self.nearest.last().is_some_and(|last| similarity <= *last) {
            return;
        }
        let at = self.nearest.partition_point(|other| *other >= similarity);
        self.nearest.insert(at, similarity);
        self.nearest.truncate(self.limit);
    }
}

/// FNV-1a over the bits.
fn fingerprint<'a>(vectors: impl Iterator<Item = &'a [f32]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for element in vectors.flatten() {
        hash = (hash ^ u64::from(element.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Sizes, clustered};
    use crate::random::DIMENSIONS;

    #[test]
    fn an_exact_answer_has_recall_one_and_each_wrong_row_costs_its_share() {
        let data = clustered(5, Sizes { rows: 700, later: 50, queries: 8 });
        let truth = Truth::compute(&data, &data.text_like, 10, |id| id < 700);
        for query in 0..8 {
            let target = data.text_like.row(query);
            let similarity =
                |id: i32| -> f32 { (0..DIMENSIONS).map(|i| data.rows.row(id as usize)[i] * target[i]).sum() };
            let mut ids: Vec<i32> = (0..700).collect();
            ids.sort_by(|a, b| similarity(*b).total_cmp(&similarity(*a)));
            let recall = |answer: &[i32]| truth.recall(&data, &data.text_like, query, answer);
            assert_eq!(recall(&ids[..10]), 1.0);
            assert_eq!(recall(&ids[..7]), 0.7);
            assert_eq!(recall(&[ids[0], ids[0], 699, -1, i32::MAX]), if ids[..10].contains(&699) { 0.2 } else { 0.1 });
        }
    }
}
