//! How far a query is from what memory allows: the bytes that it must read, over the speed at which one core reads.

use std::{fmt::Write, hint::black_box, time::Instant};

use anyhow::{Context, Result};
use postgres::Client;
use serde::{Deserialize, Serialize};

use crate::{
    binary::Parameter,
    data::QueryKind,
    random::DIMENSIONS,
    search::{Point, Questions},
};

/// Bytes of a page of PostgreSQL.
const PAGE: f64 = 8192.0;
/// Queries whose work is counted.
const QUERIES: usize = 100;
/// Bytes that are read to find the speed of memory: more than any cache holds.
const SAMPLE: usize = 512 << 20;
/// Readings of them; the fastest counts.
const READINGS: usize = 5;

/// What a query reads, on average, in KB (10^3 bytes), and how long a core needs for reading alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limit {
    /// Which queries.
    pub queries: QueryKind,
    /// Recall of the setting.
    pub recall: f64,
    /// Pages of the index.
    pub index_kb: f64,
    /// Vectors of the table.
    pub table_kb: f64,
    /// Rotation, codebook and centroids in the session's memory.
    pub model_kb: f64,
    /// What one core reads from memory, GB (10^9 bytes) a second.
    pub gb_per_s: f64,
    /// Microseconds that reading takes at that speed.
    pub limit_us: f64,
    /// CPU microseconds that a query takes through SQL.
    pub cpu_us: f64,
}

/// Counts what the queries of a measured setting read, by `esr_index_probe`.
pub fn limit(questions: &Questions<'_>, session: &mut Client, point: &Point) -> Result<Limit> {
    let settings = point.settings.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect::<String>();
    session.batch_execute(&format!("RESET ALL; {settings}"))?;
    let info = session.query_one("SELECT memory_bytes FROM esr_index_info('clips_style')", &[])?;
    let model_kb = info.get::<_, i64>(0) as f64 / 1e3;
    let count = "SELECT (c->>'pages')::bigint, (c->>'rows_measured')::bigint \
                 FROM (SELECT esr_index_probe('clips_style', $1, $2) AS c) AS probed";
    let statement = session.prepare(count)?;
    let queries = questions.data.queries(point.queries);
    let (mut pages, mut rows, mut asked) = (0, 0, 0);
    for query in queries.iter().take(QUERIES) {
        let row = session.query_one(&statement, &[&Parameter(query), &(questions.limit as i32)])?;
        pages += row.get::<_, i64>(0);
        rows += row.get::<_, i64>(1);
        asked += 1;
    }
    let mean = |sum: i64| sum as f64 / f64::from(asked.max(1));
    let index_kb = mean(pages) * PAGE / 1e3;
    let table_kb = mean(rows) * (4 * DIMENSIONS) as f64 / 1e3;
    let gb_per_s = bandwidth().context("no time passes on this machine's clock")?;
    Ok(Limit {
        queries: point.queries,
        recall: point.recall,
        index_kb,
        table_kb,
        model_kb,
        gb_per_s,
        limit_us: (index_kb + table_kb + model_kb) / gb_per_s,
        cpu_us: point.cpu_ms * 1e3,
    })
}

/// The speed of reading memory in order with one core, GB a second.
fn bandwidth() -> Option<f64> {
    let memory = vec![1_u64; SAMPLE / 8];
    let seconds = (0..READINGS).map(|_| {
        let start = Instant::now();
        // Eight sums side by side, so that adding is not what takes the time.
        let mut sums = [0_u64; 8];
        for words in black_box(&memory).chunks_exact(8) {
            sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
        }
        black_box(sums);
        start.elapsed().as_secs_f64()
    });
    seconds.min_by(f64::total_cmp).filter(|seconds| *seconds > 0.0).map(|seconds| SAMPLE as f64 / seconds / 1e9)
}

/// A line of the report for each.
pub fn table(limits: &[Limit], text: &mut String) {
    if limits.is_empty() {
        return;
    }
    text.push_str(
        "| what a query of ours reads | recall | index KB | table KB | model KB | GB/s of a core | reading us | CPU us | of it |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for limit in limits {
        let _ = writeln!(
            text,
            "| {} | {:.4} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} % |",
            limit.queries.name(),
            limit.recall,
            limit.index_kb,
            limit.table_kb,
            limit.model_kb,
            limit.gb_per_s,
            limit.limit_us,
            limit.cpu_us,
            100.0 * limit.limit_us / limit.cpu_us,
        );
    }
    text.push('\n');
}
