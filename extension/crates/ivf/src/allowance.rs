//! What a calibration found out, as searches look it up: between the targets, ranks and classes of queries it was made for.

use crate::page::{CLASSES, Meta, RANKS, TARGETS};
use crate::surprise::{between_classes, mix};

/// For one target: how many missing rows a search may expect when it stops.
#[derive(Debug, Clone, Copy)]
pub struct Allowances {
    /// See [`Meta::surprises`].
    surprises: [[f32; CLASSES]; RANKS.len()],
    /// Logarithms; see [`Meta::allowances`].
    logs: [[f32; CLASSES]; RANKS.len()],
}

impl Allowances {
    pub(crate) fn new(meta: &Meta, target: f64) -> Self {
        let (column, across) = column(target);
        let log = |rank: usize, class: usize| {
            let [low, high] = [column - 1, column].map(|column| meta.allowances[rank][column][class].get());
            mix(low, high, across)
        };
        Self {
            surprises: meta.surprises.map(|row| row.map(|surprise| surprise.get())),
            logs: std::array::from_fn(|rank| std::array::from_fn(|class| log(rank, class))),
        }
    }

    /// The number of missing rows that may be expected when a search emits its row number `rank`, to which the query's
    /// surprise is this.
    pub fn missing(&self, rank: u64, surprise: f32) -> f32 {
        let log = |row: usize| between_classes(&self.surprises[row], &self.logs[row], surprise);
        between_ranks(rank, log).exp() * rank as f32
    }
}

/// Lists read, on average, by a search for `target` recall that emits `rank` rows.
pub fn lists_probed(meta: &Meta, target: f64, rank: u64) -> f32 {
    let (column, across) = column(target);
    between_ranks(rank, |row| mix(meta.probed[row][column - 1].get(), meta.probed[row][column].get(), across))
}

/// The column of the next larger target, and how far from the one before it the target lies.
pub(crate) fn column(target: f64) -> (usize, f32) {
    let target = (target as f32).clamp(TARGETS[0], TARGETS[TARGETS.len() - 1]);
    let column = TARGETS.partition_point(|&known| known <= target).clamp(1, TARGETS.len() - 1);
    (column, (target - TARGETS[column - 1]) / (TARGETS[column] - TARGETS[column - 1]))
}

/// What is known of each of [`RANKS`], at one: in between, by logarithms, and as for the outermost beyond them.
fn between_ranks(rank: u64, known: impl Fn(usize) -> f32) -> f32 {
    let place = RANKS.partition_point(|&other| u64::from(other) <= rank);
    if place == 0 || place == RANKS.len() {
        return known(place.min(RANKS.len() - 1));
    }
    let (low, high) = (RANKS[place - 1] as f32, RANKS[place] as f32);
    mix(known(place - 1), known(place), (rank as f32 / low).ln() / (high / low).ln())
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn meta() -> Meta {
        let mut meta = Meta::new_zeroed();
        for rank in 0..RANKS.len() {
            for class in 0..CLASSES {
                meta.surprises[rank][class] = (class as f32).into();
                for target in 0..TARGETS.len() {
                    meta.allowances[rank][target][class] = (-((rank + 10 * class + 100 * target) as f32)).into();
                }
            }
            (0..TARGETS.len()).for_each(|target| meta.probed[rank][target] = ((rank + 10 * target) as f32).into());
        }
        meta
    }

    #[test]
    fn what_is_known_is_looked_up_and_what_lies_between_is_between() {
        let log = |target: f64, rank: u64, surprise: f32| {
            (Allowances::new(&meta(), target).missing(rank, surprise) / rank as f32).ln()
        };
        for (target, rank, surprise, want) in
            [(0.5, 1, 0.0, 0.0), (0.5, 10, 0.0, -1.0), (0.5, 1, 2.0, -20.0), (0.5, 1, 2.5, -25.0), (0.5, 1, -7.0, 0.0)]
        {
            assert!((log(target, rank, surprise) - want).abs() < 1e-3, "{target} {rank} {surprise}");
        }
        assert!((log(0.5, 1000, 9.0) - log(0.5, 100_000, 3.0)).abs() < 1e-3, "beyond what is known nothing changes");
        assert!(log(0.6, 1, 0.0) < log(0.5, 1, 0.0) && log(0.6, 1, 0.0) > log(0.7, 1, 0.0));
        assert!(log(0.5, 50, 0.0) < log(0.5, 10, 0.0) && log(0.5, 50, 0.0) > log(0.5, 100, 0.0));
    }

    #[test]
    fn lists_are_looked_up_alike() {
        assert_eq!(lists_probed(&meta(), 0.5, 1), 0.0);
        assert_eq!(lists_probed(&meta(), 0.7, 10), 11.0);
        assert_eq!(lists_probed(&meta(), 0.3, 1_000_000), 3.0);
    }
}
