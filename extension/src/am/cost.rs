//! `amcostestimate`: what a search costs, in the planner's units. Knows the planner's prices; how much a search reads is said
//! by `esr-ivf` from the index's calibration.
//!
//! PostgreSQL interpolates between the startup cost (before the first row) and the total (after the last), so LIMIT and
//! filters are its own business: the startup cost is what the first rows take, the total what all rows take. Reading rows
//! of the table after the index has named them is added by PostgreSQL; rows that the search itself measures come on top.
//!
//! Unsafe is allowed here: paths are the planner's structs.
#![allow(unsafe_code)]

use esr_ivf::{Summary, summary::Estimate};
use pgrx::pg_sys;

use super::error::IndexError;
use super::pages::IndexPages;
use super::relation::Index;
use crate::error::or_raise;
use crate::settings;

/// Rows that the startup cost pays for.
const FIRST_ROWS: f64 = 10.0;

/// Price of looking at a row's code, in `cpu_operator_cost`: 32 rows are looked at together.
const CODE_PRICE: f64 = 0.25;

/// Price of comparing the query with a list's centroid, in `cpu_operator_cost`.
const LIST_PRICE: f64 = 1.0;

/// Price of setting a search up (rotating the query, making tables), in `cpu_operator_cost`.
const SETUP_PRICE: f64 = 4000.0;

/// What the planner charges for.
struct Prices {
    random_page: f64,
    sequential_page: f64,
    operator: f64,
    tuple: f64,
}

/// What is known about a scan that might be made.
struct Circumstances {
    /// Rows and pages of the table.
    table_rows: f64,
    table_pages: f64,
    /// Rows and pages of the index.
    rows: f64,
    pages: f64,
}

struct Cost {
    startup: f64,
    total: f64,
}

/// The cost of a scan in the order of one distance. Any other scan is refused by an infinite one: without an order this
/// index has nothing to offer, and a second order it cannot follow.
#[pgrx::pg_guard]
#[allow(clippy::too_many_arguments)] // PostgreSQL's own
pub unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loop_count: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    index_pages: *mut f64,
) {
    // SAFETY: the planner passes a path with its index and relation, and where to put the results.
    unsafe {
        let index = &*(*path).indexinfo;
        let relation = &*index.rel;
        *correlation = 0.0;
        *index_pages = index.pages.into();
        *selectivity = if relation.tuples > 0.0 { (index.tuples / relation.tuples).clamp(0.0, 1.0) } else { 1.0 };
        let orders = (*path).indexorderbys;
        if orders.is_null() || (*orders).length != 1 {
            (*startup, *total) = (f64::INFINITY, f64::INFINITY);
            return;
        }
        let (mut random_page, mut sequential_page) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs(index.reltablespace, &mut random_page, &mut sequential_page);
        let prices =
            Prices { random_page, sequential_page, operator: pg_sys::cpu_operator_cost, tuple: pg_sys::cpu_tuple_cost };
        let circumstances = Circumstances {
            table_rows: relation.tuples.max(1.0),
            table_pages: f64::from(relation.pages).max(1.0),
            rows: index.tuples.max(0.0),
            pages: f64::from(index.pages).max(1.0),
        };
        let summary = or_raise(summary(index.indexoid));
        let pages_of =
            |rows: f64| pg_sys::index_pages_fetched(rows, relation.pages.max(1), f64::from(index.pages), root);
        let cost = cost(&summary, &circumstances, &prices, &pages_of);
        (*startup, *total) = (cost.startup, cost.total);
    }
}

/// Reads the meta page of an index that the planner has locked.
unsafe fn summary(oid: pg_sys::Oid) -> Result<Summary, IndexError> {
    // SAFETY: the planner holds a lock on every relation it plans for.
    unsafe {
        let relation = pg_sys::index_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let index = Index::new(relation);
        let summary = esr_ivf::summary(&IndexPages::of(index)).map_err(index.error());
        pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        summary
    }
}

fn cost(summary: &Summary, on: &Circumstances, prices: &Prices, pages_of: &dyn Fn(f64) -> f64) -> Cost {
    let lists = f64::from(summary.lists().max(1));
    let first = expected(summary, on);
    let set_up = prices.random_page + (SETUP_PRICE + LIST_PRICE * lists) * prices.operator;
    // A list lies together, so only its first page is far from the page before.
    let read = |lists: f64, pages: f64| {
        let lists = lists.min(pages);
        lists * prices.random_page + (pages - lists) * prices.sequential_page
    };
    let look = |rows: f64| rows * CODE_PRICE * prices.operator;
    let measure = |rows: f64| rows * (prices.tuple + prices.operator);
    let startup = set_up
        + read(first.lists, first.pages)
        + look(first.rows)
        + measure(first.measured)
        + pages_of(first.measured).min(on.table_pages) * prices.random_page;
    // All rows: every page of the index, and every row measured once. PostgreSQL charges for the table's pages.
    let rest = read((lists - first.lists).max(0.0), (on.pages - first.pages).max(0.0))
        + look((on.rows - first.rows).max(0.0))
        + measure((on.rows.min(on.table_rows) - first.measured).max(0.0));
    Cost { startup, total: startup + rest }
}

/// What the first rows take, at the recall or the number of lists that the session asks for.
fn expected(summary: &Summary, on: &Circumstances) -> Estimate {
    let estimate = summary.estimate(on.rows, FIRST_ROWS, settings::target_recall());
    let Some(probes) = settings::probes() else { return estimate };
    let lists = f64::from(probes).min(f64::from(summary.lists().max(1)));
    let factor = lists / estimate.lists.max(1.0);
    Estimate {
        lists,
        rows: (estimate.rows * factor).min(on.rows),
        pages: (estimate.pages * factor).min(on.pages),
        measured: estimate.measured,
    }
}
