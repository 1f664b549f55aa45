//! Who starts the workers of mode `queue`: a transaction that leaves pending rows, if it finds no worker; and the
//! supervisor, whenever it starts, for every database, because rows may be pending from before a crash or a restart.
//!
//! Unsafe is allowed here: workers are declared, and databases listed, through structures of PostgreSQL's.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{PgLogLevel, PgSqlErrorCode, log, pg_guard};

use crate::error::SqlError;
use crate::fmgr::Call;
use crate::server::{self, OnPostmasterDeath};
use crate::sql_function;
use crate::writing::{claim, transaction};

/// How long the launcher waits for a free worker slot for one database.
const SLOT_PATIENCE: u32 = 60;

unsafe extern "C-unwind" {
    /// PostgreSQL's answer to SIGTERM in a session, declared in tcop/tcopprot.h; pgrx binds it only as a call.
    fn die(signal: i32);
    /// PostgreSQL's answer to SIGHUP, declared in postmaster/interrupt.h.
    fn SignalHandlerForConfigReload(signal: i32);
}

thread_local! {
    static WOKEN_IN: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// Says that the running transaction leaves pending rows in this database. Once for each transaction; cheap afterwards.
pub fn wake() -> Result<(), SqlError> {
    // SAFETY: in a running transaction, which writes.
    let now = unsafe { (pg_sys::GetTopTransactionId().into_inner(), pg_sys::GetCurrentSubTransactionId()) };
    if WOKEN_IN.get() == now {
        return Ok(());
    }
    // From here until the commit no worker ends, so that either the one found now, or the one started now, sees the rows.
    claim::WRITERS.share();
    // The first place is taken first and left last.
    if !claim::worker(1).is_taken() {
        // SAFETY: set once when the process connects.
        if !start_worker(unsafe { pg_sys::MyDatabaseId }) {
            // Not an error: the rows wait safely, and the next transaction tries again.
            let message = "no background worker slot is free to start the queue's worker; the rows stay pending";
            ErrorReport::new(PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message, "esr")
                .set_hint("Raise max_worker_processes, which needs a restart; SELECT esr_wake_queue() tries again.")
                .report(PgLogLevel::WARNING);
        }
    }
    WOKEN_IN.set(now);
    Ok(())
}

fn builder(name: &str, function: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(name)
        .set_library("$libdir/esr")
        .set_function(function)
        .enable_spi_access()
        // A standby cannot write.
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        // A worker whose database was dropped must not come back.
        .set_restart_time(None)
}

/// Starts a worker for a database, which ends by itself when it finds nothing to do, or enough workers there. `false` if no
/// slot is free.
pub fn start_worker(database: Oid) -> bool {
    let argument = Datum::from(database);
    builder("esr queue worker", "esr_queue_main").set_argument(Some(argument)).load_dynamic().is_ok()
}

/// Starts the launcher; called by the supervisor.
pub fn start_launcher() {
    if builder("esr queue launcher", "esr_queue_launcher_main").load_dynamic().is_err() {
        log!(
            "esr: no background worker slot is free to look for tables attached in mode queue; raise max_worker_processes"
        );
    }
}

/// Prepares a worker: signals as in a session, so that it can be cancelled and terminated at any wait.
pub fn begin(database: Oid) {
    // SAFETY: this is the first thing a worker does, on its only thread.
    unsafe {
        pg_sys::pqsignal(libc::SIGTERM, Some(die));
        pg_sys::pqsignal(libc::SIGHUP, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    }
}

/// The launcher's entry point.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn esr_queue_launcher_main(_argument: Datum) {
    begin(pg_sys::InvalidOid);
    for (database, name) in transaction::transaction(|| Ok(databases())).unwrap_or_default() {
        let started = (0..SLOT_PATIENCE).any(|attempt| {
            if attempt > 0 {
                server::wait(None, Some(Duration::from_secs(1)), OnPostmasterDeath::Exit);
            }
            start_worker(database)
        });
        if !started {
            log!("esr: no background worker slot is free to look for pending rows in database \"{name}\"");
        }
    }
    server::exit(0);
}

/// Databases that allow connections. Read without SQL: the launcher is connected to none.
fn databases() -> Vec<(Oid, String)> {
    let mut found = Vec::new();
    // SAFETY: a scan of a shared catalog in a transaction, as PostgreSQL's autovacuum launcher does it; each row starts
    // with the fixed part of its structure.
    unsafe {
        let catalog = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(catalog, 0, std::ptr::null_mut());
        loop {
            let row = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if row.is_null() {
                break;
            }
            let data = (*row).t_data;
            let database = &*data.cast::<u8>().add((*data).t_hoff.into()).cast::<pg_sys::FormData_pg_database>();
            if database.datallowconn && !database.datistemplate {
                let name = CStr::from_ptr(database.datname.data.as_ptr()).to_string_lossy().into_owned();
                found.push((database.oid, name));
            }
        }
        if let Some(end) = (*(*catalog).rd_tableam).scan_end {
            end(scan);
        }
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
    }
    found
}

/// Reads changed settings if the postmaster has said that there are some.
pub fn reload_if_asked() {
    // SAFETY: a flag that the signal handler above sets.
    if unsafe { pg_sys::ConfigReloadPending } != 0 {
        server::reload_settings();
    }
}

/// The database that this process is connected to.
pub fn database() -> Oid {
    // SAFETY: set once when the process connects.
    unsafe { pg_sys::MyDatabaseId }
}

sql_function!(esr_wake_queue, wake_queue);

fn wake_queue(_: &Call) -> Result<(), SqlError> {
    wake()
}
