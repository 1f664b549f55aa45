//! Why the embedder has not answered.

use std::io;
use std::time::Duration;

use esr_wire::Failure;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The embedder answered, with a failure.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The embedder cannot be started.
    #[error("the embedder cannot be started: {0}")]
    NotStartable(String),
    /// There was no embedder within the time allowed.
    #[error("no embedder within {} ms{}", .waited.as_millis(), .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    Unavailable {
        /// How long was waited.
        waited: Duration,
        /// What the supervisor last said.
        reason: Option<String>,
    },
    /// All of the server's worker slots are taken.
    #[error("no background worker slot is free to start the embedder's supervisor")]
    NoWorkerSlot,
    /// The embedder went away before it answered.
    #[error("the embedder ended before it answered: {0}")]
    Died(io::Error),
    /// The embedder did not answer in time.
    #[error("the embedder did not answer within {} ms", .0.as_millis())]
    TooSlow(Duration),
    /// The process behind the socket belongs to somebody else.
    #[error("the process behind the embedder's socket runs as user {actual}, not {expected}")]
    Stranger {
        /// Effective user of the server.
        expected: u32,
        /// User of the process behind the socket.
        actual: u32,
    },
    /// Extension and embedder come from different releases.
    #[error("the embedder {0}")]
    Mismatch(String),
    /// The request cannot be sent.
    #[error("{0}")]
    Request(String),
}
