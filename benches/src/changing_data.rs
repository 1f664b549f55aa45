//! How an index lives with its table: rows one by one, COPY, deletion and VACUUM, and what is left of its recall.

use std::time::Instant;

use anyhow::Result;
use esr_tests::cluster::Cluster;
use postgres::Client;
use serde::{Deserialize, Serialize};

use crate::{
    binary::{self, Parameter},
    data::{Dataset, Vectors},
    measure::{Cost, backend, cost_of, cpu_seconds, index_megabytes, log_position},
    progress::{Progress, note},
    search::{Point, Questions},
    truth::Truth,
};

/// One row in this many is deleted.
const DELETED: usize = 5;

/// What a row costs that is put into a table.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RowCost {
    /// Rows that were put in.
    pub rows: usize,
    /// Rows a second, one client.
    pub rows_per_s: f64,
    /// CPU milliseconds of the backend, a row.
    pub cpu_ms: f64,
    /// Write-ahead log, KB (1000 bytes) a row.
    pub wal_kb: f64,
    /// Of it, whole pages, a row.
    pub full_page_images: f64,
}

/// What a variant does while its table changes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Changing {
    /// Which one.
    pub variant: String,
    /// INSERT, one row a statement.
    pub insert: RowCost,
    /// COPY.
    pub copy: RowCost,
    /// Rows deleted before VACUUM.
    pub deleted: u64,
    /// VACUUM's cost.
    pub vacuum: Cost,
    /// Size after CREATE INDEX.
    pub index_mb_built: f64,
    /// Size after INSERT and COPY.
    pub index_mb_filled: f64,
    /// Size after DELETE and VACUUM.
    pub index_mb_vacuumed: f64,
    /// The cheapest setting of recall 0.95 when the index was new.
    pub before: Option<Point>,
    /// The same setting at the end, judged by the rows that are there then.
    pub after: Option<Point>,
}

/// Changes `clips`, which has the variant's index and the data's first rows.
pub fn change(
    cluster: &Cluster,
    variant: &str,
    questions: &mut Questions<'_>,
    before: Option<Point>,
) -> Result<Changing> {
    let data = questions.data;
    let first = data.rows.len();
    let singles = data.later.len() / 2;
    let index_mb_built = index_megabytes(&mut cluster.connect()?)?;
    let insert = insert_each(&mut cluster.connect()?, "clips", &data.later.slice(0, singles), first)?;
    note(&format!("  INSERT: {:.0} rows/s, {:.3} ms of CPU a row", insert.rows_per_s, insert.cpu_ms));
    let copy =
        copy_all(&mut cluster.connect()?, "clips", &data.later.slice(singles, data.later.len()), first + singles)?;
    note(&format!("  COPY: {:.0} rows/s", copy.rows_per_s));
    let index_mb_filled = index_megabytes(&mut cluster.connect()?)?;
    let deleted = cluster.connect()?.execute(&format!("DELETE FROM clips WHERE id % {DELETED} = 0"), &[])?;
    let vacuum = vacuum(cluster)?;
    note(&format!("  VACUUM after deleting {deleted} rows: {:.1} s", vacuum.wall_s));
    let index_mb_vacuumed = index_megabytes(&mut cluster.connect()?)?;
    let after = match &before {
        Some(before) => {
            let answers = Truth::compute(data, data.queries(before.queries), questions.limit, |id| id % DELETED != 0);
            questions.truth.insert(before.queries, answers);
            Some(questions.measure(&mut cluster.connect()?, before.queries, &before.settings)?)
        }
        None => None,
    };
    Ok(Changing {
        variant: variant.to_string(),
        insert,
        copy,
        deleted,
        vacuum,
        index_mb_built,
        index_mb_filled,
        index_mb_vacuumed,
        before,
        after,
    })
}

/// INSERT into a table of a type that has no index.
pub fn insert_without_index(cluster: &Cluster, column_type: &str, data: &Dataset) -> Result<RowCost> {
    let mut session = cluster.connect()?;
    session.batch_execute(&format!("DROP TABLE IF EXISTS bare; {}", create_table("bare", column_type)))?;
    let cost = insert_each(&mut session, "bare", &data.later.slice(0, data.later.len() / 2), 0)?;
    session.batch_execute("DROP TABLE bare")?;
    Ok(cost)
}

/// The statements that make a table whose vectors are in its rows: pgvector's type would keep them apart, which makes
/// everything that reads the table slower.
pub fn create_table(name: &str, column_type: &str) -> String {
    let inline = if column_type.starts_with("vector") { "PLAIN" } else { "MAIN" };
    format!(
        "CREATE TABLE {name} (id int NOT NULL, style {column_type} NOT NULL);
         ALTER TABLE {name} ALTER style SET STORAGE {inline};"
    )
}

/// One row a statement, prepared, each its own transaction, after a checkpoint.
fn insert_each(session: &mut Client, table: &str, rows: &Vectors, first_id: usize) -> Result<RowCost> {
    let statement = session.prepare(&format!("INSERT INTO {table} (id, style) VALUES ($1, $2)"))?;
    let progress = Progress::new(format!("INSERT INTO {table}"), rows.len());
    row_cost(session, rows.len(), |session| {
        for (i, row) in rows.iter().enumerate() {
            session.execute(&statement, &[&((first_id + i) as i32), &Parameter(row)])?;
            progress.at(i);
        }
        Ok(())
    })
}

/// COPY, after a checkpoint.
pub fn copy_all(session: &mut Client, table: &str, rows: &Vectors, first_id: usize) -> Result<RowCost> {
    row_cost(session, rows.len(), |session| binary::copy(session, table, rows, first_id))
}

fn row_cost(session: &mut Client, rows: usize, work: impl FnOnce(&mut Client) -> Result<()>) -> Result<RowCost> {
    let pid = backend(session)?;
    session.batch_execute("CHECKPOINT")?;
    let log = log_position(session)?;
    let cpu = cpu_seconds(pid);
    let start = Instant::now();
    work(session)?;
    let wall = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds(pid) - cpu;
    let log = log_position(session)?.since(log);
    let each = 1.0 / rows.max(1) as f64;
    Ok(RowCost {
        rows,
        rows_per_s: rows as f64 / wall,
        cpu_ms: cpu * 1000.0 * each,
        wal_kb: log.bytes / 1000.0 * each,
        full_page_images: log.full_page_images as f64 * each,
    })
}

fn vacuum(cluster: &Cluster) -> Result<Cost> {
    let mut session = cluster.connect()?;
    let postmaster = cluster.postmaster().unwrap_or_default();
    cost_of(postmaster, &mut session, |session| {
        Ok(session.batch_execute("VACUUM (INDEX_CLEANUP on, PARALLEL 0) clips")?)
    })
}
