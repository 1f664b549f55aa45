//! Keeps the nearest of many rows. Pure: knows numbers of rows and distances, neither pages nor vectors.

use std::collections::BinaryHeap;

use esr_ivf::RowId;

/// A distance as `ORDER BY` ranks it: numbers, then NaN, then NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64);

impl Rank {
    const NULL: Rank = Rank(u64::MAX);
    const NAN: Rank = Rank(u64::MAX - 1);

    fn of(distance: Option<f64>) -> Self {
        const SIGN: u64 = 1 << 63;
        match distance {
            None => Self::NULL,
            Some(number) if number.is_nan() => Self::NAN,
            Some(number) => {
                // Adding zero makes the two zeros one, which SQL calls equal. The bits of floats then order like
                // integers: the positive ones as they are, above the negative ones turned around.
                let bits = (number + 0.0).to_bits();
                Self(if bits & SIGN == 0 { bits | SIGN } else { !bits })
            }
        }
    }
}

/// Ranked first by distance, then by row, so that equally near rows come in the same order every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: Rank,
    row: RowId,
}

/// The nearest rows so far.
pub struct Nearest {
    limit: usize,
    /// The furthest on top.
    heap: BinaryHeap<Candidate>,
    overflowed: bool,
}

impl Nearest {
    /// Memory that one row takes.
    pub const BYTES_PER_ROW: usize = size_of::<Candidate>();

    /// Keeps at most `limit` rows, and at least one.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), heap: BinaryHeap::new(), overflowed: false }
    }

    /// Considers a row; a distance of `None` is SQL's NULL.
    #[inline]
    pub fn offer(&mut self, distance: Option<f64>, row: RowId) {
        let candidate = Candidate { rank: Rank::of(distance), row };
        if self.heap.len() < self.limit {
            self.heap.push(candidate);
            return;
        }
        self.overflowed = true;
        if let Some(mut furthest) = self.heap.peek_mut()
            && candidate < *furthest
        {
            *furthest = candidate;
        }
    }

    /// Whether rows were left out.
    pub fn has_left_out(&self) -> bool {
        self.overflowed
    }

    /// The rows, nearest first.
    pub fn into_rows(self) -> Vec<RowId> {
        self.heap.into_sorted_vec().into_iter().map(|candidate| candidate.row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::am::relation::{item_pointer, row_id};

    #[test]
    fn distances_rank_as_sql_sorts_them() {
        let ascending = [
            Some(f64::NEG_INFINITY),
            Some(-2.5),
            Some(-f64::MIN_POSITIVE),
            Some(0.0),
            Some(f64::MIN_POSITIVE),
            Some(1.0),
            Some(f64::INFINITY),
            Some(f64::NAN),
            None,
        ];
        assert!(ascending.is_sorted_by(|a, b| Rank::of(*a) < Rank::of(*b)));
        assert_eq!(Rank::of(Some(-0.0)), Rank::of(Some(0.0)));
        assert_eq!(Rank::of(Some(-f64::NAN)), Rank::of(Some(f64::NAN)));
    }

    #[test]
    fn the_nearest_are_what_sorting_everything_would_put_first() {
        // Multiplying by an odd constant visits numbers in no particular order, each class of distance among them.
        let distances: Vec<Option<f64>> = (0..997u64)
            .map(|i| match i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 {
                n if n % 17 == 0 => None,
                n if n % 19 == 0 => Some(f64::NAN),
                n => Some((n % 301) as f64 - 150.0),
            })
            .collect();
        let rows = |i: usize| RowId { block: i as u32 / 7, offset: (i % 7 + 1) as u16 };
        let mut sorted: Vec<usize> = (0..distances.len()).collect();
        sorted.sort_by_key(|i| (Rank::of(distances[*i]), rows(*i)));
        for limit in [1, 2, 10, 996, 997, 5000] {
            let mut nearest = Nearest::new(limit);
            for (i, distance) in distances.iter().enumerate() {
                nearest.offer(*distance, rows(i));
            }
            assert_eq!(nearest.has_left_out(), limit < distances.len());
            let expected: Vec<RowId> = sorted.iter().take(limit).map(|i| rows(*i)).collect();
            assert_eq!(nearest.into_rows(), expected, "limit {limit}");
        }
    }

    #[test]
    fn a_row_keeps_its_place() {
        let row = row_id(item_pointer(RowId { block: u32::MAX - 1, offset: 291 }));
        assert_eq!((row.block, row.offset), (u32::MAX - 1, 291));
        assert!(RowId { block: 1, offset: 65535 } < RowId { block: 2, offset: 1 });
    }
}
