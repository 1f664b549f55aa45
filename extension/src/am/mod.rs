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

use esr_ivf::StoreError;
use pgrx::pg_sys::{self, Datum};

use crate::error::SqlError;
use crate::fmgr::Call;
use crate::sql_function;
use crate::vector::VectorError;
use crate::vector::tag::Tag;
use relation::Index;

sql_function!(esr_ivf_handler, handler);

/// What can go wrong with an index, other than PostgreSQL's own errors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IndexError {
    /// Something is wrong with its pages.
    #[error("index \"{index}\": {problem}")]
    Pages {
        /// The index.
        index: String,
        /// What is wrong.
        problem: StoreError,
    },
    /// `esr_index_check` found what no single page shows.
    #[error("index \"{index}\" is damaged: {problem}")]
    Inconsistent {
        /// The index.
        index: String,
        /// The first of the problems.
        problem: String,
        /// All that were found.
        all: Vec<String>,
    },
    /// A row whose vector is longer or shorter than the others.
    #[error("index \"{index}\" holds vectors of {expected} dimensions, not {actual}")]
    WrongDimensions {
        /// The index.
        index: String,
        /// Elements of its vectors.
        expected: usize,
        /// Elements of the new one.
        actual: usize,
    },
    /// A row embedded by another model than the others.
    #[error("index \"{index}\" holds embeddings of one model: tag {held}, not {given}")]
    OtherModel {
        /// The index.
        index: String,
        /// The model of its rows.
        held: Tag,
        /// The model of the new row.
        given: Tag,
    },
    /// Nothing says how long the vectors are.
    #[error("number of dimensions of index \"{index}\" is not known")]
    UnknownDimensions {
        /// The index.
        index: String,
    },
    /// A scan that is not a search.
    #[error("index \"{index}\" can only be scanned in the order of one distance")]
    NoOrder {
        /// The index.
        index: String,
    },
    /// A scan by a snapshot that may see two versions of a row.
    #[error("index \"{index}\" can only be scanned by an MVCC snapshot")]
    NotMvcc {
        /// The index.
        index: String,
    },
    /// Another kind of relation.
    #[error("\"{name}\" is not an index of access method esr_ivf")]
    NotAnIndex {
        /// Its name.
        name: String,
    },
    /// Somebody who may not look.
    #[error("permission denied for index \"{index}\"")]
    Denied {
        /// The index.
        index: String,
    },
    /// A call that makes no sense.
    #[error("{problem}")]
    BadArgument {
        /// What is wrong with it.
        problem: String,
    },
    /// A vector that does not fit the query.
    #[error(transparent)]
    Vector(#[from] VectorError),
}

impl IndexError {
    /// For `map_err`: says which index the pages belong to.
    pub fn of(index: Index) -> impl Fn(StoreError) -> Self {
        move |problem| Self::Pages { index: index.name(), problem }
    }
}

/// The value, or the error raised: where a callback ends.
pub fn or_raise<T>(result: Result<T, IndexError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => SqlError::from(error).raise(),
    }
}

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
