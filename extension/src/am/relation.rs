//! An open index, and row ids as PostgreSQL writes them. Knows the catalog's description of the index, not its pages.
//!
//! Unsafe is allowed here: a relation is a pointer into PostgreSQL's cache that is valid while it is open.
#![allow(unsafe_code)]

use std::ffi::CStr;

use esr_ivf::{RowId, StoreError};
use esr_vector::Metric;
use pgrx::pg_sys;

use super::error::IndexError;
use super::options::Options;
use super::pg_missing;
use crate::vector::io::modifier;

/// The operators that an index can order by: strategy number, as the operator classes in the install script have it, and
/// metric.
pub const STRATEGIES: [(u16, Metric); 3] = [(1, Metric::Cosine), (2, Metric::Euclidean), (3, Metric::InnerProduct)];

/// The metric that a strategy number stands for.
pub fn metric_of(strategy: u16) -> Option<Metric> {
    STRATEGIES.iter().find(|(number, _)| *number == strategy).map(|(_, metric)| *metric)
}

/// An index that is open for as long as this value is used.
#[derive(Clone, Copy)]
pub struct Index {
    relation: pg_sys::Relation,
}

impl Index {
    /// # Safety
    /// `relation` is an open, locked index of this access method, and stays so while the value or a copy is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self { relation }
    }

    /// The relation, for PostgreSQL.
    pub fn raw(self) -> pg_sys::Relation {
        self.relation
    }

    /// Its name, for messages.
    pub fn name(self) -> String {
        // SAFETY: `new` says the relation is open; a name is NUL-terminated.
        unsafe { name(self.relation) }
    }

    /// For `map_err`: says that it is this index whose pages have the problem.
    pub fn error(self) -> impl Fn(StoreError) -> IndexError {
        move |problem| IndexError::Pages { index: self.name(), problem }
    }

    /// Its identity.
    pub fn oid(self) -> pg_sys::Oid {
        // SAFETY: see `new`.
        unsafe { (*self.relation).rd_id }
    }

    /// Which file holds it.
    pub fn file_number(self) -> u32 {
        // SAFETY: see `new`.
        unsafe { pg_missing::file_number(self.relation) }
    }

    /// The n of `esr_vector(n)`, if the column or expression has one.
    pub fn declared_dimension(self) -> Option<usize> {
        // SAFETY: see `new`; an index of ours has exactly one column.
        modifier(unsafe { (*(*self.relation).rd_att).attrs.as_slice(1)[0].atttypmod })
    }

    /// The metric of its operator class: the one strategy that the class's family has an operator for.
    pub fn metric(self) -> Metric {
        // SAFETY: see `new`; both arrays have an element for the one column.
        let has = |strategy: u16| unsafe {
            let (family, input) = (*(*self.relation).rd_opfamily, *(*self.relation).rd_opcintype);
            pg_sys::get_opfamily_member(family, input, input, strategy as i16) != pg_sys::InvalidOid
        };
        let found = STRATEGIES.iter().find(|(strategy, _)| has(*strategy));
        found.map(|(_, metric)| *metric).expect("an operator class that amvalidate accepts has an operator")
    }

    /// Its storage parameters.
    pub fn options(self) -> Options {
        // SAFETY: see `new`; rd_options is NULL or what amoptions returned.
        unsafe { Options::read((*self.relation).rd_options) }
    }

    /// Pages of its main fork.
    pub fn block_count(self) -> u32 {
        // SAFETY: see `new`.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }
}

/// An index and its table, opened by name for a function of ours; closed when dropped, or by the abort of a statement that
/// fails.
pub struct OpenIndex {
    /// The index.
    pub index: Index,
    /// Its table.
    pub table: pg_sys::Relation,
    lock: pg_sys::LOCKMODE,
}

impl OpenIndex {
    /// Opens and locks both, the table first as PostgreSQL does.
    pub fn open(oid: pg_sys::Oid, lock: u32) -> Result<Self, IndexError> {
        let lock = lock as pg_sys::LOCKMODE;
        // SAFETY: names are looked up and relations opened in a running transaction; PostgreSQL raises an error where that
        // cannot be. What another session's temporary table holds is in that session's memory.
        unsafe {
            let table = pg_sys::IndexGetRelation(oid, true);
            if table == pg_sys::InvalidOid {
                let name = pg_sys::get_rel_name(oid);
                let name = if name.is_null() { oid.to_u32().to_string() } else { from_c(name) };
                return Err(IndexError::NotAnIndex { name });
            }
            let table = pg_sys::table_open(table, lock);
            let relation = pg_sys::index_open(oid, lock);
            let open = Self { index: Index::new(relation), table, lock };
            let class = &*(*relation).rd_rel;
            let is_here = class.relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP || (*relation).rd_islocaltemp;
            let is_ours = class.relkind as u8 == pg_sys::RELKIND_INDEX
                && class.relam == pg_sys::get_am_oid(c"esr_ivf".as_ptr(), false);
            if is_ours && is_here { Ok(open) } else { Err(IndexError::NotAnIndex { name: open.index.name() }) }
        }
    }

    /// Refuses a user who does not own the table, which makes him the owner of its indexes.
    pub fn must_be_owner(&self) -> Result<(), IndexError> {
        // SAFETY: the relation is open.
        let table = unsafe { (*self.table).rd_id };
        // SAFETY: looks privileges of the current user up.
        #[cfg(feature = "pg15")]
        let is_owner = unsafe { pg_sys::pg_class_ownercheck(table, pg_sys::GetUserId()) };
        // SAFETY: as above.
        #[cfg(not(feature = "pg15"))]
        let is_owner = unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, pg_sys::GetUserId()) };
        if is_owner { Ok(()) } else { Err(IndexError::Denied { index: self.index.name() }) }
    }

    /// Refuses a user who is neither the owner nor may read all statistics.
    pub fn must_read_statistics(&self) -> Result<(), IndexError> {
        let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS);
        // SAFETY: looks memberships of the current user up.
        let reads_all = unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) };
        if reads_all { Ok(()) } else { self.must_be_owner() }
    }

    /// Refuses a user who may not read every row of the table.
    pub fn must_read_all(&self) -> Result<(), IndexError> {
        // SAFETY: the relation is open; looks privileges of the current user up.
        let reads = unsafe {
            let table = (*self.table).rd_id;
            let reads = pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), pg_sys::ACL_SELECT as pg_sys::AclMode);
            let row_security = pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true);
            reads == pg_sys::AclResult::ACLCHECK_OK && row_security != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
        };
        if reads { Ok(()) } else { Err(IndexError::Denied { index: self.index.name() }) }
    }
}

impl Drop for OpenIndex {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `open`.
            unsafe {
                pg_sys::index_close(self.index.raw(), self.lock);
                pg_sys::table_close(self.table, self.lock);
            }
        }
    }
}

/// Runs as the table's owner while it lives, in a restricted way: an index's expressions and conditions call functions that
/// its owner has chosen, which must not run with the rights of whoever looks at the index. PostgreSQL does the same around
/// VACUUM, REINDEX and its own amcheck; the abort of a statement that fails puts things back.
pub struct AsOwner {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl AsOwner {
    /// Becomes the owner.
    pub fn of(open: &OpenIndex) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: the relation is open; both are put back by `drop`.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            let owner = (*(*open.table).rd_rel).relowner;
            pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
            Self { user, context, settings: pg_sys::NewGUCNestLevel() }
        }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: what `of` found.
            unsafe {
                pg_sys::AtEOXact_GUC(false, self.settings);
                pg_sys::SetUserIdAndSecContext(self.user, self.context);
            }
        }
    }
}

/// # Safety
/// `text` is NUL-terminated.
unsafe fn from_c(text: *const std::ffi::c_char) -> String {
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The name of an open relation.
///
/// # Safety
/// `relation` is open.
pub unsafe fn name(relation: pg_sys::Relation) -> String {
    // SAFETY: as the caller says; a name is NUL-terminated.
    unsafe { from_c((*(*relation).rd_rel).relname.data.as_ptr()) }
}

/// A row id from PostgreSQL.
#[inline]
pub fn row_id(tid: pg_sys::ItemPointerData) -> RowId {
    RowId { block: u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo), offset: tid.ip_posid }
}

/// A row id for PostgreSQL.
#[inline]
pub fn item_pointer(row: RowId) -> pg_sys::ItemPointerData {
    let ip_blkid = pg_sys::BlockIdData { bi_hi: (row.block >> 16) as u16, bi_lo: row.block as u16 };
    pg_sys::ItemPointerData { ip_blkid, ip_posid: row.offset }
}
