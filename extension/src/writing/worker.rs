//! The entry point of a worker of mode `queue`, a process of its own.
//!
//! Unsafe is allowed here: PostgreSQL finds the function by its exported name.
#![allow(unsafe_code)]

use std::time::Duration;

use pgrx::pg_sys::{Datum, Oid};
use pgrx::{log, pg_guard};

use crate::server::{self, OnPostmasterDeath};
use crate::writing::{launch, queue, transaction};

/// How long a worker waits after an error that ended its work.
const AGAIN: Duration = Duration::from_secs(1);

/// The worker's entry point.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn esr_queue_main(database: Datum) {
    launch::begin(Oid::from(database.value() as u32));
    // Cancelled by somebody, or out of memory: the rows are still there, so begin again.
    while let Err(fault) = transaction::survive(queue::work) {
        log!("esr queue worker begins again: {}", fault.message);
        server::wait(None, Some(AGAIN), OnPostmasterDeath::Exit);
    }
    server::exit(0);
}
