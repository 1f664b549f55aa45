//! `esr_index_check`: verifies an index, and on request that it has every row of its table. Knows how to read the table as
//! one snapshot sees it; what a sound index is, is said by `esr-ivf`.
//!
//! Unsafe is allowed here: snapshots and scans are PostgreSQL's.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::ffi::c_void;

use esr_ivf::{CheckReport, RowId};
use pgrx::{pg_sys, pg_sys::Datum};
use serde_json::json;

use super::pages::IndexPages;
use super::pg_missing::{Blocks, begin_scan, index_build_scan};
use super::relation::{OpenIndex, row_id};
use super::IndexError;
use crate::fmgr::Call;
use crate::sql_function;

sql_function!(esr_index_verify, verify);

/// Problems that an error names; more would hide the first ones.
const MOST_PROBLEMS: usize = 20;

/// A standby's pages change while they are checked, because nothing can be locked there: what is seen only once is no damage.
const TRIES_IN_RECOVERY: usize = 3;

fn verify(call: &Call) -> Result<String, IndexError> {
    let with_table = call.raw(1).value() != 0;
    // SAFETY: asks for the state of this process.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    // Writers wait, so that no row is under way from one page to another. Recovery allows readers' locks only.
    let lock = if in_recovery { pg_sys::AccessShareLock } else { pg_sys::ShareLock };
    let open = OpenIndex::open(call.oid(0), lock)?;
    open.must_be_owner()?;
    let tries = if in_recovery { TRIES_IN_RECOVERY } else { 1 };
    let mut last = Err(IndexError::Inconsistent { index: open.index.name(), problem: String::new(), all: Vec::new() });
    for _ in 0..tries {
        last = verify_once(&open, with_table);
        if last.is_ok() {
            break;
        }
    }
    let (report, table_rows) = last?;
    Ok(json!({
        "rows": report.rows,
        "lists": report.lists,
        "pages": report.pages,
        "free_pages": report.free_pages,
        "lost_pages": report.lost_pages,
        "table_rows": table_rows,
    })
    .to_string())
}

fn verify_once(open: &OpenIndex, with_table: bool) -> Result<(CheckReport, Option<u64>), IndexError> {
    let index = open.index;
    // SAFETY: taken before the index is read, so that every row it sees is in the index by then. A registered snapshot is
    // given back below, or by the abort.
    let snapshot = unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) };
    let mut rows = HashSet::new();
    let report = esr_ivf::check(&IndexPages::of(index), |row| {
        if with_table {
            rows.insert(row);
        }
    });
    let mut report = report.map_err(IndexError::of(index))?;
    let mut table_rows = None;
    if with_table {
        let mut missing = Missing { rows, problems: Vec::new(), seen: 0 };
        // SAFETY: the relations are open, and the snapshot is registered.
        unsafe { missing.scan(open, snapshot) };
        table_rows = Some(missing.seen);
        report.problems.append(&mut missing.problems);
    }
    // SAFETY: registered above.
    unsafe { pg_sys::UnregisterSnapshot(snapshot) };
    match report.problems.first() {
        None => Ok((report, table_rows)),
        Some(first) => {
            let problem = first.clone();
            report.problems.truncate(MOST_PROBLEMS);
            Err(IndexError::Inconsistent { index: index.name(), problem, all: report.problems })
        }
    }
}

/// Rows of the table that the index ought to have.
struct Missing {
    rows: HashSet<RowId>,
    problems: Vec<String>,
    seen: u64,
}

impl Missing {
    /// # Safety
    /// The relations are open and the snapshot is registered.
    unsafe fn scan(&mut self, open: &OpenIndex, snapshot: pg_sys::Snapshot) {
        // SAFETY: as the caller says. As in contrib/amcheck: to PostgreSQL this is a concurrent build, which sees what the
        // scan's snapshot sees, follows HOT chains to their roots, and applies predicate and expression. The scan is ended
        // by the build.
        unsafe {
            let info = pg_sys::BuildIndexInfo(open.index.raw());
            (*info).ii_Concurrent = true;
            (*info).ii_Unique = false;
            let scan = begin_scan(open.table, snapshot);
            let state = (&raw mut *self).cast();
            let index = open.index.raw();
            index_build_scan(open.table, index, info, false, Blocks::ALL, Some(look_for), state, scan);
        }
    }
}

/// PostgreSQL calls this for each row of the table.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look_for(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    _values: *mut Datum,
    _nulls: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `scan` passes itself.
    let (missing, row) = unsafe { (&mut *state.cast::<Missing>(), row_id(*tid)) };
    missing.seen += 1;
    if !missing.rows.contains(&row) && missing.problems.len() < MOST_PROBLEMS {
        missing.problems.push(format!("row ({},{}) of the table is not in the index", row.block, row.offset));
    }
}
