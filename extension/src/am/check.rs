//! `esr_index_check`: verifies an index, and on request that it has every row of its table. Knows how to read the table as
//! one snapshot sees it; what a sound index is, is said by `esr-ivf`.

use std::collections::HashSet;

use esr_ivf::CheckReport;
use pgrx::pg_sys;
use serde_json::json;

use super::error::IndexError;
use super::pages::IndexPages;
use super::relation::{AsOwner, OpenIndex};
use super::table::{Registered, visible_rows};
use crate::fmgr::Call;
use crate::{server, sql_function};

sql_function!(esr_index_verify, verify);

/// Problems that an error names; more would hide the first ones.
const MOST_PROBLEMS: usize = 20;

/// A standby's pages change while they are checked, because nothing can be locked there: what is seen only once is no damage.
const TRIES_IN_RECOVERY: usize = 3;

fn verify(call: &Call) -> Result<String, IndexError> {
    let with_table = call.raw(1).value() != 0;
    let in_recovery = server::in_recovery();
    // Writers wait, so that no row is under way from one page to another. Recovery allows readers' locks only.
    let lock = if in_recovery { pg_sys::AccessShareLock } else { pg_sys::ShareLock };
    let open = OpenIndex::open(call.oid(0), lock)?;
    open.must_be_owner()?;
    let _owner = AsOwner::of(&open);
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
    // Taken before the index is read, so that every row it sees is in the index by then.
    let snapshot = Registered::now();
    let mut rows = HashSet::new();
    let report = esr_ivf::check(&IndexPages::of(index), |row| {
        if with_table {
            rows.insert(row);
        }
    });
    let mut report = report.map_err(index.error())?;
    let mut table_rows = None;
    if with_table {
        let mut seen = 0;
        visible_rows(open, &snapshot, &mut |row, _| {
            seen += 1;
            if !rows.contains(&row) && report.problems.len() < MOST_PROBLEMS {
                report.problems.push(format!("row ({},{}) of the table is not in the index", row.block, row.offset));
            }
            Ok(())
        });
        table_rows = Some(seen);
    }
    match report.problems.first() {
        None => Ok((report, table_rows)),
        Some(first) => {
            let problem = first.clone();
            report.problems.truncate(MOST_PROBLEMS);
            Err(IndexError::Inconsistent { index: index.name(), problem, all: report.problems })
        }
    }
}
