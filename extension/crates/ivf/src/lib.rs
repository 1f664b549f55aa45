//! An inverted file over unit vectors with small codes, laid out on pages.
//!
//! Rows are grouped into lists by their nearest centroid. Each row is stored as a code of a few bits for every direction in
//! which the data vary ([`quantiser`]); a search ranks the lists, reads the codes of the promising ones 32 rows at a time,
//! measures the best candidates exactly, and stops when few nearer rows can be left ([`search`], [`confidence`]).
//!
//! Everything works on a [`store::PageStore`]: PostgreSQL's buffers in production, [`memory::MemoryStore`] in tests, which
//! remembers every committed edit so that a test can crash after each of them. Knows no PostgreSQL, no audio and no model.

pub mod store;

pub use store::{Edit, PageStore, RowId, StoreError};
