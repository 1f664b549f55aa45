//! A search: `ambeginscan`, `amrescan`, `amgettuple`, `amendscan`. Knows what PostgreSQL asks of a scan, not how rows are
//! found.
//!
//! Unsafe is allowed here. The state of a scan is a Rust value that hangs on the scan's descriptor; it is dropped with the
//! memory context that the scan was begun in, so a statement that fails leaks nothing.
#![allow(unsafe_code)]

use esr_ivf::{Neighbor, Search, SearchCounters, SearchOptions};
use pgrx::{PgMemoryContexts, pg_sys};

use super::error::IndexError;
use super::exact::{Distances, TableVectors};
use super::key::Space;
use super::pages::IndexPages;
use super::relation::{Index, item_pointer, metric_of};
use super::{cache, pg_missing};
use crate::datum;
use crate::error::or_raise;
use crate::settings;
use crate::vector::Vector;
use crate::vector::tag::Tag;

/// A scan between two calls.
struct Scan {
    context: pg_sys::MemoryContext,
    /// `None` before the first rescan and after the end.
    running: Option<Running>,
    is_counted: bool,
}

struct Running {
    search: Search,
    distances: Distances,
    pages: IndexPages,
}

/// Begins a scan; what to search for comes with [`amrescan`].
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    key_count: i32,
    order_count: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: PostgreSQL passes an open index. The state lives as long as the memory context that the descriptor is in.
    unsafe {
        if key_count != 0 || order_count != 1 {
            or_raise(Err(IndexError::NoOrder { index: Index::new(index).name() }))
        }
        let scan = pg_sys::RelationGetIndexScan(index, key_count, order_count);
        let state = Scan { context: pg_sys::CurrentMemoryContext, running: None, is_counted: false };
        (*scan).opaque = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(state).cast();
        scan
    }
}

/// Starts a search for the vector in the one order key, from the beginning.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    _keys: pg_sys::ScanKey,
    _key_count: i32,
    orders: pg_sys::ScanKey,
    order_count: i32,
) {
    // SAFETY: PostgreSQL passes a scan that `ambeginscan` made and as many order keys as it was made for.
    unsafe {
        if !orders.is_null() && order_count > 0 {
            std::ptr::copy(orders, (*scan).orderByData, order_count as usize);
        }
        or_raise(rescan(&mut *scan));
    }
}

/// # Safety
/// `scan` was made by [`ambeginscan`] and has its order key.
unsafe fn rescan(scan: &mut pg_sys::IndexScanDescData) -> Result<(), IndexError> {
    // SAFETY: as the caller says. The key's value is NULL or an esr_vector, as the operator class wants it; it outlives
    // this call, and the search keeps a copy.
    unsafe {
        let state = &mut *scan.opaque.cast::<Scan>();
        let index = Index::new(scan.indexRelation);
        if !pg_missing::is_mvcc(scan.xs_snapshot) {
            return Err(IndexError::NotMvcc { index: index.name() });
        }
        let pages = cache::pages(index);
        let structure = cache::structure(index, &pages)?;
        let order = &*scan.orderByData;
        if metric_of(order.sk_strategy) != Some(structure.metric()) {
            return Err(IndexError::NoOrder { index: index.name() });
        }
        let zero;
        let query = if order.sk_flags as u32 & pg_sys::SK_ISNULL != 0 {
            // Every distance is NULL, so any order is right.
            zero = vec![0.0; structure.dimension()];
            Vector { tag: Tag::UNTAGGED, elements: &zero }
        } else {
            datum::vector(order.sk_argument)?
        };
        Space::new(index, structure.dimension(), Tag(structure.tag())).check_query(&query)?;
        let vectors = match state.running.take() {
            Some(running) => running.distances.into_vectors(),
            None => {
                let outside = pg_sys::MemoryContextSwitchTo(state.context);
                let vectors = TableVectors::open(scan.heapRelation, index, scan.xs_snapshot);
                pg_sys::MemoryContextSwitchTo(outside);
                vectors
            }
        };
        let distances = Distances::new(vectors, query.elements, structure.metric());
        let options = SearchOptions { target_recall: settings::target_recall(), probes: settings::probes() };
        state.running = Some(Running { search: Search::new(structure, query.elements, options), distances, pages });
        state.is_counted = false;
        Ok(())
    }
}

/// The next nearest row.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a scan that `ambeginscan` made and `amrescan` started.
    unsafe {
        let scan = &mut *scan;
        let index = Index::new(scan.indexRelation);
        let state = &mut *scan.opaque.cast::<Scan>();
        let is_forward = direction == pg_sys::ScanDirection::ForwardScanDirection;
        let (true, Some(running)) = (is_forward, state.running.as_mut()) else {
            or_raise(Err(IndexError::NoOrder { index: index.name() }))
        };
        if !state.is_counted {
            pg_missing::count_index_scan(scan.indexRelation);
            state.is_counted = true;
        }
        let found = running.search.next(&running.pages, &mut running.distances);
        let Some(Neighbor { row, .. }) = or_raise(found.map_err(index.error())) else { return false };
        // Rows without a distance were not measured, so nobody has looked yet where they point.
        running.distances.require_in_table(row);
        scan.xs_heaptid = item_pointer(row);
        scan.xs_recheck = false;
        // Rows come in the order of their exact distances as far as the target recall asks for it. The executor's own
        // check would refuse the rest as "index returned tuples in wrong order".
        scan.xs_recheckorderby = false;
        true
    }
}

/// Ends a scan; its memory goes with its memory context.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: PostgreSQL passes a scan that `ambeginscan` made, for the last time.
    let state = unsafe { &mut *(*scan).opaque.cast::<Scan>() };
    if let Some(running) = state.running.take() {
        running.distances.into_vectors().close();
    }
}

/// What the search of a scan has done so far; zeros before it has begun.
///
/// # Safety
/// `scan` was made by [`ambeginscan`] and has not ended.
pub unsafe fn counters(scan: pg_sys::IndexScanDesc) -> SearchCounters {
    // SAFETY: as the caller says.
    let state = unsafe { &*(*scan).opaque.cast::<Scan>() };
    state.running.as_ref().map(|running| running.search.counters()).unwrap_or_default()
}
