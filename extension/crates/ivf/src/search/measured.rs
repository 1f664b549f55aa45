//! The order in which measured rows are handed out.

use std::cmp::Ordering;

use crate::store::RowId;

/// A row measured; the nearest is the greatest.
pub(super) struct Measured {
    pub(super) row: RowId,
    pub(super) distance: f64,
}

impl PartialEq for Measured {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Measured {}

impl PartialOrd for Measured {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Measured {
    fn cmp(&self, other: &Self) -> Ordering {
        other.distance.total_cmp(&self.distance).then_with(|| other.row.cmp(&self.row))
    }
}
