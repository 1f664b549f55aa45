//! Small codes: a nibble for each group of directions.
//!
//! A product quantiser whose groups follow the variance: four directions that hardly vary share four bits, one that varies
//! more has four, eight or sixteen bits of its own (a second nibble says what the first left over). A query turns the
//! codebook into tables of 16 numbers a group, and the inner product with a row becomes a sum of looked-up numbers
//! (Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011), 32 rows at a time by SIMD.
//! Codes do not depend on the list a row is in, so that rows can change lists without being read again.

use esr_vector::kernel::BLOCK_ROWS;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::allocation::{self, Group};
use crate::random::{normal, some_rows};

/// Numbers that a nibble can stand for.
pub const CODES: usize = 16;

/// Rows that a group's codebook is trained on; 256 for each number is plenty.
const TRAINING_ROWS: usize = 4096;
const TRAINING_ROUNDS: usize = 8;

/// A trained codebook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantiser {
    groups: Vec<Group>,
    /// For each group, for each of its axes: 16 coordinates, one a code.
    centres: Vec<f32>,
    /// Mean squared error along each axis.
    errors: Vec<f32>,
}

impl Quantiser {
    /// Learns at most `group_count` groups (an even number) from rotated rows, `rows x axes`; `variances` has one element an
    /// axis.
    pub fn train(rotated: &[f32], variances: &[f32], group_count: usize, seed: u64) -> Self {
        let axes = variances.len();
        let mut left = some_rows(rotated, axes, TRAINING_ROWS, &mut ChaCha8Rng::seed_from_u64(seed));
        let rows = left.len() / axes;
        let mut quantiser =
            Self { groups: allocation::groups(variances, group_count), centres: Vec::new(), errors: Vec::new() };
        for (place, group) in quantiser.groups.clone().into_iter().enumerate() {
            let is_first = !quantiser.groups[..place].contains(&group);
            let is_refined = quantiser.groups[place + 1..].contains(&group);
            let centres = if is_first && !is_refined {
                train_group(&left, axes, group, variances)
            } else {
                uniform(&left, axes, group, variances)
            };
            for row in left.chunks_exact_mut(axes) {
                subtract(&centres, group, row);
            }
            quantiser.centres.extend(centres);
        }
        let mean_square = |axis: usize| {
            let sum: f32 = left.iter().skip(axis).step_by(axes).map(|x| x * x).sum();
            sum / rows.max(1) as f32
        };
        // The training rows are not quite strangers to the codebook; a tenth more is what other rows were seen to miss by.
        quantiser.errors = (0..axes).map(|axis| 1.1 * mean_square(axis)).collect();
        quantiser
    }

    /// Codes for rows that are only known to have these variances: an index without rows to learn from.
    pub fn untrained(variances: &[f32], group_count: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rows: Vec<f32> = (0..1024)
            .flat_map(|_| variances.iter().map(|v| v.sqrt() * normal(&mut random)).collect::<Vec<_>>())
            .collect();
        Self::train(&rows, variances, group_count, seed)
    }

    /// Number of groups: nibbles of a code.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Mean squared error of a decoded row along each axis.
    pub fn errors(&self) -> &[f32] {
        &self.errors
    }

    /// Codes a rotated row, which is used up; one code in the low half of a byte for each group.
    pub fn encode(&self, row: &mut [f32], codes: &mut [u8]) {
        for ((group, centres), code) in self.with_centres().zip(codes) {
            *code = subtract(centres, group, row);
        }
    }

    /// The rotated row that a code stands for.
    pub fn decode(&self, codes: impl Iterator<Item = u8>, row: &mut [f32]) {
        row.fill(0.0);
        for ((group, centres), code) in self.with_centres().zip(codes) {
            for (axis, centres) in group.axes().zip(centres.chunks_exact(CODES)) {
                row[axis] += centres[usize::from(code & 15)];
            }
        }
    }

    /// What each code of each group adds to the inner product with a rotated query.
    pub fn tables(&self, query: &[f32]) -> Vec<[f32; CODES]> {
        self.with_centres()
            .map(|(group, centres)| {
                let mut table = [0.0; CODES];
                for (axis, centres) in group.axes().zip(centres.as_chunks::<CODES>().0) {
                    for (sum, centre) in table.iter_mut().zip(centres) {
                        *sum += query[axis] * centre;
                    }
                }
                table
            })
            .collect()
    }

    fn with_centres(&self) -> impl Iterator<Item = (Group, &[f32])> {
        let mut start = 0;
        self.groups.iter().map(move |&group| {
            let from = start;
            start += group.count() * CODES;
            (group, &self.centres[from..start])
        })
    }

    /// Whether the numbers belong together, for a codebook read from pages.
    pub fn is_sound(&self, axes: usize) -> bool {
        let centres: usize = self.groups.iter().map(|group| group.count() * CODES).sum();
        self.groups.len().is_multiple_of(2)
            && self.centres.len() == centres
            && self.errors.len() == axes
            && self.groups.iter().all(|group| group.axes().end <= axes)
    }
}

/// Takes the nearest centre away from a row; returns its code.
#[inline]
fn subtract(centres: &[f32], group: Group, row: &mut [f32]) -> u8 {
    let (by_axis, _) = centres.as_chunks::<CODES>();
    let mut distances = [0.0f32; CODES];
    for (axis, centres) in group.axes().zip(by_axis) {
        for (distance, centre) in distances.iter_mut().zip(centres) {
            let difference = row[axis] - centre;
            *distance += difference * difference;
        }
    }
    let mut best = 0;
    for code in 1..CODES {
        if distances[code] < distances[best] {
            best = code;
        }
    }
    for (axis, centres) in group.axes().zip(by_axis) {
        row[axis] -= centres[best];
    }
    best as u8
}

/// Equal steps over all that is there, for an axis with several nibbles: every value is then within half a step of the last
/// nibble. (Centres fitted to where most rows are would leave rows far out without a fine code, and those are what a query
/// in their direction asks for.)
fn uniform(rows: &[f32], axes: usize, group: Group, variances: &[f32]) -> Vec<f32> {
    let axis = group.axes().start;
    let values = || rows.iter().skip(axis).step_by(axes).copied();
    let (low, high) = values().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let deviation = variances[axis].sqrt();
    // Rows to come lie a little farther out than those of a sample.
    let (low, high) = if low < high {
        (low - 0.05 * (high - low), high + 0.05 * (high - low))
    } else {
        (-3.0 * deviation, 3.0 * deviation)
    };
    let step = (high - low) / CODES as f32;
    (0..CODES).map(|code| low + (code as f32 + 0.5) * step).collect()
}

/// Lloyd's algorithm on one group's axes, started from quantiles so that no random start can be a bad one.
fn train_group(rows: &[f32], axes: usize, group: Group, variances: &[f32]) -> Vec<f32> {
    let count = group.count();
    let mut points: Vec<Vec<f32>> = rows.chunks_exact(axes).map(|row| row[group.axes()].to_vec()).collect();
    // Along the sum of the axes: spreads over all of them.
    points.sort_by(|a, b| a.iter().sum::<f32>().total_cmp(&b.iter().sum()));
    let mut centres = vec![0.0; count * CODES];
    for code in 0..CODES {
        for axis in 0..count {
            centres[axis * CODES + code] = match points.len() {
                0 => (code as f32 / 7.5 - 1.0) * 2.0 * variances[group.axes().start + axis].sqrt(),
                rows => points[(2 * code + 1) * rows / (2 * CODES)][axis],
            };
        }
    }
    let whole = Group::whole(count);
    let variance = variances[group.axes()].iter().sum::<f32>().max(f32::MIN_POSITIVE);
    for _ in 0..TRAINING_ROUNDS {
        let mut sums = vec![0.0f64; count * CODES];
        let mut sizes = [0.0f64; CODES];
        for point in &points {
            let mut left = [0.0; allocation::MAX_AXES_PER_GROUP];
            left[..count].copy_from_slice(point);
            let code = usize::from(subtract(&centres, whole, &mut left));
            // Rows far out are the nearest ones to queries in their direction, so their errors count more.
            let weight: f32 = 1.0 + point.iter().map(|x| x * x).sum::<f32>() / variance;
            sizes[code] += f64::from(weight);
            (0..count).for_each(|axis| sums[axis * CODES + code] += f64::from(weight * point[axis]));
        }
        for (i, centre) in centres.iter_mut().enumerate() {
            if sizes[i % CODES] > 0.0 {
                *centre = (sums[i] / sizes[i % CODES]) as f32;
            }
        }
    }
    centres
}

/// Tables of a query as bytes, for the kernel.
///
/// Differences between codes are counted in steps so small that most groups fit one byte; the leading groups, which vary
/// most, have a second byte for the steps by 256.
pub struct ByteTables {
    low: Vec<u8>,
    high: Vec<u8>,
    step: f32,
    base: f32,
    /// Standard deviation of what rounding to steps adds to a sum.
    pub rounding: f32,
}

/// Leading groups that may have a second byte, largest choice: the kernel's work grows by this share of the groups.
const MAX_HIGH_GROUPS: usize = 32;

impl ByteTables {
    /// Rounds tables; `base` is added to every sum.
    pub fn new(tables: &[[f32; CODES]], base: f32) -> Self {
        let lowest = |table: &[f32; CODES]| table.iter().copied().fold(f32::INFINITY, f32::min);
        let ranges: Vec<f32> = tables
            .iter()
            .map(|table| table.iter().copied().fold(f32::NEG_INFINITY, f32::max) - lowest(table))
            .collect();
        let largest = |ranges: &[f32]| ranges.iter().copied().fold(0.0, f32::max);
        let high_groups = MAX_HIGH_GROUPS.min(tables.len() / 2 / 2 * 2);
        let (leading, others) = ranges.split_at(high_groups);
        // Sums of low bytes must stay under 65,536, those of high bytes do if the largest does.
        let most = (65_535 / tables.len().max(1)).min(255) as f32;
        let fine = (largest(others) / most).max(largest(leading) / (256.0 * most));
        let coarse = largest(&ranges) / most;
        // Where the leading groups are no larger than the others, second bytes would buy nothing.
        let high_groups = if fine * 1.5 > coarse { 0 } else { high_groups };
        let step = if high_groups == 0 { coarse } else { fine }.max(f32::MIN_POSITIVE);
        let mut low = Vec::with_capacity(tables.len() * CODES);
        let mut high = Vec::with_capacity(high_groups * CODES);
        let mut sum = base;
        for (i, table) in tables.iter().enumerate() {
            let lowest = lowest(table);
            sum += lowest;
            for &value in table {
                let steps = ((value - lowest) / step + 0.5) as u32;
                if i < high_groups {
                    low.push((steps & 255) as u8);
                    high.push((steps >> 8).min(255) as u8);
                } else {
                    low.push(steps.min(255) as u8);
                }
            }
        }
        let rounding = step * (tables.len() as f32 / 12.0).sqrt();
        Self { low, high, step, base: sum, rounding }
    }

    /// The inner products of the query with the 32 rows of a block.
    pub fn scores(&self, codes: &[u8], scores: &mut [f32; BLOCK_ROWS]) {
        let lookup_sums = esr_vector::kernels().lookup_sums;
        let mut low = [0; BLOCK_ROWS];
        lookup_sums(&self.low, codes, &mut low);
        if self.high.is_empty() {
            for (score, &low) in scores.iter_mut().zip(&low) {
                *score = self.base + self.step * f32::from(low);
            }
        } else {
            let mut high = [0; BLOCK_ROWS];
            lookup_sums(&self.high, &codes[..self.high.len()], &mut high);
            for ((score, &low), &high) in scores.iter_mut().zip(&low).zip(&high) {
                *score = self.base + self.step * (256.0 * f32::from(high) + f32::from(low));
            }
        }
    }
}
