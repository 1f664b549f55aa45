//! One step of `CALL esr_refresh(...)`: a batch of rows whose vector is missing or another model's. The procedure commits
//! after each step; where it stands is a row of `esr_refresh_state`, written by the same transaction as the vectors, so
//! that a refresh that was killed goes on where it was.
//!
//! The walk goes by blocks, so that it needs no primary key. A row that an UPDATE moves behind the walk is met by the next
//! one: there are walks until one finds nothing to do.

use std::time::Duration;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Oid};
use pgrx::spi::SpiHeapTupleData;

use crate::error::SqlError;
use crate::fmgr::Call;
use crate::model_usage;
use crate::server::{self, OnPostmasterDeath};
use crate::writing::failures;
use crate::writing::isolate::{self, Outcome};
use crate::writing::role::{self, as_user};
use crate::writing::rows::{self, CLIPS_PER_REQUEST, Version, Waiting};
use crate::writing::spi::{self, EQ, column};
use crate::writing::target::{Place, Target};
use crate::writing::transaction::Fault;
use crate::{embed, sql_function};

sql_function!(esr_refresh_step, step);

/// Blocks that one step looks at, at most (8 MiB).
const BLOCKS: i64 = 1024;

/// Pause between two walks of which the first has found only rows that others had locked.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a refresh stands.
struct State {
    since: String,
    next_block: i64,
    /// Rows of this walk that were embedded, or could not be because somebody had locked them.
    touched: i64,
}

/// What one step has done.
#[derive(Default)]
struct Done {
    embedded: i64,
    failed: i64,
    locked: i64,
    next_block: i64,
    is_over: bool,
}

/// Arguments: table, audio column, style column (as numbers), model. Returns whether the refresh goes on.
fn step(call: &Call) -> Result<bool, SqlError> {
    let target = Target {
        relation: call.oid(0),
        audio: call.i32(1) as i16,
        style: call.i32(2) as i16,
        model: call.text(3)?.into_owned(),
    };
    let place = target.place()?;
    if !role::may_act_as(place.owner) {
        let message = format!("must be owner of table {}", place.table);
        return Err(SqlError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .hint("Only the owner of a table can have its rows embedded again."));
    }
    model_usage::check(&target.model, place.owner)?;
    let ours = owner_of_books(&place)?;
    let state = as_user(ours, || begin(&target, &place))?;
    let blocks = blocks(&target)?;
    let failed = as_user(ours, || failures::failed_since(&target, &place, &state.since))?;
    let (batch, next_block) = find(&target, &place, &state, blocks, &failed)?;
    let mut done = embed_batch(&target, &place, ours, &batch)?;
    done.next_block = next_block;
    // A block whose rows are all locked must not hold the walk up.
    if done.embedded + done.failed == 0 && next_block <= state.next_block {
        done.next_block = state.next_block + 1;
    }
    if done.next_block >= blocks {
        let touched = state.touched + done.embedded + done.locked;
        done.is_over = touched == 0;
        done.next_block = 0;
        if done.embedded == 0 && done.locked > 0 {
            server::wait(None, Some(PAUSE), OnPostmasterDeath::Exit);
        }
    }
    let is_over = done.is_over;
    as_user(ours, || {
        if is_over {
            failures::forget_stale(&target, &place)?;
        }
        save(&target, &place, &state, blocks, &done)
    })?;
    Ok(!is_over)
}

/// Who owns the tables of the extension.
fn owner_of_books(place: &Place) -> Result<Oid, SqlError> {
    let sql = spi::pin("SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid == $1::pg_catalog.regclass");
    let name = format!("{}.esr_failure", place.schema);
    let owner = spi::select(&sql, &[name.as_str().into()], |row| column(row, 1))?.pop();
    Ok(owner.unwrap_or(pg_sys::InvalidOid))
}

fn blocks(target: &Target) -> Result<i64, SqlError> {
    let size: Vec<i64> =
        spi::select("SELECT pg_catalog.pg_relation_size($1)", &[target.relation.into()], |row| column(row, 1))?;
    Ok(size.first().copied().unwrap_or(0) / i64::from(pg_sys::BLCKSZ))
}

/// Goes on with what an earlier call has left, or begins anew. Two refreshes of one table take turns.
fn begin(target: &Target, place: &Place) -> Result<State, SqlError> {
    let Place { schema, .. } = place;
    let new = format!(
        "INSERT INTO {schema}.esr_refresh_state AS s (relation, style_column, model) VALUES ($1, $2, $3)
         ON CONFLICT (relation, style_column) DO UPDATE SET
             model = excluded.model, started = excluded.started, updated = excluded.updated, finished = NULL,
             next_block = 0, touched = 0, embedded = 0, failed = 0
         WHERE s.finished IS NOT NULL OR NOT (s.model {EQ} excluded.model)"
    );
    let key = [target.relation.into(), target.style.into()];
    spi::write(&new, &[target.relation.into(), target.style.into(), target.model.as_str().into()])?;
    let read = format!(
        "SELECT s.started::pg_catalog.text, s.next_block, s.touched FROM {schema}.esr_refresh_state s
         WHERE s.relation {EQ} $1 AND s.style_column {EQ} $2 FOR UPDATE"
    );
    let state = spi::write_returning(&read, &key, |row| {
        Ok(State { since: column(row, 1)?, next_block: column(row, 2)?, touched: column(row, 3)? })
    })?;
    state.into_iter().next().ok_or_else(|| {
        SqlError::new(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, "another session has ended this refresh")
            .hint("CALL esr_refresh again; it goes on where it was.")
    })
}

fn save(target: &Target, place: &Place, state: &State, blocks: i64, done: &Done) -> Result<(), SqlError> {
    let wraps = done.next_block == 0 || done.is_over;
    let touched = if wraps { 0 } else { state.touched + done.embedded + done.locked };
    let sql = format!(
        "UPDATE {}.esr_refresh_state s SET next_block = $3, blocks = $4, touched = $5,
             embedded = pg_catalog.int8pl(s.embedded, $6), failed = pg_catalog.int8pl(s.failed, $7),
             updated = pg_catalog.clock_timestamp(), pid = pg_catalog.pg_backend_pid(),
             finished = CASE WHEN $8 THEN pg_catalog.clock_timestamp() END
         WHERE s.relation {EQ} $1 AND s.style_column {EQ} $2",
        place.schema
    );
    let parameters = [
        target.relation.into(),
        target.style.into(),
        done.next_block.into(),
        blocks.into(),
        touched.into(),
        done.embedded.into(),
        done.failed.into(),
        done.is_over.into(),
    ];
    spi::write(&sql, &parameters).map(drop)
}

/// Which rows have no vector of the model: a condition on `t`.
fn outdated(target: &Target, place: &Place) -> Result<String, SqlError> {
    let (tag, _) = embed::describe_model(&target.model)?;
    Ok(format!(
        "t.{audio} IS NOT NULL AND (t.{style} IS NULL OR NOT (coalesce({schema}.esr_model_tag(t.{style}), '') {EQ} '{tag}'))",
        audio = place.audio,
        style = place.style,
        schema = place.schema
    ))
}

/// The next rows to embed, as many as fit one request, and the block at which the next step begins.
fn find(
    target: &Target,
    place: &Place,
    state: &State,
    blocks: i64,
    failed: &std::collections::HashSet<Version>,
) -> Result<(Vec<Waiting>, i64), SqlError> {
    let end = (state.next_block + BLOCKS).min(blocks);
    let sql = format!(
        "SELECT {} FROM ONLY {} t WHERE t.ctid OPERATOR(pg_catalog.>=) '({},0)'::pg_catalog.tid
         AND t.ctid OPERATOR(pg_catalog.<) '({end},0)'::pg_catalog.tid AND {} LIMIT {}",
        rows::columns(place),
        place.table,
        state.next_block,
        outdated(target, place)?,
        CLIPS_PER_REQUEST + failed.len() + 1
    );
    let found = as_user(place.owner, || spi::select(&sql, &[], |row: &SpiHeapTupleData<'_>| rows::waiting(row)))?;
    let due: Vec<Waiting> = found.into_iter().filter(|row| !failed.contains(&row.version)).collect();
    let first = rows::batches(&due).first().map_or(0, |first| first.len());
    let next = due.get(first).map_or(end, |row| block_of(&row.version));
    Ok((due.into_iter().take(first).collect(), next))
}

fn block_of(version: &Version) -> i64 {
    rows::parse_tid(&version.tid).map_or(0, |row| row.block.into())
}

fn embed_batch(target: &Target, place: &Place, ours: Oid, batch: &[Waiting]) -> Result<Done, SqlError> {
    let mut done = Done::default();
    if batch.is_empty() {
        return Ok(done);
    }
    let versions: Vec<Version> = batch.iter().map(|row| row.version.clone()).collect();
    let clips = as_user(place.owner, || rows::clips(place, &versions))?;
    let found: Vec<(Version, Vec<u8>)> =
        versions.into_iter().zip(clips).filter_map(|(version, clip)| Some((version, clip?))).collect();
    let bytes: Vec<&[u8]> = found.iter().map(|(_, clip)| clip.as_slice()).collect();
    let outcomes = embed::as_backfill(|| isolate::embed_each(&bytes, &target.model))?;
    let versions: Vec<Version> = found.iter().map(|(version, _)| version.clone()).collect();
    let condition = format!("t.{} IS NOT NULL", place.audio);
    let locked = as_user(place.owner, || rows::lock(place, &versions, &condition))?;
    let mut ready = Vec::new();
    for ((version, clip), outcome) in found.iter().zip(&outcomes) {
        match outcome {
            Outcome::Embedded(_) if !locked.contains(version) => done.locked += 1,
            Outcome::Embedded(vector) => ready.push((version, vector)),
            Outcome::Refused(reason) => {
                // Worded for the owner, who reads it.
                let fault = as_user(place.owner, || Fault::from(SqlError::from(reason)));
                as_user(ours, || failures::record(target, place, Some((version, clip)), &fault))?;
                done.failed += 1;
            }
        }
    }
    let written = as_user(place.owner, || rows::store_locked(place, &ready))?;
    done.embedded = written.len() as i64;
    as_user(ours, || failures::forget(target, place, &written))?;
    Ok(done)
}
