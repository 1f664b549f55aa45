//! Reads the rows of a heap in the order in which they lie, and single rows by their place.
//!
//! Knows tuples and their columns; nothing of distances or plans.
//!
//! Unsafe is allowed here. A row is valid until the next one is asked for: until then the scan holds its page.
#![allow(unsafe_code)]

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};

use super::nearest::RowId;

/// A scan of all rows that a snapshot sees. Ended by [`Rows::end`], or by PostgreSQL when the statement fails.
pub struct Rows {
    scan: pg_sys::TableScanDesc,
}

/// The row a scan is at.
#[derive(Clone, Copy)]
pub struct Row {
    tuple: pg_sys::HeapTuple,
}

impl Rows {
    /// Starts a scan that shares its reading with others of the same table and leaves most of the cache alone, as
    /// PostgreSQL's sequential scan does.
    ///
    /// # Safety
    /// The relation is an open heap and the snapshot registered, both until the end of the scan.
    pub unsafe fn begin(relation: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Self {
        use pg_sys::ScanOptions as Option;
        let options =
            Option::SO_TYPE_SEQSCAN | Option::SO_ALLOW_STRAT | Option::SO_ALLOW_SYNC | Option::SO_ALLOW_PAGEMODE;
        let no = std::ptr::null_mut();
        // SAFETY: as the caller says.
        let scan = unsafe { pg_sys::heap_beginscan(relation, snapshot, 0, std::ptr::null_mut(), no, options) };
        Self { scan }
    }

    /// The next row. A cancelled statement leaves from here.
    ///
    /// # Safety
    /// The scan has not ended.
    #[inline]
    pub unsafe fn next(&mut self) -> Option<Row> {
        // SAFETY: as the caller says.
        let tuple = unsafe { pg_sys::heap_getnext(self.scan, pg_sys::ScanDirection::ForwardScanDirection) };
        (!tuple.is_null()).then_some(Row { tuple })
    }

    /// Puts the row that the scan is at into a slot, for expressions to read.
    ///
    /// # Safety
    /// The slot is one for heap tuples in buffers, and has this table's columns.
    pub unsafe fn store(&self, row: Row, slot: *mut pg_sys::TupleTableSlot) {
        let scan: pg_sys::HeapScanDesc = self.scan.cast();
        // SAFETY: the scan holds the row's buffer.
        unsafe { pg_sys::ExecStoreBufferHeapTuple(row.tuple, slot, (*scan).rs_cbuf) };
    }

    /// Gives back what the scan holds.
    ///
    /// # Safety
    /// The scan has not ended.
    pub unsafe fn end(self) {
        // SAFETY: as the caller says.
        unsafe { pg_sys::heap_endscan(self.scan) }
    }
}

impl Row {
    /// Its place.
    ///
    /// # Safety
    /// No other row was asked for since.
    #[inline]
    pub unsafe fn id(self) -> RowId {
        // SAFETY: as the caller says.
        let place = unsafe { (*self.tuple).t_self };
        RowId::new(u32::from(place.ip_blkid.bi_hi) << 16 | u32::from(place.ip_blkid.bi_lo), place.ip_posid)
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
/// As for [`Rows::begin`] and [`Rows::store`].
pub unsafe fn fetch(
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    row: RowId,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    let block = row.block();
    let mut place = pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData { bi_hi: (block >> 16) as u16, bi_lo: block as u16 },
        ip_posid: row.line(),
    };
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
