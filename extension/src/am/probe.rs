//! `esr_index_probe`: one search without the planner, for `esr_index_recall`. Knows how to run a search, not what to make of
//! its result.
//!
//! Unsafe is allowed here: the table is read through a snapshot.
#![allow(unsafe_code)]

use esr_ivf::{Search, SearchOptions};
use pgrx::pg_sys;
use serde_json::json;

use super::exact::{Distances, TableVectors};
use super::key::Space;
use super::pages::IndexPages;
use super::relation::OpenIndex;
use super::{IndexError, cache};
use crate::fmgr::Call;
use crate::vector::tag::Tag;
use crate::{settings, sql_function};

sql_function!(esr_index_probe, probe);

/// The distances of the first rows that a search of this session finds, and how much it read.
fn probe(call: &Call) -> Result<String, IndexError> {
    let open = OpenIndex::open(call.oid(0), pg_sys::AccessShareLock)?;
    open.must_read_all()?;
    let query = call.vector(1)?;
    let wanted = usize::try_from(call.i32(2)).unwrap_or(0);
    let index = open.index;
    let pages = IndexPages::of(index);
    let structure = cache::structure(index, &pages)?;
    Space::new(index, structure.dimension(), Tag(structure.tag())).check_query(&query)?;
    // SAFETY: the table is open, and the statement's snapshot stays until its end.
    let vectors = unsafe { TableVectors::open(open.table, index, pg_sys::GetActiveSnapshot()) };
    let mut rows = Distances::new(vectors, query.elements, structure.metric());
    let options = SearchOptions { target_recall: settings::target_recall(), probes: settings::probes() };
    let mut search = Search::new(structure, query.elements, options);
    let mut distances = Vec::new();
    while distances.len() < wanted {
        match search.next(&pages, &mut rows).map_err(IndexError::of(index))? {
            Some(neighbor) => distances.extend(neighbor.distance.filter(|distance| !distance.is_nan())),
            None => break,
        }
    }
    rows.into_vectors().close();
    let counters = search.counters();
    Ok(json!({
        "distances": distances,
        "lists": counters.lists,
        "pages": counters.pages,
        "rows_scanned": counters.rows_scanned,
        "rows_measured": counters.rows_measured,
    })
    .to_string())
}
