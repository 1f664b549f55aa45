//! Two lanes, one for each tower: a queue of rows and the one thread that computes them in batches. Two, so that a text of
//! milliseconds never waits behind a minute of speech. Knows the batcher and models, no sockets and no audio files.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use esr_encoder::{Backend, Batch, Cancel, Embedding, RunError, backend};
use esr_wire::{Failure, FailureKind};

use crate::batcher::{Batcher, Limits, Origin, Row, Taken};
use crate::failure::{failure, with_hint};
use crate::isolate;
use crate::models::{Model, Tower};
use crate::statistics::Statistics;
use crate::ticket::{RowError, Ticket};

/// What a row is made of.
pub enum Input {
    /// Samples at the model's rate.
    Speech(Vec<f32>),
    /// Tokens.
    Text(Vec<i64>),
}

impl Input {
    /// In the unit of its tower.
    fn length(&self, model: &Model) -> u64 {
        match self {
            Input::Speech(samples) => samples.len() as u64 * 1_000_000 / u64::from(model.preparer.sample_rate()),
            Input::Text(tokens) => tokens.len() as u64,
        }
    }
}

/// One row on its way.
struct Entry {
    model: Arc<Model>,
    input: Input,
    job: u64,
    ticket: Ticket,
    /// Of the job's rows, this one.
    at: usize,
}

/// A queue and its thread. Clones share them.
#[derive(Clone)]
pub struct Lane(Arc<Shared>);

struct Shared {
    tower: Tower,
    state: Mutex<State>,
    /// Something was pushed.
    pushed: Condvar,
    statistics: Arc<Statistics>,
}

struct State {
    batcher: Batcher<Entry>,
    /// The batch that is being computed: how to stop it, and whose rows it has.
    running: Option<(Cancel, BTreeSet<u64>)>,
}

static JOBS: AtomicU64 = AtomicU64::new(1);

/// A job in a lane. Dropped, it is cancelled: its waiting rows are forgotten, and a batch for which nobody waits any more
/// is stopped at its next node.
pub struct Job {
    lane: Lane,
    number: u64,
    /// Where its answer comes.
    pub ticket: Ticket,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.lane.cancel(self.number);
    }
}

impl Lane {
    /// Starts the thread.
    pub fn start(tower: Tower, limits: Limits, statistics: Arc<Statistics>) -> std::io::Result<Self> {
        let state = State { batcher: Batcher::new(limits), running: None };
        let shared = Shared { tower, state: Mutex::new(state), pushed: Condvar::new(), statistics };
        let lane = Self(Arc::new(shared));
        let worker = lane.clone();
        let name = match tower {
            Tower::Speech => "speech",
            Tower::Text => "text",
        };
        std::thread::Builder::new().name(name.into()).spawn(move || worker.work())?;
        Ok(lane)
    }

    /// Queues rows of one request, or says at once that there is no room. `origin.job` is set here.
    pub fn submit(
        &self,
        model: &Arc<Model>,
        origin: Origin,
        inputs: Vec<Input>,
        ticket: Ticket,
    ) -> Result<Job, Failure> {
        let number = JOBS.fetch_add(1, Ordering::Relaxed);
        let rows = inputs.into_iter().enumerate().map(|(at, input)| Row {
            group: model.number,
            length: input.length(model),
            budget: model.budget(self.0.tower),
            payload: Entry { model: model.clone(), input, job: number, ticket: ticket.clone(), at },
        });
        let pushed = self.state().batcher.push(Origin { job: number, ..origin }, rows.collect(), Instant::now());
        if let Err(full) = pushed {
            self.0.statistics.refused(full.waiting);
            let message = format!("the embedder's queue is full: {} requests wait, {} may", full.waiting, full.limit);
            let hint = "Try again later, embed rows set-wise instead of one by one, or raise esr.embedder_queue.";
            return Err(with_hint(failure(FailureKind::Overloaded, message), hint));
        }
        self.0.pushed.notify_one();
        Ok(Job { lane: self.clone(), number, ticket })
    }

    /// Requests that wait here, and whether a batch runs.
    pub fn depth(&self) -> (usize, bool) {
        let state = self.state();
        (state.batcher.jobs(), state.running.is_some())
    }

    fn cancel(&self, job: u64) {
        let mut state = self.state();
        // Dropped after the lock is free: rows may be large.
        let forgotten = state.batcher.cancel(job);
        if let Some((cancel, jobs)) = &mut state.running
            && jobs.remove(&job)
            && jobs.is_empty()
        {
            cancel.cancel();
        }
        drop(state);
        drop(forgotten);
    }

    fn work(&self) {
        loop {
            let (entries, cancel) = self.next();
            // A panic is a bug of ours; it must cost one batch and not all that come after it.
            let computed = catch_unwind(AssertUnwindSafe(|| self.compute(&entries, &cancel)));
            self.state().running = None;
            let answers = computed.unwrap_or_else(|_| {
                let error = RunError::Runtime("the inference thread panicked; see the server log".into());
                entries.iter().map(|_| Err(error.clone())).collect()
            });
            for (entry, answer) in entries.iter().zip(answers) {
                entry.ticket.answer(entry.at, answer.map_err(RowError::Run));
            }
        }
    }

    /// Waits for the next batch.
    fn next(&self) -> (Vec<Entry>, Cancel) {
        let mut state = self.state();
        loop {
            let Taken { batch, expired, again_at } = state.batcher.take(Instant::now());
            for entry in &expired {
                let late = failure(FailureKind::Timeout, "the embedder had no time for it before the caller's timeout");
                entry.ticket.answer(entry.at, Err(RowError::Dropped(late)));
            }
            if !batch.is_empty() {
                let cancel = Cancel::default();
                state.running = Some((cancel.clone(), batch.iter().map(|entry| entry.job).collect()));
                return (batch, cancel);
            }
            let wait = again_at.map(|at| at.saturating_duration_since(Instant::now()));
            state = match wait {
                None => self.0.pushed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some(wait) => {
                    let woken = self.0.pushed.wait_timeout(state, wait.max(Duration::from_micros(50)));
                    woken.unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
    }

    fn compute(&self, entries: &[Entry], cancel: &Cancel) -> isolate::Answers {
        let statistics = &self.0.statistics;
        let Some(first) = entries.first() else { return Vec::new() };
        let mut tower = first.model.tower(self.0.tower);
        let (answers, failed) = isolate::run(entries, &mut |part: &[Entry]| {
            statistics.batches.add(1);
            statistics.rows.add(part.len() as u64);
            run(&mut **tower, part, cancel)
        });
        let is_wanted = !cancel.is_cancelled();
        if failed > 0 && is_wanted {
            statistics.halved.add(failed);
            let bad = answers.iter().filter(|answer| answer.is_err()).count();
            let reason = answers.iter().find_map(|answer| answer.as_ref().err());
            let reason = reason.map_or("it did as smaller batches".into(), |error| format!("the last reason: {error}"));
            eprintln!(
                "esr-embedder: a batch of {} rows of model {:?} failed and was halved; {bad} rows failed in the end; {reason}",
                entries.len(),
                first.model.name
            );
        }
        answers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn run(tower: &mut dyn Backend, part: &[Entry], cancel: &Cancel) -> Result<Vec<Embedding>, RunError> {
    let (mut clips, mut texts): (Vec<&[f32]>, Vec<&[i64]>) = (Vec::new(), Vec::new());
    for entry in part {
        match &entry.input {
            Input::Speech(samples) => clips.push(samples),
            Input::Text(tokens) => texts.push(tokens),
        }
    }
    let batch = if texts.is_empty() { Batch::speech(&clips) } else { Batch::text(&texts) };
    backend::run(tower, &batch, cancel)
}
