//! One search: rows in the order of their distance to a query, as many as are pulled.
//!
//! Lists are read in the order of their promise. A row is measured exactly while its estimate says that it may be next, and
//! handed out once the lists not yet read are expected to hold few nearer rows ([`crate::confidence`]); how few follows from
//! the recall asked for. Whoever keeps pulling (a filter above that drops most rows) gets every row in the end.
//!
//! Vacuum may move rows while a search runs. Rows only ever move to where a search looks later (to a later page of their
//! list, or to a list with a higher number, which is read after the list it came from), and a changed version on a list's
//! head says that it happened; what is then seen twice is measured once.

mod measured;
mod query;
mod without_distance;

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use esr_vector::Metric;
use esr_vector::kernel::BLOCK_ROWS;

use crate::candidates::{Candidates, TRACKED};
use crate::list;
use crate::page::{self, Kind, ListHeader};
use crate::store::{ExactVectors, NO_BLOCK, PageStore, RowId, StoreError};
use crate::structure::{Structure, current};

use measured::Measured;
use query::{Prepared, growth, score_of};

/// The recall of a search that says nothing else.
pub const DEFAULT_TARGET_RECALL: f64 = 0.95;

/// Rows that are announced before they are measured, so that memory is on its way.
const AHEAD: usize = 4;

/// Lists whose first page is fetched early while pages come from disk.
const LISTS_AHEAD: usize = 8;

/// How a search should go.
#[derive(Debug, Clone, Copy)]
pub struct SearchOptions {
    /// Share of the nearest rows that should be found, on average; 1 finds all of them.
    pub target_recall: f64,
    /// Reads this many lists before the first row, whatever the target says.
    pub probes: Option<u32>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { target_recall: DEFAULT_TARGET_RECALL, probes: None }
    }
}

/// A row found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbor {
    /// The row.
    pub row: RowId,
    /// Its distance; NaN for rows that have none, `None` for rows whose column is NULL.
    pub distance: Option<f64>,
}

/// What a search did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchCounters {
    /// Lists read.
    pub lists: u64,
    /// Pages read.
    pub pages: u64,
    /// Rows whose code was looked at.
    pub rows_scanned: u64,
    /// Rows measured exactly.
    pub rows_measured: u64,
}

/// See the module.
pub struct Search {
    structure: Arc<Structure>,
    options: SearchOptions,
    query: Vec<f32>,
    /// Squared length of the query; only Euclidean scores need it.
    squared: f64,
    prepared: Option<Prepared>,
    candidates: Candidates,
    ready: BinaryHeap<Measured>,
    measured: HashSet<RowId>,
    emitted: u64,
    tail: Option<std::vec::IntoIter<Neighbor>>,
    counters: SearchCounters,
    /// Rows that the lists read had when they were last counted.
    counted: f32,
}

impl Search {
    /// A search for the rows nearest to a query of the index's dimension.
    pub fn new(structure: Arc<Structure>, query: &[f32], options: SearchOptions) -> Self {
        let prepared = structure.normalised(query).map(|query| Prepared::new(&structure, &query, options));
        let squared = match structure.metric {
            Metric::Euclidean => esr_vector::metric::norm(query).powi(2),
            Metric::Cosine | Metric::InnerProduct => 0.0,
        };
        Self {
            structure,
            options,
            query: query.to_vec(),
            squared,
            candidates: candidates(prepared.as_ref()),
            prepared,
            ready: BinaryHeap::new(),
            measured: HashSet::new(),
            emitted: 0,
            tail: None,
            counters: SearchCounters::default(),
            counted: 0.0,
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> SearchCounters {
        self.counters
    }

    /// The next row: nearest first as far as the recall asked for makes sure of it, then rows without a distance, then those
    /// whose column is NULL.
    ///
    /// # Errors
    /// Those of the store, or damaged pages.
    pub fn next<S: PageStore>(
        &mut self,
        store: &S,
        exact: &mut dyn ExactVectors,
    ) -> Result<Option<Neighbor>, StoreError> {
        if let Some(tail) = &mut self.tail {
            return Ok(tail.next());
        }
        if self.prepared.is_none() {
            return self.rows_without_order(store);
        }
        if self.emitted == 0 && self.counters.lists == 0 {
            self.open(store)?;
            let rank = (TRACKED as f32).min(self.candidates.seen() as f32);
            let prepared = self.prepared.as_mut().expect("see above");
            prepared.choose_margin(&self.structure, self.options, self.candidates.tracked_score(), rank);
        }
        loop {
            self.measure(exact);
            if self.may_emit() {
                if let Some(best) = self.ready.pop() {
                    self.emitted += 1;
                    return Ok(Some(Neighbor { row: best.row, distance: Some(best.distance) }));
                }
                return self.rows_without_distance(store);
            }
            self.read_some(store)?;
        }
    }

    /// Whether the best row measured is good enough to be the next, or nothing is left that could be better.
    fn may_emit(&mut self) -> bool {
        let prepared = self.prepared.as_mut().expect("only queries with a direction come here");
        if prepared.order.is_exhausted() {
            return true;
        }
        let Some(best) = self.ready.peek() else { return false };
        if self.options.target_recall >= 1.0 {
            return false;
        }
        if let Some(probes) = self.options.probes {
            return prepared.order.taken() >= probes as usize;
        }
        let score = score_of(self.structure.metric, best.distance, self.squared);
        prepared.is_enough(score, self.emitted + 1, &self.counters, self.counted)
    }

    /// Reads lists until the first rows can be expected to be right.
    fn open<S: PageStore>(&mut self, store: &S) -> Result<(), StoreError> {
        if let Some(probes) = self.options.probes {
            while self.counters.lists < u64::from(probes) && self.read_list(store)? {}
            return Ok(());
        }
        let rank = TRACKED as u64;
        loop {
            let prepared = self.prepared.as_mut().expect("see next");
            if prepared.order.is_exhausted() {
                return Ok(());
            }
            if self.options.target_recall < 1.0
                && self.candidates.seen() >= 2 * rank
                && prepared.is_enough(self.candidates.tracked_score(), rank, &self.counters, self.counted)
            {
                return Ok(());
            }
            self.read_some(store)?;
        }
    }

    /// Reads a few more lists, the more there were, the more at a time, and learns from what they held.
    fn read_some<S: PageStore>(&mut self, store: &S) -> Result<(), StoreError> {
        for _ in 0..=self.counters.lists / 8 {
            if !self.read_list(store)? {
                break;
            }
        }
        let growth = growth(&self.counters, self.counted);
        let prepared = self.prepared.as_mut().expect("see next");
        prepared.order.learn(self.candidates.tracked_score(), self.candidates.tracked_at(), growth);
        Ok(())
    }

    /// Reads the next list; `false` if there is none.
    fn read_list<S: PageStore>(&mut self, store: &S) -> Result<bool, StoreError> {
        const TRIES: usize = 64;
        let prepared = self.prepared.as_mut().expect("see next");
        let Some(next) = prepared.order.take_next() else { return Ok(false) };
        store.check_for_interrupts();
        self.counters.lists += 1;
        self.counted += next.rows;
        self.candidates.begin_list();
        if store.is_cold() {
            let coming = prepared.order.coming().take(LISTS_AHEAD);
            coming.for_each(|list| store.prefetch(self.structure.lists[list as usize].head));
        }
        for _ in 0..TRIES {
            match self.read_pages(store, next.list)? {
                Outcome::Whole => break,
                Outcome::Moved => continue,
                Outcome::Retrained => {
                    self.start_again(store)?;
                    break;
                }
            }
        }
        Ok(true)
    }

    /// Estimates the rows of a list.
    fn read_pages<S: PageStore>(&mut self, store: &S, number: u32) -> Result<Outcome, StoreError> {
        let list = self.structure.lists[number as usize];
        let epoch = self.structure.meta.epoch;
        let layout = self.structure.layout;
        let half_norms = self.structure.metric == Metric::Euclidean;
        let prepared = self.prepared.as_ref().expect("see next");
        let mut scores = [0.0; BLOCK_ROWS];
        let mut buffer = Vec::new();
        let mut block = list.head;
        let mut version = None;
        let mut pages = 0;
        while block != NO_BLOCK {
            let page = store.read(block)?;
            let is_head = version.is_none();
            let header = match page::read::<ListHeader>(&page, block, Kind::List) {
                Ok(header) if header.epoch != epoch => return Ok(Outcome::Retrained),
                Ok(header) if header.page.owner.get() == number => header,
                // A page that has become something else: perhaps all lists were made anew.
                _ if epoch_changed(store, epoch.get())? => return Ok(Outcome::Retrained),
                Err(error) if is_head => return Err(error),
                Ok(_) if is_head => {
                    return Err(StoreError::Damaged { block, problem: format!("it is not the head of list {number}") });
                }
                // The page was given back since its address was read.
                _ => return Ok(Outcome::Moved),
            };
            version.get_or_insert(header.version);
            let next = header.page.next.get();
            if next != NO_BLOCK && store.is_cold() {
                store.prefetch(next);
            }
            for block_number in 0..layout.blocks() {
                let rows = layout.block(&page, block_number);
                let live = rows.live();
                if live == 0 {
                    continue;
                }
                prepared.estimator.tables.scores(rows.codes(&mut buffer), &mut scores);
                self.counters.rows_scanned += u64::from(live.count_ones());
                if half_norms {
                    (0..BLOCK_ROWS).for_each(|slot| scores[slot] -= 0.5 * rows.norm(slot));
                }
                self.candidates.push(live, &scores, rows.rows());
            }
            pages += 1;
            self.counters.pages += 1;
            drop(page);
            list::refuse_endless(store, number, block, pages)?;
            block = next;
        }
        let before = version.map_or(0, |version| version.get());
        let after = if pages > 1 {
            let page = store.read(list.head)?;
            match page::read::<ListHeader>(&page, list.head, Kind::List) {
                Ok(header) if header.epoch == epoch => header.version.get(),
                _ => return Ok(Outcome::Retrained),
            }
        } else {
            before
        };
        if after != list.version {
            self.take_new_lists(store)?;
        }
        Ok(if after == before { Outcome::Whole } else { Outcome::Moved })
    }

    /// Lists that were split off since the search began.
    fn take_new_lists<S: PageStore>(&mut self, store: &S) -> Result<(), StoreError> {
        let known = self.structure.lists.len() as u32;
        let structure = current(store, &mut Some(Arc::clone(&self.structure)))?;
        if structure.meta.epoch != self.structure.meta.epoch {
            return self.start_again(store);
        }
        if structure.lists.len() as u32 > known {
            let prepared = self.prepared.as_mut().expect("see next");
            prepared.order.add(prepared.estimator.lists_from(&structure, known));
        }
        self.structure = structure;
        Ok(())
    }

    /// The index was trained anew: everything is read again; what has been measured is remembered.
    fn start_again<S: PageStore>(&mut self, store: &S) -> Result<(), StoreError> {
        self.structure = current(store, &mut None)?;
        self.prepared =
            self.structure.normalised(&self.query).map(|query| Prepared::new(&self.structure, &query, self.options));
        self.candidates = candidates(self.prepared.as_ref());
        Ok(())
    }

    /// Measures candidates as long as they may be nearer than the best row measured.
    fn measure(&mut self, exact: &mut dyn ExactVectors) {
        let mut announced = VecDeque::with_capacity(AHEAD);
        loop {
            while announced.len() < AHEAD
                && let Some(candidate) = self.candidates.peek()
                && self.may_be_next(candidate.score)
            {
                self.candidates.pop();
                if self.measured.insert(candidate.row) {
                    exact.announce(candidate.row);
                    announced.push_back(candidate);
                }
            }
            let Some(candidate) = announced.pop_front() else { return };
            if !self.may_be_next(candidate.score) {
                // What has been measured meanwhile is nearer.
                for candidate in announced.into_iter().chain([candidate]) {
                    self.measured.remove(&candidate.row);
                    self.candidates.put_back(candidate);
                }
                return exact.forget();
            }
            self.counters.rows_measured += 1;
            if let Some(distance) = exact.distance(candidate.row) {
                self.ready.push(Measured { row: candidate.row, distance });
            }
        }
    }

    /// Whether a row with this estimate may be nearer than the best row measured.
    fn may_be_next(&self, score: f32) -> bool {
        let margin = self.prepared.as_ref().expect("see next").margin;
        let best = self.ready.peek();
        best.is_none_or(|best| {
            let threshold = score_of(self.structure.metric, best.distance, self.squared);
            // An estimate that is no number says nothing.
            (score + margin).partial_cmp(&threshold) != Some(Ordering::Less)
        })
    }
}

/// Where the rows that a query finds are kept until they are measured.
fn candidates(prepared: Option<&Prepared>) -> Candidates {
    Candidates::new(prepared.map_or(0.0, |prepared| prepared.slack))
}

/// How reading a list went.
enum Outcome {
    /// All its rows were seen.
    Whole,
    /// Rows changed pages meanwhile: read it again.
    Moved,
    /// The index was trained anew meanwhile.
    Retrained,
}

fn epoch_changed<S: PageStore>(store: &S, epoch: u32) -> Result<bool, StoreError> {
    Ok(crate::chain::meta(store)?.epoch.get() != epoch)
}
