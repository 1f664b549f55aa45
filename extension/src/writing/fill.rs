//! Gives rows that the running statement has stored without a vector their vectors, in batches.

use pgrx::PgSqlErrorCode;

use crate::embed;
use crate::error::SqlError;
use crate::model_usage;
use crate::vector::OwnedVector;
use crate::writing::role::as_user;
use crate::writing::rows::{self, Version, Waiting};
use crate::writing::target::{Place, Target};

/// Embeds these rows and writes them again with their vectors. What is embedded is what stands in the rows now, so a row
/// that somebody's trigger has deleted or given a vector meanwhile is left alone.
pub fn fill(target: &Target, tids: &[String]) -> Result<(), SqlError> {
    let place = target.place()?;
    model_usage::check(&target.model, place.owner)?;
    let waiting = as_user(place.owner, || still_waiting(target, &place, tids))?;
    rows::batches(&waiting).into_iter().try_for_each(|batch| fill_batch(target, &place, batch))
}

fn still_waiting(target: &Target, place: &Place, tids: &[String]) -> Result<Vec<Waiting>, SqlError> {
    let mut waiting = rows::still_pending(place, &tids.iter().map(String::as_str).collect::<Vec<_>>())?;
    if waiting.len() < tids.len() {
        // Another AFTER trigger may have updated a row, which moves it.
        let here: std::collections::HashSet<&str> = waiting.iter().map(|row| row.version.tid.as_str()).collect();
        let gone = tids.iter().filter(|tid| !here.contains(tid.as_str()));
        let moved: Vec<String> = gone.filter_map(|tid| rows::newest(target.relation, tid)).collect();
        if !moved.is_empty() {
            let moved = rows::still_pending(place, &moved.iter().map(String::as_str).collect::<Vec<_>>())?;
            waiting.extend(moved);
        }
    }
    Ok(waiting)
}

fn fill_batch(target: &Target, place: &Place, batch: &[Waiting]) -> Result<(), SqlError> {
    let versions: Vec<Version> = batch.iter().map(|row| row.version.clone()).collect();
    let found = versions.iter().zip(as_user(place.owner, || rows::clips(place, &versions))?);
    let clips: Vec<(&Version, Vec<u8>)> = found.filter_map(|(version, clip)| Some((version, clip?))).collect();
    let bytes: Vec<&[u8]> = clips.iter().map(|(_, clip)| clip.as_slice()).collect();
    // Errors are worded for whoever writes, who may know less of the server than the owner.
    let vectors = match embed::embed_clips(&bytes, &target.model) {
        Ok(vectors) => vectors,
        Err((item, error)) => {
            let row = match item.and_then(|item| clips.get(item)) {
                Some((version, _)) => {
                    format!(", row {}", as_user(place.owner, || rows::describe(target, place, version))?)
                }
                None => String::new(),
            };
            let detail = format!("While embedding column {} of table {}{row}.", place.audio, place.table);
            return Err(SqlError::from(error).detail(detail));
        }
    };
    as_user(place.owner, || {
        clips.iter().zip(&vectors).try_for_each(|((version, _), vector)| store(target, place, version, vector))
    })
}

fn store(target: &Target, place: &Place, version: &Version, vector: &OwnedVector) -> Result<(), SqlError> {
    if rows::store(place, version, vector)? {
        return Ok(());
    }
    let row = rows::describe(target, place, version)?;
    let message = format!("row {row} of table {} could not be given its vector", place.table);
    Err(SqlError::new(PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION, message)
        .detail(format!("A trigger or a rule suppressed the UPDATE of column {}.", place.style))
        .hint("SET esr.batch_rows = off embeds each row before it is stored, so that it needs no UPDATE."))
}
