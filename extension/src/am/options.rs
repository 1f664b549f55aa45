//! Storage parameters of an index: `WITH (lists = ...)`. Knows their names and limits, not what they do.
//!
//! Unsafe is allowed here: PostgreSQL hands the parsed parameters over as bytes whose layout this file defines.
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::sync::OnceLock;

use pgrx::pg_sys;

/// What `amoptions` returns and PostgreSQL keeps with the open index.
#[repr(C)]
struct Parsed {
    varlena_length: i32,
    lists: i32,
}

/// The parameters of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// How many lists to divide the rows into; 0 leaves it to the number of rows.
    pub lists: u32,
}

impl Options {
    /// # Safety
    /// `parsed` is NULL or what [`amoptions`] returned.
    pub unsafe fn read(parsed: *const pg_sys::bytea) -> Self {
        // SAFETY: as the caller says.
        match unsafe { parsed.cast::<Parsed>().as_ref() } {
            Some(parsed) => Self { lists: u32::try_from(parsed.lists).unwrap_or(0) },
            None => Self::default(),
        }
    }
}

static KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Makes the parameters known to PostgreSQL; once per process, when the library is loaded.
pub fn define() {
    // SAFETY: PostgreSQL copies the strings; this runs on its only thread.
    KIND.get_or_init(|| unsafe {
        let kind = pg_sys::add_reloption_kind();
        pg_sys::add_int_reloption(
            kind,
            c"lists".as_ptr(),
            c"Number of lists that the rows are divided into; 0 chooses it from the number of rows.".as_ptr(),
            0,
            0,
            i32::try_from(esr_ivf::MAX_LISTS).unwrap_or(i32::MAX),
            // A change takes effect at the next REINDEX, so it disturbs nobody.
            pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
        );
        kind
    });
}

/// Parses storage parameters; PostgreSQL's own errors say what is wrong with them.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amoptions(given: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    let kind = *KIND.get().expect("defined when the library was loaded");
    let known = [pg_sys::relopt_parse_elt {
        optname: c"lists".as_ptr(),
        opttype: pg_sys::relopt_type::RELOPT_TYPE_INT,
        offset: offset_of!(Parsed, lists) as i32,
    }];
    // SAFETY: the table describes `Parsed`, whose size is given.
    unsafe {
        pg_sys::build_reloptions(given, validate, kind, size_of::<Parsed>(), known.as_ptr(), known.len() as i32).cast()
    }
}
