//! `ambuild`, `ambuildempty`: a new index. Knows how much memory and how many threads PostgreSQL allows and where progress
//! is shown, not how an index is laid out.
//!
//! Unsafe is allowed here: arguments and results are PostgreSQL's structs, and signals are the process's.
#![allow(unsafe_code)]

use std::ffi::c_char;

use esr_ivf::{Axes, BuildOptions, Phase, Progress};
use pgrx::pg_sys;

use super::error::IndexError;
use super::pages::IndexPages;
use super::pg_missing;
use super::relation::Index;
use super::table::TableRows;
use crate::error::or_raise;

/// The same rows give the same index.
const SEED: u64 = 0x6573_725f_6976_6621;

/// Builds the index over the rows that are there.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: PostgreSQL passes an open table, its new index, and how to compute the index's values.
    unsafe {
        let index = Index::new(index);
        let mut rows = TableRows::new(table, index, info);
        let indexed = or_raise(build(table, index, &mut rows));
        let result = pg_sys::palloc0(size_of::<pg_sys::IndexBuildResult>()).cast::<pg_sys::IndexBuildResult>();
        (*result).heap_tuples = rows.table_rows;
        (*result).index_tuples = indexed as f64;
        result
    }
}

fn build(table: pg_sys::Relation, index: Index, rows: &mut TableRows) -> Result<u64, IndexError> {
    assert_eq!(index.block_count(), 0, "an index is built in an empty file");
    let dimension = rows.find_dimension()?;
    let pages = IndexPages::for_build(index, false);
    esr_ivf::parallel::set_around_spawn(without_signals);
    let options = options(index, dimension, threads(table, index));
    let report = esr_ivf::build(&pages, rows, &options, &mut Reported::default()).map_err(index.error())?;
    if !rows.tag().is_untagged() {
        esr_ivf::set_tag(&pages, rows.tag().0).map_err(index.error())?;
    }
    pages.log_all();
    Ok(report.rows)
}

/// Builds an empty index in the init fork, which replaces the index of an unlogged table after a crash.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL passes an open index.
    let index = unsafe { Index::new(index) };
    or_raise(build_empty(index));
}

fn build_empty(index: Index) -> Result<(), IndexError> {
    let declared = index.declared_dimension();
    // The rows that are there when the main fork is built say it otherwise, and it is built first.
    let dimension = match declared {
        Some(dimension) => dimension,
        None => esr_ivf::summary(&IndexPages::of(index)).map_err(index.error())?.dimension() as usize,
    };
    let pages = IndexPages::for_build(index, true);
    esr_ivf::build_empty(&pages, &options(index, dimension, 1)).map_err(index.error())?;
    pages.log_all();
    Ok(())
}

/// What PostgreSQL's settings and the index's own say about a build.
pub fn options(index: Index, dimension: usize, threads: usize) -> BuildOptions {
    let kilobytes = pg_missing::maintenance_kilobytes();
    BuildOptions {
        metric: index.metric(),
        dimension: dimension as u32,
        axes: Axes::Learned,
        lists: index.options().lists,
        threads,
        memory_bytes: usize::try_from(kilobytes).unwrap_or(0) << 10,
        seed: SEED,
    }
}

/// Compute threads: this one and as many as PostgreSQL would start workers, which depends on
/// `max_parallel_maintenance_workers`, `maintenance_work_mem`, the table's size and its `parallel_workers`.
fn threads(table: pg_sys::Relation, index: Index) -> usize {
    // SAFETY: both relations are open, in a running transaction.
    let workers = unsafe { pg_sys::plan_create_index_workers((*table).rd_id, index.oid()) };
    1 + usize::try_from(workers).unwrap_or(0)
}

/// Runs what starts threads with all signals blocked. A thread inherits that, so PostgreSQL's signal handlers, which use
/// its unguarded globals, keep running on the one thread that is PostgreSQL's.
fn without_signals(spawn: &mut dyn FnMut()) {
    // SAFETY: both sets are written before they are read; the mask is put back as it was.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        spawn();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    }
}

/// Phases by the numbers in `pg_stat_progress_create_index`; 1 is PostgreSQL's own "initializing".
const PHASES: [(Phase, i64, &std::ffi::CStr); 5] = [
    (Phase::Sampling, 2, c"sampling rows"),
    (Phase::Training, 3, c"learning codes"),
    (Phase::Clustering, 4, c"clustering"),
    (Phase::Loading, 5, c"loading rows"),
    (Phase::Calibrating, 6, c"calibrating recall"),
];

/// The name of a phase for `pg_stat_progress_create_index`.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuildphasename(number: i64) -> *mut c_char {
    let phase = PHASES.iter().find(|(_, own, _)| *own == number).map(|(_, _, name)| *name);
    let name = match number {
        1 => Some(c"initializing"),
        _ => phase,
    };
    // PostgreSQL reads it only.
    name.map_or(std::ptr::null_mut(), |name| name.as_ptr().cast_mut())
}

/// Progress as PostgreSQL shows it.
#[derive(Default)]
struct Reported {
    done: u64,
    shown: u64,
    total: u64,
}

fn show(parameter: u32, value: i64) {
    // SAFETY: writes to this backend's own entry.
    unsafe { pg_sys::pgstat_progress_update_param(parameter as i32, value) };
}

impl Progress for Reported {
    fn phase(&mut self, phase: Phase, total: u64) {
        *self = Self { total, ..Self::default() };
        let number = PHASES.iter().find(|(known, _, _)| *known == phase).map_or(0, |(_, number, _)| *number);
        show(pg_sys::PROGRESS_CREATEIDX_SUBPHASE, number);
        show(pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL, total as i64);
        show(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, 0);
    }

    fn done(&mut self, units: u64) {
        self.done += units;
        // A thousandth at a time: other sessions look once a second at most.
        if self.done - self.shown > self.total / 1024 {
            self.shown = self.done;
            show(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, self.done as i64);
        }
    }
}
