//! Gives rows that the running statement has stored without a vector their vectors, in batches. While one batch is computed, the
//! one before it is stored and the one after it is read.

use std::collections::{HashSet, VecDeque};

use esr_wire::{Failure, FailureKind};
use pgrx::PgSqlErrorCode;

use crate::client::error::EmbedError;
use crate::embed::{self, AskedClips, ClipsError};
use crate::error::SqlError;
use crate::model_usage;
use crate::vector::OwnedVector;
use crate::writing::role::as_user;
use crate::writing::rows::{self, Version, Waiting};
use crate::writing::target::{Place, Target};

/// Requests on their way at a time. The embedder computes one while it decodes the next, and has no pause between the two.
const REQUESTS_AT_ONCE: usize = 2;

/// Embeds these rows and writes them again with their vectors. What is embedded is what stands in the rows now, so a row
/// that somebody's trigger has deleted or given a vector meanwhile is left alone.
pub fn fill(target: &Target, tids: &[String]) -> Result<(), SqlError> {
    let place = target.place()?;
    model_usage::check(&target.model, place.owner)?;
    let mut waiting = as_user(place.owner, || still_waiting(target, &place, tids))?;
    while !waiting.is_empty() {
        let done = Filling::new(target, &place, &waiting).run()?;
        waiting = as_user(place.owner, || still_waiting(target, &place, &done.moved))?;
        if let (0, Some(row)) = (done.written, waiting.first()) {
            return Err(suppressed(target, &place, &row.version));
        }
    }
    Ok(())
}

fn suppressed(target: &Target, place: &Place, version: &Version) -> SqlError {
    let row = match as_user(place.owner, || rows::describe(target, place, version)) {
        Ok(row) => row,
        Err(error) => return error,
    };
    let message = format!("row {row} of table {} could not be given its vector", place.table);
    SqlError::new(PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION, message)
        .detail(format!("A trigger or a rule suppressed the UPDATE of column {}.", place.style))
        .hint("SET esr.batch_rows = off embeds each row before it is stored, so that it needs no UPDATE.")
}

fn still_waiting(target: &Target, place: &Place, tids: &[String]) -> Result<Vec<Waiting>, SqlError> {
    if tids.is_empty() {
        return Ok(Vec::new());
    }
    let mut waiting = rows::still_pending(place, &tids.iter().map(String::as_str).collect::<Vec<_>>())?;
    if waiting.len() < tids.len() {
        // Another AFTER trigger may have updated a row, which moves it.
        let here: HashSet<&str> = waiting.iter().map(|row| row.version.tid.as_str()).collect();
        let gone = tids.iter().filter(|tid| !here.contains(tid.as_str()));
        let moved: Vec<String> = gone.filter_map(|tid| rows::newest(target.relation, tid)).collect();
        if !moved.is_empty() {
            let moved = rows::still_pending(place, &moved.iter().map(String::as_str).collect::<Vec<_>>())?;
            waiting.extend(moved);
        }
    }
    Ok(waiting)
}

/// One walk over the rows that wait.
struct Filling<'a> {
    target: &'a Target,
    place: &'a Place,
    due: VecDeque<&'a [Waiting]>,
    /// The oldest first.
    on_their_way: VecDeque<Request<'a>>,
    at_once: usize,
    done: Done,
}

/// What a walk has come to.
#[derive(Default)]
struct Done {
    /// Rows that were written.
    written: usize,
    /// Rows that may have moved since they were read: where they lay.
    moved: Vec<String>,
}

/// A batch in the embedder.
struct Request<'a> {
    batch: &'a [Waiting],
    versions: Vec<Version>,
    asked: AskedClips,
    /// Whether others were on their way when it was sent.
    has_company: bool,
}

impl<'a> Filling<'a> {
    fn new(target: &'a Target, place: &'a Place, waiting: &'a [Waiting]) -> Self {
        let due = rows::batches(waiting).into();
        Self { target, place, due, on_their_way: VecDeque::new(), at_once: REQUESTS_AT_ONCE, done: Done::default() }
    }

    /// Stores the vectors of all batches.
    fn run(mut self) -> Result<Done, SqlError> {
        loop {
            self.send()?;
            let Some(Request { batch, versions, asked, has_company }) = self.on_their_way.pop_front() else {
                return Ok(self.done);
            };
            match asked.vectors() {
                Ok(vectors) => {
                    self.send()?;
                    self.store(&versions, &vectors)?;
                }
                // What would have been taken alone must not fail because we asked for two at once. The other one is waited for:
                // given up, it would stand in the queue until the embedder sees that, in the way of this one.
                Err((_, error)) if is_overload(&error) && (has_company || !self.on_their_way.is_empty()) => {
                    self.at_once = 1;
                    self.due.push_front(batch);
                }
                Err(error) => return Err(self.explain(&versions, error)),
            }
        }
    }

    /// Sends batches, as many as may be on their way.
    fn send(&mut self) -> Result<(), SqlError> {
        while self.on_their_way.len() < self.at_once {
            let Some(batch) = self.due.pop_front() else { return Ok(()) };
            let read: Vec<Version> = batch.iter().map(|row| row.version.clone()).collect();
            let clips = as_user(self.place.owner, || rows::clips(self.place, &read))?;
            let (mut versions, mut found) = (Vec::with_capacity(read.len()), Vec::with_capacity(read.len()));
            for (version, clip) in read.into_iter().zip(clips) {
                match clip {
                    Some(clip) => {
                        versions.push(version);
                        found.push(clip);
                    }
                    None => self.done.moved.push(version.tid),
                }
            }
            let bytes: Vec<&[u8]> = found.iter().map(Vec::as_slice).collect();
            let ahead = self.on_their_way.len();
            // Errors are worded for whoever writes, who may know less of the server than the owner.
            match embed::send_clips(&bytes, &self.target.model, ahead as u32) {
                Ok(Some(asked)) => {
                    self.on_their_way.push_back(Request { batch, versions, asked, has_company: ahead > 0 });
                }
                Ok(None) => {
                    self.due.push_front(batch);
                    self.at_once = 1;
                }
                Err(error) => return Err(self.explain(&versions, error)),
            }
        }
        Ok(())
    }

    fn store(&mut self, versions: &[Version], vectors: &[OwnedVector]) -> Result<(), SqlError> {
        let pairs: Vec<(&Version, &OwnedVector)> = versions.iter().zip(vectors).collect();
        let stored = as_user(self.place.owner, || rows::store(self.place, &pairs))?;
        if let Some(version) = stored.suppressed.first() {
            return Err(suppressed(self.target, self.place, version));
        }
        self.done.written += stored.written;
        if stored.written < versions.len() {
            // Which of them were written is seen by looking for them again.
            self.done.moved.extend(versions.iter().map(|version| version.tid.clone()));
        }
        Ok(())
    }

    fn explain(&self, versions: &[Version], (item, error): ClipsError) -> SqlError {
        let Place { table, audio, owner, .. } = self.place;
        let row = match item.and_then(|item| versions.get(item)) {
            Some(version) => match as_user(*owner, || rows::describe(self.target, self.place, version)) {
                Ok(row) => format!(", row {row}"),
                Err(error) => return error,
            },
            None => String::new(),
        };
        SqlError::from(error).detail(format!("While embedding column {audio} of table {table}{row}."))
    }
}

fn is_overload(error: &EmbedError) -> bool {
    matches!(error, EmbedError::Refused(Failure { kind: FailureKind::Overloaded, .. }))
}
