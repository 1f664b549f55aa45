//! Verifies a whole index: every page is where something points to, and nowhere else; every count is right.

use std::collections::HashSet;

use crate::block;
use crate::chain;
use crate::list;
use crate::page::{self, Kind, ListHeader, META_BLOCK};
use crate::store::{BlockNumber, NO_BLOCK, PageStore, RowId, StoreError};
use crate::structure::current;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Rows in the index.
    pub rows: u64,
    /// Lists, with the two that have no centroid.
    pub lists: u32,
    /// Pages.
    pub pages: u32,
    /// Pages waiting to be used again.
    pub free_pages: u32,
    /// Pages that nothing points to: left by a crash, found again by the next vacuum. No damage.
    pub lost_pages: u32,
    /// What is wrong; empty if all is well.
    pub problems: Vec<String>,
}

/// Checks an index. While others insert, rows that are on their way may be reported; while vacuum runs, pages too.
///
/// # Errors
/// Those of the store, and damage that leaves nothing to go on with.
pub fn check<S: PageStore>(store: &S, mut each: impl FnMut(RowId)) -> Result<CheckReport, StoreError> {
    let structure = current(store, &mut None)?;
    let mut report =
        CheckReport { lists: structure.lists.len() as u32, pages: store.block_count(), ..Default::default() };
    let mut owned = HashSet::from([META_BLOCK]);
    let mut own = |block: BlockNumber, what: &str, problems: &mut Vec<String>| {
        if !owned.insert(block) {
            problems.push(format!("block {block} ({what}) is pointed to twice"));
        }
    };
    for (kind, first) in [(Kind::Model, structure.meta.model.get()), (Kind::Directory, structure.meta.directory.get())]
    {
        for block in chain::blocks_of(store, kind, first)? {
            own(block, "model or directory", &mut report.problems);
        }
    }
    if structure.meta.free.get() != NO_BLOCK {
        for block in chain::blocks_of(store, Kind::Free, structure.meta.free.get())? {
            own(block, "free", &mut report.problems);
            report.free_pages += 1;
        }
    }
    let layout = structure.layout;
    let mut seen = HashSet::new();
    for (number, entry) in structure.lists.iter().enumerate() {
        let blocks = match list::blocks(store, number as u32, entry.head) {
            Ok(blocks) => blocks,
            Err(error) => {
                report.problems.push(error.to_string());
                continue;
            }
        };
        for (position, block) in blocks.into_iter().enumerate() {
            own(block, "list", &mut report.problems);
            let bytes = store.read(block)?;
            let header: &ListHeader = page::read(&bytes, block, Kind::List)?;
            let live = block::rows_of(layout, &bytes).count();
            if live != usize::from(header.live.get()) {
                report.problems.push(format!("block {block} says {} rows and has {live}", header.live.get()));
            }
            if (header.is_head.get() != 0) != (position == 0) {
                report.problems.push(format!("block {block} is page {position} of its list and says otherwise"));
            }
            if header.epoch != structure.meta.epoch {
                report.problems.push(format!("block {block} belongs to another training"));
            }
            for (_, slot, rows) in block::rows_of(layout, &bytes) {
                let row = rows.row(slot);
                if !seen.insert(row) {
                    report.problems.push(format!("row ({},{}) is in the index twice", row.block, row.offset));
                }
                report.rows += 1;
                each(row);
            }
        }
    }
    report.lost_pages = report.pages.saturating_sub(owned.len() as u32);
    Ok(report)
}
