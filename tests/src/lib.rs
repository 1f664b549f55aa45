//! The harness of the server suite: throw-away PostgreSQL clusters with `esr` installed.
//!
//! A [`cluster::Cluster`] lives in a scratch folder, listens on a unix socket only, and is gone when dropped, postmaster
//! killed or not. Also used by the demo and the benchmarks. Knows nothing of the extension's insides.

pub mod cluster;
pub mod models;
pub mod processes;
pub mod storm;
