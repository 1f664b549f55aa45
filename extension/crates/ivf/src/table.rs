//! The table as an index is built and trained from it. Knows no pages.

use crate::key::Key;
use crate::store::RowId;

/// The rows of a table: read once in part, to learn from them, and once whole.
pub trait RowSource {
    /// About how many rows there are.
    fn estimated_rows(&self) -> u64;

    /// Shows every row.
    fn scan(&mut self, each: &mut dyn FnMut(RowId, Key<'_>));

    /// Shows rows to learn from: at least `wanted` of them, chosen without regard to what they hold, or all there are.
    fn sample(&mut self, wanted: u64, each: &mut dyn FnMut(RowId, Key<'_>)) {
        let _ = wanted;
        self.scan(each);
    }
}

/// The rows of the table, for a training that vacuum makes up for.
pub trait TableVectors {
    /// Puts the vector of a row into `into`; `false` if the row is gone or has none.
    fn vector(&mut self, row: RowId, into: &mut Vec<f32>) -> bool;
}
