//! Rows whose score is estimated but not yet measured, best first.
//!
//! Most are never asked for, so they lie unsorted; only those near the best seen so far are in a heap, and others follow
//! them when the heap has nothing as good.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use esr_vector::kernel::BLOCK_ROWS;

use crate::block::{self, RowIds};
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

/// Rows that move to the heap the first time it has nothing as good as what lies unsorted.
const FIRST_MOVE: usize = 64;

/// The ranks whose score is known at any time without looking through the candidates.
pub const TRACKED: usize = 10;

/// What is left of a block after its best rows went to the heap.
#[derive(Debug)]
struct Leftover {
    live: u32,
    scores: [f32; BLOCK_ROWS],
    rows: RowIds,
}

/// See the module.
#[derive(Debug)]
pub struct Candidates {
    heap: BinaryHeap<Candidate>,
    leftovers: Vec<Leftover>,
    rest: Vec<Candidate>,
    /// No score in `leftovers` or `rest` is higher.
    rest_bound: f32,
    /// Rows with a higher score go to the heap at once.
    limit: f32,
    /// The limit lies at most this far below rank [`TRACKED`], and at most at `ceiling`.
    slack: f32,
    ceiling: f32,
    next_move: usize,
    best: [f32; TRACKED],
    /// How many lists had been begun when each of the best was found.
    found_at: [u32; TRACKED],
    lists: u32,
    seen: u64,
}

impl Candidates {
    /// No rows yet. Those asked for soon are expected within `slack` of the score of rank [`TRACKED`].
    pub fn new(slack: f32) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(256),
            leftovers: Vec::with_capacity(128),
            rest: Vec::new(),
            rest_bound: f32::NEG_INFINITY,
            limit: f32::NEG_INFINITY,
            slack: if slack.is_finite() { slack } else { 0.0 },
            ceiling: f32::INFINITY,
            next_move: FIRST_MOVE,
            best: [f32::NEG_INFINITY; TRACKED],
            found_at: [0; TRACKED],
            lists: 0,
            seen: 0,
        }
    }

    /// Rows of another list follow.
    pub fn begin_list(&mut self) {
        self.lists += 1;
    }

    /// Adds those rows of a block whose bits are set.
    pub fn push(&mut self, live: u32, scores: &[f32; BLOCK_ROWS], rows: &RowIds) {
        self.seen += u64::from(live.count_ones());
        let above = esr_vector::kernels().above;
        let mut near = above(scores, self.limit) & live;
        let mut taken = 0;
        while near != 0 {
            let slot = near.trailing_zeros() as usize;
            near &= near - 1;
            let score = scores[slot];
            // The limit may have risen meanwhile.
            if score > self.limit {
                taken |= 1 << slot;
                self.heap.push(Candidate { score, row: block::row_id(rows, slot) });
                self.rank(score);
            }
        }
        let live = live & !taken;
        if live != 0 {
            self.rest_bound = self.rest_bound.max(self.limit);
            self.leftovers.push(Leftover { live, scores: *scores, rows: *rows });
        }
    }

    /// Counts a score among the best.
    fn rank(&mut self, score: f32) {
        if score > self.best[TRACKED - 1] {
            let place = self.best.partition_point(|&better| better >= score);
            self.best[place..].rotate_right(1);
            self.best[place] = score;
            self.found_at[place..].rotate_right(1);
            self.found_at[place] = self.lists;
            self.limit = (self.best[TRACKED - 1] - self.slack).min(self.ceiling);
        }
    }

    /// Takes back a row that was popped and is not wanted yet.
    pub fn put_back(&mut self, candidate: Candidate) {
        self.heap.push(candidate);
    }

    /// The best estimate there is.
    #[inline]
    pub fn peek(&mut self) -> Option<Candidate> {
        loop {
            match self.heap.peek() {
                Some(best) if best.score >= self.rest_bound => return Some(*best),
                best if self.rest.is_empty() && self.leftovers.is_empty() => return best.copied(),
                _ => self.move_some(),
            }
        }
    }

    /// Takes what [`Candidates::peek`] showed.
    #[inline]
    pub fn pop(&mut self) -> Option<Candidate> {
        self.peek()?;
        self.heap.pop()
    }

    /// The score of rank [`TRACKED`] among all rows ever added, or of the last there is.
    pub fn tracked_score(&self) -> f32 {
        self.best[self.tracked_at().len().max(1) - 1]
    }

    /// How many lists had been begun when each row up to that rank was found.
    pub fn tracked_at(&self) -> &[u32] {
        &self.found_at[..(self.seen as usize).min(TRACKED)]
    }

    /// Rows ever added.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Moves the best of what lies unsorted to the heap: the more often, the more at a time.
    #[cold]
    fn move_some(&mut self) {
        for Leftover { mut live, scores, rows } in self.leftovers.drain(..) {
            while live != 0 {
                let slot = live.trailing_zeros() as usize;
                live &= live - 1;
                self.rest.push(Candidate { score: scores[slot], row: block::row_id(&rows, slot) });
            }
        }
        let count = self.rest.len().min(self.next_move);
        self.next_move *= 2;
        if count < self.rest.len() {
            self.rest.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
            self.rest_bound = self.rest[count - 1].score;
        } else {
            self.rest_bound = f32::NEG_INFINITY;
        }
        self.ceiling = self.rest_bound;
        self.limit = self.limit.min(self.ceiling);
        self.heap.extend(self.rest.drain(..count));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Adds rows with these scores, numbered on.
    fn add(candidates: &mut Candidates, scores: &[i32], number: &mut u32) -> Vec<Candidate> {
        let mut added = Vec::new();
        for part in scores.chunks(BLOCK_ROWS - 1) {
            let (mut block, mut rows) = ([f32::INFINITY; BLOCK_ROWS], [0; size_of::<RowIds>()]);
            for (slot, &score) in part.iter().enumerate() {
                *number += 1;
                block[slot + 1] = score as f32;
                rows[6 * (slot + 1)..][..4].copy_from_slice(&number.to_le_bytes());
                added.push(Candidate { score: score as f32, row: RowId { block: *number, offset: 0 } });
            }
            // The first row is not there.
            let live = ((1u64 << part.len()) - 1) as u32;
            candidates.push(live << 1, &block, &rows);
        }
        added
    }

    proptest! {
        #[test]
        fn every_row_comes_once_and_the_best_first(
            batches in proptest::collection::vec((proptest::collection::vec(-100i32..100, 0..200), 0usize..150), 1..6),
            slack in 0f32..50.0,
        ) {
            let mut candidates = Candidates::new(slack);
            let mut naive: Vec<Candidate> = Vec::new();
            let mut rows = std::collections::HashSet::new();
            let mut number = 0;
            for (scores, pops) in batches {
                naive.extend(add(&mut candidates, &scores, &mut number));
                naive.sort();
                for _ in 0..pops {
                    let (want, got) = (naive.pop(), candidates.pop());
                    prop_assert_eq!(got.map(|c| c.score), want.map(|c| c.score));
                    prop_assert!(got.is_none_or(|got| rows.insert(got.row)), "a row came twice");
                }
            }
        }
    }

    #[test]
    fn the_tenth_best_is_known() {
        let mut candidates = Candidates::new(1.0);
        let scores: Vec<i32> = (0..100).map(|i| (i * 37) % 100).collect();
        add(&mut candidates, &scores, &mut 0);
        assert_eq!(candidates.tracked_score(), 90.0);
    }

    #[test]
    fn where_the_best_came_from_is_known() {
        let mut candidates = Candidates::new(1.0);
        for list in [[5, 90, 70], [95, 1, 80], [2, 3, 85]] {
            candidates.begin_list();
            add(&mut candidates, &list, &mut 0);
        }
        // 95, 90, 85, 80, 70, 5, 3, 2, 1
        assert_eq!(candidates.tracked_at(), [2, 1, 3, 2, 1, 1, 3, 3, 2]);
    }
}
