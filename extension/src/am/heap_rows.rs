//! Rows of a heap by their ids, a few of them announced before they are needed. Knows pages and row versions, not what is
//! in a row.
//!
//! The rows that a search measures lie anywhere in the table, so a search waits for memory most of its time: for the page's
//! header, the row's address in it, the row's header, the vector. Rows that are announced have their page pinned and these
//! steps fetched while earlier ones are measured.
//!
//! Unsafe is allowed here. A row is used only while its page is pinned.
#![allow(unsafe_code)]

use std::rc::Rc;

use esr_ivf::RowId;
use pgrx::pg_sys::{self, Datum};

use super::recent_buffers::RecentBuffers;
use super::relation::item_pointer;
use super::{cache, pg_missing};
use crate::datum::prefetch;

/// Rows announced that are remembered; a search announces this many ahead.
const ANNOUNCED: usize = 4;

/// What is fetched of a row: the CPU sees by itself that a row goes on.
const FETCHED_BYTES: usize = 16 * 64;

/// See the module.
pub struct HeapRows {
    table: pg_sys::Relation,
    /// Pages pinned for rows that were announced.
    announced: [Announced; ANNOUNCED],
    /// Where the next one goes; the one before it was announced last.
    next: usize,
    tuple: pg_sys::HeapTupleData,
    recent: Rc<RecentBuffers>,
}

#[derive(Clone, Copy, Default)]
struct Announced {
    row: RowId,
    /// 0 for none.
    buffer: pg_sys::Buffer,
}

impl HeapRows {
    /// For a table; `None` unless PostgreSQL's own heap keeps it.
    ///
    /// # Safety
    /// `table` is open and stays so while the value is used.
    pub unsafe fn of(table: pg_sys::Relation) -> Option<Self> {
        // SAFETY: as the caller says.
        let is_heap = unsafe { (*(*table).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID };
        let tuple = pg_sys::HeapTupleData::default();
        is_heap.then(|| {
            // SAFETY: as the caller says.
            let key = unsafe { ((*table).rd_id, pg_missing::file_number(table)) };
            let recent = cache::recent_buffers(key);
            Self { table, announced: Default::default(), next: 0, tuple, recent }
        })
    }

    /// Pins a row's page, and begins to fetch it and the row announced before.
    #[inline]
    pub fn announce(&mut self, row: RowId) {
        // SAFETY: the table is open. What is read of pages that are pinned and not locked only says what to fetch.
        unsafe {
            let before = self.announced[(self.next + ANNOUNCED - 1) % ANNOUNCED];
            if before.buffer != 0 {
                let page = pg_sys::BufferGetPage(before.buffer);
                let item = std::ptr::read_volatile(line_pointer(page, before.row));
                let start = (item.lp_off() as usize).min(pg_sys::BLCKSZ as usize - 1);
                let length = (pg_sys::BLCKSZ as usize - start).min(FETCHED_BYTES);
                prefetch(page.cast::<u8>().add(start), length);
            }
            let place = &mut self.announced[self.next];
            if place.buffer != 0 {
                pg_sys::ReleaseBuffer(std::mem::take(&mut place.buffer));
            }
            let buffer = pin(self.table, &self.recent, row);
            *place = Announced { row, buffer };
            self.next = (self.next + 1) % ANNOUNCED;
            let page = pg_sys::BufferGetPage(buffer);
            prefetch(page.cast(), 1);
            prefetch(line_pointer(page, row).cast(), 1);
        }
    }

    /// Lets go of all pages.
    pub fn forget(&mut self) {
        for place in &mut self.announced {
            if place.buffer != 0 {
                // SAFETY: pinned by `announce`.
                unsafe { pg_sys::ReleaseBuffer(std::mem::take(&mut place.buffer)) };
            }
        }
    }

    /// Shows a column of the version of a row that a snapshot sees; `None` if it sees none, or NULL.
    ///
    /// # Safety
    /// The snapshot is valid, the table has the block and the column. The value is valid for the call alone.
    #[inline]
    pub unsafe fn with_column<T>(
        &mut self,
        row: RowId,
        snapshot: pg_sys::Snapshot,
        column: i16,
        show: impl FnOnce(Datum) -> T,
    ) -> Option<T> {
        let place = self.announced.iter_mut().find(|place| place.buffer != 0 && place.row == row);
        // SAFETY: as the caller says; the page is pinned until the value has been shown.
        unsafe {
            let buffer = match place {
                Some(place) => std::mem::take(&mut place.buffer),
                None => pin(self.table, &self.recent, row),
            };
            let shown = pg_missing::find_visible(self.table, buffer, item_pointer(row), snapshot, &mut self.tuple)
                .then(|| {
                    let mut is_null = false;
                    let value =
                        pg_sys::heap_getattr(&mut self.tuple, column.into(), (*self.table).rd_att, &mut is_null);
                    (!is_null).then(|| show(value))
                });
            pg_sys::ReleaseBuffer(buffer);
            shown.flatten()
        }
    }
}

/// Pins the page that a row is on.
///
/// # Safety
/// `table` is open and has the page.
#[inline]
unsafe fn pin(table: pg_sys::Relation, recent: &RecentBuffers, row: RowId) -> pg_sys::Buffer {
    let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
    let page = pg_missing::Page { relation: table, fork, block: row.block, recent: recent.get(row.block) };
    // SAFETY: as the caller says.
    let buffer = unsafe { pg_missing::read(page, std::ptr::null_mut()) };
    if buffer != page.recent {
        recent.set(row.block, buffer);
    }
    buffer
}

/// Where a page says at which of its bytes a row begins.
///
/// # Safety
/// `page` is a whole page. Not read here: a row id from a damaged index may point beyond the page's end.
unsafe fn line_pointer(page: pg_sys::Page, row: RowId) -> *const pg_sys::ItemIdData {
    let most = (pg_sys::BLCKSZ as usize - std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp)) / 4;
    // SAFETY: within the page.
    unsafe { pg_sys::PageGetItemId(page, row.offset.clamp(1, most as u16)) }
}
