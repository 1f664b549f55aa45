//! `ambulkdelete`, `amvacuumcleanup`: removes dead rows, then keeps the index as good as a new one. Knows what VACUUM
//! passes and wants to be told.
//!
//! Unsafe is allowed here: arguments and results are PostgreSQL's structs, and whether a row is dead is asked through its
//! function pointer.
#![allow(unsafe_code)]

use std::ffi::c_void;

use esr_ivf::RowId;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::build::options;
use super::cache;
use super::error::IndexError;
use super::exact::TableVectors;
use super::pages::IndexPages;
use super::relation::{Index, item_pointer};
use crate::error::or_raise;

/// Removes the rows that PostgreSQL calls dead. Also how CREATE INDEX CONCURRENTLY learns which rows are there: it then
/// calls none dead.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    result: *mut pg_sys::IndexBulkDeleteResult,
    is_dead: pg_sys::IndexBulkDeleteCallback,
    state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL passes an open index, NULL or what an earlier call returned, and its function with its state.
    unsafe {
        let index = Index::new((*info).index);
        let is_dead = is_dead.expect("PostgreSQL says which rows are dead");
        let mut is_dead = |row: RowId| {
            let mut tid = item_pointer(row);
            pg_guard_ffi_boundary(|| is_dead(&mut tid, state))
        };
        let pages = IndexPages::for_vacuum(index, (*info).strategy);
        let report = or_raise(esr_ivf::bulk_delete(&pages, &mut is_dead).map_err(index.error()));
        let result = or_new(result);
        (*result).num_pages = report.pages;
        (*result).estimated_count = false;
        (*result).num_index_tuples = report.rows as f64;
        (*result).tuples_removed += report.removed as f64;
        (*result).pages_free = report.free_pages;
        result
    }
}

/// Splits lists that have outgrown their share, frees pages, and learns from the rows if the index was built on few.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    result: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL passes an open index and NULL or what `ambulkdelete` returned.
    unsafe {
        if (*info).analyze_only {
            return result;
        }
        let index = Index::new((*info).index);
        let pages = IndexPages::for_vacuum(index, (*info).strategy);
        let report = or_raise(maintain(index, &pages));
        let result = or_new(result);
        (*result).num_pages = report.pages;
        (*result).estimated_count = false;
        (*result).num_index_tuples = report.rows as f64;
        (*result).pages_newly_deleted += report.freed;
        (*result).pages_deleted = report.free_pages;
        (*result).pages_free = report.free_pages;
        result
    }
}

fn maintain(index: Index, pages: &IndexPages) -> Result<esr_ivf::MaintainReport, IndexError> {
    let structure = cache::structure(index, pages)?;
    // One thread: VACUUM is to disturb others as little as it can.
    let options = options(index, structure.dimension(), 1);
    // SAFETY: VACUUM has locked the table for as long as this takes. No snapshot is kept: see `exact`.
    unsafe {
        let table = pg_sys::table_open(pg_sys::IndexGetRelation(index.oid(), false), pg_sys::NoLock as i32);
        let mut vectors = TableVectors::open(table, index, std::ptr::null_mut());
        let report = esr_ivf::maintain(pages, &mut vectors, &options);
        vectors.close();
        pg_sys::table_close(table, pg_sys::NoLock as i32);
        report.map_err(index.error())
    }
}

/// # Safety
/// `result` is NULL or PostgreSQL's.
unsafe fn or_new(result: *mut pg_sys::IndexBulkDeleteResult) -> *mut pg_sys::IndexBulkDeleteResult {
    if !result.is_null() {
        return result;
    }
    // SAFETY: zeroed memory is a result that says nothing.
    unsafe { pg_sys::palloc0(size_of::<pg_sys::IndexBulkDeleteResult>()).cast() }
}
