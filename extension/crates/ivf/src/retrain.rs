//! Learns directions, codes and lists anew from the rows of the table, while the index stays in use.
//!
//! The new lists are written beside the old ones and belong to the next epoch. Then insertions wait a moment: rows that came
//! meanwhile are added, the meta page is pointed at the new lists, and the old pages are given back.

use std::collections::HashSet;

use crate::block;
use crate::build;
use crate::calibrate;
use crate::chain;
use crate::insert::{code, put_in_list};
use crate::key::Key;
use crate::list;
use crate::options::BuildOptions;
use crate::page::{FIRST_LIST, Kind, NULL_LIST};
use crate::progress::Silent;
use crate::store::{PageStore, RowId, StoreError};
use crate::structure::{Structure, current};
use crate::table::{RowSource, TableVectors};
use crate::train;

/// Trains an index anew; `false` if there is too little to learn from.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn retrain<S: PageStore>(
    store: &S,
    structure: &Structure,
    table: &mut dyn TableVectors,
    options: &BuildOptions,
) -> Result<bool, StoreError> {
    let mut rows = IndexRows { rows: collect(store, structure)?, structure, table };
    let (sample, count) = build::take_sample(&mut rows, options, &mut Silent);
    let trained = train::train(&sample, count, options, &mut Silent, &mut || store.check_for_interrupts());
    if !trained.is_trained {
        return Ok(false);
    }
    drop(sample);
    let epoch = structure.meta.epoch.get() + 1;
    let loaded = build::load_rows(store, &mut rows, &trained, options, epoch, &mut Silent)?;
    let known: HashSet<RowId> = rows.rows.iter().map(|row| row.row).collect();
    let old = old_pages(store, structure)?;
    store.without_insertions(|| {
        let late: Vec<IndexRow> =
            collect(store, structure)?.into_iter().filter(|row| !known.contains(&row.row)).collect();
        build::publish(store, &trained, options, epoch, &loaded)?;
        let new = current(store, &mut None)?;
        let mut late = IndexRows { rows: late, structure, table: &mut *rows.table };
        build::try_scan(&mut late, |row, key| {
            let (list, stored) = code(&new, row, key);
            put_in_list(store, &new, list, &stored).map(drop)
        })
    })?;
    // Pages that came to the old lists meanwhile are found by the next vacuum: they belong to an epoch that is over.
    chain::free(store, &old)?;
    calibrate::calibrate(store, options.seed)?;
    Ok(true)
}

/// A row in the index.
struct IndexRow {
    row: RowId,
    list: u32,
    codes: Vec<u8>,
}

fn collect<S: PageStore>(store: &S, structure: &Structure) -> Result<Vec<IndexRow>, StoreError> {
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for list in 0..structure.lists.len() as u32 {
        list::for_each_page(store, structure, list, |bytes| {
            for (_, slot, block) in block::rows_of(structure.layout, bytes) {
                if seen.insert(block.row(slot)) {
                    rows.push(IndexRow { row: block.row(slot), list, codes: block.row_codes(slot).collect() });
                }
            }
        })?;
    }
    Ok(rows)
}

fn old_pages<S: PageStore>(store: &S, structure: &Structure) -> Result<Vec<u32>, StoreError> {
    let mut pages = chain::blocks_of(store, Kind::Model, structure.meta.model.get())?;
    pages.extend(chain::blocks_of(store, Kind::Directory, structure.meta.directory.get())?);
    for (number, list) in structure.lists.iter().enumerate() {
        pages.extend(list::blocks(store, number as u32, list.head)?);
    }
    Ok(pages)
}

/// The rows of an index with their vectors from the table, or, where the table no longer has them (old snapshots may still
/// want the row), as their codes say.
struct IndexRows<'a> {
    rows: Vec<IndexRow>,
    structure: &'a Structure,
    table: &'a mut dyn TableVectors,
}

impl RowSource for IndexRows<'_> {
    fn estimated_rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn scan(&mut self, each: &mut dyn FnMut(RowId, Key<'_>)) {
        let mut vector = Vec::new();
        let model = &self.structure.model;
        for row in &self.rows {
            if row.list == NULL_LIST {
                each(row.row, Key::Null);
            } else if self.table.vector(row.row, &mut vector) && vector.len() == self.structure.dimension() {
                each(row.row, Key::Vector(&vector));
            } else if row.list < FIRST_LIST {
                each(row.row, Key::Vector(&vec![0.0; self.structure.dimension()]));
            } else {
                let mut rotated = vec![0.0; self.structure.axes()];
                model.quantiser.decode(row.codes.iter().copied(), &mut rotated);
                each(row.row, Key::Vector(&model.rotation.turn_back(&rotated)));
            }
        }
    }
}
