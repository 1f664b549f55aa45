//! What path, plan and running node have in common: name, callbacks, and what a plan says of itself.
//!
//! Unsafe is allowed here: nodes and lists are C structures that PostgreSQL allocates.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use esr_vector::Metric;
use pgrx::pg_sys::{self, NodeTag};

use super::order::METRICS;

/// What EXPLAIN calls the node, and under what name parallel workers find it.
pub const NAME: &CStr = c"Esr Exact Scan";

/// A table of callbacks. The pointers in it are to things that live as long as the process and never change.
#[repr(transparent)]
pub struct Static<T>(pub T);

// SAFETY: see above.
unsafe impl<T> Sync for Static<T> {}

impl<T> Static<T> {
    /// As PostgreSQL wants it.
    pub const fn address(&'static self) -> *const T {
        &raw const self.0
    }
}

/// What a plan says beside its expressions. PostgreSQL copies plans, and sends them to parallel workers, as text: so
/// these are numbers in a list.
#[derive(Debug, Clone, Copy)]
pub struct Details {
    /// Rows to keep.
    pub limit: c_int,
    /// The distance.
    pub metric: Metric,
    /// The column of vectors.
    pub column: pg_sys::AttrNumber,
    /// See [`super::order::DistanceOrder::column_is_left`].
    pub column_is_left: bool,
}

impl Details {
    /// As the private list of a plan.
    pub fn to_list(self) -> *mut pg_sys::List {
        let metric = METRICS.iter().position(|metric| *metric == self.metric).unwrap_or_default();
        let numbers = [self.limit, metric as c_int, self.column.into(), self.column_is_left.into()];
        // SAFETY: the list is new.
        unsafe { numbers.iter().fold(std::ptr::null_mut(), |list, number| pg_sys::lappend_int(list, *number)) }
    }

    /// Reads what the planner wrote into a plan.
    ///
    /// # Safety
    /// The list is the private list of a plan of ours.
    pub unsafe fn from_list(list: *mut pg_sys::List) -> Self {
        // SAFETY: as the caller says, a list of integers.
        let number = |index: usize| unsafe { (*(*list).elements.add(index)).int_value };
        Self {
            limit: number(0),
            metric: METRICS[number(1) as usize],
            column: number(2) as pg_sys::AttrNumber,
            column_is_left: number(3) != 0,
        }
    }
}

/// A node of the planner's, all zero but for its tag.
///
/// # Safety
/// `T` is the structure that the tag stands for, or begins with it.
pub unsafe fn new_node<T>(tag: NodeTag) -> *mut T {
    // SAFETY: every node begins with its tag.
    unsafe {
        let node: *mut pg_sys::Node = pg_sys::palloc0(size_of::<T>()).cast();
        (*node).type_ = tag;
        node.cast()
    }
}
