//! Acting as somebody else for a while: as a table's owner, whose triggers our writes fire.
//!
//! Unsafe is allowed here: the user is a variable of the process. An error puts it back, because aborting a transaction
//! or subtransaction does.
#![allow(unsafe_code)]

use pgrx::pg_sys;

/// Another user while it lives. As PostgreSQL does for foreign keys: SET ROLE is refused meanwhile, and an owner is not
/// held to the row-level security that he forced upon himself, which would hide rows that must be embedded.
pub struct AsUser {
    user: pg_sys::Oid,
    context: i32,
}

impl AsUser {
    /// Becomes `user`.
    pub fn new(user: pg_sys::Oid) -> Self {
        let (mut before, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: reads and sets variables of this process; put back by `drop` or by an abort.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut before, &mut context);
            let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS;
            pg_sys::SetUserIdAndSecContext(user, context | flags as i32);
        }
        Self { user: before, context }
    }
}

/// Runs `work` as another user.
pub fn as_user<T>(user: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let _user = AsUser::new(user);
    work()
}

impl Drop for AsUser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: what `new` found.
            unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
        }
    }
}

/// Who the statement runs as.
pub fn current() -> pg_sys::Oid {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the current user may act as `owner`.
pub fn may_act_as(owner: pg_sys::Oid) -> bool {
    // SAFETY: looks memberships up in a running transaction.
    unsafe { pg_sys::has_privs_of_role(current(), owner) }
}
