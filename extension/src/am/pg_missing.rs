//! What PostgreSQL defines as macros or inline functions, so that the bindings lack it. Knows no index of ours.
//!
//! Unsafe is allowed here. Every function is as unsafe as the macro it stands for: relations are open, pointers come from
//! PostgreSQL. Calls through the table access method's function pointers run inside pgrx's guard, which turns an
//! `ereport(ERROR)` into a panic that unwinds our frames instead of jumping over them.
#![allow(unsafe_code)]

use std::ffi::c_void;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Oid, Relation};

/// `P_NEW`, which is `InvalidBlockNumber`: asks `ReadBufferExtended` to add a page.
pub const NEW_BLOCK: pg_sys::BlockNumber = pg_sys::BlockNumber::MAX;

/// `InvalidSubTransactionId`.
const NO_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

mod unguarded {
    use pgrx::pg_sys::{self, Oid};

    // Declared in postmaster/autovacuum.h and access/amvalidate.h.
    unsafe extern "C-unwind" {
        pub static autovacuum_work_mem: i32;
        pub fn opfamily_can_sort_type(family: Oid, data_type: Oid) -> bool;
        pub fn check_amop_signature(operator: Oid, result: Oid, left: Oid, right: Oid) -> bool;
    }

    // Also bound by pgrx, but each with a guard of its own; here several share one.
    unsafe extern "C-unwind" {
        pub fn ReadBufferExtended(
            relation: pg_sys::Relation,
            fork: pg_sys::ForkNumber::Type,
            block: pg_sys::BlockNumber,
            mode: pg_sys::ReadBufferMode::Type,
            strategy: pg_sys::BufferAccessStrategy,
        ) -> pg_sys::Buffer;
        #[cfg(feature = "pg15")]
        pub fn ReadRecentBuffer(
            file: pg_sys::RelFileNode,
            fork: pg_sys::ForkNumber::Type,
            block: pg_sys::BlockNumber,
            recent: pg_sys::Buffer,
        ) -> bool;
        #[cfg(not(feature = "pg15"))]
        pub fn ReadRecentBuffer(
            file: pg_sys::RelFileLocator,
            fork: pg_sys::ForkNumber::Type,
            block: pg_sys::BlockNumber,
            recent: pg_sys::Buffer,
        ) -> bool;
        pub fn LockBuffer(buffer: pg_sys::Buffer, mode: i32);
        pub fn heap_hot_search_buffer(
            tid: pg_sys::ItemPointer,
            relation: pg_sys::Relation,
            buffer: pg_sys::Buffer,
            snapshot: pg_sys::Snapshot,
            tuple: pg_sys::HeapTuple,
            all_dead: *mut bool,
            is_first_call: bool,
        ) -> bool;
    }
}

/// A page to be read.
#[derive(Clone, Copy)]
pub struct Page {
    /// Of this relation.
    pub relation: Relation,
    /// In this fork.
    pub fork: pg_sys::ForkNumber::Type,
    /// Its number.
    pub block: pg_sys::BlockNumber,
    /// The buffer it was in the last time; 0 if that is not known.
    pub recent: pg_sys::Buffer,
}

impl Page {
    /// Looks first whether the page still is in the buffer it was in the last time, which is cheaper than looking it up.
    ///
    /// # Safety
    /// The relation is open and has the block. Called within a guard.
    #[inline(always)]
    unsafe fn pin(self, strategy: pg_sys::BufferAccessStrategy) -> pg_sys::Buffer {
        let Self { relation, fork, block, recent } = self;
        // SAFETY: as the caller says.
        unsafe {
            #[cfg(feature = "pg15")]
            let file = (*relation).rd_node;
            #[cfg(not(feature = "pg15"))]
            let file = (*relation).rd_locator;
            if recent != 0 && unguarded::ReadRecentBuffer(file, fork, block, recent) {
                count_buffer_hit(relation);
                return recent;
            }
            let normal = pg_sys::ReadBufferMode::RBM_NORMAL;
            unguarded::ReadBufferExtended(relation, fork, block, normal, strategy)
        }
    }
}

/// Pins a page.
///
/// # Safety
/// The page's relation is open and has the block.
#[inline]
pub unsafe fn read(page: Page, strategy: pg_sys::BufferAccessStrategy) -> pg_sys::Buffer {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe { pg_guard_ffi_boundary(|| page.pin(strategy)) }
}

/// Pins a page and locks it.
///
/// # Safety
/// The page's relation is open and has the block.
#[inline]
pub unsafe fn read_and_lock(page: Page, strategy: pg_sys::BufferAccessStrategy, mode: i32) -> pg_sys::Buffer {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let buffer = page.pin(strategy);
            unguarded::LockBuffer(buffer, mode);
            buffer
        })
    }
}

/// `pgstat_count_buffer_read` and `pgstat_count_buffer_hit`, which `ReadRecentBuffer` leaves to its caller.
///
/// # Safety
/// `relation` is open.
unsafe fn count_buffer_hit(relation: Relation) {
    // SAFETY: as the caller says; PostgreSQL owns the counters.
    unsafe {
        if (*relation).pgstat_info.is_null() {
            return;
        }
        #[cfg(feature = "pg15")]
        {
            let counts = &mut (*(*relation).pgstat_info).t_counts;
            counts.t_blocks_fetched += 1;
            counts.t_blocks_hit += 1;
        }
        #[cfg(not(feature = "pg15"))]
        {
            let counts = &mut (*(*relation).pgstat_info).counts;
            counts.blocks_fetched += 1;
            counts.blocks_hit += 1;
        }
    }
}

/// Finds on a pinned page the version of a row that a snapshot sees, following its HOT chain from `tid`; false if it sees
/// none. The row stays where it is while the page is pinned.
///
/// # Safety
/// `buffer` is pinned and holds `tid`'s block of `relation`, which is an open heap; `snapshot` is valid.
#[inline]
pub unsafe fn find_visible(
    relation: Relation,
    buffer: pg_sys::Buffer,
    mut tid: pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
    tuple: &mut pg_sys::HeapTupleData,
) -> bool {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let nothing = std::ptr::null_mut();
            unguarded::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let is_seen = unguarded::heap_hot_search_buffer(&mut tid, relation, buffer, snapshot, tuple, nothing, true);
            unguarded::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            is_seen
        })
    }
}

/// Whether an operator class of btree sorts a type.
///
/// # Safety
/// In a transaction.
pub unsafe fn opfamily_can_sort_type(family: Oid, data_type: Oid) -> bool {
    // SAFETY: looks the catalog up; the closure holds nothing that would have to be dropped.
    unsafe { pg_guard_ffi_boundary(|| unguarded::opfamily_can_sort_type(family, data_type)) }
}

/// Whether an operator takes and returns these types.
///
/// # Safety
/// In a transaction.
pub unsafe fn check_amop_signature(operator: Oid, result: Oid, left: Oid, right: Oid) -> bool {
    // SAFETY: looks the catalog up; the closure holds nothing that would have to be dropped.
    unsafe { pg_guard_ffi_boundary(|| unguarded::check_amop_signature(operator, result, left, right)) }
}

/// The memory that maintenance may take here: PostgreSQL's own VACUUM decides the same way.
pub fn maintenance_kilobytes() -> i32 {
    // SAFETY: reads settings of this process.
    unsafe {
        let is_automatic = pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER;
        if is_automatic && unguarded::autovacuum_work_mem != -1 {
            unguarded::autovacuum_work_mem
        } else {
            pg_sys::maintenance_work_mem
        }
    }
}

/// `RelationNeedsWAL`.
///
/// # Safety
/// `relation` is open.
pub unsafe fn needs_wal(relation: Relation) -> bool {
    // SAFETY: as the caller says; the settings are this process's own.
    unsafe {
        let is_permanent = (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT;
        #[cfg(feature = "pg15")]
        let first = (*relation).rd_firstRelfilenodeSubid;
        #[cfg(not(feature = "pg15"))]
        let first = (*relation).rd_firstRelfilelocatorSubid;
        let is_old = (*relation).rd_createSubid == NO_SUBTRANSACTION && first == NO_SUBTRANSACTION;
        is_permanent && (pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32 || is_old)
    }
}

/// `RELATION_IS_LOCAL`: no other session can see it, so adding a page needs no lock.
///
/// # Safety
/// `relation` is open.
pub unsafe fn is_local(relation: Relation) -> bool {
    // SAFETY: as the caller says.
    unsafe { (*relation).rd_islocaltemp || (*relation).rd_createSubid != NO_SUBTRANSACTION }
}

/// Which file holds the relation now; REINDEX and TRUNCATE give it another.
///
/// # Safety
/// `relation` is open.
pub unsafe fn file_number(relation: Relation) -> u32 {
    // SAFETY: as the caller says.
    #[cfg(feature = "pg15")]
    unsafe {
        (*relation).rd_node.relNode.to_u32()
    }
    // SAFETY: as the caller says.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        (*relation).rd_locator.relNumber.to_u32()
    }
}

/// `pgstat_count_index_scan`.
///
/// # Safety
/// `index` is open.
pub unsafe fn count_index_scan(index: Relation) {
    // SAFETY: as the caller says; PostgreSQL owns the counters.
    unsafe {
        if (*index).pgstat_info.is_null() {
            if !(*index).pgstat_enabled {
                return;
            }
            pg_sys::pgstat_assoc_relation(index);
        }
        #[cfg(feature = "pg15")]
        {
            (*(*index).pgstat_info).t_counts.t_numscans += 1;
        }
        #[cfg(not(feature = "pg15"))]
        {
            (*(*index).pgstat_info).counts.numscans += 1;
        }
    }
}

/// `IsMVCCSnapshot`.
///
/// # Safety
/// `snapshot` is NULL or valid.
pub unsafe fn is_mvcc(snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        !snapshot.is_null()
            && matches!(
                (*snapshot).snapshot_type,
                pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
            )
    }
}

/// `InitDirtySnapshot`: sees what is committed and what is still being inserted, not what is dead.
pub fn dirty_snapshot() -> pg_sys::SnapshotData {
    pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() }
}

/// Which part of a table [`index_build_scan`] visits.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    /// The first block.
    pub first: pg_sys::BlockNumber,
    /// How many; `NEW_BLOCK` (that is `InvalidBlockNumber`) for all that follow.
    pub count: pg_sys::BlockNumber,
}

impl Blocks {
    /// The whole table.
    pub const ALL: Blocks = Blocks { first: 0, count: NEW_BLOCK };
}

/// `table_index_build_range_scan`. Synchronised scans start anywhere, so they are allowed only for the whole table.
/// `scan` may be NULL.
///
/// # Safety
/// Relations are open, `info` is the index's, and `callback` accepts `state`.
#[allow(clippy::too_many_arguments)] // PostgreSQL's own
pub unsafe fn index_build_scan(
    table: Relation,
    index: Relation,
    info: *mut pg_sys::IndexInfo,
    is_reported: bool,
    blocks: Blocks,
    callback: pg_sys::IndexBuildCallback,
    state: *mut c_void,
    scan: pg_sys::TableScanDesc,
) -> f64 {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        let function = (*(*table).rd_tableam).index_build_range_scan.expect("table access methods must have it");
        let is_whole = blocks.first == 0 && blocks.count == NEW_BLOCK;
        let Blocks { first, count } = blocks;
        pg_guard_ffi_boundary(|| {
            function(table, index, info, is_whole, false, is_reported, first, count, callback, state, scan)
        })
    }
}

/// `table_beginscan_strat` without keys, page by page.
///
/// # Safety
/// `table` is open and `snapshot` registered.
pub unsafe fn begin_scan(table: Relation, snapshot: pg_sys::Snapshot) -> pg_sys::TableScanDesc {
    use pg_sys::ScanOptions as Option;
    let flags = Option::SO_TYPE_SEQSCAN | Option::SO_ALLOW_STRAT | Option::SO_ALLOW_PAGEMODE;
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        let function = (*(*table).rd_tableam).scan_begin.expect("table access methods must have it");
        let none = std::ptr::null_mut();
        pg_guard_ffi_boundary(|| function(table, snapshot, 0, none, std::ptr::null_mut(), flags))
    }
}

/// `table_index_fetch_begin`.
///
/// # Safety
/// `table` is open until [`index_fetch_end`].
pub unsafe fn index_fetch_begin(table: Relation) -> *mut pg_sys::IndexFetchTableData {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        let function = (*(*table).rd_tableam).index_fetch_begin.expect("table access methods must have it");
        pg_guard_ffi_boundary(|| function(table))
    }
}

/// `table_index_fetch_end`.
///
/// # Safety
/// `fetch` comes from [`index_fetch_begin`] and is not used afterwards.
pub unsafe fn index_fetch_end(fetch: *mut pg_sys::IndexFetchTableData) {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        let function = (*(*(*fetch).rel).rd_tableam).index_fetch_end.expect("table access methods must have it");
        pg_guard_ffi_boundary(|| function(fetch));
    }
}

/// `table_index_fetch_tuple`: puts into `slot` the version of a row that `snapshot` sees, following its HOT chain from
/// `tid`; false if it sees none.
///
/// # Safety
/// `fetch` comes from [`index_fetch_begin`], `slot` is one of its table's.
#[inline]
pub unsafe fn index_fetch_tuple(
    fetch: *mut pg_sys::IndexFetchTableData,
    mut tid: pg_sys::ItemPointerData,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: as the caller says; the closure holds nothing that would have to be dropped.
    unsafe {
        let function = (*(*(*fetch).rel).rd_tableam).index_fetch_tuple.expect("table access methods must have it");
        let mut again = false;
        pg_guard_ffi_boundary(|| function(fetch, &mut tid, snapshot, slot, &mut again, std::ptr::null_mut()))
    }
}
