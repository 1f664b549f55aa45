//! An inverted file over unit vectors with small codes, laid out on pages.
//!
//! Rows are grouped into lists by their nearest centroid. Each row is stored as a code of a few bits for every direction in
//! which the data vary ([`quantiser`]); a search ranks the lists, reads the codes of the promising ones 32 rows at a time,
//! measures the best candidates exactly, and stops when few nearer rows can be left ([`search`], [`confidence`]).
//!
//! Everything works on a [`store::PageStore`]: PostgreSQL's buffers in production, [`memory::MemoryStore`] in tests, which
//! remembers every committed edit so that a test can crash after each of them. Knows no PostgreSQL, no audio and no model.

pub mod allocation;
mod allowance;
pub mod block;
pub mod build;
pub mod calibrate;
pub mod candidates;
pub mod chain;
pub mod check;
pub mod compact;
pub mod confidence;
pub mod estimate;
pub mod insert;
pub mod k_means;
pub mod key;
pub mod list;
pub mod load;
pub mod maintain;
pub mod margins;
pub mod memory;
pub mod options;
pub mod page;
pub mod parallel;
pub mod progress;
pub mod quantiser;
mod random;
pub mod retrain;
pub mod rotation;
pub mod search;
pub mod split;
pub mod store;
pub mod structure;
pub mod summary;
pub mod surprise;
pub mod table;
pub mod tag;
pub mod train;
pub mod trial;
pub mod vacuum;

#[cfg(test)]
mod testing;

pub use build::{BuildReport, build, build_empty};
pub use check::{CheckReport, check};
pub use insert::{Inserted, insert};
pub use key::Key;
pub use maintain::{MaintainReport, maintain};
pub use options::{Axes, BuildOptions, MAX_LISTS, default_lists};
pub use progress::{Phase, Progress, Silent};
pub use search::{DEFAULT_TARGET_RECALL, Neighbor, Search, SearchCounters, SearchOptions};
pub use store::{Edit, ExactVectors, PageStore, RowId, StoreError};
pub use structure::{Structure, current};
pub use summary::{Estimate, Summary, summary};
pub use table::{RowSource, TableVectors};
pub use tag::set_tag;
pub use vacuum::{VacuumReport, bulk_delete};

/// Most elements of an indexed vector.
pub const MAX_DIMENSIONS: u32 = esr_vector::MAX_DIMENSIONS as u32;
