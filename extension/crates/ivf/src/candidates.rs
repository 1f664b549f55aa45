//! Rows whose score is estimated but not yet measured, best first.
//!
//! Most are never asked for, so they lie unsorted; only those above a boundary are in a heap, and the boundary falls when
//! the heap is empty.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::store::RowId;

/// A row with its estimated (or, after measuring, exact) score; larger is nearer.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// See the struct.
    pub score: f32,
    /// The row.
    pub row: RowId,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.row.cmp(&self.row))
    }
}

/// Rows the heap is filled with the first time.
const FIRST_HEAP: usize = 64;

/// The ranks whose score is known at any time without looking through the candidates.
pub const TRACKED: usize = 10;

/// See the module.
#[derive(Debug)]
pub struct Candidates {
    heap: BinaryHeap<Candidate>,
    rest: Vec<Candidate>,
    boundary: f32,
    refill: usize,
    best: [f32; TRACKED],
    seen: u64,
}

impl Default for Candidates {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            rest: Vec::with_capacity(4096),
            boundary: f32::INFINITY,
            refill: FIRST_HEAP,
            best: [f32::NEG_INFINITY; TRACKED],
            seen: 0,
        }
    }
}

impl Candidates {
    /// Adds a row.
    #[inline]
    pub fn push(&mut self, score: f32, row: RowId) {
        self.seen += 1;
        if score > self.best[TRACKED - 1] {
            let place = self.best.partition_point(|&better| better >= score);
            self.best[place..].rotate_right(1);
            self.best[place] = score;
        }
        let candidate = Candidate { score, row };
        if score > self.boundary { self.heap.push(candidate) } else { self.rest.push(candidate) }
    }

    /// The best estimate there is.
    pub fn peek(&mut self) -> Option<Candidate> {
        if self.heap.is_empty() {
            self.fill();
        }
        self.heap.peek().copied()
    }

    /// Takes what [`Candidates::peek`] showed.
    pub fn pop(&mut self) -> Option<Candidate> {
        self.peek()?;
        self.heap.pop()
    }

    /// The score of rank [`TRACKED`] among all rows ever added, or of the last there is.
    pub fn tracked_score(&self) -> f32 {
        let known = (self.seen as usize).clamp(1, TRACKED);
        self.best[known - 1]
    }

    /// Rows ever added.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn fill(&mut self) {
        let count = self.rest.len().min(self.refill);
        if count == 0 {
            return;
        }
        self.refill *= 2;
        if count < self.rest.len() {
            self.rest.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        }
        self.boundary = self.rest[..count].iter().map(|c| c.score).fold(f32::INFINITY, f32::min);
        let rest = self.rest.split_off(count);
        self.heap = BinaryHeap::from(std::mem::replace(&mut self.rest, rest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_comes_once_and_the_best_first(
            batches in proptest::collection::vec((proptest::collection::vec(-100i32..100, 0..200), 0usize..150), 1..6)
        ) {
            let mut candidates = Candidates::default();
            let mut naive: Vec<Candidate> = Vec::new();
            let mut number = 0;
            for (scores, pops) in batches {
                for score in scores {
                    number += 1;
                    let row = RowId { block: number, offset: 1 };
                    candidates.push(score as f32, row);
                    naive.push(Candidate { score: score as f32, row });
                }
                naive.sort();
                for _ in 0..pops {
                    let want = naive.pop();
                    prop_assert_eq!(candidates.pop().map(|c| c.score), want.map(|c| c.score));
                }
            }
        }
    }

    #[test]
    fn the_tenth_best_is_known() {
        let mut candidates = Candidates::default();
        for i in 0..100 {
            candidates.push(((i * 37) % 100) as f32, RowId { block: i, offset: 1 });
        }
        assert_eq!(candidates.tracked_score(), 90.0);
    }
}
