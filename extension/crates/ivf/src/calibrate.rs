//! Finds out how far the expectation of missing rows can be trusted, for each recall that may be asked for.
//!
//! Queries like the rows (rows themselves) and queries that lie beside them (a centroid and a row, mixed, with noise in all
//! directions, as descriptions in words are to speech) are run against all codes. For each, the lists are read in the
//! order of a search; after each the expectation is compared with what is truly missing. The largest expectation at which
//! searches may stop and still find their share, over both kinds of queries, is written to the meta page.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

use esr_vector::kernel::BLOCK_ROWS;

use crate::block;
use crate::chain;
use crate::confidence::Order;
use crate::estimate::Estimator;
use crate::list;
use crate::page::{FIRST_LIST, RANKS, TARGETS};
use crate::random::normal;
use crate::store::{PageStore, RowId, StoreError};
use crate::structure::{Structure, current};

/// Most queries of each kind; fewer for many rows, since all rows are looked at for each.
const MOST_QUERIES: usize = 160;
const FEWEST_QUERIES: usize = 48;
const ROWS_TIMES_QUERIES: u64 = 24_000_000;

/// Best rows remembered of each query.
const KEPT: usize = 2000;

/// Length of the noise in a query that lies beside the rows, over that of the part that does not.
pub(crate) const NOISE: f32 = 1.5;

/// How much of the way from the target to 1 is aimed at: some rows are missed because of their codes
/// ([`Structure::margin`]), and queries differ from those tried here.
const SAFETY: f32 = 0.2;

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
    let seeds = sample_rows(store, &structure, 2 * count, &mut random)?;
    let errors = Errors::table(&mut random);
    let mut queries: Vec<Query> = Vec::new();
    for (number, seed) in seeds.into_iter().enumerate() {
        let beside = number % 2 == 1;
        queries.push(Query::new(&structure, seed, beside, &errors, &mut random));
    }
    score_all(store, &structure, &mut queries)?;
    let mut tables = [[[0.0f32; TARGETS.len()]; RANKS.len()]; 2];
    let mut probed = [[[0.0f32; TARGETS.len()]; RANKS.len()]; 2];
    for (kind, beside) in [false, true].into_iter().enumerate() {
        for (place, &rank) in RANKS.iter().enumerate() {
            let runs: Vec<Run> = queries
                .iter()
                .filter(|query| query.beside == beside)
                .filter_map(|query| query.run(&structure, rank as usize))
                .collect();
            if runs.is_empty() && place > 0 {
                // Fewer rows than that: what held for fewer wanted is all that is known.
                (tables[kind][place], probed[kind][place]) = (tables[kind][place - 1], probed[kind][place - 1]);
            } else {
                (tables[kind][place], probed[kind][place]) = thresholds(&runs);
            }
            store.check_for_interrupts();
        }
    }
    chain::change_meta(store, |meta| {
        for place in 0..RANKS.len() {
            for target in 0..TARGETS.len() {
                let stricter = tables[0][place][target].min(tables[1][place][target]);
                let longer = probed[0][place][target].max(probed[1][place][target]);
                meta.calibration[place][target] = stricter.into();
                meta.probed[place][target] = longer.into();
            }
        }
        meta.rows_at_calibration = (rows.min(u64::from(u32::MAX)) as u32).into();
        meta.generation = (meta.generation.get() + 1).into();
    })
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
    beside: bool,
    estimator: Estimator,
    /// The row it was made from, which would find itself; to queries beside the rows no row is planted so near either.
    own: RowId,
    /// Best rows so far with their lists, unsorted.
    best: Vec<(f32, u32)>,
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
        beside: bool,
        errors: &Arc<[f32]>,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let shift = structure.rotated_mean();
        let (rotation, quantiser) = (&structure.model.rotation, &structure.model.quantiser);
        let mut rotated: Vec<f32> = decoded.iter().zip(shift).map(|(x, shift)| x + shift).collect();
        rotated.iter_mut().zip(quantiser.errors()).for_each(|(x, error)| *x += error.sqrt() * normal(random));
        let length = |vector: &[f32]| (esr_vector::kernels().dot)(vector, vector).sqrt();
        let mut squared = length(&rotated).powi(2) + rotation.left_out;
        if beside {
            let list = random.random_range(FIRST_LIST..structure.lists.len() as u32);
            let step = structure.lists[list as usize].step;
            for ((x, &byte), shift) in rotated.iter_mut().zip(structure.centroid(list)).zip(shift) {
                *x = 0.6 * *x + 0.4 * ((f32::from(byte) - 128.0) * step + shift);
            }
            let noise = NOISE * length(&rotated) / (structure.dimension() as f32).sqrt();
            rotated.iter_mut().for_each(|x| *x += noise * normal(random));
            let outside = structure.dimension() - structure.axes();
            squared = length(&rotated).powi(2) + noise * noise * outside as f32;
        }
        let estimator = Estimator::new(structure, rotated, 0.0, squared);
        let errors = Errors { table: Arc::clone(errors), deviation: estimator.error, state: random.random() };
        Self { beside, estimator, own: row, best: Vec::new(), above: f32::NEG_INFINITY, errors }
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

    /// Expectation and truth as lists are read in the order of a search; `None` if there are too few rows.
    fn run(&self, structure: &Structure, rank: usize) -> Option<Run> {
        let mut best = self.best.clone();
        best.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        if best.len() < rank {
            return None;
        }
        let truth = &best[..rank];
        let mut order = Order::new(self.estimator.lists(structure));
        let mut found: Vec<f32> = Vec::new();
        let mut hits = 0;
        let mut steps = Vec::new();
        let mut look_at = 0;
        while let Some(next) = order.take_next() {
            found.extend(best.iter().filter(|(_, list)| *list == next.list).map(|(score, _)| *score));
            hits += truth.iter().filter(|(_, list)| *list == next.list).count();
            // As searches do, look at the expectation less often the longer it takes.
            if found.len() < rank || (order.taken() < look_at && !order.is_exhausted()) {
                continue;
            }
            look_at = order.taken() + 1 + order.taken() / 8;
            found.sort_unstable_by(|a, b| b.total_cmp(a));
            let expected = order.expected_above(found[rank - 1]) / rank as f32;
            let recall = hits as f32 / rank as f32;
            steps.push(Step { expected, recall, lists: order.taken() as f32 });
            if expected < 1e-7 {
                break;
            }
        }
        Some(Run { steps })
    }
}

/// One query's way through the lists.
struct Run {
    steps: Vec<Step>,
}

#[derive(Clone, Copy)]
struct Step {
    expected: f32,
    recall: f32,
    lists: f32,
}

/// For each target the largest expectation at which searches may stop, and how many lists they have read then.
fn thresholds(runs: &[Run]) -> ([f32; TARGETS.len()], [f32; TARGETS.len()]) {
    let grid: Vec<f32> = (0..=56).map(|i| 10f32.powf(0.5 - 0.125 * i as f32)).collect();
    let stops = |threshold: f32| {
        let stop = |run: &Run| run.steps.iter().find(|step| step.expected <= threshold).or(run.steps.last()).copied();
        let (mut recall, mut lists, mut count) = (0.0, 0.0, 0.0f32);
        for step in runs.iter().filter_map(stop) {
            recall += step.recall;
            lists += step.lists;
            count += 1.0;
        }
        (recall / count.max(1.0), lists / count.max(1.0))
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
