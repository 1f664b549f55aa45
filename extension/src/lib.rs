//! Find speech by how it was said, inside PostgreSQL.
//!
//! The crate is the shell between PostgreSQL and the pure crates: it converts, calls, and converts back. The SQL side of
//! every function is written by hand in `sql/esr--*.sql`.

pub mod datum;
pub mod error;
pub mod fmgr;
pub mod vector;

pgrx::pg_module_magic!();
