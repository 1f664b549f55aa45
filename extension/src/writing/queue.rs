//! The worker of mode `queue`: finds pending rows, embeds their clips outside of any transaction, writes the vectors.
//!
//! A pending row is one with audio and no style. So nothing is ever taken out of a queue before its work is done, and a
//! worker that dies at any moment leaves the row as it found it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use pgrx::log;
use pgrx::pg_sys::Oid;

use crate::client;
use crate::embed::{self, digest};
use crate::error::SqlError;
use crate::model_usage;
use crate::server::{self, OnPostmasterDeath};
use crate::settings;
use crate::vector::OwnedVector;
use crate::writing::claim::{self, Claim};
use crate::writing::isolate::{self, Outcome};
use crate::writing::role::{AsUser, as_user};
use crate::writing::rows::{self, CLIPS_PER_REQUEST, Version};
use crate::writing::spi::{self, column};
use crate::writing::target::{Place, Target};
use crate::writing::transaction::{Fault, show, stay, transaction};
use crate::writing::{failures, launch};

/// How often an idle worker looks: soon after work, more and more rarely later.
const FIRST_NAP: Duration = Duration::from_millis(50);
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// After so long without pending rows a worker ends; the next transaction that leaves some starts one.
const IDLE: Duration = Duration::from_secs(10);

/// How long a worker tries to get a place: whoever looks whether there is a worker holds it for a moment.
const PLACE_PATIENCE: Duration = Duration::from_secs(1);

/// Longest pause of a table whose model or embedder cannot be had; it starts at [`FIRST_NAP`] and doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often failures are looked through whose rows may have gone, and of what part of the time that may take.
const TIDY_EVERY: Duration = Duration::from_secs(5);
const TIDY_SHARE: u32 = 20;

/// Embeddings that a worker remembers by their clips' hashes (8 MiB of 512 elements).
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Until there is nothing more to do.
pub fn work() {
    let Some(place) = take_place() else { return };
    let mut worker = Worker::new(place);
    let mut nap = FIRST_NAP;
    let mut idle_since = Instant::now();
    loop {
        launch::reload_if_asked();
        match worker.round() {
            Ok(true) => {
                nap = FIRST_NAP;
                idle_since = Instant::now();
                continue;
            }
            Ok(false) => {}
            Err(fault) => log!("esr queue worker: {}", fault.message),
        }
        show(None);
        if (idle_since.elapsed() > IDLE || !worker.has_tables) && worker.leave() {
            return;
        }
        server::wait(None, Some(nap), OnPostmasterDeath::Exit);
        nap = (nap * 2).min(LONGEST_NAP);
    }
}

fn take_place() -> Option<i32> {
    let deadline = Instant::now() + PLACE_PATIENCE;
    loop {
        let places = 1..=settings::queue_workers();
        let taken = transaction(|| Ok(places.into_iter().find(|place| claim::worker(*place).try_take())));
        if let Ok(Some(place)) = taken {
            return Some(place);
        }
        if Instant::now() > deadline {
            return None;
        }
        server::wait(None, Some(FIRST_NAP), OnPostmasterDeath::Exit);
    }
}

struct Worker {
    place: i32,
    has_called_help: bool,
    has_tables: bool,
    /// Until when, and how long, a table and style column are left alone.
    paused: HashMap<(Oid, i16), (Instant, Duration)>,
    /// When stale failures were last looked for, and how long that took.
    tidied: HashMap<(Oid, i16), (Instant, Duration)>,
    known: LruCache<(String, [u8; 32]), OwnedVector>,
    generation: Option<u64>,
}

/// Rows that this worker has claimed, with their clips.
struct Batch {
    place: Place,
    claims: Vec<Claim>,
    rows: Vec<(Version, Vec<u8>)>,
}

impl Worker {
    fn new(place: i32) -> Self {
        let known = LruCache::new(REMEMBERED);
        Self {
            place,
            has_called_help: false,
            has_tables: true,
            paused: HashMap::new(),
            tidied: HashMap::new(),
            known,
            generation: None,
        }
    }

    /// One batch of each table; whether anything came of it.
    fn round(&mut self) -> Result<bool, Fault> {
        let mut worked = false;
        let targets = transaction(targets)?;
        self.has_tables = !targets.is_empty();
        for target in targets {
            let key = (target.relation, target.style);
            if self.paused.get(&key).is_some_and(|(until, _)| Instant::now() < *until) {
                continue;
            }
            match self.tidy(&target).and_then(|()| self.serve(&target)) {
                Ok(done) => {
                    self.paused.remove(&key);
                    worked |= done > 0;
                }
                // The other tables must not wait for this one.
                Err(fault) => {
                    let pause = self.paused.get(&key).map_or(FIRST_NAP, |(_, pause)| *pause * 2).min(LONGEST_PAUSE);
                    self.paused.insert(key, (Instant::now() + pause, pause));
                    let table = target.relation.to_u32();
                    log!("esr queue worker: table {table} waits {} ms: {}", pause.as_millis(), fault.message);
                    transaction(|| match target.find()? {
                        Some(place) => failures::record(&target, &place, None, &fault),
                        None => Ok(()),
                    })?;
                }
            }
        }
        Ok(worked)
    }

    /// Forgets failures whose rows have gone, now and then.
    fn tidy(&mut self, target: &Target) -> Result<(), Fault> {
        let key = (target.relation, target.style);
        let is_due = |(at, took): &(Instant, Duration)| at.elapsed() > TIDY_EVERY.max(*took * TIDY_SHARE);
        if self.tidied.get(&key).is_none_or(is_due) {
            let start = Instant::now();
            transaction(|| match target.find()? {
                Some(place) => failures::forget_stale(target, &place),
                None => Ok(()),
            })?;
            self.tidied.insert(key, (Instant::now(), start.elapsed()));
        }
        Ok(())
    }

    /// One batch of one table; how many rows are settled.
    fn serve(&mut self, target: &Target) -> Result<usize, Fault> {
        let Some(batch) = transaction(|| claim_batch(target))? else { return Ok(0) };
        if batch.rows.len() >= CLIPS_PER_REQUEST && self.place < settings::queue_workers() && !self.has_called_help {
            self.has_called_help = true;
            // No free slot: then this worker does it alone.
            launch::start_worker(launch::database());
        }
        show(Some(&format!("embedding {} rows of {}", batch.rows.len(), batch.place.table)));
        let result = self.embed(target, &batch).and_then(|outcomes| write(target, &batch, &outcomes));
        for claim in &batch.claims {
            claim.release();
        }
        result
    }

    /// No transaction is open here: an embedding takes as long as it takes.
    fn embed(&mut self, target: &Target, batch: &Batch) -> Result<Vec<Outcome>, Fault> {
        // What another embedder said may not hold for this one.
        if client::generation() != self.generation {
            self.known.clear();
        }
        let keys: Vec<_> = batch.rows.iter().map(|(_, clip)| (target.model.clone(), digest(clip))).collect();
        let mut outcomes: Vec<Option<Outcome>> =
            keys.iter().map(|key| self.known.get(key).cloned().map(Outcome::Embedded)).collect();
        let wanted: Vec<usize> = (0..outcomes.len()).filter(|index| outcomes[*index].is_none()).collect();
        let clips: Vec<&[u8]> = wanted.iter().map(|index| batch.rows[*index].1.as_slice()).collect();
        let found = embed::as_backfill(|| isolate::embed_each(&clips, &target.model));
        self.generation = client::known_generation();
        // Worded for the owner, who reads it.
        let words = |error| Ok(as_user(batch.place.owner, || Fault::from(SqlError::from(error))));
        let found = found.map_err(|error| transaction(|| words(error)).unwrap_or_else(|fault| fault))?;
        for (index, outcome) in wanted.into_iter().zip(found) {
            if let Outcome::Embedded(vector) = &outcome {
                self.known.put(keys[index].clone(), vector.clone());
            }
            outcomes[index] = Some(outcome);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Ends, if nothing is pending and nobody is about to leave something pending.
    fn leave(&self) -> bool {
        let nothing_left = transaction(|| {
            if !claim::WRITERS.try_take() {
                return Ok(false);
            }
            Ok(true)
        });
        if !matches!(nothing_left, Ok(true)) {
            return false;
        }
        // Whoever committed before the lock was had is seen by a transaction that begins after it.
        let is_empty = transaction(|| {
            failures::forget_tables()?;
            for target in targets()? {
                if let Some(place) = target.find()? {
                    failures::forget_stale(&target, &place)?;
                    if any_pending(&place)? {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        });
        let leaves = matches!(is_empty, Ok(true));
        if leaves {
            claim::worker(self.place).release();
        }
        claim::WRITERS.release();
        leaves
    }
}

/// Tables of this database that are attached in mode `queue`.
fn targets() -> Result<Vec<Target>, SqlError> {
    let Some(schema) = spi::extension_schema()? else { return Ok(Vec::new()) };
    let sql = format!("SELECT a.relation, a.audio, a.style, a.model FROM {schema}.esr_queue_targets() a");
    spi::select(&sql, &[], |row| {
        Ok(Target { relation: column(row, 1)?, audio: column(row, 2)?, style: column(row, 3)?, model: column(row, 4)? })
    })
}

fn any_pending(place: &Place) -> Result<bool, SqlError> {
    spi::use_indexes()?;
    let sql = format!("SELECT 1 FROM ONLY {} t WHERE {} LIMIT 1", place.table, rows::pending(place));
    Ok(!spi::select(&sql, &[], |row| column::<i32>(row, 1))?.is_empty())
}

/// Rows that are due and that no other worker has, and their clips.
fn claim_batch(target: &Target) -> Result<Option<Batch>, SqlError> {
    let Some(place) = target.find()? else { return Ok(None) };
    model_usage::check(&target.model, place.owner)?;
    spi::use_indexes()?;
    let others = CLIPS_PER_REQUEST * settings::queue_workers().unsigned_abs() as usize;
    let due = failures::due(target, &place, CLIPS_PER_REQUEST + others)?;
    let mut batch = Batch { place, claims: Vec::new(), rows: Vec::new() };
    let mut claimed = Vec::new();
    for row in due {
        let claim = claim::row(target.relation, &row.version.tid);
        // Two rows of this batch with one number are two locks of this worker, given back twice.
        if claimed.len() < CLIPS_PER_REQUEST && claim.try_take() {
            batch.claims.push(claim);
            claimed.push(row);
        }
    }
    let first = rows::batches(&claimed).first().map_or(0, |first| first.len());
    let versions: Vec<Version> = claimed.into_iter().take(first).map(|row| row.version).collect();
    let clips = rows::clips(&batch.place, &versions)?;
    batch.rows = versions.into_iter().zip(clips).filter_map(|(version, clip)| Some((version, clip?))).collect();
    if batch.rows.is_empty() {
        batch.claims.iter().for_each(|claim| claim.release());
        return Ok(None);
    }
    Ok(Some(batch))
}

/// All in one transaction; if that fails, each row in its own, so that one row's trouble is not the others'. Returns how
/// many rows are settled.
fn write(target: &Target, batch: &Batch, outcomes: &[Outcome]) -> Result<usize, Fault> {
    let rows: Vec<Row<'_>> = batch.rows.iter().zip(outcomes).collect();
    if let Ok(settled) = transaction(|| write_rows(target, batch, &rows)) {
        return Ok(settled);
    }
    let mut settled = 0;
    for row in rows {
        match transaction(|| write_rows(target, batch, &[row])) {
            Ok(one) => settled += one,
            Err(fault) => {
                transaction(|| failures::record(target, &batch.place, Some((&row.0.0, &row.0.1)), &fault))?;
                settled += 1;
            }
        }
    }
    Ok(settled)
}

type Row<'a> = (&'a (Version, Vec<u8>), &'a Outcome);

fn write_rows(target: &Target, batch: &Batch, rows: &[Row<'_>]) -> Result<usize, SqlError> {
    // The table may have been renamed since.
    let Some(place) = target.find()? else { return Ok(0) };
    let written = {
        let _owner = AsUser::new(place.owner);
        let embedded: Vec<Version> =
            rows.iter().filter(|(_, outcome)| outcome.vector().is_some()).map(|(row, _)| row.0.clone()).collect();
        // Rows that somebody is just changing are left for later.
        let locked = rows::lock(&place, &embedded, &rows::pending(&place))?;
        let ready: Vec<(&Version, &OwnedVector)> = rows
            .iter()
            .filter_map(|(row, outcome)| Some((&row.0, outcome.vector()?)))
            .filter(|(version, _)| locked.contains(version))
            .collect();
        rows::store_locked(&place, &ready)?
    };
    failures::forget(target, &batch.place, &written)?;
    let mut settled = written.len();
    for ((version, clip), outcome) in rows {
        if let Outcome::Refused(error) = outcome {
            let fault = as_user(place.owner, || Fault::from(SqlError::from(error)));
            failures::record(target, &batch.place, Some((version, clip)), &fault)?;
            settled += 1;
        }
    }
    // The owner's deferred triggers run at the commit, as the owner.
    stay(place.owner);
    Ok(settled)
}
