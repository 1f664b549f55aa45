//! Rows that no distance ranks: those of a query without direction, and what comes after all others.

use std::collections::HashSet;

use crate::block;
use crate::list;
use crate::page::{NULL_LIST, UNRANKED_LIST};
use crate::search::{Neighbor, Search};
use crate::store::{PageStore, StoreError};

impl Search {
    /// After all rows with a distance: those whose distance is no number, then those whose column is NULL.
    pub(super) fn rows_without_distance<S: PageStore>(&mut self, store: &S) -> Result<Option<Neighbor>, StoreError> {
        let mut rows = self.rows_of_list(store, UNRANKED_LIST, Some(f64::NAN))?;
        rows.extend(self.rows_of_list(store, NULL_LIST, None)?);
        rows.retain(|neighbor| !self.measured.contains(&neighbor.row));
        Ok(self.tail.insert(rows.into_iter()).next())
    }

    /// A query without direction is at no distance from anything: all rows, those with a column first.
    pub(super) fn rows_without_order<S: PageStore>(&mut self, store: &S) -> Result<Option<Neighbor>, StoreError> {
        let mut rows = Vec::new();
        for list in UNRANKED_LIST..self.structure.lists.len() as u32 {
            rows.extend(self.rows_of_list(store, list, Some(f64::NAN))?);
        }
        rows.extend(self.rows_of_list(store, NULL_LIST, None)?);
        let mut seen = HashSet::new();
        rows.retain(|neighbor| seen.insert(neighbor.row));
        Ok(self.tail.insert(rows.into_iter()).next())
    }

    fn rows_of_list<S: PageStore>(
        &mut self,
        store: &S,
        list: u32,
        distance: Option<f64>,
    ) -> Result<Vec<Neighbor>, StoreError> {
        self.counters.lists += 1;
        let mut rows = Vec::new();
        list::for_each_page(store, &self.structure, list, |page| {
            let ids = block::rows_of(self.structure.layout, page).map(|(_, slot, block)| block.row(slot));
            rows.extend(ids.map(|row| Neighbor { row, distance }));
        })?;
        Ok(rows)
    }
}
