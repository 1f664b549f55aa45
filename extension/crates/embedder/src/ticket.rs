//! How the answer to a job gets back to the connection that waits for it. Knows no queue and no models.

use std::sync::{Arc, Mutex, MutexGuard};

use esr_encoder::{Embedding, RunError};
use esr_wire::Failure;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

/// Why a row has no embedding.
#[derive(Debug, Clone, PartialEq)]
pub enum RowError {
    /// The model or ONNX Runtime.
    Run(RunError),
    /// Not computed at all, for this reason.
    Dropped(Failure),
}

/// One embedding per row, or the first row that has none and why.
pub type Answer = Result<Vec<Embedding>, (usize, RowError)>;

/// One job's answer while it comes together. Clones share it.
#[derive(Clone)]
pub struct Ticket(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    bell: Arc<OwnedFd>,
}

struct State {
    answers: Vec<Option<Embedding>>,
    left: usize,
    failure: Option<(usize, RowError)>,
}

impl Ticket {
    /// For `rows` rows, at least one; rings `bell` once all are answered or one has failed.
    pub fn new(rows: usize, bell: Arc<OwnedFd>) -> Self {
        let state = State { answers: vec![None; rows], left: rows, failure: None };
        Self(Arc::new(Inner { state: Mutex::new(state), bell }))
    }

    /// The answer, once it is complete.
    pub fn take(&self) -> Option<Answer> {
        let mut state = self.state();
        if let Some(failure) = state.failure.take() {
            return Some(Err(failure));
        }
        (state.left == 0).then(|| Ok(std::mem::take(&mut state.answers).into_iter().flatten().collect()))
    }

    /// Answers one row, once.
    pub fn answer(&self, row: usize, answer: Result<Embedding, RowError>) {
        let mut state = self.state();
        state.left -= 1;
        match answer {
            Ok(embedding) => state.answers[row] = Some(embedding),
            Err(error) if state.failure.is_none() => state.failure = Some((row, error)),
            Err(_) => {}
        }
        if state.left == 0 || state.failure.is_some() {
            // It can only fail when the counter is full, and then the bell has rung.
            let _ = rustix::io::write(&*self.0.bell, &1u64.to_ne_bytes());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A file descriptor that becomes readable when a ticket is answered, so that one `poll` waits for answer and caller.
pub fn bell() -> std::io::Result<Arc<OwnedFd>> {
    Ok(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
}
