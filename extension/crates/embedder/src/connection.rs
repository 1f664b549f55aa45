//! One caller: reads its requests, makes rows of them, waits for its answers, and notices when it leaves. Knows the wire
//! and the lanes, no ONNX.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use esr_wire::{Failure, FailureKind, FrameError, PROTOCOL_VERSION, Request, RequestBody, ResponseBody};

use crate::admission::ReadError;
use crate::caller::{Caller, Stop};
use crate::embed;
use crate::failure::{failure, with_hint};
use crate::shared::Shared;
use crate::ticket::bell;

/// How long a caller may leave its answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

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
