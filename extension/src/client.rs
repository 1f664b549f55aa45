//! A backend's side of the conversation with the embedder: one connection a session, one request at a time.
//!
//! Nothing here blocks in a system call: every wait is on the latch and the socket together, so Ctrl-C,
//! `statement_timeout`, termination and shutdown take effect at once. Whatever interrupts a request drops the connection
//! with it, and that is what tells the embedder that nobody waits any more.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use esr_wire::{
    Class, Failure, FailureKind, LOCK_FILE, PROTOCOL_VERSION, Request, RequestBody, Response, ResponseBody, SOCKET_FILE,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::report::Report;
use crate::server::{self, Interest, OnPostmasterDeath};
use crate::{settings, supervisor};

/// How often a missing embedder is looked for. The supervisor's first pause is of the same order.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Failed starts in a row after which waiting longer is pointless.
const HOPELESS_STARTS: u32 = 2;

/// How long to hope for a free worker slot: a slot is free again a moment after its worker ended.
const SLOT_PATIENCE: Duration = Duration::from_secs(2);

/// How long the timer of `statement_timeout` may lag behind the embedder's.
const OWN_TIMEOUT_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes read from the socket in one go.
const CHUNK: usize = 64 * 1024;

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

thread_local! {
    /// The urgency of requests while [`as_class`] runs.
    static CLASS: Cell<Option<Class>> = const { Cell::new(None) };
    static CONNECTION: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

/// Asks the embedder and waits for the answer, starting the supervisor if there is none. How urgent it is says
/// `esr.request_class`, unless [`as_class`] does.
pub fn ask(body: RequestBody) -> Result<ResponseBody, EmbedError> {
    ask_as(CLASS.get().unwrap_or_else(settings::request_class), body)
}

/// Runs `work` with its requests as urgent as a class.
pub fn as_class<T>(class: Class, work: impl FnOnce() -> T) -> T {
    /// Undoes it when an error of the statement unwinds, too.
    struct Before(Option<Class>);
    impl Drop for Before {
        fn drop(&mut self) {
            CLASS.set(self.0);
        }
    }
    let _before = Before(CLASS.replace(Some(class)));
    work()
}

/// As [`ask`], with an urgency of the caller's choice.
pub fn ask_as(class: Class, body: RequestBody) -> Result<ResponseBody, EmbedError> {
    // An embedder that always has its answer ready leaves no wait to be interrupted.
    server::check_interrupts();
    // Taken out while it is in use: an error or an interrupt drops it, and only success puts it back.
    let connection = CONNECTION.take().filter(Connection::is_alive);
    let mut connection = match connection {
        Some(connection) => connection,
        None => connect()?,
    };
    let answer = connection.ask(class, body);
    if matches!(answer, Ok(_) | Err(EmbedError::Refused(_))) {
        CONNECTION.set(Some(connection));
    }
    answer
}

/// Asks the embedder if there is one; never starts one.
pub fn ask_if_running(body: RequestBody) -> Result<Option<ResponseBody>, EmbedError> {
    if generation().is_none() && knock().is_err() {
        return Ok(None);
    }
    ask(body).map(Some)
}

/// A number that changes whenever this session has lost its embedder; what it said before may not hold any more.
pub fn generation() -> Option<u64> {
    CONNECTION.with_borrow(|connection| connection.as_ref().filter(|c| c.is_alive()).map(|c| c.generation))
}

/// As [`generation`], without looking whether the embedder is still there.
pub fn known_generation() -> Option<u64> {
    CONNECTION.with_borrow(|connection| connection.as_ref().map(|connection| connection.generation))
}

struct Connection {
    stream: UnixStream,
    generation: u64,
    requests: u64,
}

impl Connection {
    /// Whether the embedder still listens: between requests there is nothing to read, and the end can be seen without
    /// waiting.
    fn is_alive(&self) -> bool {
        let mut byte = [0];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&self.stream, &mut byte, flags).map(|(_, received)| received);
        matches!(peeked, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    fn ask(&mut self, class: Class, body: RequestBody) -> Result<ResponseBody, EmbedError> {
        let patience = settings::embedder_timeout();
        let deadline = Deadline::new(patience);
        self.requests += 1;
        let id = self.requests;
        let statement = server::statement_time_left();
        let timeout_ms = match (patience, statement) {
            (Some(patience), Some(statement)) => Some(patience.min(statement)),
            (patience, statement) => patience.or(statement),
        };
        let timeout_ms = timeout_ms.map(|left| left.as_millis().try_into().unwrap_or(u32::MAX));
        let frame = esr_wire::encode(&Request { id, timeout_ms, body, class, role: server::role() })
            .map_err(|error| EmbedError::Request(error.to_string()))?;
        self.send(&frame, &deadline)?;
        let response: Response = self.receive(&deadline)?;
        if response.id != id {
            return Err(EmbedError::Mismatch(format!("answered request {} instead of {id}", response.id)));
        }
        response.body.map_err(|failure| {
            if failure.kind == FailureKind::Timeout
                && statement.is_some_and(|left| patience.is_none_or(|all| left < all))
            {
                // The statement's own time is up, and its error is the right one; the embedder's clock was ahead.
                let wait = Deadline::new(Some(OWN_TIMEOUT_PATIENCE));
                while let Ok(left) = wait.left() {
                    server::wait(None, left, OnPostmasterDeath::Exit);
                }
            }
            EmbedError::Refused(failure)
        })
    }

    fn send(&mut self, mut bytes: &[u8], deadline: &Deadline) -> Result<(), EmbedError> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.wait_or(error, Interest::Writable, deadline)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: &Deadline) -> Result<Response, EmbedError> {
        let mut prefix = Vec::new();
        self.read_exactly(4, &mut prefix, deadline)?;
        let prefix = [prefix[0], prefix[1], prefix[2], prefix[3]];
        let nonsense = |error: esr_wire::FrameError| EmbedError::Mismatch(format!("sent nonsense: {error}"));
        let length = esr_wire::frame_length(prefix).map_err(nonsense)?;
        let mut payload = Vec::new();
        self.read_exactly(length, &mut payload, deadline)?;
        esr_wire::decode(&payload).map_err(nonsense)
    }

    /// Grows `into` only by what really arrives.
    fn read_exactly(&mut self, count: usize, into: &mut Vec<u8>, deadline: &Deadline) -> Result<(), EmbedError> {
        let mut chunk = [0; CHUNK];
        while into.len() < count {
            let room = (count - into.len()).min(CHUNK);
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => return Err(EmbedError::Died(ErrorKind::UnexpectedEof.into())),
                Ok(got) => into.extend(&chunk[..got]),
                Err(error) => self.wait_or(error, Interest::Readable, deadline)?,
            }
        }
        Ok(())
    }

    /// Sleeps until the socket is ready, if that is all that is wrong.
    fn wait_or(&self, error: io::Error, interest: Interest, deadline: &Deadline) -> Result<(), EmbedError> {
        match error.kind() {
            ErrorKind::WouldBlock => {}
            ErrorKind::Interrupted => return Ok(()),
            _ => return Err(EmbedError::Died(error)),
        }
        let left = deadline.left().map_err(EmbedError::TooSlow)?;
        server::wait(Some((self.stream.as_fd(), interest)), left, OnPostmasterDeath::Exit);
        Ok(())
    }
}

/// A point in time that may never come.
struct Deadline {
    started: Instant,
    patience: Option<Duration>,
}

impl Deadline {
    fn new(patience: Option<Duration>) -> Self {
        Self { started: Instant::now(), patience }
    }

    /// What is left of the time, `None` if there is no limit; the whole time as an error once it is up.
    fn left(&self) -> Result<Option<Duration>, Duration> {
        let Some(patience) = self.patience else {
            return Ok(None);
        };
        match patience.checked_sub(self.started.elapsed()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(patience),
        }
    }
}

/// Connects, starting a supervisor or waiting for an embedder that is being started, as need be.
fn connect() -> Result<Connection, EmbedError> {
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
    let file = match supervisor::open_lock_file() {
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
    let is_recent = written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < supervisor::LOCK_PATIENCE));
    let pid = i32::try_from(supervisor).ok().and_then(rustix::process::Pid::from_raw);
    is_recent && pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Checks who is at the other end and that both speak the same language.
fn greet(stream: UnixStream, deadline: &Deadline) -> Result<Connection, EmbedError> {
    thread_local! {
        static GENERATIONS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
    let expected = rustix::process::geteuid().as_raw();
    let actual = rustix::net::sockopt::socket_peercred(&stream).map_err(|e| EmbedError::Died(e.into()))?.uid.as_raw();
    if actual != expected {
        return Err(EmbedError::Stranger { expected, actual });
    }
    GENERATIONS.set(GENERATIONS.get() + 1);
    let mut connection = Connection { stream, generation: GENERATIONS.get(), requests: 0 };
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
