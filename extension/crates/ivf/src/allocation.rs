//! Which directions share a nibble and which get several: bits where the variance is. Knows numbers only.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Most axes that one nibble codes.
pub const MAX_AXES_PER_GROUP: usize = 4;

/// Consecutive axes coded by one nibble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    first: u16,
    count: u8,
}

impl Group {
    /// Axes of a vector that consists of this group alone.
    pub fn whole(count: usize) -> Self {
        Self { first: 0, count: count as u8 }
    }

    /// The axes.
    pub fn axes(self) -> Range<usize> {
        usize::from(self.first)..usize::from(self.first) + self.count()
    }

    /// How many axes.
    pub fn count(self) -> usize {
        usize::from(self.count)
    }
}

/// What an axis can be given, in quarters of a nibble, and the share of its variance that is then left: quantisers of a
/// normal variable with 2, 4 and 16 levels (Max, "Quantizing for minimum distortion", 1960), then 1/256 of that for each
/// further nibble, which codes nearly uniform remains. Axes that share a nibble do slightly better than these shares.
const LEVELS: [(usize, f64); 7] =
    [(0, 1.0), (1, 0.363), (2, 0.1175), (4, 0.01154), (8, 4.5e-5), (12, 1.8e-7), (16, 7e-10)];

/// Codes need not be finer than this share of the variance: the rows that matter are measured exactly.
const FINE_ENOUGH: f64 = 0.002;

/// Divides axes of these variances (not increasing) into groups, an even number of at most `most`. Groups that code an axis
/// first come in the order of the axes, those that refine after them.
pub fn groups(variances: &[f32], most: usize) -> Vec<Group> {
    let levels = levels(variances, most * 4);
    let mut groups = Vec::with_capacity(most);
    let mut axis = 0;
    while axis < levels.len() && levels[axis] > 0 {
        let share = MAX_AXES_PER_GROUP / LEVELS[levels[axis]].0.min(4);
        let same = levels[axis..].iter().take(share).take_while(|&&level| level > 0).count();
        groups.push(Group { first: axis as u16, count: same as u8 });
        axis += same;
    }
    // Rounding to whole nibbles may have made too many: the last ones vary least.
    groups.truncate(most);
    let base = groups.clone();
    for round in 1..4 {
        for group in base.iter().filter(|group| group.count == 1) {
            if groups.len() < most && LEVELS[levels[usize::from(group.first)]].0 >= 4 * (round + 1) {
                groups.push(*group);
            }
        }
    }
    if groups.is_empty() {
        groups.push(Group { first: 0, count: 1 });
    }
    if !groups.len().is_multiple_of(2) {
        // A pair is what the kernel reads: refine the leading group.
        groups.push(groups[0]);
    }
    groups
}

/// The level of each axis: the greatest gain for the next quarter nibble, again and again.
fn levels(variances: &[f32], mut quarters: usize) -> Vec<usize> {
    let mut levels = vec![0; variances.len()];
    let gain = |axis: usize, level: usize| {
        let (cost, left) = LEVELS[level];
        let (next_cost, next_left) = LEVELS[level + 1];
        f64::from(variances[axis].max(f32::MIN_POSITIVE)) * (left - next_left) / (next_cost - cost) as f64
    };
    let mut queue: std::collections::BinaryHeap<Step> =
        (0..variances.len()).map(|axis| Step { gain: gain(axis, 0), axis }).collect();
    let total: f64 = variances.iter().map(|&v| f64::from(v)).sum();
    let mut left = total;
    while let Some(Step { axis, .. }) = queue.pop() {
        let cost = LEVELS[levels[axis] + 1].0 - LEVELS[levels[axis]].0;
        if left <= FINE_ENOUGH * total {
            break;
        }
        if cost > quarters {
            continue;
        }
        left -= f64::from(variances[axis]) * (LEVELS[levels[axis]].1 - LEVELS[levels[axis] + 1].1);
        quarters -= cost;
        levels[axis] += 1;
        if levels[axis] + 1 < LEVELS.len() {
            queue.push(Step { gain: gain(axis, levels[axis]), axis });
        }
    }
    levels
}

struct Step {
    gain: f64,
    axis: usize,
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.gain.total_cmp(&other.gain).then(other.axis.cmp(&self.axis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variances: &[f32], most: usize) -> Vec<Group> {
        let groups = groups(variances, most);
        assert!(!groups.is_empty() && groups.len() <= most && groups.len().is_multiple_of(2), "{}", groups.len());
        assert!(groups.iter().all(|group| group.axes().end <= variances.len() && group.count() > 0));
        groups
    }

    #[test]
    fn equal_axes_share_equally() {
        let groups = check(&[1.0; 480], 240);
        assert!(groups.len() == 240 && groups.iter().all(|group| group.count() == 2));
    }

    #[test]
    fn one_axis_gets_what_it_needs() {
        let groups = check(&[1.0], 4);
        assert!(groups.iter().all(|group| group.axes() == (0..1)));
        assert_eq!(groups.len(), 2);
        check(&[0.0; 7], 4);
    }

    #[test]
    fn bits_go_where_the_variance_is() {
        let variances: Vec<f32> = (0..512).map(|i| 0.97f32.powi(i)).collect();
        let groups = check(&variances, 240);
        let nibbles = |axis: usize| groups.iter().filter(|group| group.axes().contains(&axis)).count();
        assert!(nibbles(0) >= 2, "{}", nibbles(0));
        assert!(nibbles(0) >= nibbles(100));
        assert!(nibbles(511) == 0);
    }

    #[test]
    fn few_directions_need_few_groups() {
        let groups = check(&[1.0; 64], 240);
        assert!(groups.len() <= 130, "{}", groups.len());
    }
}
