//! The triggers of mode `sync`: the vector is there when the statement ends.
//!
//! A trigger BEFORE ROW must have the vector before the row is stored, so it can ask for one clip at a time only; a trigger
//! AFTER must write each row a second time. Here the first row of a statement goes the first way, so that a single INSERT
//! writes once; the others are stored without a vector, remembered by where they lie, and filled in batches at the
//! statement's end. Transition tables would hold the whole audio of the statement once more, on disk when it is much, and
//! would be filled by every UPDATE, since PostgreSQL allows no column list beside them; a remembered row is a few bytes.

use pgrx::pg_sys::Datum;

use crate::error::SqlError;
use crate::fmgr::Call;
use crate::writing::error::TriggerError;
use crate::writing::fill::fill;
use crate::writing::firing::{Firing, Timing};
use crate::writing::{launch, statement};
use crate::{embed, settings, sql_function};

sql_function!(esr_embed_row, embed_row);
sql_function!(esr_embed_later, embed_later);
sql_function!(esr_embed_statement, embed_statement);
sql_function!(esr_queue_row, queue_row);

/// Rows that wait at most before they are filled, though the statement goes on.
const ROWS_WAITING: usize = 1024;

fn firing(call: &Call, name: &'static str, timings: &[Timing]) -> Result<Firing, TriggerError> {
    let firing = Firing::of(call).filter(|firing| timings.contains(&firing.timing));
    firing.ok_or(TriggerError::NotAsTrigger(name))
}

/// BEFORE ROW.
fn embed_row(call: &Call) -> Result<Datum, SqlError> {
    let firing = firing(call, "esr_embed_row", &[Timing::BeforeRow])?;
    firing.check_types()?;
    // Programs that write every column back must not pay for the audio they did not touch. Whoever wants it embedded again
    // sets the style to NULL.
    if firing.keeps_audio() && firing.has_style() {
        return Ok(firing.unchanged());
    }
    if !firing.has_clip() {
        return Ok(firing.with_style(call, None)?);
    }
    if settings::rows_are_batched() && firing.may_wait() {
        let row = statement::count_row(firing.position(), firing.style(), |table| firing.is_part_of(table));
        if row.is_some_and(|row| row > 1) {
            return Ok(firing.with_style(call, None)?);
        }
    }
    firing.check_model()?;
    let clip = firing.clip().unwrap_or_default();
    let vector = embed::embed_clip(clip, firing.model()).map_err(|source| TriggerError::Embed {
        source,
        row: format!("While embedding column \"{}\" of table \"{}\".", firing.audio_name(), firing.table_name()),
    })?;
    Ok(firing.with_style(call, Some(vector))?)
}

/// AFTER ROW, WHEN (new.style IS NULL AND new.audio IS NOT NULL).
fn embed_later(call: &Call) -> Result<Datum, SqlError> {
    let firing = firing(call, "esr_embed_later", &[Timing::AfterRow])?;
    let full = statement::wait(firing.position(), &firing.target(), firing.tid(), ROWS_WAITING);
    if let Some((target, rows)) = full {
        fill(&target, &rows)?;
    }
    Ok(Datum::from(0))
}

/// BEFORE STATEMENT and AFTER STATEMENT.
fn embed_statement(call: &Call) -> Result<Datum, SqlError> {
    let firing = firing(call, "esr_embed_statement", &[Timing::BeforeStatement, Timing::AfterStatement])?;
    let (position, table) = (firing.position(), firing.table());
    match firing.timing {
        Timing::BeforeStatement => statement::open(position, table),
        _ => {
            for (target, rows) in statement::close(position, table) {
                fill(&target, &rows)?;
            }
        }
    }
    Ok(Datum::from(0))
}

/// BEFORE ROW of mode `queue`: takes away a vector that does not belong to the audio.
fn queue_row(call: &Call) -> Result<Datum, SqlError> {
    let firing = firing(call, "esr_queue_row", &[Timing::BeforeRow])?;
    firing.check_types()?;
    if firing.keeps_audio() && firing.has_style() {
        return Ok(firing.unchanged());
    }
    if firing.has_clip() {
        launch::wake()?;
    }
    Ok(if firing.has_style() { firing.with_style(call, None)? } else { firing.unchanged() })
}
