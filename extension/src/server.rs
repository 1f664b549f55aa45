//! The few things esr asks of the server process it runs in: waiting, background workers, where files lie.
//!
//! Unsafe is allowed here; every function is safe to call from the one thread of a PostgreSQL process.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{GucSetting, pg_sys};

/// What to wait for on a file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, or the end, can be read.
    Readable,
    /// Bytes can be written.
    Writable,
}

/// What happens to a waiting process whose postmaster has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPostmasterDeath {
    /// It exits at once.
    Exit,
    /// [`wait`] returns [`Woken::PostmasterDied`].
    Tell,
}

/// Why [`wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The descriptor is ready, the time is up, or someone set the latch; look again at everything.
    LookAgain,
    /// There is no cluster any more.
    PostmasterDied,
}

/// Sleeps until the descriptor is ready, the time is up, or a signal arrives. A cancelled statement, a timeout of the
/// statement and a terminated session leave from here: as a panic that the guard turns into their error.
pub fn wait(
    descriptor: Option<(BorrowedFd<'_>, Interest)>,
    limit: Option<Duration>,
    on_death: OnPostmasterDeath,
) -> Woken {
    let mut events = pg_sys::WL_LATCH_SET;
    events |= match on_death {
        OnPostmasterDeath::Exit => pg_sys::WL_EXIT_ON_PM_DEATH,
        OnPostmasterDeath::Tell => pg_sys::WL_POSTMASTER_DEATH,
    };
    let mut socket = pg_sys::PGINVALID_SOCKET;
    if let Some((descriptor, interest)) = descriptor {
        socket = descriptor.as_raw_fd();
        events |= match interest {
            Interest::Readable => pg_sys::WL_SOCKET_READABLE,
            Interest::Writable => pg_sys::WL_SOCKET_WRITEABLE,
        };
    }
    let mut milliseconds = -1;
    if let Some(limit) = limit {
        events |= pg_sys::WL_TIMEOUT;
        // Rounded up, so that a wait that returns has not fallen short of its deadline by a part of a millisecond.
        milliseconds = limit.as_micros().div_ceil(1000).try_into().unwrap_or(i64::from(i32::MAX));
    }
    // SAFETY: MyLatch belongs to this process from its start to its end, and the descriptor is open while it is borrowed.
    let woken = unsafe {
        let woken =
            pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, events as i32, socket, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        if woken & pg_sys::WL_LATCH_SET as i32 != 0 {
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        woken
    };
    check_interrupts();
    if woken & pg_sys::WL_POSTMASTER_DEATH as i32 != 0 { Woken::PostmasterDied } else { Woken::LookAgain }
}

/// Leaves, with the error that is due, if the statement or the session is to end.
pub fn check_interrupts() {
    pg_sys::check_for_interrupts!();
}

mod unguarded {
    // Declared in utils/timeout.h, which the bindings leave out. Neither raises errors.
    unsafe extern "C-unwind" {
        pub fn get_timeout_active(id: i32) -> bool;
        pub fn get_timeout_finish_time(id: i32) -> pgrx::pg_sys::TimestampTz;
    }
}

/// `STATEMENT_TIMEOUT` of PostgreSQL's `TimeoutId`, the same in versions 9.3 to 18.
const STATEMENT_TIMEOUT: i32 = 3;

/// What is left of `statement_timeout`; `None` if none is running.
pub fn statement_time_left() -> Option<Duration> {
    // SAFETY: reads the timers and the clock of this process.
    let left = unsafe {
        if !unguarded::get_timeout_active(STATEMENT_TIMEOUT) {
            return None;
        }
        unguarded::get_timeout_finish_time(STATEMENT_TIMEOUT) - pg_sys::GetCurrentTimestamp()
    };
    Some(Duration::from_micros(u64::try_from(left).unwrap_or(0)))
}

/// Oid of the current role.
pub fn role() -> u32 {
    // SAFETY: reads a number of this process.
    unsafe { pg_sys::GetUserId() }.to_u32()
}

/// Whether this database's encoding is UTF-8, so that text needs no conversion.
pub fn speaks_utf8() -> bool {
    // SAFETY: reads a number of this session.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// Whether this server replays another's log, as a standby.
pub fn in_recovery() -> bool {
    // SAFETY: asks for the state of this process.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Keeps stack traces out of the errors that users see, which pgrx otherwise adds to PostgreSQL's own errors wherever the
/// server was started with RUST_BACKTRACE set. Whoever wants them sets RUST_LIB_BACKTRACE.
pub fn hide_stack_traces() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: a PostgreSQL process has one thread, and this runs while it loads the library.
        unsafe { std::env::set_var(VARIABLE, "0") }
    }
}

/// Whether the library is being loaded by the postmaster through `shared_preload_libraries`.
pub fn is_preloading() -> bool {
    // SAFETY: reads a flag that only this process writes.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Lends the text of a setting without copying it.
pub fn with_setting<T>(setting: &GucSetting<Option<CString>>, read: impl FnOnce(&CStr) -> T) -> T {
    // SAFETY: PostgreSQL keeps either NULL or a NUL-terminated string there, and changes it only between our calls.
    read(unsafe { (*setting.as_ptr()).as_ref().map_or(c"", |first| CStr::from_ptr(first)) })
}

/// A number that changes with every statement.
pub fn statement_number() -> i64 {
    // SAFETY: reads a time stamp of this process.
    unsafe { pg_sys::GetCurrentStatementStartTimestamp() }
}

/// A number that differs between two lives of the server: when its postmaster was started.
pub fn life() -> i64 {
    // SAFETY: set once, before any other process of the server exists.
    unsafe { pg_sys::PgStartTime }
}

/// Reads the configuration files again, after SIGHUP.
pub fn reload_settings() {
    // SAFETY: called outside a transaction by a background worker, as PostgreSQL's own auxiliary processes do.
    unsafe {
        pg_sys::ConfigReloadPending = 0;
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
}

/// Refuses settings under this prefix that nobody defined.
pub fn reserve_setting_prefix(prefix: &'static CStr) {
    // SAFETY: PostgreSQL copies the name.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// `pg_config --sharedir`, as this server was started.
pub fn share_directory() -> PathBuf {
    let mut path: [c_char; pg_sys::MAXPGPATH as usize] = [0; pg_sys::MAXPGPATH as usize];
    // SAFETY: PostgreSQL writes at most MAXPGPATH bytes, NUL-terminated.
    unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), path.as_mut_ptr());
        from_c(path.as_ptr())
    }
}

/// `pg_config --pkglibdir`, as this server was started.
pub fn library_directory() -> PathBuf {
    // SAFETY: a NUL-terminated array that PostgreSQL fills at start.
    unsafe { from_c((&raw const pg_sys::pkglib_path).cast()) }
}

/// # Safety
/// `path` is NUL-terminated.
unsafe fn from_c(path: *const c_char) -> PathBuf {
    // SAFETY: as the caller says.
    OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()).into()
}

/// When a worker is started again after it ended by itself.
const WORKER_RESTART: Duration = Duration::from_secs(1);

fn supervisor_worker() -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new("esr supervisor")
        .set_type("esr supervisor")
        .set_library("$libdir/esr")
        .set_function("esr_supervisor_main")
        // As soon as a hot standby answers queries, it may be asked for embeddings.
        .set_start_time(BgWorkerStartTime::ConsistentState)
}

/// Registers the supervisor with the postmaster that is loading this library.
pub fn register_static_supervisor() {
    supervisor_worker().set_restart_time(Some(WORKER_RESTART)).load();
}

/// Asks the postmaster to start a supervisor, waits until it runs and returns its process id; `None` if there is no free
/// worker slot.
pub fn start_dynamic_supervisor() -> Option<u32> {
    // SAFETY: reads this process's id.
    let me = unsafe { pg_sys::MyProcPid };
    // With a time to restart PostgreSQL starts it again after a crash of the cluster, which ends all workers.
    let worker = supervisor_worker().set_restart_time(Some(WORKER_RESTART)).set_notify_pid(me).load_dynamic().ok()?;
    // It may already have ended again; the caller looks for itself.
    let pid = worker.wait_for_startup().unwrap_or(0);
    Some(pid.try_into().unwrap_or(0))
}

/// Whether the session's user may learn where files lie on the server: a superuser or a member of
/// `pg_read_server_files`.
pub fn may_see_paths() -> bool {
    // SAFETY: looks up memberships of the current user, who exists, in a running transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES)) }
}

/// Ends this process the way a background worker does.
pub fn exit(code: i32) -> ! {
    // SAFETY: runs PostgreSQL's exit callbacks; nothing of ours is on the stack that must be dropped, because the
    // caller has given everything back.
    unsafe { pg_sys::proc_exit(code) }
}
