//! A backend's side of the conversation with the embedder: one connection a session that is kept, and one request at a
//! time on a connection. A request that is sent while another is on its way has a connection of its own.
//!
//! Nothing here blocks in a system call: every wait is on the latch and the socket together, so Ctrl-C,
//! `statement_timeout`, termination and shutdown take effect at once. Whatever interrupts a request drops the connection
//! with it, and that is what tells the embedder that nobody waits any more.

mod connect;
mod connection;
mod embedder;
pub mod error;
mod memory_file;

use esr_wire::{Class, RequestBody, ResponseBody};
use std::cell::{Cell, RefCell};

pub use self::connect::knock;
use self::connect::{connect, connect_if_running};
use self::connection::{Connection, Sent};
use self::error::EmbedError;
use crate::{server, settings};

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
    let mut connection = match kept() {
        Some(connection) => connection,
        None => connect()?,
    };
    let answer = connection.ask(class, body);
    keep_after(connection, &answer);
    answer
}

/// A request that is on its way, for which the caller does not wait yet. Dropped, it is cancelled.
pub struct Asked {
    connection: Connection,
    sent: Sent,
}

/// Sends a request and leaves its answer for later. `ahead` requests of this session that were sent before are not
/// answered yet; if there are any, it is `None` where there is no second connection to be had.
pub fn send(body: RequestBody, ahead: u32) -> Result<Option<Asked>, EmbedError> {
    server::check_interrupts();
    let connection = match kept() {
        Some(connection) => Some(connection),
        None if ahead > 0 => connect_if_running(),
        None => Some(connect()?),
    };
    let Some(mut connection) = connection else { return Ok(None) };
    let class = CLASS.get().unwrap_or_else(settings::request_class);
    let sent = connection.send(class, body, ahead)?;
    Ok(Some(Asked { connection, sent }))
}

impl Asked {
    /// Waits for the answer.
    pub fn answer(mut self) -> Result<ResponseBody, EmbedError> {
        server::check_interrupts();
        let answer = self.connection.answer(self.sent);
        keep_after(self.connection, &answer);
        answer
    }
}

/// Taken out while it is in use: an error or an interrupt drops it, and only success puts it back.
fn kept() -> Option<Connection> {
    CONNECTION.take().filter(Connection::is_alive)
}

/// Keeps a connection that is good for more; one for a session.
fn keep_after(connection: Connection, answer: &Result<ResponseBody, EmbedError>) {
    if matches!(answer, Ok(_) | Err(EmbedError::Refused(_))) {
        CONNECTION.with_borrow_mut(|kept| {
            kept.get_or_insert(connection);
        });
    }
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
    CONNECTION.with_borrow(|connection| connection.as_ref().filter(|c| c.is_alive()).map(Connection::generation))
}

/// As [`generation`], without looking whether the embedder is still there.
pub fn known_generation() -> Option<u64> {
    CONNECTION.with_borrow(|connection| connection.as_ref().map(Connection::generation))
}
