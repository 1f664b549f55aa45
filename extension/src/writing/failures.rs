//! The table behind the view `esr_failures`: rows that could not be embedded, why, and when they are tried again.

use std::collections::HashSet;

use pgrx::spi::SpiHeapTupleData;

use crate::embed::digest;
use crate::error::SqlError;
use crate::writing::rows::{self, Version};
use crate::writing::spi::{self, EQ, column};
use crate::writing::target::{Place, Target};
use crate::writing::transaction::Fault;

/// Longest pause before a row is tried again, seconds. It starts at one second and doubles.
const LONGEST_PAUSE: f64 = 3600.0;

/// Remembers a failure. `row` is `None` if it is not about a row, such as a model that is not there.
pub fn record(target: &Target, place: &Place, row: Option<(&Version, &[u8])>, fault: &Fault) -> Result<(), SqlError> {
    let Place { schema, .. } = place;
    // How often a clip was tried follows the clip, wherever its row moves.
    let sql = format!(
        "INSERT INTO {schema}.esr_failure AS f (relation, style_column, place, version, clip, model, sqlstate, reason, hint, attempts)
         VALUES ($1, $2, $3::pg_catalog.tid, $4::pg_catalog.xid, $5, $6, $7, $8, $9, (
             SELECT pg_catalog.int4pl(coalesce(pg_catalog.max(o.attempts), 0), 1) FROM {schema}.esr_failure o
             WHERE o.relation {EQ} $1 AND o.style_column {EQ} $2 AND o.clip {EQ} $5))
         ON CONFLICT (relation, style_column, place) DO UPDATE SET
             version = excluded.version, clip = excluded.clip, model = excluded.model, sqlstate = excluded.sqlstate,
             reason = excluded.reason, hint = excluded.hint, last_failed = pg_catalog.clock_timestamp(),
             attempts = CASE WHEN f.clip IS NULL THEN pg_catalog.int4pl(f.attempts, 1) ELSE excluded.attempts END
         RETURNING attempts"
    );
    let tid: Option<&str> = row.map(|(version, _)| version.tid.as_str());
    let parameters = [
        target.relation.into(),
        target.style.into(),
        tid.into(),
        row.map(|(version, _)| version.xmin.as_str()).into(),
        row.map(|(_, clip)| digest(clip).to_vec()).into(),
        target.model.as_str().into(),
        fault.sqlstate.as_str().into(),
        fault.message.as_str().into(),
        fault.hint.as_deref().into(),
    ];
    let attempts = spi::write_returning(&sql, &parameters, |row| column::<i32>(row, 1))?;
    let pause = attempts.into_iter().map(pause_seconds).next().unwrap_or(LONGEST_PAUSE);
    let sql = format!(
        "UPDATE {schema}.esr_failure f
         SET retry_at = pg_catalog.timestamptz_pl_interval(f.last_failed, pg_catalog.make_interval(secs => $4))
         WHERE f.relation {EQ} $1 AND f.style_column {EQ} $2
         AND (f.place {EQ} $3::pg_catalog.tid OR f.place IS NULL AND $3 IS NULL)"
    );
    spi::write(&sql, &[target.relation.into(), target.style.into(), tid.into(), pause.into()])?;
    // The same row's, from where it lay before somebody updated it.
    let clip = row.map(|(_, clip)| digest(clip).to_vec());
    let sql = format!("{} AND f.clip {EQ} $3", stale(place));
    spi::write(&sql, &[target.relation.into(), target.style.into(), clip.into()]).map(drop)
}

/// How long to leave a row alone after so many attempts.
fn pause_seconds(attempts: i32) -> f64 {
    2f64.powi((attempts - 1).clamp(0, 30)).min(LONGEST_PAUSE)
}

/// Forgets failures of rows that have their vector now.
pub fn forget(target: &Target, place: &Place, rows: &[Version]) -> Result<(), SqlError> {
    let sql = format!(
        "DELETE FROM {}.esr_failure f WHERE f.relation {EQ} $1 AND f.style_column {EQ} $2
         AND (f.place {EQ} ANY ($3::pg_catalog.tid[]) OR f.place IS NULL)",
        place.schema
    );
    let tids = spi::array_literal(rows.iter().map(|version| version.tid.as_str()));
    spi::write(&sql, &[target.relation.into(), target.style.into(), tids.into()]).map(drop)
}

/// Forgets failures whose rows are no more what they were: deleted, moved by an UPDATE, truncated, or embedded otherwise.
pub fn forget_stale(target: &Target, place: &Place) -> Result<(), SqlError> {
    spi::write(&stale(place), &[target.relation.into(), target.style.into()]).map(drop)
}

fn stale(place: &Place) -> String {
    format!(
        "DELETE FROM {}.esr_failure f WHERE f.relation {EQ} $1 AND f.style_column {EQ} $2 AND f.place IS NOT NULL
         AND NOT EXISTS (SELECT FROM ONLY {} t WHERE t.ctid {EQ} f.place AND t.xmin {EQ} f.version AND t.{} IS NOT NULL)",
        place.schema, place.table, place.audio
    )
}

/// Forgets what was noted about tables that are gone.
pub fn forget_tables() -> Result<(), SqlError> {
    let Some(schema) = spi::extension_schema()? else { return Ok(()) };
    ["esr_failure", "esr_refresh_state"].into_iter().try_for_each(|books| {
        let gone = format!("NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid {EQ} b.relation)");
        spi::write(&format!("DELETE FROM {schema}.{books} b WHERE {gone}"), &[]).map(drop)
    })
}

/// The condition that a row `t` is not to be tried now; its parameters are the table and the style column.
pub fn is_resting(place: &Place) -> String {
    format!(
        "EXISTS (SELECT FROM {}.esr_failure f WHERE f.relation {EQ} $1 AND f.style_column {EQ} $2 AND f.place {EQ} t.ctid
         AND f.version {EQ} t.xmin AND f.retry_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())",
        place.schema
    )
}

/// Rows that have failed since a point in time, as PostgreSQL prints one.
pub fn failed_since(target: &Target, place: &Place, since: &str) -> Result<HashSet<Version>, SqlError> {
    let sql = format!(
        "SELECT f.place::pg_catalog.text, f.version::pg_catalog.text FROM {}.esr_failure f
         WHERE f.relation {EQ} $1 AND f.style_column {EQ} $2 AND f.place IS NOT NULL
         AND f.last_failed OPERATOR(pg_catalog.>=) $3::pg_catalog.timestamptz",
        place.schema
    );
    let read = |row: &SpiHeapTupleData<'_>| Ok(Version { tid: column(row, 1)?, xmin: column(row, 2)? });
    Ok(spi::select(&sql, &[target.relation.into(), target.style.into(), since.into()], read)?.into_iter().collect())
}

/// Rows that wait and are to be tried now, at most `limit`.
pub fn due(target: &Target, place: &Place, limit: usize) -> Result<Vec<rows::Waiting>, SqlError> {
    let sql = format!(
        "SELECT {} FROM ONLY {} t WHERE {} AND NOT {} LIMIT {limit}",
        rows::columns(place),
        place.table,
        rows::pending(place),
        is_resting(place)
    );
    spi::select(&sql, &[target.relation.into(), target.style.into()], rows::waiting)
}
