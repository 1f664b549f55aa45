//! The index access method `esr_ivf`: what PostgreSQL calls, one file per verb, over the pure crate `esr-ivf`.
//!
//! A callback converts, calls one function of `esr-ivf`, converts back. `pages` and `exact` are that crate's two seams:
//! its pages in PostgreSQL's buffers, and the exact vectors in the table. How the index works is said there, not here.
//!
//! Unsafe is allowed here: the handler fills PostgreSQL's struct of callbacks.
#![allow(unsafe_code)]

pub mod build;
pub mod cache;
pub mod check;
pub mod cost;
pub mod error;
pub mod exact;
pub mod heap_rows;
pub mod info;
pub mod insert;
pub mod key;
pub mod options;
pub mod pages;
pub mod pg_missing;
pub mod probe;
pub mod recent_buffers;
pub mod relation;
pub mod scan;
pub mod table;
pub mod vacuum;
pub mod validate;

use pgrx::pg_sys::{self, Datum};

use crate::fmgr::Call;
use crate::sql_function;
use error::IndexError;

sql_function!(esr_ivf_handler, handler);

/// What the access method can do and who does it.
fn handler(_: &Call) -> Result<Datum, IndexError> {
    // SAFETY: the allocation is one zeroed node of PostgreSQL's, all of whose callbacks are functions of the right type.
    // PostgreSQL copies it and frees the original, so it lies in the current memory context.
    unsafe {
        let node = pg_sys::palloc0(size_of::<pg_sys::IndexAmRoutine>()).cast::<pg_sys::IndexAmRoutine>();
        let routine = &mut *node;
        routine.type_ = pg_sys::NodeTag::T_IndexAmRoutine;
        routine.amstrategies = relation::STRATEGIES.len() as u16;
        routine.amcanorderbyop = true;
        // A scan needs no condition on the first column: it has none on any.
        routine.amoptionalkey = true;
        // VACUUM may leave lists to split behind; that is one process's work, like the rest of it.
        routine.amusemaintenanceworkmem = true;
        routine.amparallelvacuumoptions = pg_sys::VACUUM_OPTION_NO_PARALLEL as u8;
        routine.amkeytype = pg_sys::InvalidOid;
        routine.ambuild = Some(build::ambuild);
        routine.ambuildempty = Some(build::ambuildempty);
        routine.ambuildphasename = Some(build::ambuildphasename);
        routine.aminsert = Some(insert::aminsert);
        routine.ambulkdelete = Some(vacuum::ambulkdelete);
        routine.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
        routine.amcostestimate = Some(cost::amcostestimate);
        routine.amoptions = Some(options::amoptions);
        routine.amvalidate = Some(validate::amvalidate);
        routine.ambeginscan = Some(scan::ambeginscan);
        routine.amrescan = Some(scan::amrescan);
        routine.amgettuple = Some(scan::amgettuple);
        routine.amendscan = Some(scan::amendscan);
        Ok(Datum::from(node))
    }
}
