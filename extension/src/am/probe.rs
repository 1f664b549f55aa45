//! `esr_index_probe` and `esr_index_recall`: searches without the planner, and what they find against what there is.
//!
//! Unsafe is allowed here: the table is read through a snapshot, and arrays of vectors are taken apart.
#![allow(unsafe_code)]

use std::collections::BinaryHeap;

use esr_ivf::{Search, SearchCounters, SearchOptions};
use esr_vector::metric;
use pgrx::pg_sys;
use serde_json::json;

use super::cache;
use super::error::IndexError;
use super::exact::{Distances, TableVectors};
use super::key::{Space, with_vector};
use super::pages::IndexPages;
use super::relation::{AsOwner, OpenIndex};
use super::table::{Registered, visible_rows};
use crate::datum;
use crate::fmgr::Call;
use crate::vector::tag::Tag;
use crate::vector::{OwnedVector, Vector};
use crate::{settings, sql_function};

sql_function!(esr_index_probe, probe);
sql_function!(esr_index_measure, measure);

/// Two sums of the same products in another order differ by less than this share of themselves.
const ROUNDING: f64 = 1e-6;

/// What a search found.
struct Found {
    distances: Vec<f64>,
    counters: SearchCounters,
}

/// The distances of the first rows that a search of this session finds, and how much it read.
fn probe(call: &Call) -> Result<String, IndexError> {
    let open = OpenIndex::open(call.oid(0), pg_sys::AccessShareLock)?;
    open.must_read_all()?;
    let query = call.vector(1)?;
    let wanted = usize::try_from(call.i32(2)).unwrap_or(0);
    let options = options();
    let _owner = AsOwner::of(&open);
    let Found { distances, counters } = search(&open, &Registered::now(), &query, wanted, options)?;
    Ok(json!({
        "distances": distances,
        "lists": counters.lists,
        "pages": counters.pages,
        "rows_scanned": counters.rows_scanned,
        "rows_measured": counters.rows_measured,
    })
    .to_string())
}

/// Recall over queries that are given or that are rows of the table.
fn measure(call: &Call) -> Result<String, IndexError> {
    if (0..4).any(|argument| call.is_null(argument)) || call.i32(1) < 1 || call.i32(2) < 1 {
        let problem = "index, queries, k and seed must be given, and queries and k be at least 1";
        return Err(IndexError::BadArgument { problem: problem.into() });
    }
    let open = OpenIndex::open(call.oid(0), pg_sys::AccessShareLock)?;
    open.must_read_all()?;
    let (wanted, k, seed) = (call.i32(1) as usize, call.i32(2) as usize, call.i64(3) as u64);
    // SAFETY: the install script declares the argument as esr_vector[].
    let given = if call.is_null(4) { None } else { Some(unsafe { vectors(call.raw(4)) }?) };
    let options = options();
    let _owner = AsOwner::of(&open);
    let snapshot = Registered::now();
    let queries = match given {
        Some(given) => given,
        None => sample(&open, &snapshot, wanted, seed)?,
    };
    let exact = exact(&open, &snapshot, &queries, k)?;
    let (mut hits, mut all, mut worst, mut measured, mut lists, mut rows) = (0, 0, None::<f64>, 0u32, 0, 0);
    for (query, exact) in queries.iter().zip(&exact) {
        let Some(furthest) = exact.last() else { continue };
        let found = search(&open, &snapshot, &query.as_vector(), k, options)?;
        // Whatever is as near as the last of the exact ones is right: ties are interchangeable.
        let limit = furthest + ROUNDING * furthest.abs().max(1.0);
        let right = found.distances.iter().filter(|distance| **distance <= limit).count().min(exact.len());
        let recall = right as f64 / exact.len() as f64;
        worst = Some(worst.map_or(recall, |worst| worst.min(recall)));
        hits += right;
        all += exact.len();
        measured += 1;
        lists += found.counters.lists;
        rows += found.counters.rows_measured;
    }
    let mean = |sum: f64, count: f64| (count > 0.0).then(|| sum / count);
    Ok(json!({
        "target_recall": options.target_recall,
        "measured_recall": mean(hits as f64, all as f64),
        "worst_recall": worst,
        "queries_measured": measured,
        "mean_lists": mean(lists as f64, measured.into()),
        "mean_rows_measured": mean(rows as f64, measured.into()),
    })
    .to_string())
}

fn options() -> SearchOptions {
    SearchOptions { target_recall: settings::target_recall(), probes: settings::probes() }
}

fn search(
    open: &OpenIndex,
    snapshot: &Registered,
    query: &Vector<'_>,
    wanted: usize,
    options: SearchOptions,
) -> Result<Found, IndexError> {
    let index = open.index;
    let pages = IndexPages::of(index);
    let structure = cache::structure(index, &pages)?;
    Space::new(index, structure.dimension(), Tag(structure.tag())).check_query(query)?;
    // SAFETY: the table is open, and the snapshot registered.
    let vectors = unsafe { TableVectors::open(open.table, index, snapshot.raw()) };
    let mut rows = Distances::new(vectors, query.elements, structure.metric());
    let mut search = Search::new(structure, query.elements, options);
    let mut distances = Vec::new();
    while distances.len() < wanted {
        match search.next(&pages, &mut rows).map_err(index.error())? {
            Some(neighbor) => distances.extend(neighbor.distance.filter(|distance| !distance.is_nan())),
            None => break,
        }
    }
    rows.into_vectors().close();
    Ok(Found { distances, counters: search.counters() })
}

/// Some rows as queries: those whose places have the smallest hashes, so the same for the same seed.
fn sample(open: &OpenIndex, snapshot: &Registered, wanted: usize, seed: u64) -> Result<Vec<OwnedVector>, IndexError> {
    let mut chosen: BinaryHeap<(u64, u32)> = BinaryHeap::new();
    let mut vectors: Vec<OwnedVector> = Vec::new();
    visible_rows(open, snapshot, &mut |row, value| {
        let Some(value) = value else { return Ok(()) };
        let place = (u64::from(row.block) << 16 | u64::from(row.offset)).to_ne_bytes();
        let hash = datum::hash(&place, seed);
        let full = vectors.len() == wanted;
        if full && chosen.peek().is_some_and(|(largest, _)| *largest <= hash) {
            return Ok(());
        }
        // SAFETY: the value of an index on an esr_vector.
        let vector =
            unsafe { with_vector(value, |vector| Ok(OwnedVector::new(vector.tag, vector.elements.to_vec())?)) }?;
        match if full { chosen.pop() } else { None } {
            Some((_, slot)) => {
                vectors[slot as usize] = vector;
                chosen.push((hash, slot));
            }
            None => {
                chosen.push((hash, vectors.len() as u32));
                vectors.push(vector);
            }
        }
        Ok(())
    });
    Ok(vectors)
}

/// For each query the `k` smallest distances there are, in order, in one scan of the table.
fn exact(
    open: &OpenIndex,
    snapshot: &Registered,
    queries: &[OwnedVector],
    k: usize,
) -> Result<Vec<Vec<f64>>, IndexError> {
    let index = open.index;
    let structure = cache::structure(index, &IndexPages::of(index))?;
    let space = Space::new(index, structure.dimension(), Tag(structure.tag()));
    queries.iter().try_for_each(|query| space.check_query(&query.as_vector()))?;
    let distance = metric::of(structure.metric());
    let mut nearest: Vec<BinaryHeap<Ordered>> = queries.iter().map(|_| BinaryHeap::new()).collect();
    visible_rows(open, snapshot, &mut |_, value| {
        let Some(value) = value else { return Ok(()) };
        let measure = |vector: Vector<'_>| {
            for (query, nearest) in queries.iter().zip(&mut nearest) {
                let distance = distance(vector.elements, query.as_vector().elements);
                let is_near = nearest.len() < k || nearest.peek().is_some_and(|furthest| distance < furthest.0);
                if !distance.is_nan() && is_near {
                    if nearest.len() == k {
                        nearest.pop();
                    }
                    nearest.push(Ordered(distance));
                }
            }
            Ok(())
        };
        // SAFETY: the value of an index on an esr_vector.
        unsafe { with_vector(value, measure) }
    });
    Ok(nearest.into_iter().map(|nearest| nearest.into_sorted_vec().into_iter().map(|near| near.0).collect()).collect())
}

/// A distance that is a number.
#[derive(Clone, Copy)]
struct Ordered(f64);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The vectors of an array, NULLs left out.
///
/// # Safety
/// `array` is an `esr_vector[]`.
unsafe fn vectors(array: pg_sys::Datum) -> Result<Vec<OwnedVector>, IndexError> {
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: as the caller says; PostgreSQL returns `count` values and as many NULL flags.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let alignment = pg_sys::TYPALIGN_INT as std::ffi::c_char;
        let element = (*array).elemtype;
        pg_sys::deconstruct_array(array, element, -1, false, alignment, &mut values, &mut nulls, &mut count);
        let present = (0..count as usize).filter(|position| !*nulls.add(*position));
        let copy = |position: usize| {
            let vector = datum::vector(*values.add(position))?;
            Ok(OwnedVector::new(vector.tag, vector.elements.to_vec())?)
        };
        present.map(copy).collect()
    }
}
