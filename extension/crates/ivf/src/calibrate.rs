//! Finds out how far the expectation of missing rows can be trusted, for each recall that may be asked for.
//!
//! Queries of several kinds ([`crate::trial`]) are run against all codes. For each, the lists are read in the order of a
//! search; after each the expectation is compared with what is truly missing. The further out the nearest rows of a query
//! lie, the less the expectation can be trusted: so the queries are divided into classes by that surprise, and for each class
//! the largest expectation at which its searches may stop and still find their share is written to the meta page.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

use esr_vector::kernel::BLOCK_ROWS;

use crate::block;
use crate::candidates::TRACKED;
use crate::chain;
use crate::confidence::Order;
use crate::estimate::Estimator;
use crate::list;
use crate::page::{CLASSES, FIRST_LIST, RANKS, TARGETS};
use crate::random::normal;
use crate::store::{PageStore, RowId, StoreError};
use crate::structure::{Structure, current};
use crate::surprise;
use crate::trial::{self, KINDS, Kind};

/// Most queries of each kind; fewer for many rows, since all rows are looked at for each.
const MOST_QUERIES: usize = 96;
const FEWEST_QUERIES: usize = 40;
const ROWS_TIMES_QUERIES: u64 = 16_000_000;

/// Best rows remembered of each query.
const KEPT: usize = 2000;

/// How much of the way from the target to 1 is aimed at: some rows are missed because of their codes
/// ([`Structure::margin`]), and queries differ from those tried here.
const SAFETY: f32 = 0.2;

/// Standard errors that the recall of the queries tried must lie above what is aimed at.
const DOUBT: f32 = 1.0;

/// Measures and writes the calibration.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn calibrate<S: PageStore>(store: &S, seed: u64) -> Result<(), StoreError> {
    let structure = current(store, &mut None)?;
    let rows = structure.meta.rows.get();
    if rows == 0 || !structure.is_trained() {
        return Ok(());
    }
    let count = (ROWS_TIMES_QUERIES / rows).clamp(FEWEST_QUERIES as u64, MOST_QUERIES as u64) as usize;
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x5ca1ab1e);
    let errors = Errors::table(&mut random);
    let mut queries: Vec<Query> = Vec::new();
    for kind in KINDS {
        for seed in seeds(store, &structure, kind, count, &mut random)? {
            queries.push(Query::new(&structure, seed, kind, &errors, &mut random));
        }
    }
    score_all(store, &structure, &mut queries)?;
    queries.iter_mut().for_each(Query::finish);
    let mut found: Vec<Found> = Vec::new();
    for rank in RANKS {
        let runs: Vec<Run> = queries.iter().filter_map(|query| query.run(&structure, rank as usize)).collect();
        match found.last() {
            // Fewer rows than that: what held for fewer wanted is all that is known.
            Some(last) if runs.is_empty() => found.push(last.clone()),
            _ => found.push(Found::new(runs)),
        }
        store.check_for_interrupts();
    }
    chain::change_meta(store, |meta| {
        for (rank, found) in found.iter().enumerate() {
            meta.surprises[rank] = found.surprises.map(Into::into);
            meta.allowances[rank] = found.allowances.map(|classes| classes.map(Into::into));
            meta.probed[rank] = found.probed.map(Into::into);
        }
        meta.rows_at_calibration = (rows.min(u64::from(u32::MAX)) as u32).into();
        meta.generation = (meta.generation.get() + 1).into();
    })
}

/// Rows to make queries of a kind from.
fn seeds<S: PageStore>(
    store: &S,
    structure: &Structure,
    kind: Kind,
    count: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<(RowId, Vec<f32>)>, StoreError> {
    let Kind::Pointing(power) = kind else { return sample_rows(store, structure, count, random) };
    let divisors = trial::divisors(&structure.model.rotation.variances, power);
    let rows = sample_rows(store, structure, count * trial::FURTHEST_OF, random)?;
    let furthest = |rows: &[(RowId, Vec<f32>)]| trial::furthest(rows.iter(), |&(_, row)| row, &divisors).cloned();
    Ok(rows.chunks(trial::FURTHEST_OF).filter_map(furthest).collect())
}

/// Random rows with what their codes stand for.
fn sample_rows<S: PageStore>(
    store: &S,
    structure: &Structure,
    count: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<(RowId, Vec<f32>)>, StoreError> {
    let mut lists: Vec<u32> = Vec::new();
    let total: u64 = structure.lists[FIRST_LIST as usize..].iter().map(|list| u64::from(list.rows)).sum();
    for number in FIRST_LIST..structure.lists.len() as u32 {
        // Lists in proportion to their rows, each rounded up or down at random.
        let share = structure.lists[number as usize].rows as f64 * count as f64 / total.max(1) as f64;
        let copies = share.floor() as usize + usize::from(random.random_bool(share.fract().clamp(0.0, 1.0)));
        lists.extend(std::iter::repeat_n(number, copies));
    }
    lists.shuffle(random);
    let mut rows = Vec::new();
    for number in lists {
        let mut seen = 0;
        let mut chosen = None;
        list::for_each_page(store, structure, number, |bytes| {
            for (_, slot, block) in block::rows_of(structure.layout, bytes) {
                seen += 1;
                if random.random_range(0..seen) == 0 {
                    chosen = Some((block.row(slot), block.row_codes(slot).collect::<Vec<u8>>()));
                }
            }
        })?;
        if let Some((row, codes)) = chosen {
            let mut decoded = vec![0.0; structure.axes()];
            structure.model.quantiser.decode(codes.into_iter(), &mut decoded);
            rows.push((row, decoded));
        }
    }
    Ok(rows)
}

/// A query of the calibration.
struct Query {
    estimator: Estimator,
    /// The row it was made from, which would find itself; to other queries no row is planted so near either.
    own: RowId,
    /// Best rows so far with their lists, unsorted until the end.
    best: Vec<(f32, u32)>,
    /// Lists of the best rows with their places among them, by list.
    places: Vec<(u32, u32)>,
    above: f32,
    errors: Errors,
}

/// Stands in for what the codes do not say: exact scores scatter around the estimates, and more rows are lifted above a
/// high score than pushed below it. Drawn from a table, as it is needed for every row and every query.
struct Errors {
    table: Arc<[f32]>,
    deviation: f32,
    state: u32,
}

impl Errors {
    const SIZE: usize = 4096;

    fn table(random: &mut ChaCha8Rng) -> Arc<[f32]> {
        (0..Self::SIZE).map(|_| normal(random)).collect()
    }

    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.deviation * self.table[(self.state >> 20) as usize % Self::SIZE]
    }

    /// What an error hardly exceeds.
    fn most(&self) -> f32 {
        4.0 * self.deviation
    }
}

impl Query {
    fn new(
        structure: &Structure,
        (row, decoded): (RowId, Vec<f32>),
        kind: Kind,
        errors: &Arc<[f32]>,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let shift = structure.rotated_mean();
        let (rotation, quantiser) = (&structure.model.rotation, &structure.model.quantiser);
        let mut rotated: Vec<f32> = decoded.iter().zip(shift).map(|(x, shift)| x + shift).collect();
        rotated.iter_mut().zip(quantiser.errors()).for_each(|(x, error)| *x += error.sqrt() * normal(random));
        let length = |vector: &[f32]| (esr_vector::kernels().dot)(vector, vector).sqrt();
        let mut squared = length(&rotated).powi(2) + rotation.left_out;
        if kind == Kind::Beside {
            let list = random.random_range(FIRST_LIST..structure.lists.len() as u32);
            let step = structure.lists[list as usize].step;
            for ((x, &byte), shift) in rotated.iter_mut().zip(structure.centroid(list)).zip(shift) {
                *x = 0.6 * *x + 0.4 * ((f32::from(byte) - 128.0) * step + shift);
            }
            let noise = trial::add_noise(&mut rotated, structure.dimension(), random);
            let outside = structure.dimension() - structure.axes();
            squared = length(&rotated).powi(2) + noise * noise * outside as f32;
        }
        if let Kind::Pointing(power) = kind {
            rotated.iter_mut().zip(shift).for_each(|(x, shift)| *x -= shift);
            trial::point(&mut rotated, &trial::divisors(&rotation.variances, power), structure.metric());
            rotated.iter_mut().zip(shift).for_each(|(x, shift)| *x += shift);
            squared = length(&rotated).powi(2);
        }
        let estimator = Estimator::new(structure, rotated, 0.0, squared);
        let errors = Errors { table: Arc::clone(errors), deviation: estimator.error, state: random.random() };
        Self { estimator, own: row, best: Vec::new(), places: Vec::new(), above: f32::NEG_INFINITY, errors }
    }

    fn add(&mut self, score: f32, list: u32) {
        if score > self.above {
            self.best.push((score, list));
            if self.best.len() >= 2 * KEPT {
                self.best.select_nth_unstable_by(KEPT - 1, |a, b| b.0.total_cmp(&a.0));
                self.best.truncate(KEPT);
                self.above = self.best[KEPT - 1].0;
            }
        }
    }

    /// Once all rows have been added.
    fn finish(&mut self) {
        self.best.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        self.places = self.best.iter().zip(0..).map(|(&(_, list), place)| (list, place)).collect();
        self.places.sort_unstable();
    }

    /// Places among the best of the rows of a list.
    fn places(&self, list: u32) -> impl Iterator<Item = u32> {
        let first = self.places.partition_point(|&(other, _)| other < list);
        self.places[first..].iter().take_while(move |&&(other, _)| other == list).map(|&(_, place)| place)
    }

    /// Expectation and truth as lists are read in the order of a search; `None` if there are too few rows.
    fn run(&self, structure: &Structure, rank: usize) -> Option<Run> {
        let (last, _) = *self.best.get(rank - 1)?;
        let mut order = Order::new(self.estimator.lists(structure));
        // Places of the rows found, and how many lists had been read when each was.
        let (mut found, mut found_at) = (Vec::new(), vec![0; self.best.len()]);
        let mut steps = Vec::new();
        let mut look_at = 0;
        while let Some(next) = order.take_next() {
            for place in self.places(next.list) {
                found.push(place as usize);
                found_at[place as usize] = order.taken() as u32;
            }
            // As searches do, look at the expectation less often the longer it takes.
            if found.len() < rank || (order.taken() < look_at && !order.is_exhausted()) {
                continue;
            }
            look_at = order.taken() + 1 + order.taken() / 8;
            let tracked = TRACKED.min(found.len());
            found.select_nth_unstable(tracked - 1);
            let tracked_at: Vec<u32> = found[..tracked].iter().map(|&place| found_at[place]).collect();
            order.learn(self.best[found[tracked - 1]].0, &tracked_at, 1.0);
            let (_, &mut place, _) = found.select_nth_unstable(rank - 1);
            let expected = order.expected_above(self.best[place].0) / rank as f32;
            let recall = found.iter().filter(|&&place| place < rank).count() as f32 / rank as f32;
            steps.push(Step { expected, recall, lists: order.taken() as f32 });
            if expected < 1e-7 {
                break;
            }
        }
        let rows = structure.meta.rows.get() as f32;
        Some(Run { steps, surprise: self.estimator.all_rows.surprise(last, rank as f32, rows) })
    }
}

/// One query's way through the lists.
struct Run {
    steps: Vec<Step>,
    surprise: f32,
}

#[derive(Clone, Copy)]
struct Step {
    expected: f32,
    recall: f32,
    lists: f32,
}

/// What the runs for one rank say; see [`crate::page::Meta`].
#[derive(Clone)]
struct Found {
    surprises: [f32; CLASSES],
    allowances: [[f32; CLASSES]; TARGETS.len()],
    probed: [f32; TARGETS.len()],
}

impl Found {
    fn new(mut runs: Vec<Run>) -> Self {
        let mut found = Self {
            surprises: [0.0; CLASSES],
            allowances: [[0.0; CLASSES]; TARGETS.len()],
            probed: [0.0; TARGETS.len()],
        };
        let (surprises, classes) = surprise::classes(&mut runs, |run| run.surprise);
        found.surprises = surprises;
        for (class, members) in classes.into_iter().enumerate() {
            let (thresholds, lists) = thresholds(members);
            let before = class.checked_sub(1);
            for target in 0..TARGETS.len() {
                // What is further out is no easier to foresee, whatever chance says.
                let stricter = before.map_or(f32::INFINITY, |before| found.allowances[target][before]);
                found.allowances[target][class] = thresholds[target].ln().min(stricter);
                found.probed[target] += lists[target] / CLASSES as f32;
            }
        }
        found
    }
}

/// For each target the largest expectation at which searches may stop, and how many lists they have read then.
fn thresholds(runs: &[Run]) -> ([f32; TARGETS.len()], [f32; TARGETS.len()]) {
    let grid: Vec<f32> = (0..=68).map(|i| 10f32.powf(2.0 - 0.125 * i as f32)).collect();
    // Recall as low as chance may have hidden, and how many lists were read.
    let stops = |threshold: f32| {
        let stop = |run: &Run| run.steps.iter().find(|step| step.expected <= threshold).or(run.steps.last()).copied();
        let steps: Vec<Step> = runs.iter().filter_map(stop).collect();
        let count = steps.len().max(1) as f32;
        let mean = |of: &dyn Fn(&Step) -> f32| steps.iter().map(of).sum::<f32>() / count;
        let recall = mean(&|step| step.recall);
        let error = (mean(&|step| (step.recall - recall).powi(2)) / count).sqrt();
        (recall - DOUBT * error, mean(&|step| step.lists))
    };
    let results: Vec<(f32, (f32, f32))> = grid.iter().map(|&threshold| (threshold, stops(threshold))).collect();
    let mut thresholds = [*grid.last().expect("a grid of many"); TARGETS.len()];
    let mut probed = [results.last().expect("a grid of many").1.1; TARGETS.len()];
    for (place, &target) in TARGETS.iter().enumerate() {
        let aim = target + SAFETY * (1.0 - target);
        // From the strict end, as long as the recall holds: a lucky loose threshold does not count.
        for &(threshold, (recall, lists)) in results.iter().rev() {
            if recall < aim {
                break;
            }
            (thresholds[place], probed[place]) = (threshold, lists);
        }
    }
    (thresholds, probed)
}

fn score_all<S: PageStore>(store: &S, structure: &Arc<Structure>, queries: &mut [Query]) -> Result<(), StoreError> {
    let layout = structure.layout;
    let mut buffer = Vec::new();
    for number in FIRST_LIST..structure.lists.len() as u32 {
        list::for_each_page(store, structure, number, |bytes| {
            let mut scores = [0.0; BLOCK_ROWS];
            for number_of_block in 0..layout.blocks() {
                let block = layout.block(bytes, number_of_block);
                let live = block.live();
                if live == 0 {
                    continue;
                }
                let codes = block.codes(&mut buffer);
                for query in queries.iter_mut() {
                    query.estimator.tables.scores(codes, &mut scores);
                    let most = query.errors.most();
                    for slot in (0..BLOCK_ROWS).filter(|slot| live >> slot & 1 == 1) {
                        if scores[slot] + most > query.above && query.own != block.row(slot) {
                            let score = scores[slot] - 0.5 * block.norm(slot) + query.errors.next();
                            query.add(score, number);
                        }
                    }
                }
            }
        })?;
    }
    Ok(())
}
