//! A query translated for one index: what its codes and centroids say about scores, and how far that may be off.
//!
//! The score of a row is its inner product with the query, less half its squared length under Euclidean distance; the
//! nearest row has the largest.

use crate::confidence::ListScore;
use crate::margins::error_of_codes;
use crate::page::FIRST_LIST;
use crate::quantiser::ByteTables;
use crate::rotation::weighted;
use crate::store::NO_BLOCK;
use crate::structure::Structure;
use crate::surprise::AllRows;

/// See the module.
pub struct Estimator {
    rotated: Vec<f32>,
    base: f32,
    /// Deviation of scores in a list of average spread.
    deviation: f32,
    /// For the codes of rows.
    pub tables: ByteTables,
    /// Standard deviation of an estimate from the exact score.
    pub error: f32,
    /// The scores of all rows.
    pub all_rows: AllRows,
}

impl Estimator {
    /// For a rotated query, given its product with the mean row and its squared length.
    pub fn new(structure: &Structure, rotated: Vec<f32>, base: f32, squared: f32) -> Self {
        let model = &structure.model;
        let tables = ByteTables::new(&model.quantiser.tables(&rotated), base);
        let outside = (squared - (esr_vector::kernels().dot)(&rotated, &rotated)).max(0.0);
        let deviation = (weighted(&rotated, &model.scatter) + outside * model.scatter_left_out).sqrt();
        let error =
            error_of_codes(&model.rotation, &model.quantiser, &rotated, outside) + tables.rounding * tables.rounding;
        let all_rows =
            AllRows::new(&model.rotation, structure.rotated_mean(), structure.metric(), &rotated, base, outside);
        Self { rotated, base, deviation, tables, error: error.sqrt(), all_rows }
    }

    /// All lists as this query sees them. One that is being split comes before those its rows move to, because a search
    /// must read them in that order to miss none.
    pub fn lists(&self, structure: &Structure) -> Vec<ListScore> {
        let mut lists = self.lists_from(structure, FIRST_LIST);
        let (from, to) = (structure.meta.moving_from.get(), structure.meta.moving_to.get());
        if from != NO_BLOCK {
            let best = lists.iter().filter(|list| list.list >= to).map(|list| list.centre).fold(f32::MIN, f32::max);
            let widest = lists.iter().map(|list| list.deviation).fold(0.0, f32::max);
            if let Some(parent) = lists.iter_mut().find(|list| list.list == from) {
                parent.centre = parent.centre.max(best + 2.0 * widest + 1e-6);
            }
        }
        lists
    }

    /// Lists from a number on, which were split off during a search.
    pub fn lists_from(&self, structure: &Structure, first: u32) -> Vec<ListScore> {
        structure.score_lists(first, &self.rotated, self.base, self.deviation)
    }
}
