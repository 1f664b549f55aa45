//! Asking an index: one setting's recall, CPU and latency, and the settings worth trying.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, ensure};
use postgres::{Client, Statement};
use serde::{Deserialize, Serialize};

use crate::{
    binary::{Parameter, text},
    data::{Dataset, QueryKind},
    measure::{backend, cpu_seconds, percentile},
    progress::note,
    systems::{Sweep, Values, Variant},
    truth::Truth,
};

/// Conditions are `id % MODULUS < n`.
pub const MODULUS: u32 = 2000;
/// Recalls for which the cheapest setting is looked for.
pub const TARGETS: [f64; 3] = [0.90, 0.95, 0.99];
/// No larger settings are tried once one has this recall.
const ENOUGH: f64 = 0.995;
/// Queries that are asked before counting starts.
const WARM_UP: usize = 100;
/// What every measured session starts from. A prepared statement is planned once, so that planning is nobody's cost; the
/// index is used whatever the cost estimates say (what the planner would do by itself is reported apart).
const SESSION: &str = "RESET ALL; SET jit = off; SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0; \
                       SET plan_cache_mode = force_generic_plan;";

/// Settings of a session, by name.
pub type Settings = BTreeMap<String, String>;

/// What one setting gives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    /// Which queries.
    pub queries: QueryKind,
    /// The settings that were used.
    pub settings: Settings,
    /// Mean part of the true nearest rows that came back.
    pub recall: f64,
    /// Rows that came back, on average.
    pub mean_rows: f64,
    /// Fewest rows that came back for a query.
    pub fewest_rows: usize,
    /// CPU milliseconds of the backend, a query.
    pub cpu_ms: f64,
    /// Median latency seen by the client.
    pub p50_ms: f64,
    /// Latency that 5 % of the queries exceed.
    pub p95_ms: f64,
}

/// What is asked, of which rows.
pub struct Questions<'a> {
    /// The rows.
    pub data: &'a Dataset,
    /// Right answers, a kind of queries each; as many queries are asked as there are answers for.
    pub truth: BTreeMap<QueryKind, Truth>,
    /// Rows asked for.
    pub limit: usize,
    /// The operator that orders them.
    pub operator: &'static str,
    /// Only rows whose id modulo [`MODULUS`] is less.
    pub filter: Option<u32>,
}

impl Questions<'_> {
    fn query(&self) -> String {
        let condition = self.filter.map_or(String::new(), |below| format!("WHERE id % {MODULUS} < {below} "));
        format!("SELECT id FROM clips {condition}ORDER BY style {} $1 LIMIT {}", self.operator, self.limit)
    }

    /// Prepares a session for a setting.
    fn prepare(&self, session: &mut Client, settings: &Settings) -> Result<Statement> {
        session.batch_execute(&(SESSION.to_string() + &set(settings)))?;
        Ok(session.prepare(&self.query())?)
    }

    fn ask(&self, session: &mut Client, statement: &Statement, target: &[f32]) -> Result<Vec<i32>> {
        let rows = session.query(statement, &[&Parameter(target)])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Measures one setting with all queries of a kind.
    pub fn measure(&self, session: &mut Client, kind: QueryKind, settings: &Settings) -> Result<Point> {
        let queries = self.data.queries(kind);
        let truth = self.truth.get(&kind).context("no right answers for these queries")?;
        let count = queries.len().min(truth.len()).max(1);
        let pid = backend(session)?;
        let statement = self.prepare(session, settings)?;
        self.check_plan(session, queries.row(0))?;
        for target in queries.iter().take(WARM_UP.min(count)) {
            self.ask(session, &statement, target)?;
        }
        let mut latencies = Vec::with_capacity(count);
        let mut answers = Vec::with_capacity(count);
        let before = cpu_seconds(pid);
        for target in queries.iter().take(count) {
            let start = Instant::now();
            answers.push(self.ask(session, &statement, target)?);
            latencies.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        let cpu_ms = (cpu_seconds(pid) - before) * 1000.0 / count as f64;
        let recalls = answers.iter().enumerate().map(|(i, answer)| truth.recall(self.data, queries, i, answer));
        Ok(Point {
            queries: kind,
            settings: settings.clone(),
            recall: recalls.sum::<f64>() / count as f64,
            mean_rows: answers.iter().map(Vec::len).sum::<usize>() as f64 / count as f64,
            fewest_rows: answers.iter().map(Vec::len).min().unwrap_or(0),
            cpu_ms,
            p50_ms: percentile(&mut latencies, 0.5),
            p95_ms: percentile(&mut latencies, 0.95),
        })
    }

    /// Measures a setting twice more and returns the measurement that is in the middle: the cheapest of many noisy ones is
    /// likely to have been lucky.
    pub fn measure_again(&self, session: &mut Client, point: &Point) -> Result<Point> {
        let mut measured = vec![point.clone()];
        for _ in 0..2 {
            measured.push(self.measure(session, point.queries, &point.settings)?);
        }
        measured.sort_by(|a, b| a.cpu_ms.total_cmp(&b.cpu_ms));
        Ok(measured.swap_remove(1))
    }

    /// An error unless the session's plan scans the index.
    fn check_plan(&self, session: &mut Client, target: &[f32]) -> Result<()> {
        let plan = self.plan(session, target)?;
        ensure!(plan.contains("Index Scan using clips_style"), "the index is not used:\n{plan}");
        Ok(())
    }

    /// Whether the planner chooses the index with these settings and nothing forbidden.
    pub fn is_chosen(&self, session: &mut Client, kind: QueryKind, settings: &Settings) -> Result<bool> {
        session.batch_execute(&format!("{SESSION} SET enable_seqscan = on; {}", set(settings)))?;
        let plan = self.plan(session, self.data.queries(kind).row(0))?;
        Ok(plan.contains("Index Scan using clips_style"))
    }

    fn plan(&self, session: &mut Client, target: &[f32]) -> Result<String> {
        let query = self.query();
        let argument = text(target);
        session.batch_execute(&format!("PREPARE ask AS {query}"))?;
        let lines = session.query(&format!("EXPLAIN (COSTS off) EXECUTE ask('{argument}')"), &[])?;
        session.batch_execute("DEALLOCATE ask")?;
        Ok(lines.iter().map(|line| line.get::<_, String>(0)).collect::<Vec<_>>().join("\n"))
    }

    /// Several clients at once, each asking all queries of a kind.
    pub fn together(&self, sessions: &mut [Client], kind: QueryKind, settings: &Settings) -> Result<Together> {
        let queries = self.data.queries(kind);
        let pids = sessions.iter_mut().map(backend).collect::<Result<Vec<_>>>()?;
        let statements =
            sessions.iter_mut().map(|session| self.prepare(session, settings)).collect::<Result<Vec<_>>>()?;
        let cpu = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
        let before = cpu();
        let start = Instant::now();
        let asked = std::thread::scope(|scope| {
            let ask_all = |session: &mut Client, statement: &Statement| -> Result<Vec<f64>> {
                let one = |target: &[f32]| {
                    let start = Instant::now();
                    self.ask(session, statement, target)?;
                    Ok(start.elapsed().as_secs_f64() * 1000.0)
                };
                queries.iter().map(one).collect()
            };
            let pairs = sessions.iter_mut().zip(&statements);
            let threads: Vec<_> =
                pairs.map(|(session, statement)| scope.spawn(move || ask_all(session, statement))).collect();
            let joined = threads.into_iter().map(|thread| thread.join().ok().context("a client panicked")?);
            joined.collect::<Result<Vec<_>>>()
        })?;
        let wall = start.elapsed().as_secs_f64();
        let mut latencies: Vec<f64> = asked.into_iter().flatten().collect();
        Ok(Together {
            queries_per_s: latencies.len() as f64 / wall,
            cpu_ms: (cpu() - before) * 1000.0 / latencies.len().max(1) as f64,
            p50_ms: percentile(&mut latencies, 0.5),
            p95_ms: percentile(&mut latencies, 0.95),
        })
    }
}

/// What several clients get together.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Together {
    /// Queries a second, all clients together.
    pub queries_per_s: f64,
    /// CPU milliseconds of the backends, a query.
    pub cpu_ms: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// Latency that 5 % of the queries exceed.
    pub p95_ms: f64,
}

/// Tries the settings of a variant with both kinds of queries.
pub fn sweep(questions: &Questions<'_>, session: &mut Client, variant: &Variant) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for kind in QueryKind::ALL {
        for sweep in &variant.sweeps {
            let mut measure = |value: &str| -> Result<f64> {
                let point = questions.measure(session, kind, &settings_of(sweep, value))?;
                let Point { recall, cpu_ms, p50_ms, .. } = point;
                let fixed: Vec<&str> = sweep.fixed.iter().map(|(_, value)| value.as_str()).collect();
                note(&format!(
                    "  {} {} = {value} {}: recall {recall:.4}, {cpu_ms:.3} ms of CPU, p50 {p50_ms:.3} ms",
                    kind.name(),
                    sweep.knob,
                    fixed.join(" ")
                ));
                points.push(point);
                Ok(recall)
            };
            match &sweep.values {
                Values::List(values) => {
                    for value in *values {
                        measure(value)?;
                    }
                }
                Values::Range(first, last) => search_range(*first, *last, |value| measure(&value.to_string()))?,
            }
        }
    }
    Ok(points)
}

/// Tries whole numbers, ever larger ones until the recall is high enough or no longer grows, then halves the steps in which
/// the targets were passed, until the step is at most a sixteenth of the value.
fn search_range(first: u32, last: u32, mut measure: impl FnMut(u32) -> Result<f64>) -> Result<()> {
    let mut tried: BTreeMap<u32, f64> = BTreeMap::new();
    let mut value = first;
    loop {
        let recall = measure(value)?;
        // Three steps ago, the value was a quarter of this one.
        let stuck = tried.values().rev().nth(2).is_some_and(|before| recall < before + 0.001) && recall > 0.5;
        tried.insert(value, recall);
        if recall >= ENOUGH || stuck || value >= last {
            break;
        }
        value = last.min((value + 1).max((f64::from(value) * 1.6) as u32));
    }
    for target in TARGETS {
        while let Some(middle) = between(&tried, target) {
            let recall = measure(middle)?;
            tried.insert(middle, recall);
        }
    }
    Ok(())
}

/// A value between the smallest that reaches a target and the largest before it that does not, unless they are near.
fn between(tried: &BTreeMap<u32, f64>, target: f64) -> Option<u32> {
    let above = tried.iter().find(|(_, recall)| **recall >= target).map(|(value, _)| *value)?;
    let (&below, _) = tried.range(..above).next_back()?;
    if above - below <= (above / 16).max(1) {
        return None;
    }
    let middle = (f64::from(above) * f64::from(below)).sqrt() as u32;
    Some(middle.clamp(below + 1, above - 1))
}

/// The cheapest measured setting that reaches a recall with a kind of queries.
pub fn cheapest(points: &[Point], kind: QueryKind, target: f64) -> Option<&Point> {
    let reached = points.iter().filter(|point| point.queries == kind && point.recall >= target);
    reached.min_by(|a, b| a.cpu_ms.total_cmp(&b.cpu_ms))
}

fn settings_of(sweep: &Sweep, value: &str) -> Settings {
    let fixed = sweep.fixed.iter().map(|(name, value)| (name.to_string(), value.clone()));
    fixed.chain([(sweep.knob.to_string(), value.to_string())]).collect()
}

fn set(settings: &Settings) -> String {
    settings.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_searched_until_each_target_is_bracketed() {
        let recall = |value: u32| 1.0 - 1.0 / f64::from(value);
        let mut asked = Vec::new();
        search_range(1, 5000, |value| {
            asked.push(value);
            Ok(recall(value))
        })
        .unwrap();
        for exact in [10, 20, 100] {
            let best = asked.iter().filter(|value| **value >= exact).min().copied().unwrap();
            assert!(best - exact <= best / 16, "{best} for {exact}: {asked:?}");
        }
        assert!(asked.len() < 40, "{asked:?}");
    }

    #[test]
    fn a_recall_that_stays_low_ends_the_search() {
        let mut asked = 0;
        search_range(1, 1_000_000, |value| {
            asked += 1;
            Ok(if value < 3 { 0.3 } else { 0.93 })
        })
        .unwrap();
        assert!(asked < 10, "{asked}");
    }
}
