//! Removes rows that are gone from the table. Knows pages, not PostgreSQL.
//!
//! Pages are visited in the order of their numbers, whatever list they belong to. That sees every row only if none moves
//! to a page already visited meanwhile, so the chain of free pages is taken away first and put together again at the end;
//! insertions can then move rows to new pages only, which lie behind.

use std::collections::HashSet;

use crate::block::{self, Layout};
use crate::chain;
use crate::page::{self, Kind, ListHeader, META_BLOCK};
use crate::store::{Edit, NO_BLOCK, PageStore, RowId, StoreError};
use crate::structure;

/// What a vacuum found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VacuumReport {
    /// Pages of the index.
    pub pages: u32,
    /// Of these, waiting to be used again.
    pub free_pages: u32,
    /// Rows left.
    pub rows: u64,
    /// Rows removed.
    pub removed: u64,
}

/// Removes every row that `is_dead` names.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn bulk_delete<S: PageStore>(
    store: &S,
    is_dead: &mut dyn FnMut(RowId) -> bool,
) -> Result<VacuumReport, StoreError> {
    chain::change_meta(store, |meta| meta.free = NO_BLOCK.into())?;
    let meta = chain::meta(store)?;
    let layout = structure::layout(&meta);
    let mut report = VacuumReport::default();
    let mut free = Vec::new();
    let mut in_use: HashSet<u32> = chain::blocks_of(store, Kind::Model, meta.model.get())?.into_iter().collect();
    in_use.extend(chain::blocks_of(store, Kind::Directory, meta.directory.get())?);
    let mut block = META_BLOCK + 1;
    while block < store.block_count() {
        store.check_for_interrupts();
        match dead_rows(store, layout, meta.epoch.get(), block, &in_use, is_dead)? {
            None => free.push(block),
            Some((live, dead)) => {
                report.rows += live - dead.len() as u64;
                report.removed += dead.len() as u64;
                if !dead.is_empty() {
                    remove(store, layout, block, &dead)?;
                }
            }
        }
        block += 1;
    }
    chain::free(store, &free)?;
    chain::change_meta(store, |meta| meta.rows = report.rows.into())?;
    report.pages = store.block_count();
    report.free_pages = free.len() as u32;
    Ok(report)
}

/// Live rows of a page and which of them are dead; `None` if the page holds nothing anybody needs.
#[expect(clippy::type_complexity, reason = "a place on a page and its row, used nowhere else")]
fn dead_rows<S: PageStore>(
    store: &S,
    layout: Layout,
    epoch: u32,
    block: u32,
    in_use: &HashSet<u32>,
    is_dead: &mut dyn FnMut(RowId) -> bool,
) -> Result<Option<(u64, Vec<(usize, usize, RowId)>)>, StoreError> {
    let bytes = store.read(block)?;
    if chain::is_blank(&bytes) || page::header(&bytes).is(Kind::Free) {
        return Ok(None);
    }
    if !page::header(&bytes).is(Kind::List) {
        // Model and directory pages that nothing points to were left by a training that was interrupted.
        return Ok(in_use.contains(&block).then(|| (0, Vec::new())));
    }
    let header: &ListHeader = page::read(&bytes, block, Kind::List)?;
    if header.epoch.get() != epoch {
        // Left by a training that was interrupted, or replaced by one.
        return Ok(None);
    }
    let mut live = 0;
    let mut dead = Vec::new();
    for (number, slot, rows) in block::rows_of(layout, &bytes) {
        live += 1;
        let row = rows.row(slot);
        if is_dead(row) {
            dead.push((number, slot, row));
        }
    }
    Ok(Some((live, dead)))
}

fn remove<S: PageStore>(
    store: &S,
    layout: Layout,
    block: u32,
    dead: &[(usize, usize, RowId)],
) -> Result<(), StoreError> {
    let mut edit = store.edit();
    let handle = edit.open(block)?;
    // The page was unlocked meanwhile; an insertion may have moved its rows to a page that is still to come.
    if page::header(edit.bytes(handle)).is(Kind::List) {
        for &(number, slot, row) in dead {
            let rows = layout.block(edit.bytes(handle), number);
            if rows.live() >> slot & 1 == 1 && rows.row(slot) == row {
                block::remove_row(layout, edit.bytes(handle), number, slot);
            }
        }
    }
    edit.commit();
    Ok(())
}
