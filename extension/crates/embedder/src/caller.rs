//! Who waits at the other end of a connection, and why it may get nothing.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use esr_wire::{Failure, FailureKind, FrameError, Response, ResponseBody};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;

use crate::failure::{failure, with_hint};
use crate::ticket::{Answer, Ticket};

/// Why a request gets no response.
pub enum Stop {
    /// Nobody is there to read one.
    CallerLeft,
    /// This one.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The other end of the socket.
pub struct Caller {
    /// The connection.
    pub stream: UnixStream,
    /// Rings when an answer is there.
    pub bell: Arc<OwnedFd>,
    /// When the running request is to be given up.
    pub deadline: Option<Instant>,
}

impl Caller {
    /// A ticket that wakes this caller.
    pub fn ticket(&self, rows: usize) -> Ticket {
        Ticket::new(rows, self.bell.clone())
    }

    /// Sends a response.
    pub fn respond(&mut self, id: u64, body: Result<ResponseBody, Failure>) -> Result<(), FrameError> {
        let frame = match esr_wire::encode(&Response { id, body }) {
            Ok(frame) => frame,
            Err(error) => {
                let hint = "Embed fewer rows in one statement.";
                let body = Err(with_hint(failure(FailureKind::Internal, error.to_string()), hint));
                esr_wire::encode(&Response { id, body })?
            }
        };
        Ok(self.stream.write_all(&frame)?)
    }

    /// Waits for an answer, for the deadline, or for the caller to leave.
    pub fn wait(&self, ticket: &Ticket) -> Result<Answer, Stop> {
        loop {
            if let Some(answer) = ticket.take() {
                return Ok(answer);
            }
            self.check_deadline()?;
            self.poll(self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())))?;
            // Empties the bell; an earlier request that was given up may have rung it, hence the loop.
            let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
        }
    }

    /// Whether somebody still waits for the answer.
    pub fn check_wanted(&self) -> Result<(), Stop> {
        self.check_deadline()?;
        self.poll(Some(Duration::ZERO))
    }

    fn check_deadline(&self) -> Result<(), Stop> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(with_hint(
                failure(FailureKind::Timeout, "the embedder did not answer in time"),
                "Raise the timeout, or send fewer clips at once.",
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// Waits until the bell rings, the caller closes its end (which is how a request is cancelled), or the time is up.
    fn poll(&self, timeout: Option<Duration>) -> Result<(), Stop> {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut ends = [PollFd::new(&self.stream, PollFlags::RDHUP), PollFd::new(&*self.bell, PollFlags::IN)];
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) });
        match poll(&mut ends, timeout.as_ref()) {
            // A signal's handler has run; whoever called looks again.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failure(FailureKind::Internal, format!("poll: {error}")).into()),
        }
        if ends[0].revents().intersects(gone) { Err(Stop::CallerLeft) } else { Ok(()) }
    }
}
