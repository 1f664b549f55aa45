//! Find speech by how it was said, inside PostgreSQL.
//!
//! The crate is the shell between PostgreSQL and the pure crates: it converts, calls, and converts back. The SQL side of
//! every function is written by hand in `sql/esr--*.sql`. It knows no audio, no model and no ONNX Runtime: those live in
//! the process `esr-embedder`, which [`supervisor`] starts and [`client`] talks to.

pub mod am;
pub mod cache;
pub mod child;
pub mod client;
pub mod datum;
pub mod embed;
pub mod error;
pub mod exact_scan;
pub mod fmgr;
pub mod model_usage;
pub mod recording;
pub mod report;
pub mod server;
pub mod settings;
pub mod status;
pub mod supervisor;
pub mod vector;
pub mod writing;

pgrx::pg_module_magic!();

/// Runs once in each process that loads the library.
#[pgrx::pg_guard]
#[allow(unsafe_code)]
pub extern "C-unwind" fn _PG_init() {
    server::hide_stack_traces();
    settings::define();
    am::options::define();
    exact_scan::install();
    if server::is_preloading() {
        server::register_static_supervisor();
    }
}
