//! Reads the rows of a heap in the order in which they lie, and single rows by their place.
//!
//! Knows tuples and their columns; nothing of distances or plans.
//!
//! Unsafe is allowed here. A row is valid until the next one is asked for: until then the scan holds its page.
#![allow(unsafe_code)]

use esr_ivf::RowId;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};

use crate::am::relation::{item_pointer, row_id};
use crate::datum::prefetch;

/// What the CPU is asked for of each row as soon as its page is open: enough to have the row's address translated and its
/// header at hand.
const FETCHED_AT_ONCE: usize = 2 * 64;

/// What it is asked for of a row while the one a page before is measured. It sees by itself that a row goes on, and asking
/// for all of it fills the queue of things it waits for. Chosen among a few sizes at 512 dimensions on a busy machine, where
/// the differences were little above the noise; without any prefetch the scan took half as long again.
const FETCHED_BYTES: usize = 16 * 64;

/// A scan of all rows that a snapshot sees. Ended by [`Rows::end`], or by PostgreSQL when the statement fails.
///
/// A scan of vectors is bound by the latency of memory: a row is too far from the next one for the CPU to guess, and the
/// next page may lie anywhere in the cache. So the page after the one whose rows are given out is opened early, and each
/// row that is given out has one of that page fetched.
pub struct Rows {
    scan: pg_sys::HeapScanDesc,
    /// What is read after `ahead`.
    next_block: Option<pg_sys::BlockNumber>,
    current: Page,
    ahead: Page,
    /// The index in `current` of the next row.
    next: usize,
    /// Where slots find the row they hold.
    tuple: pg_sys::HeapTupleData,
}

/// The rows of a page that the snapshot sees. The page stays where it is while its buffer is pinned.
#[derive(Default)]
struct Page {
    buffer: pg_sys::Buffer,
    block: pg_sys::BlockNumber,
    lines: Vec<pg_sys::OffsetNumber>,
}

/// The row a scan is at.
#[derive(Clone, Copy)]
pub struct Row {
    tuple: pg_sys::HeapTuple,
    buffer: pg_sys::Buffer,
}

impl Rows {
    /// Starts a scan that shares its reading with others of the same table and leaves most of the cache alone, as
    /// PostgreSQL's sequential scan does.
    ///
    /// # Safety
    /// The relation is an open heap and the snapshot registered, both until the end of the scan.
    pub unsafe fn begin(relation: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Self {
        use pg_sys::ScanOptions as Options;
        let options =
            Options::SO_TYPE_SEQSCAN | Options::SO_ALLOW_STRAT | Options::SO_ALLOW_SYNC | Options::SO_ALLOW_PAGEMODE;
        // SAFETY: as the caller says.
        unsafe {
            let no = std::ptr::null_mut();
            let scan: pg_sys::HeapScanDesc =
                pg_sys::heap_beginscan(relation, snapshot, 0, std::ptr::null_mut(), no, options).cast();
            let next_block = ((*scan).rs_nblocks > 0).then_some((*scan).rs_startblock);
            let (current, tuple) = (Page::default(), pg_sys::HeapTupleData::default());
            let mut rows = Self { scan, next_block, current, ahead: Page::default(), next: 0, tuple };
            rows.tuple.t_tableOid = (*relation).rd_id;
            rows.read_ahead();
            rows
        }
    }

    /// The next row. A cancelled statement leaves from here.
    ///
    /// # Safety
    /// The scan has not ended.
    #[inline]
    pub unsafe fn next(&mut self) -> Option<Row> {
        // SAFETY: as the caller says; the lines are those that PostgreSQL has found on the page, which is pinned.
        unsafe {
            while self.next == self.current.lines.len() {
                if !self.turn_page() {
                    return None;
                }
            }
            if let Some(line) = self.ahead.lines.get(self.next) {
                let (header, bytes) = self.ahead.row(*line);
                let rest = bytes.min(FETCHED_BYTES).saturating_sub(FETCHED_AT_ONCE);
                prefetch(header.cast::<u8>().wrapping_add(FETCHED_AT_ONCE), rest);
            }
            let line = self.current.lines[self.next];
            self.next += 1;
            let (header, bytes) = self.current.row(line);
            self.tuple.t_data = header;
            self.tuple.t_len = bytes as u32;
            self.tuple.t_self = item_pointer(RowId { block: self.current.block, offset: line });
            Some(Row { tuple: &raw mut self.tuple, buffer: self.current.buffer })
        }
    }

    /// Makes the page ahead the current one and opens the one after it; false after the last.
    unsafe fn turn_page(&mut self) -> bool {
        // SAFETY: the scan keeps its own pin only on the page it read last, so ours is one more.
        unsafe {
            self.release_current();
            if self.ahead.buffer == 0 {
                return false;
            }
            std::mem::swap(&mut self.current, &mut self.ahead);
            self.next = 0;
            pg_sys::IncrBufferRefCount(self.current.buffer);
            self.read_ahead();
            true
        }
    }

    unsafe fn release_current(&mut self) {
        let buffer = std::mem::take(&mut self.current.buffer);
        self.current.lines.clear();
        self.next = 0;
        if buffer != 0 {
            // SAFETY: pinned by `turn_page`.
            unsafe { pg_sys::ReleaseBuffer(buffer) }
        }
    }

    /// Opens the next page: in a circle from wherever another scan of the table is at.
    unsafe fn read_ahead(&mut self) {
        unsafe extern "C-unwind" {
            // Declared in access/syncscan.h, which pgrx does not bind.
            fn ss_report_location(relation: pg_sys::Relation, block: pg_sys::BlockNumber);
        }
        self.ahead.buffer = 0;
        self.ahead.lines.clear();
        let Some(block) = self.next_block else { return };
        // SAFETY: the block is one of the relation. PostgreSQL checks which rows the snapshot sees, and for interrupts.
        unsafe {
            pg_sys::heapgetpage(self.scan.cast(), block);
            let scan = &*self.scan;
            self.ahead.block = block;
            self.ahead.buffer = scan.rs_cbuf;
            self.ahead.lines.extend_from_slice(&scan.rs_vistuples[..scan.rs_ntuples as usize]);
            for line in &self.ahead.lines {
                let (header, bytes) = self.ahead.row(*line);
                prefetch(header.cast(), bytes.min(FETCHED_AT_ONCE));
            }
            let following = if block + 1 == scan.rs_nblocks { 0 } else { block + 1 };
            self.next_block = (following != scan.rs_startblock).then_some(following);
            if scan.rs_base.rs_flags & pg_sys::ScanOptions::SO_ALLOW_SYNC != 0 {
                pg_guard_ffi_boundary(|| ss_report_location(scan.rs_base.rs_rd, following));
            }
        }
    }

    /// Gives back what the scan holds.
    ///
    /// # Safety
    /// The scan has not ended, and no slot holds a row of it.
    pub unsafe fn end(mut self) {
        // SAFETY: as the caller says.
        unsafe {
            self.release_current();
            pg_sys::heap_endscan(self.scan.cast());
        }
    }
}

impl Page {
    /// Where a row lies, and its length.
    #[inline]
    unsafe fn row(&self, line: pg_sys::OffsetNumber) -> (pg_sys::HeapTupleHeader, usize) {
        // SAFETY: the page is pinned and the line one of those that PostgreSQL has found there.
        unsafe {
            let page = pg_sys::BufferGetPage(self.buffer);
            let item = pg_sys::PageGetItemId(page, line);
            (page.add((*item).lp_off() as usize).cast(), (*item).lp_len() as usize)
        }
    }
}

impl Row {
    /// Puts it into a slot, for expressions to read.
    ///
    /// # Safety
    /// The slot is one for heap tuples in buffers and has this table's columns; no other row was asked for since.
    pub unsafe fn store(self, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: as the caller says; the scan has pinned the buffer.
        unsafe { pg_sys::ExecStoreBufferHeapTuple(self.tuple, slot, self.buffer) };
    }

    /// Its place.
    ///
    /// # Safety
    /// No other row was asked for since.
    #[inline]
    pub unsafe fn id(self) -> RowId {
        // SAFETY: as the caller says.
        row_id(unsafe { (*self.tuple).t_self })
    }

    /// The value of a column, `None` for NULL. Takes nothing apart but what lies before it, and not even that where
    /// PostgreSQL remembers that the column always begins at the same place.
    ///
    /// # Safety
    /// The descriptor is that of the row's table and has the column; no other row was asked for since.
    #[inline]
    pub unsafe fn column(self, descriptor: pg_sys::TupleDesc, number: pg_sys::AttrNumber) -> Option<Datum> {
        let mut is_null = false;
        // SAFETY: as the caller says.
        let value = unsafe { pg_sys::heap_getattr(self.tuple, number.into(), descriptor, &mut is_null) };
        (!is_null).then_some(value)
    }
}

/// Puts the row at a place into a slot. False if the snapshot does not see it.
///
/// # Safety
/// As for [`Rows::begin`] and [`Row::store`].
pub unsafe fn fetch(
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    row: RowId,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    let mut place = item_pointer(row);
    // SAFETY: as the caller says; the guard turns an error of the function, called past pgrx's bindings, into a panic.
    unsafe {
        let Some(fetch) = (*(*relation).rd_tableam).tuple_fetch_row_version else { return false };
        pg_guard_ffi_boundary(|| fetch(relation, &mut place, snapshot, slot))
    }
}

/// Empties a slot and lets go of the page its row was on.
///
/// # Safety
/// The slot is the executor's.
pub unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: as the caller says, and as for `fetch`.
    unsafe {
        if let Some(clear) = (*(*slot).tts_ops).clear {
            pg_guard_ffi_boundary(|| clear(slot));
        }
    }
    slot
}
