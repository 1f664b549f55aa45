//! What can be said of an index from its meta page: for the planner, which asks often, and for people.

use crate::allowance::lists_probed;
use crate::chain;
use crate::page::{FIRST_LIST, Meta, RANKS};
use crate::store::{PageStore, StoreError};
use crate::structure;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    meta: Meta,
}

/// What a search is expected to read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Lists.
    pub lists: f64,
    /// Rows whose code is looked at.
    pub rows: f64,
    /// Pages of the index.
    pub pages: f64,
    /// Rows of the table that are measured exactly.
    pub measured: f64,
}

/// Reads the meta page.
///
/// # Errors
/// If it is none.
pub fn summary<S: PageStore>(store: &S) -> Result<Summary, StoreError> {
    chain::meta(store).map(|meta| Summary { meta })
}

impl Summary {
    /// Lists with a centroid.
    pub fn lists(&self) -> u32 {
        self.meta.lists.get().saturating_sub(FIRST_LIST)
    }

    /// Rows when the index was built or last vacuumed.
    pub fn rows(&self) -> u64 {
        self.meta.rows.get()
    }

    /// Elements of a vector.
    pub fn dimension(&self) -> u32 {
        self.meta.dimension.get()
    }

    /// Rotated axes that are kept.
    pub fn axes(&self) -> u32 {
        self.meta.axes.get().into()
    }

    /// Groups of a row's code, four bits each.
    pub fn groups(&self) -> u32 {
        self.meta.groups.get().into()
    }

    /// Lists that a search for `rank` rows reads on average to reach a recall, as the calibration found.
    pub fn lists_probed(&self, target_recall: f64, rank: u64) -> f32 {
        lists_probed(&self.meta, target_recall, rank)
    }

    /// Bytes of a row's code.
    pub fn code_bytes(&self) -> u32 {
        u32::from(self.meta.groups.get()) / 2
    }

    /// The metric.
    pub fn metric(&self) -> Option<esr_vector::Metric> {
        structure::metric(self.meta.metric.get())
    }

    /// The model tag, 0 if none.
    pub fn tag(&self) -> u64 {
        self.meta.tag.get()
    }

    /// Whether directions and codes were learned from rows.
    pub fn is_trained(&self) -> bool {
        self.meta.is_trained.get() != 0
    }

    /// Rows there were when they were learned.
    pub fn rows_at_training(&self) -> u64 {
        self.meta.rows_at_training.get()
    }

    /// Goes up with every change of lists or model.
    pub fn generation(&self) -> u32 {
        self.meta.generation.get()
    }

    /// What a search reads until it has handed out `wanted` of the `rows` there are now.
    pub fn estimate(&self, rows: f64, wanted: f64, target_recall: f64) -> Estimate {
        let lists = f64::from(self.lists().max(1));
        let wanted = wanted.clamp(1.0, rows.max(1.0));
        let per_page = structure::layout(&self.meta).rows().max(1) as f64;
        if !self.is_trained() || target_recall >= 1.0 {
            return Estimate { lists, rows, pages: rows / per_page + lists, measured: rows };
        }
        let largest = f64::from(RANKS[RANKS.len() - 1]);
        let probed = f64::from(lists_probed(&self.meta, target_recall, wanted.min(largest) as u64));
        // Past the calibrated ranks each further row costs its share of what is left.
        let beyond = ((wanted - largest) / (rows - largest).max(1.0)).clamp(0.0, 1.0).sqrt();
        let lists_read = (probed + (lists - probed).max(0.0) * beyond).clamp(1.0, lists);
        let share = lists_read / lists;
        let pages = lists_read * (rows / lists / per_page + 0.5).ceil();
        Estimate { lists: lists_read, rows: rows * share, pages, measured: (wanted * 2.0 + 20.0).min(rows) }
    }
}
