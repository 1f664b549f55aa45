//! A query translated for one structure, and what it says of how far to look.

use esr_vector::Metric;

use crate::allowance::Allowances;
use crate::confidence::Order;
use crate::estimate::Estimator;
use crate::search::{SearchCounters, SearchOptions};
use crate::structure::Structure;

/// How many margins below the last of the ranks looked at rows are still likely to be measured.
const SLACK: f32 = 1.5;

/// A query translated for one structure.
pub(super) struct Prepared {
    pub(super) estimator: Estimator,
    /// See [`crate::candidates::Candidates::new`].
    pub(super) slack: f32,
    /// An estimate may be this much too low for the row not to be missed; see [`Prepared::choose_margin`].
    pub(super) margin: f32,
    pub(super) order: Order,
    allowances: Allowances,
    /// Rows of the index when they were last counted.
    rows: f32,
}

impl Prepared {
    pub(super) fn new(structure: &Structure, query: &[f32], options: SearchOptions) -> Self {
        let rotation = &structure.model.rotation;
        let dot = esr_vector::kernels().dot;
        let estimator =
            Estimator::new(structure, rotation.rotate_direction(query), dot(query, &rotation.mean), dot(query, query));
        let order = Order::new(estimator.lists(structure));
        let allowances = structure.allowances(options.target_recall);
        let margin_at = |surprise: f32| margin(structure, &estimator, options, surprise);
        let (slack, margin) = (SLACK * margin_at(f32::NEG_INFINITY), margin_at(f32::INFINITY));
        Self { slack, margin, estimator, order, allowances, rows: structure.meta.rows.get() as f32 }
    }

    /// Chooses the margin once it is known how far out the answer lies: row number `rank` of those seen has this score.
    pub(super) fn choose_margin(&mut self, structure: &Structure, options: SearchOptions, score: f32, rank: f32) {
        let surprise = self.estimator.all_rows.surprise(score, rank, self.rows);
        self.margin = margin(structure, &self.estimator, options, surprise);
    }

    /// Whether the lists read have row number `rank` of the answer, which has this score, as surely as the target asks.
    pub(super) fn is_enough(&mut self, score: f32, rank: u64, counters: &SearchCounters, counted: f32) -> bool {
        let growth = growth(counters, counted);
        let expected = self.order.expected_above(score) * growth;
        let surprise = self.estimator.all_rows.surprise(score, rank as f32, self.rows * growth);
        expected <= self.allowances.missing(rank, surprise)
    }
}

/// The score that a distance stands for; larger is nearer.
pub(super) fn score_of(metric: Metric, distance: f64, query_squared: f64) -> f32 {
    match metric {
        Metric::Cosine => (1.0 - distance) as f32,
        Metric::InnerProduct => -distance as f32,
        Metric::Euclidean => (0.5 * (query_squared - distance * distance)) as f32,
    }
}

/// By how much an estimate may be too low, at this surprise.
fn margin(structure: &Structure, estimator: &Estimator, options: SearchOptions, surprise: f32) -> f32 {
    let margin = structure.margin(options.target_recall, surprise);
    if margin.is_finite() { margin * estimator.error } else { margin }
}

/// How much larger the lists have become since their rows were counted, judged by those read: insertions do not count.
pub(super) fn growth(counters: &SearchCounters, counted: f32) -> f32 {
    const DOUBT: f32 = 64.0;
    ((counters.rows_scanned as f32 + DOUBT) / (counted + DOUBT)).max(1.0)
}
