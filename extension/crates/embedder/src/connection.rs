//! One caller: reads its requests, makes rows of them, waits for its answers, and notices when it leaves. Knows the wire
//! and the lanes, no ONNX.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use esr_wire::{Failure, FailureKind, FrameError, PROTOCOL_VERSION, Request, RequestBody, Response, ResponseBody};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;

use crate::admission::{Admission, ReadError};
use crate::embed;
use crate::failure::{failure, with_hint};
use crate::gate::Gate;
use crate::inference::Lane;
use crate::models::Models;
use crate::statistics::Statistics;
use crate::ticket::{Answer, Ticket, bell};

/// How long a caller may leave its answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What all connections share.
pub struct Shared {
    /// The bundles.
    pub models: Models,
    /// The way to the speech towers.
    pub speech: Lane,
    /// The way to the text towers.
    pub text: Lane,
    /// Bounds what all requests together may hold in memory.
    pub admission: Admission,
    /// Bounds how many clips are decoded at a time.
    pub decoders: Gate,
    /// The counters.
    pub statistics: Arc<Statistics>,
}

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

/// Serves one connection until its caller closes it or breaks the protocol.
pub fn serve(stream: UnixStream, shared: &Shared) {
    let Ok(bell) = bell() else {
        eprintln!("esr-embedder: cannot serve a connection: no file descriptor left");
        return;
    };
    let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut caller = Caller { stream, bell, deadline: None };
    let mut greeted = false;
    loop {
        let (request, _held) = match shared.admission.read(&mut caller.stream) {
            Ok(admitted) => admitted,
            Err(ReadError::Frame(FrameError::Io(_))) => return,
            // After a broken frame nothing that follows can be trusted to be one.
            Err(ReadError::Frame(error)) => {
                let _ = caller.respond(0, Err(failure(FailureKind::Protocol, error.to_string())));
                return;
            }
            Err(ReadError::NoRoom { id, bytes, held }) => {
                shared.statistics.refused(shared.speech.depth().0 + shared.text.depth().0);
                if caller.respond(id, Err(no_room(bytes, held))).is_err() {
                    return;
                }
                continue;
            }
        };
        let id = request.id;
        let (body, leave) = match answer(request, &mut caller, shared, &mut greeted) {
            Ok(body) => (Ok(body), false),
            Err(Stop::CallerLeft) => {
                shared.statistics.cancelled.add(1);
                return;
            }
            Err(Stop::Failed(failure)) => {
                let leave = failure.kind == FailureKind::Protocol;
                (Err(failure), leave)
            }
        };
        if caller.respond(id, body).is_err() || leave {
            return;
        }
    }
}

fn answer(request: Request, caller: &mut Caller, shared: &Shared, greeted: &mut bool) -> Result<ResponseBody, Stop> {
    if let RequestBody::Hello { protocol } = request.body {
        if protocol != PROTOCOL_VERSION {
            let message = format!("the caller speaks protocol {protocol}, this embedder speaks {PROTOCOL_VERSION}");
            let hint = "Install the extension and the embedder of one version, and restart the embedder.";
            return Err(with_hint(failure(FailureKind::Protocol, message), hint).into());
        }
        *greeted = true;
        return Ok(ResponseBody::Hello { protocol: PROTOCOL_VERSION, version: env!("CARGO_PKG_VERSION").into() });
    }
    if !*greeted {
        return Err(failure(FailureKind::Protocol, "the first message of a connection must be a greeting").into());
    }
    if let RequestBody::Status = request.body {
        let lanes = [shared.speech.depth(), shared.text.depth()];
        return Ok(ResponseBody::Status(shared.statistics.snapshot(
            shared.models.names(),
            shared.models.devices(),
            lanes,
        )));
    }
    let start = Instant::now();
    caller.deadline = request.timeout_ms.map(|timeout| start + Duration::from_millis(timeout.into()));
    let result = embed::embed(request, caller, shared);
    if !matches!(result, Err(Stop::CallerLeft)) {
        shared.statistics.requests.add(1);
        shared.statistics.failures.add(result.is_err().into());
        let is_late = matches!(&result, Err(Stop::Failed(failure)) if failure.kind == FailureKind::Timeout);
        shared.statistics.expired.add(is_late.into());
        shared.statistics.latency(start.elapsed());
    }
    result
}

fn no_room(bytes: u64, held: u64) -> Failure {
    let message = format!("a request of {bytes} bytes does not fit beside {held} bytes of other requests");
    with_hint(failure(FailureKind::Overloaded, message), "Try again later, or send fewer clips at once.")
}

/// The other end of the socket.
pub struct Caller {
    stream: UnixStream,
    bell: Arc<OwnedFd>,
    /// When the running request is to be given up.
    pub deadline: Option<Instant>,
}

impl Caller {
    /// A ticket that wakes this caller.
    pub fn ticket(&self, rows: usize) -> Ticket {
        Ticket::new(rows, self.bell.clone())
    }

    fn respond(&mut self, id: u64, body: Result<ResponseBody, Failure>) -> Result<(), FrameError> {
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
