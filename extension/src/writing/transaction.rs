//! Transactions of a background worker: begun, committed, or undone with the error as a value.
//!
//! Unsafe is allowed here: a worker has to do itself what PostgreSQL's main loop does for a session.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::pg_sys::{self, Oid};

use crate::datum::c_string;
use crate::error::SqlError;

/// Why a transaction was undone, as it would have been shown to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Five characters.
    pub sqlstate: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl From<SqlError> for Fault {
    fn from(error: SqlError) -> Self {
        let (state, message, hint) = error.into_parts();
        Fault { sqlstate: sqlstate(state as i32), message, hint }
    }
}

impl From<&ErrorReportWithLevel> for Fault {
    fn from(report: &ErrorReportWithLevel) -> Self {
        Fault {
            sqlstate: sqlstate(report.sql_error_code() as i32),
            message: report.message().to_owned(),
            hint: report.hint().map(str::to_owned),
        }
    }
}

fn sqlstate(code: i32) -> String {
    // SAFETY: PostgreSQL returns a NUL-terminated text of its own.
    unsafe { CStr::from_ptr(pg_sys::unpack_sql_state(code)) }.to_string_lossy().into_owned()
}

/// Runs `work` in a transaction of its own and commits it. Triggers that wait for the commit run as whoever `work` has
/// left as the current user.
pub fn transaction<T>(work: impl FnOnce() -> Result<T, SqlError>) -> Result<T, Fault> {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: a worker between two transactions; every way out either commits or aborts, and puts the user back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let body = AssertUnwindSafe(|| {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let value = work()?;
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            Ok(value)
        });
        let result = PgTryBuilder::new(body)
            .catch_others(|caught| match &caught {
                CaughtError::PostgresError(report)
                | CaughtError::ErrorReport(report)
                | CaughtError::RustPanic { ereport: report, .. } => Err(Failed::Raised(report.into())),
            })
            .execute();
        let result = result.map_err(|failed| match failed {
            Failed::Returned(error) => {
                let fault = error.into();
                pg_sys::AbortCurrentTransaction();
                fault
            }
            Failed::Raised(fault) => {
                pg_sys::AbortCurrentTransaction();
                fault
            }
        });
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

/// Runs the whole work of a worker; after an error nothing is left of it, neither a transaction nor a lock.
pub fn survive(work: impl FnOnce()) -> Result<(), Fault> {
    let body = AssertUnwindSafe(|| {
        work();
        Ok(())
    });
    PgTryBuilder::new(body)
        .catch_others(|caught| {
            let (CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. }) = &caught;
            // SAFETY: a worker whose work has ended; what it was within is undone.
            unsafe {
                pg_sys::AbortOutOfAnyTransaction();
                pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as u16, true);
            }
            Err(report.into())
        })
        .execute()
}

enum Failed {
    Returned(SqlError),
    Raised(Fault),
}

impl From<SqlError> for Failed {
    fn from(error: SqlError) -> Self {
        Failed::Returned(error)
    }
}

/// Leaves the process as `owner` until [`transaction`] has committed.
pub fn stay(owner: Oid) {
    std::mem::forget(crate::writing::role::AsUser::new(owner));
}

/// What `pg_stat_activity` shows of this worker; `None` while it waits.
pub fn show(activity: Option<&str>) {
    let state = match activity {
        Some(_) => pg_sys::BackendState::STATE_RUNNING,
        None => pg_sys::BackendState::STATE_IDLE,
    };
    let text = c_string(activity.unwrap_or_default());
    // SAFETY: PostgreSQL copies the text.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) }
}
