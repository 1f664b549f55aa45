//! The queue and the one thread that computes. Knows jobs and models, no sockets and no audio files.
//!
//! A job is a payload, kept apart from how its answer gets back, so that a batcher can later take the payloads of several
//! jobs for one run and give each its own rows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use esr_audio::Waveform;
use esr_encoder::{Cancel, EmbedError, Embedding};
use esr_wire::{Failure, FailureKind};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use crate::failure::{self, failure, with_hint};
use crate::models::Model;
use crate::statistics::Statistics;

/// Jobs that may wait. Each connection waits for its own job before it sends the next, so this is also the number of
/// sessions that may wait at once.
pub const QUEUE_LENGTH: usize = 256;

/// What to compute.
pub enum Payload {
    /// One embedding per text.
    Texts(Vec<String>),
    /// One embedding per clip, at the model's rate.
    Clips(Vec<Waveform>),
}

/// One unit of work for the inference thread.
pub struct Job {
    /// By which model.
    pub model: Arc<Model>,
    /// What to compute.
    pub payload: Payload,
    /// Where the answer goes.
    pub ticket: Ticket,
}

/// The answer's way back, and the caller's way to say that it is not wanted any more. Clones share it.
#[derive(Clone)]
pub struct Ticket {
    /// Stops the job, waiting or running.
    pub cancel: Cancel,
    slot: Arc<Mutex<Option<Answer>>>,
    bell: Arc<OwnedFd>,
}

/// One embedding per input, or why not.
pub type Answer = Result<Vec<Embedding>, Failure>;

impl Ticket {
    /// A ticket whose answer rings `bell`.
    pub fn new(bell: Arc<OwnedFd>) -> Self {
        Self { cancel: Cancel::default(), slot: Arc::default(), bell }
    }

    /// The answer, once it is there.
    pub fn take(&self) -> Option<Answer> {
        self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    fn answer(&self, answer: Answer) {
        *self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(answer);
        // It can only fail when the counter is full, and then the bell has rung.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

/// A file descriptor that becomes readable when a ticket is answered, so that one `poll` waits for answer and caller.
pub fn bell() -> std::io::Result<Arc<OwnedFd>> {
    Ok(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
}

/// The sending end of the queue.
#[derive(Clone)]
pub struct Queue(SyncSender<Job>);

impl Queue {
    /// Starts the inference thread.
    pub fn start(statistics: Arc<Statistics>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        std::thread::Builder::new().name("inference".into()).spawn(move || work(receiver, &statistics))?;
        Ok(Self(sender))
    }

    /// Queues a job, or says at once that there is no room.
    pub fn submit(&self, job: Job) -> Result<(), Failure> {
        self.0.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => with_hint(
                failure(FailureKind::Overloaded, format!("the embedder's queue of {QUEUE_LENGTH} requests is full")),
                "Try again later, or embed rows set-wise instead of one by one.",
            ),
            TrySendError::Disconnected(_) => failure(FailureKind::Internal, "the inference thread has ended"),
        })
    }
}

fn work(jobs: Receiver<Job>, statistics: &Statistics) {
    for job in jobs {
        if job.ticket.cancel.is_cancelled() {
            continue;
        }
        // A panic is a bug of ours; it must cost one request and not all that come after it.
        let answer = catch_unwind(AssertUnwindSafe(|| compute(&job, statistics))).unwrap_or_else(|_| {
            Err(failure(FailureKind::Internal, "the inference thread panicked; see the server log"))
        });
        job.ticket.answer(answer);
    }
}

fn compute(job: &Job, statistics: &Statistics) -> Answer {
    let mut encoder = job.model.encoder();
    let before = encoder.passes();
    let cancel = &job.ticket.cancel;
    let result: Result<_, EmbedError> = match &job.payload {
        Payload::Texts(texts) => {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            encoder.embed_texts(&texts, cancel)
        }
        Payload::Clips(clips) => encoder.embed_speech(clips, cancel),
    };
    statistics.batches.add(encoder.passes() - before);
    let embeddings = result.map_err(|error| failure::embedding(&error))?;
    let counter = match job.payload {
        Payload::Texts(_) => &statistics.texts,
        Payload::Clips(_) => &statistics.clips,
    };
    counter.add(embeddings.len() as u64);
    Ok(embeddings)
}
