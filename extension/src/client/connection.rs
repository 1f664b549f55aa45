//! One connection to the embedder, and one request at a time on it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use esr_wire::{Class, FailureKind, Request, RequestBody, Response, ResponseBody};

use super::embedder::Embedder;
use super::error::EmbedError;
use super::memory_file;
use crate::server::{self, Interest, OnPostmasterDeath};
use crate::settings;

/// How long the timer of `statement_timeout` may lag behind the embedder's.
const OWN_TIMEOUT_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes read from the socket in one go.
const CHUNK: usize = 64 * 1024;

/// A connection to the embedder. Dropped, it tells the embedder that nobody waits for its answer any more.
pub struct Connection {
    stream: UnixStream,
    embedder: Rc<Embedder>,
    requests: u64,
}

/// A request that is on its way.
pub struct Sent {
    id: u64,
    deadline: Deadline,
    ahead: u32,
    /// Whether `statement_timeout` ends before our patience does.
    is_statement_shorter: bool,
}

impl Connection {
    /// A connection that has not greeted yet.
    pub fn new(stream: UnixStream, embedder: Rc<Embedder>) -> Self {
        Self { stream, embedder, requests: 0 }
    }

    /// Of its embedder.
    pub fn generation(&self) -> u64 {
        self.embedder.generation
    }

    /// Whether the embedder still listens: between requests there is nothing to read, and the end can be seen without
    /// waiting.
    pub fn is_alive(&self) -> bool {
        let mut byte = [0];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&self.stream, &mut byte, flags).map(|(_, received)| received);
        matches!(peeked, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, class: Class, body: RequestBody) -> Result<ResponseBody, EmbedError> {
        let sent = self.send(class, body, 0)?;
        self.answer(sent)
    }

    /// Sends a request that the embedder answers after `ahead` others of this session: so much longer it may take.
    pub fn send(&mut self, class: Class, body: RequestBody, ahead: u32) -> Result<Sent, EmbedError> {
        let deadline = Deadline::new(settings::embedder_timeout());
        let patience = deadline.patience.map(|patience| patience.saturating_mul(ahead + 1));
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
        self.write_frame(&frame, &deadline)?;
        let is_statement_shorter = statement.is_some_and(|left| patience.is_none_or(|all| left < all));
        Ok(Sent { id, deadline, ahead, is_statement_shorter })
    }

    /// Waits for the answer to what was sent last.
    pub fn answer(&mut self, sent: Sent) -> Result<ResponseBody, EmbedError> {
        // Of a request that had others before it, the time begins when they are answered.
        let deadline = if sent.ahead == 0 { sent.deadline } else { Deadline::new(settings::embedder_timeout()) };
        let response: Response = self.receive(&deadline)?;
        if response.id != sent.id {
            return Err(EmbedError::Mismatch(format!("answered request {} instead of {}", response.id, sent.id)));
        }
        response.body.map_err(|failure| {
            if failure.kind == FailureKind::Timeout && sent.is_statement_shorter {
                // The statement's own time is up, and its error is the right one; the embedder's clock was ahead.
                let wait = Deadline::new(Some(OWN_TIMEOUT_PATIENCE));
                while let Ok(left) = wait.left() {
                    server::wait(None, left, OnPostmasterDeath::Exit);
                }
            }
            EmbedError::Refused(failure)
        })
    }

    /// A large frame goes by memory file, where one is to be had.
    fn write_frame(&mut self, frame: &[u8], deadline: &Deadline) -> Result<(), EmbedError> {
        let file =
            (frame.len() >= esr_wire::MEMORY_FILE_FROM).then(|| memory_file::holding(&frame[4..]).ok()).flatten();
        let Some(file) = file else { return self.write(frame, deadline) };
        let prefix = esr_wire::memory_file_prefix(frame);
        loop {
            match memory_file::pass(&self.stream, &prefix, &file) {
                Ok(count) => return self.write(&prefix[count..], deadline),
                Err(error) => self.wait_or(error, Interest::Writable, deadline)?,
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], deadline: &Deadline) -> Result<(), EmbedError> {
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
pub struct Deadline {
    started: Instant,
    patience: Option<Duration>,
}

impl Deadline {
    /// From now on; `None` waits for ever.
    pub fn new(patience: Option<Duration>) -> Self {
        Self { started: Instant::now(), patience }
    }

    /// What is left of the time, `None` if there is no limit; the whole time as an error once it is up.
    pub fn left(&self) -> Result<Option<Duration>, Duration> {
        let Some(patience) = self.patience else {
            return Ok(None);
        };
        match patience.checked_sub(self.started.elapsed()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(patience),
        }
    }
}
