//! Advisory locks by which writers, workers and rows find each other. PostgreSQL frees them when a process ends, however
//! it ends, so that no claim outlives its claimant.
//!
//! Unsafe is allowed here: a lock's tag is a structure of PostgreSQL's.
#![allow(unsafe_code)]

use pgrx::pg_sys::{self, Oid};

/// First number of our locks in PostgreSQL's table of advisory locks with two numbers ("esr" in ASCII, and the next).
const OURS: u32 = 0x65_7372;
const ROWS: u32 = OURS + 1;

/// What is locked, in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim(u32, u32);

/// Held, shared, by every transaction that leaves pending rows: no worker ends while one is on its way.
pub const WRITERS: Claim = Claim(OURS, 0);

/// Held by the worker in a numbered place, from one.
pub fn worker(place: i32) -> Claim {
    Claim(OURS, place as u32)
}

/// Held by the worker that is embedding a row. Two rows may share a number; then one waits for the other.
pub fn row(relation: Oid, tid: &str) -> Claim {
    Claim(ROWS, crate::datum::hash(tid.as_bytes(), u64::from(relation.to_u32())) as u32)
}

impl Claim {
    fn tag(self) -> pg_sys::LOCKTAG {
        pg_sys::LOCKTAG {
            // SAFETY: set once when the process connects.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: self.0,
            locktag_field3: self.1,
            // How PostgreSQL marks an advisory lock with two numbers.
            locktag_field4: 2,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }

    /// Takes the lock, shared with others, until the transaction ends.
    pub fn share(self) {
        // SAFETY: in a running transaction; waits and raises errors as LOCK does.
        unsafe { pg_sys::LockAcquire(&self.tag(), pg_sys::ShareLock as i32, false, false) };
    }

    /// Takes the lock until [`Claim::release`] or the end of the process, if nobody has it.
    pub fn try_take(self) -> bool {
        // SAFETY: does not wait.
        let result = unsafe { pg_sys::LockAcquire(&self.tag(), pg_sys::ExclusiveLock as i32, true, true) };
        result == pg_sys::LockAcquireResult::LOCKACQUIRE_OK
    }

    /// Gives back what [`Claim::try_take`] took.
    pub fn release(self) {
        // SAFETY: held by this process.
        unsafe { pg_sys::LockRelease(&self.tag(), pg_sys::ExclusiveLock as i32, true) };
    }

    /// Whether somebody has it. Takes it for a moment.
    pub fn is_taken(self) -> bool {
        let lock = pg_sys::ShareLock as i32;
        // SAFETY: does not wait; gives back what it gets.
        unsafe {
            match pg_sys::LockAcquire(&self.tag(), lock, true, true) {
                pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => true,
                _ => {
                    pg_sys::LockRelease(&self.tag(), lock, true);
                    false
                }
            }
        }
    }
}
