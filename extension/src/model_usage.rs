//! Who may use a model. PostgreSQL has no models to grant on, so a foreign server of the wrapper `esr_model` stands for the model of
//! its name, and USAGE on that server is USAGE of the model. A model without a server is everybody's.
//!
//! So GRANT, REVOKE, ownership, pg_dump and DROP ROLE work as for any object, and a check is a look into the catalog cache.
//!
//! Unsafe is allowed here: PostgreSQL's catalogs are asked.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Oid};

use crate::error::SqlError;
use crate::fmgr::Call;
use crate::writing::role;
use crate::{datum, sql_function};

sql_function!(esr_may_use_model, may_use);

/// The foreign data wrapper whose servers stand for models.
const WRAPPER: &CStr = c"esr_model";

fn may_use(call: &Call) -> Result<bool, SqlError> {
    Ok(is_granted(&call.text(0)?, role::current()))
}

/// Refuses a model that a role may not use.
///
/// # Errors
/// 42501, as PostgreSQL words it for other objects.
pub fn check(model: &str, role: Oid) -> Result<(), SqlError> {
    if is_granted(model, role) {
        return Ok(());
    }
    let message = format!("permission denied for model \"{model}\"");
    Err(SqlError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .hint(format!("Its owner can GRANT USAGE ON FOREIGN SERVER \"{model}\" TO a role.")))
}

/// [`check`] for whoever the statement runs as.
pub fn check_current(model: &str) -> Result<(), SqlError> {
    check(model, role::current())
}

/// Whether a role may use a model.
pub fn is_granted(model: &str, role: Oid) -> bool {
    // Names of catalogs are in the database's encoding, and shorter than NAMEDATALEN; no server can stand for others.
    let Ok(name) = CString::new(datum::to_server(model)) else { return true };
    if name.as_bytes().len() >= pg_sys::NAMEDATALEN as usize {
        return true;
    }
    // SAFETY: a transaction is running; what is found is a copy in the current memory context, and its name ends with NUL.
    unsafe {
        let server = pg_sys::GetForeignServerByName(name.as_ptr(), true);
        if server.is_null() {
            return true;
        }
        let wrapper = pg_sys::GetForeignDataWrapper((*server).fdwid);
        CStr::from_ptr((*wrapper).fdwname) != WRAPPER || has_usage((*server).serverid, role)
    }
}

/// # Safety
/// A transaction is running, and the server exists.
unsafe fn has_usage(server: Oid, role: Oid) -> bool {
    let usage = pg_sys::ACL_USAGE as pg_sys::AclMode;
    // SAFETY: as the caller says.
    let answer = unsafe {
        #[cfg(feature = "pg15")]
        let answer = pg_sys::pg_foreign_server_aclcheck(server, role, usage);
        #[cfg(not(feature = "pg15"))]
        let answer = pg_sys::object_aclcheck(pg_sys::ForeignServerRelationId, server, role, usage);
        answer
    };
    answer == pg_sys::AclResult::ACLCHECK_OK
}
