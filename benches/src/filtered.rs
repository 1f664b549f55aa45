//! Queries with a condition that the index knows nothing of: `WHERE ... ORDER BY ... LIMIT`.
//!
//! The condition looks at the id, which has nothing to do with the vector, so that passing rows are everywhere alike.

use std::collections::BTreeMap;

use anyhow::Result;
use postgres::Client;
use serde::{Deserialize, Serialize};

use crate::{
    progress::note,
    search::{MODULUS, Point, Questions},
    truth::Truth,
};

/// The `n` of the conditions: 50 %, 5 %, 0.5 % and 0.05 % of the rows pass.
const PASSING: [u32; 4] = [1000, 100, 10, 1];
/// Queries for each condition; some systems take long.
const QUERIES: usize = 200;

/// What one setting gives under one condition.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filtered {
    /// Part of the rows that pass.
    pub share: f64,
    /// What comes back.
    pub point: Point,
}

/// Measures a setting, alone and together with what the system offers for such queries, under each condition.
pub fn filtered(
    session: &mut Client,
    questions: &Questions<'_>,
    best: &Point,
    offered: &[(&'static str, &'static str)],
) -> Result<Vec<Filtered>> {
    let data = questions.data;
    let (rows, kind) = (data.rows.len(), best.queries);
    let queries = data.queries(kind);
    let queries = queries.slice(0, queries.len().min(QUERIES));
    let mut found = Vec::new();
    for passing in PASSING {
        let passes = |id: usize| id < rows && id as u32 % MODULUS < passing;
        let truth = BTreeMap::from([(kind, Truth::compute(data, &queries, questions.limit, passes))]);
        let questions = Questions { truth, filter: Some(passing), ..*questions };
        let mut settings = vec![best.settings.clone()];
        if !offered.is_empty() {
            let offered = offered.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            settings.push(best.settings.clone().into_iter().chain(offered).collect());
        }
        for settings in settings {
            let share = f64::from(passing) / f64::from(MODULUS);
            let point = questions.measure(session, kind, &settings)?;
            let Point { recall, cpu_ms, mean_rows, .. } = point;
            note(&format!(
                "  {:.2} % pass, {settings:?}: {mean_rows:.1} rows, recall {recall:.4}, {cpu_ms:.3} ms of CPU",
                share * 100.0
            ));
            found.push(Filtered { share, point });
        }
    }
    Ok(found)
}
