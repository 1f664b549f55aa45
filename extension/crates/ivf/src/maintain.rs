//! What vacuum does beside removing rows.

use crate::build::BuildOptions;
use crate::store::{PageStore, RowId, StoreError};

/// The rows of the table, for a training that vacuum makes up for.
pub trait TableVectors {
    /// Puts the vector of a row into `into`; `false` if the row is gone or has none.
    fn vector(&mut self, row: RowId, into: &mut Vec<f32>) -> bool;
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaintainReport {
    /// Lists that were split.
    pub split: u32,
    /// Pages given back.
    pub freed: u32,
    /// Whether the index was trained.
    pub retrained: bool,
    /// Rows in the index.
    pub rows: u64,
    /// Its pages.
    pub pages: u32,
    /// Of these, waiting to be used again.
    pub free_pages: u32,
}

/// See the module.
///
/// # Errors
/// Those of the store.
pub fn maintain<S: PageStore>(
    _store: &S,
    _table: &mut dyn TableVectors,
    _options: &BuildOptions,
) -> Result<MaintainReport, StoreError> {
    Ok(MaintainReport::default())
}
