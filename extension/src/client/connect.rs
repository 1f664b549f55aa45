//! How a session gets to an embedder: the socket, the supervisor that is started where there is none, the greeting.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use esr_wire::{Class, FailureKind, LOCK_FILE, PROTOCOL_VERSION, RequestBody, ResponseBody, SOCKET_FILE};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::connection::{Connection, Deadline};
use super::embedder::Embedder;
use super::error::EmbedError;
use crate::report::{self, Report};
use crate::server::{self, OnPostmasterDeath};
use crate::settings;

/// How often a missing embedder is looked for. The supervisor's first pause is of the same order.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Failed starts in a row after which waiting longer is pointless.
const HOPELESS_STARTS: u32 = 2;

/// How long to hope for a free worker slot: a slot is free again a moment after its worker ended.
const SLOT_PATIENCE: Duration = Duration::from_secs(2);

/// Connects, starting a supervisor or waiting for an embedder that is being started, as need be.
pub fn connect() -> Result<Connection, EmbedError> {
    let deadline = Deadline::new(settings::embedder_timeout());
    let mut slot_wanted_since: Option<Instant> = None;
    loop {
        if let Ok(stream) = knock() {
            match greet(stream, &deadline) {
                // It ended between the two; nothing was asked yet, so nothing is lost.
                Err(EmbedError::Died(_)) => {}
                other => return other,
            }
        }
        let mut report = None;
        match start_supervisor_if_none() {
            Presence::Present => report = Report::read(LOCK_FILE, server::life()),
            Presence::NoSlot => {
                let since = *slot_wanted_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SLOT_PATIENCE {
                    return Err(EmbedError::NoWorkerSlot);
                }
            }
            Presence::Broken(error) => {
                return Err(EmbedError::NotStartable(format!("\"{LOCK_FILE}\" in the data directory: {error}")));
            }
        }
        let failure = report.filter(|report| !report.failure.is_empty());
        if let Some(report) = failure.as_ref().filter(|report| report.failed_starts >= HOPELESS_STARTS) {
            return Err(EmbedError::NotStartable(report.failure.clone()));
        }
        let nap = match deadline.left() {
            Ok(left) => left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN)),
            Err(waited) => {
                return Err(EmbedError::Unavailable { waited, reason: failure.map(|report| report.failure) });
            }
        };
        server::wait(None, Some(nap), OnPostmasterDeath::Exit);
    }
}

/// Connects to the embedder if it is there and has room.
pub fn connect_if_running() -> Option<Connection> {
    greet(knock().ok()?, &Deadline::new(settings::embedder_timeout())).ok()
}

/// Tries the embedder's socket without ever waiting, not even for room in the queue of a program that hangs.
pub fn knock() -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(SOCKET_FILE)?)?;
    Ok(socket.into())
}

/// What became of the wish for a supervisor.
enum Presence {
    /// There is one, or one is being started.
    Present,
    /// There is none, and no room for one.
    NoSlot,
    /// The lock file cannot be used.
    Broken(io::Error),
}

/// Whoever gets the lock starts a supervisor while holding it, so that a thousand sessions start one and not a thousand.
/// The new supervisor takes the lock as soon as it is let go; until it has, its process id stands in the report.
fn start_supervisor_if_none() -> Presence {
    let file = match report::open_lock_file() {
        Ok(file) => file,
        Err(error) => return Presence::Broken(error),
    };
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => return Presence::Present,
        Err(std::fs::TryLockError::Error(error)) => return Presence::Broken(error),
        Ok(()) => {}
    }
    if Report::read(LOCK_FILE, server::life()).is_some_and(|report| was_just_started(&file, report.supervisor)) {
        return Presence::Present;
    }
    match server::start_dynamic_supervisor() {
        None => Presence::NoSlot,
        Some(pid) => {
            let report = Report { server: server::life(), supervisor: pid, ..Report::default() };
            report.write(&file).map_or_else(Presence::Broken, |()| Presence::Present)
        }
    }
}

/// Whether a supervisor that does not hold the lock may still be about to take it.
fn was_just_started(lock_file: &std::fs::File, supervisor: u32) -> bool {
    let written = lock_file.metadata().and_then(|metadata| metadata.modified());
    let is_recent = written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < report::LOCK_PATIENCE));
    let pid = i32::try_from(supervisor).ok().and_then(rustix::process::Pid::from_raw);
    is_recent && pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Checks who is at the other end and that both speak the same language.
fn greet(stream: UnixStream, deadline: &Deadline) -> Result<Connection, EmbedError> {
    let expected = rustix::process::geteuid().as_raw();
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|e| EmbedError::Died(e.into()))?;
    let actual = peer.uid.as_raw();
    if actual != expected {
        return Err(EmbedError::Stranger { expected, actual });
    }
    let mut connection = Connection::new(stream, Embedder::of(peer.pid));
    deadline.left().map_err(EmbedError::TooSlow)?;
    match connection.ask(Class::Interactive, RequestBody::Hello { protocol: PROTOCOL_VERSION }) {
        Ok(ResponseBody::Hello { protocol: PROTOCOL_VERSION, .. }) => Ok(connection),
        Ok(ResponseBody::Hello { protocol, version }) => Err(EmbedError::Mismatch(format!(
            "{version} speaks protocol {protocol} where the extension speaks {PROTOCOL_VERSION}"
        ))),
        Ok(_) => Err(EmbedError::Mismatch("answered a greeting with something else".into())),
        Err(EmbedError::Refused(failure)) if failure.kind == FailureKind::Protocol => {
            Err(EmbedError::Mismatch(format!("refused the greeting: {}", failure.message)))
        }
        Err(error) => Err(error),
    }
}
