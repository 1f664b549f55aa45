//! The rows of the table under an index, in the order in which it lies on disk: what a build reads. Knows how PostgreSQL
//! scans a table for an index, not what is made of the rows.
//!
//! Unsafe is allowed here: PostgreSQL calls back for every row with pointers.
#![allow(unsafe_code)]

use std::ffi::c_void;

use esr_ivf::{Key, RowId, RowSource};
use pgrx::pg_sys::{self, Datum};

use super::error::IndexError;
use super::key::{Space, with_vector};
use super::pg_missing::{Blocks, begin_scan, index_build_scan};
use super::relation::{Index, OpenIndex, row_id};
use crate::error::or_raise;
use crate::vector::tag::Tag;

/// Everything that is to be indexed.
pub struct TableRows {
    table: pg_sys::Relation,
    index: Index,
    info: *mut pg_sys::IndexInfo,
    space: Option<Space>,
    /// Rows of the table that the last scan has seen.
    pub table_rows: f64,
}

impl TableRows {
    /// # Safety
    /// Both relations are open while the value lives, and `info` is PostgreSQL's for this build.
    pub unsafe fn new(table: pg_sys::Relation, index: Index, info: *mut pg_sys::IndexInfo) -> Self {
        Self { table, index, info, space: None, table_rows: 0.0 }
    }

    /// The number of dimensions: declared, or that of the first row.
    pub fn find_dimension(&mut self) -> Result<usize, IndexError> {
        let dimension = match self.index.declared_dimension() {
            Some(dimension) => dimension,
            None => self.first_dimension()?,
        };
        self.space = Some(Space::new(self.index, dimension, Tag::UNTAGGED));
        Ok(dimension)
    }

    /// The model of the rows that a scan has seen.
    pub fn tag(&self) -> Tag {
        self.space.as_ref().map_or(Tag::UNTAGGED, |space| space.tag)
    }

    /// Looks at more and more blocks until there is a row with a vector.
    fn first_dimension(&mut self) -> Result<usize, IndexError> {
        let blocks = self.block_count();
        let (mut first, mut count, mut found) = (0, 1, None);
        while found.is_none() && first < blocks {
            let part = Blocks { first, count: count.min(blocks - first) };
            self.visit(part, false, &mut |_, value| {
                if let (Some(value), None) = (value, found) {
                    // SAFETY: the value of an index on an esr_vector.
                    found = Some(unsafe { with_vector(value, |vector| Ok(vector.elements.len())) }?);
                }
                Ok(())
            });
            first += part.count;
            count = count.saturating_mul(4);
        }
        found.ok_or_else(|| IndexError::UnknownDimensions { index: self.index.name() })
    }

    fn block_count(&self) -> u32 {
        // SAFETY: the table is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.table, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Shows the value of each row in some blocks.
    fn visit(&mut self, blocks: Blocks, is_reported: bool, each: &mut Each<'_>) {
        let mut each = each;
        let state = (&raw mut each).cast::<c_void>();
        let none = std::ptr::null_mut();
        // SAFETY: `new` says the relations are open; `show` gets back the state it expects.
        self.table_rows = unsafe {
            index_build_scan(self.table, self.index.raw(), self.info, is_reported, blocks, Some(show), state, none)
        };
    }

    fn keys(&mut self, blocks: Blocks, is_reported: bool, each: &mut dyn FnMut(RowId, Key<'_>)) {
        let mut space = self.space.take().expect("find_dimension comes first");
        self.visit(blocks, is_reported, &mut |row, value| {
            let Some(value) = value else {
                each(row, Key::Null);
                return Ok(());
            };
            let admit = |vector: crate::vector::Vector<'_>| {
                space.admit(&vector)?;
                each(row, Key::Vector(vector.elements));
                Ok(())
            };
            // SAFETY: the value of an index on an esr_vector.
            unsafe { with_vector(value, admit) }
        });
        self.space = Some(space);
    }
}

/// What is done with a row; `None` is NULL.
type Each<'a> = dyn FnMut(RowId, Option<Datum>) -> Result<(), IndexError> + 'a;

/// Shows what an index ought to hold as a snapshot sees it: each row of the table that it is for, with its value.
pub fn visible_rows(open: &OpenIndex, snapshot: &Registered, each: &mut Each<'_>) {
    let mut each = each;
    let state = (&raw mut each).cast::<c_void>();
    // SAFETY: the relations are open. As in contrib/amcheck: to PostgreSQL this is a concurrent build, which sees what the
    // scan's snapshot sees, follows HOT chains to their roots, applies predicate and expression, and ends the scan.
    unsafe {
        let index = open.index.raw();
        let info = pg_sys::BuildIndexInfo(index);
        (*info).ii_Concurrent = true;
        (*info).ii_Unique = false;
        let scan = begin_scan(open.table, snapshot.raw());
        index_build_scan(open.table, index, info, false, Blocks::ALL, Some(show), state, scan);
    }
}

/// A snapshot that PostgreSQL keeps until this is dropped, or until the abort of a statement that fails.
pub struct Registered(pg_sys::Snapshot);

impl Registered {
    /// What the transaction sees now.
    pub fn now() -> Self {
        // SAFETY: in a running transaction.
        Self(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) })
    }

    /// The snapshot, for PostgreSQL.
    pub fn raw(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by `now`.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// PostgreSQL calls this for each row of a scan.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn show(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut Datum,
    nulls: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `visit` passes this state; an index of ours has one column.
    unsafe {
        let each = &mut *state.cast::<&mut Each<'_>>();
        let value = if *nulls { None } else { Some(*values) };
        or_raise(each(row_id(*tid), value));
    }
}

impl RowSource for TableRows {
    fn estimated_rows(&self) -> u64 {
        let (mut blocks, mut rows, mut visible) = (0, 0.0, 0.0);
        // SAFETY: the table is open; PostgreSQL writes the three numbers.
        unsafe { pg_sys::estimate_rel_size(self.table, std::ptr::null_mut(), &mut blocks, &mut rows, &mut visible) };
        rows as u64
    }

    fn scan(&mut self, each: &mut dyn FnMut(RowId, Key<'_>)) {
        self.keys(Blocks::ALL, true, each);
    }

    /// Rows of single blocks all over the table, so that learning does not take a reading of its own.
    fn sample(&mut self, wanted: u64, each: &mut dyn FnMut(RowId, Key<'_>)) {
        let blocks = self.block_count();
        let per_block = (self.estimated_rows() as f64 / f64::from(blocks.max(1))).max(1.0);
        let mut seen = 0;
        for block in Scattered::new(blocks, (wanted as f64 / per_block).ceil() as u32) {
            if seen >= wanted {
                break;
            }
            self.keys(Blocks { first: block, count: 1 }, false, &mut |row, key| {
                seen += u64::from(key != Key::Null);
                each(row, key);
            });
        }
    }
}

/// Block numbers in rounds: each round takes one block of each stretch of the table, another one each time, until all have
/// been taken.
struct Scattered {
    blocks: u32,
    stretch: u32,
    round: u32,
    position: u32,
}

impl Scattered {
    fn new(blocks: u32, wanted: u32) -> Self {
        Self { blocks, stretch: (blocks / wanted.max(1)).max(1), round: 0, position: 0 }
    }

    /// Where in its stretch a block lies: anywhere, so that nothing periodic in the table shows in the sample.
    fn offset(&self) -> u32 {
        let hash = (u64::from(self.position) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 33) as u32).wrapping_add(self.round) % self.stretch
    }
}

impl Iterator for Scattered {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.round < self.stretch {
            let first = self.position.saturating_mul(self.stretch);
            if first >= self.blocks {
                (self.round, self.position) = (self.round + 1, 0);
                continue;
            }
            let block = first + self.offset();
            self.position += 1;
            if block < self.blocks {
                return Some(block);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Scattered;

    #[test]
    fn every_block_is_taken_once_and_the_first_round_goes_all_over_the_table() {
        for (blocks, wanted) in [(0, 5), (1, 1), (7, 100), (100, 7), (1000, 10), (1003, 1)] {
            let mut taken: Vec<u32> = Scattered::new(blocks, wanted).collect();
            if wanted == 10 {
                let first: Vec<u32> = taken[..10].iter().map(|block| block / 100).collect();
                assert_eq!(first, (0..10).collect::<Vec<_>>());
            }
            taken.sort_unstable();
            assert_eq!(taken, (0..blocks).collect::<Vec<_>>());
        }
    }
}
