//! What vacuum does beside removing rows, so that an index stays as good as a new one: counts the rows of each list, frees
//! pages, splits lists that have outgrown their share, and learns anew where too few rows were there to learn from.
//!
//! One process at a time runs this; searches and insertions go on meanwhile.

use zerocopy::FromBytes;

use crate::calibrate;
use crate::chain;
use crate::compact;
use crate::list;
use crate::options::{BuildOptions, default_lists};
use crate::page::{self, FIRST_LIST, Kind, ListEntry};
use crate::retrain;
use crate::split;
use crate::store::{Edit, NO_BLOCK, PageStore, StoreError};
use crate::structure::{Structure, current};
use crate::table::TableVectors;
use crate::train::MIN_TRAINING_ROWS;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaintainReport {
    /// Lists that were split.
    pub split: u32,
    /// Pages given back.
    pub freed: u32,
    /// Whether the index was trained anew.
    pub retrained: bool,
    /// Rows in the index.
    pub rows: u64,
    /// Its pages.
    pub pages: u32,
    /// Of these, waiting to be used again.
    pub free_pages: u32,
}

/// A list is split when it has this many times the rows it should have.
const OUTGROWN: f64 = 2.0;

/// An index that has grown this much since it was trained on few rows is trained anew.
const OUTGROWN_TRAINING: u64 = 6;
/// What "few rows" is.
const FEW_ROWS: u64 = 30_000;

/// Growth (or its inverse) since the last calibration that asks for another.
const OUTGROWN_CALIBRATION: f64 = 1.5;

/// See the module.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn maintain<S: PageStore>(
    store: &S,
    table: &mut dyn TableVectors,
    options: &BuildOptions,
) -> Result<MaintainReport, StoreError> {
    let mut report = MaintainReport::default();
    let mut structure = current(store, &mut None)?;
    if structure.meta.moving_from.get() != NO_BLOCK {
        // A split was interrupted. Its rows are all there, if not all where they are looked for first.
        split::set_moving(store, None)?;
        structure = current(store, &mut None)?;
    }
    let mut counts = count(store, &structure)?;
    report.rows = counts.iter().map(|count| count.rows).sum();
    let at_training = structure.meta.rows_at_training.get();
    let should_learn = if structure.is_trained() {
        at_training < FEW_ROWS && report.rows >= OUTGROWN_TRAINING * at_training.max(1)
    } else {
        report.rows >= 2 * MIN_TRAINING_ROWS
    };
    if should_learn && retrain::retrain(store, &structure, table, options)? {
        report.retrained = true;
    } else {
        for (number, count) in (0..).zip(&mut counts) {
            if count.is_wasteful(structure.layout.rows()) {
                report.freed += compact::compact(store, &structure, number)?;
                *count = count_list(store, &structure, number)?;
            }
        }
        let (lists, wanted) = (structure.list_count().max(1), wanted_lists(&structure, report.rows, options));
        let share = report.rows as f64 / wanted.max(lists as f64);
        if structure.is_trained() {
            for number in FIRST_LIST..structure.lists.len() as u32 {
                let rows = counts[number as usize].rows as f64;
                if rows > OUTGROWN * share.max(structure.layout.rows() as f64) {
                    let parts = (rows / share).round().max(2.0) as usize;
                    report.split += u32::from(split::split(store, number, parts, options)?);
                }
            }
        }
        if report.split > 0 {
            structure = current(store, &mut None)?;
            counts = count(store, &structure)?;
        }
        write_counts(store, &structure, &counts)?;
        let calibrated = f64::from(structure.meta.rows_at_calibration.get());
        let growth = report.rows as f64 / calibrated.max(1.0);
        if report.split > 0 || !(1.0 / OUTGROWN_CALIBRATION..=OUTGROWN_CALIBRATION).contains(&growth) {
            calibrate::calibrate(store, options.seed)?;
        }
    }
    report.pages = store.block_count();
    let free = chain::meta(store)?.free.get();
    report.free_pages = if free == NO_BLOCK { 0 } else { chain::blocks_of(store, Kind::Free, free)?.len() as u32 };
    Ok(report)
}

/// Lists that an index of so many rows should have.
fn wanted_lists(structure: &Structure, rows: u64, options: &BuildOptions) -> f64 {
    if options.lists == 0 {
        return f64::from(default_lists(rows));
    }
    // As many as were asked for when it was built, and more in the way that the default grows.
    let growth = rows as f64 / structure.meta.rows_at_training.get().max(1) as f64;
    f64::from(options.lists) * growth.max(1.0).sqrt()
}

/// What a list holds.
#[derive(Debug, Clone, Copy)]
struct Count {
    rows: u64,
    pages: u64,
    version: u32,
}

impl Count {
    /// Whether there are pages that compacting would free.
    fn is_wasteful(self, rows_per_page: usize) -> bool {
        self.pages > 2 + self.rows * 5 / 4 / rows_per_page as u64
    }
}

fn count<S: PageStore>(store: &S, structure: &Structure) -> Result<Vec<Count>, StoreError> {
    (0..structure.lists.len() as u32).map(|number| count_list(store, structure, number)).collect()
}

fn count_list<S: PageStore>(store: &S, structure: &Structure, number: u32) -> Result<Count, StoreError> {
    let mut count = Count { rows: 0, pages: 0, version: 0 };
    list::visit(store, number, structure.lists[number as usize].head, |_, header| {
        if header.is_head.get() != 0 {
            count.version = header.version.get();
        }
        count.rows += u64::from(header.live.get());
        count.pages += 1;
    })?;
    Ok(count)
}

/// Writes what was counted into the directory, a page at a time, if it says something else.
fn write_counts<S: PageStore>(store: &S, structure: &Structure, counts: &[Count]) -> Result<(), StoreError> {
    let axes = structure.axes();
    let per_page = page::entries_per_page(axes);
    let blocks = chain::blocks_of(store, Kind::Directory, structure.meta.directory.get())?;
    for (position, &block) in blocks.iter().enumerate() {
        let first = position * per_page;
        let here = &counts[first.min(counts.len())..counts.len().min(first + per_page)];
        let is_new = here
            .iter()
            .zip(&structure.lists[first.min(counts.len())..])
            .any(|(count, list)| count.rows != u64::from(list.rows) || count.version != list.version);
        if !is_new {
            continue;
        }
        let mut edit = store.edit();
        let handle = edit.open(block)?;
        let bytes = edit.bytes(handle);
        for (place, count) in here.iter().enumerate() {
            let (entry, _) = ListEntry::mut_from_prefix(&mut bytes[page::entry_range(axes, place)])
                .expect("an entry's range holds an entry");
            entry.rows = (count.rows.min(u64::from(u32::MAX)) as u32).into();
            entry.version = count.version.into();
        }
        edit.commit();
    }
    chain::change_meta(store, |meta| {
        meta.rows = counts.iter().map(|count| count.rows).sum::<u64>().into();
        meta.generation = (meta.generation.get() + 1).into();
    })
}
