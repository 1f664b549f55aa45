//! Runs the exact scan: PostgreSQL's callbacks for one node of a plan.
//!
//! Knows how executor and EXPLAIN talk to a node; how a table is read and how the nearest are kept is in `rows` and
//! `nearest`.
//!
//! Unsafe is allowed here: the executor's state is a tree of C structures. PostgreSQL alone calls the callbacks, with a
//! node that `create` made, between its begin and its end.
#![allow(unsafe_code)]

use std::ffi::c_int;

use esr_ivf::RowId;
use esr_vector::metric;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, NodeTag};
use pgrx::{PgMemoryContexts, PgSqlErrorCode};

use super::custom::{Details, NAME, Static, new_node};
use super::nearest::Nearest;
use super::order::pointers;
use super::rows::{self, Rows};
use crate::datum;
use crate::error::{SqlError, or_raise};
use crate::vector::{OwnedVector, VectorError, same_space};

static SCAN: Static<pg_sys::CustomScanMethods> =
    Static(pg_sys::CustomScanMethods { CustomName: NAME.as_ptr(), CreateCustomScanState: Some(create) });

static EXECUTION: Static<pg_sys::CustomExecMethods> = Static(pg_sys::CustomExecMethods {
    CustomName: NAME.as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(execute),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: None,
    InitializeDSMCustomScan: None,
    ReInitializeDSMCustomScan: None,
    InitializeWorkerCustomScan: None,
    ShutdownCustomScan: None,
    ExplainCustomScan: Some(explain),
});

/// Lets PostgreSQL find the node by its name.
pub fn register() {
    // SAFETY: called once, while the library is loaded; the table is static.
    unsafe { pg_sys::RegisterCustomScanMethods(methods()) }
}

/// What a plan names so that its node can be made.
pub fn methods() -> *const pg_sys::CustomScanMethods {
    SCAN.address()
}

/// The node as the executor sees it, and what we keep beside that.
#[repr(C)]
struct Node {
    base: pg_sys::CustomScanState,
    /// Lives in the query's memory context, which drops it.
    search: *mut Search,
}

struct Search {
    details: Details,
    filter: *mut pg_sys::ExprState,
    query: *mut pg_sys::ExprState,
    /// `None` until the first row is asked for.
    found: Option<Found>,
}

struct Found {
    rows: Vec<RowId>,
    next: usize,
    /// Whether the table has more rows that pass the filter.
    has_more: bool,
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn create(_plan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: the node begins with the structure that its tag stands for.
    unsafe {
        let node: *mut Node = new_node(NodeTag::T_CustomScanState);
        (*node).base.methods = EXECUTION.address();
        node.cast()
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn begin(state: *mut pg_sys::CustomScanState, executor: *mut pg_sys::EState, _flags: c_int) {
    // SAFETY: PostgreSQL has opened the relation and initialised everything in `base`.
    unsafe {
        let node: *mut Node = state.cast();
        let plan: *mut pg_sys::CustomScan = (*state).ss.ps.plan.cast();
        // PostgreSQL 15 gives custom scans a slot for rows made of datums and has compiled the expressions for it. Ours
        // are the heap's own rows, so slot and expressions are made again.
        let scan = &raw mut (*state).ss;
        let relation = (*scan).ss_currentRelation;
        (*scan).ps.subPlan = std::ptr::null_mut();
        pg_sys::ExecInitScanTupleSlot(executor, scan, (*relation).rd_att, pg_sys::table_slot_callbacks(relation));
        pg_sys::ExecAssignScanProjectionInfo(scan);
        let filter = pg_sys::ExecInitQual((*plan).scan.plan.qual, &raw mut (*scan).ps);
        // The rows that come out have passed the filter, so ExecScan must not test them again.
        (*scan).ps.qual = std::ptr::null_mut();

        let details = Details::from_list((*plan).custom_private);
        let [left, right] = *arguments(plan) else { unreachable!("a distance has two arguments") };
        let query = if details.column_is_left { right } else { left };
        let query = pg_sys::ExecInitExpr(query.cast(), &raw mut (*scan).ps);
        let search = Search { details, filter, query, found: None };
        (*node).search = PgMemoryContexts::For((*executor).es_query_cxt).leak_and_drop_on_delete(search);
    }
}

/// The two sides of the distance in a plan.
unsafe fn arguments<'a>(plan: *mut pg_sys::CustomScan) -> &'a [*mut pg_sys::Node] {
    // SAFETY: `path::plan` put the distance there, which `DistanceOrder` has found to be one of these two.
    unsafe {
        let distance = distance_expression(plan);
        match (*distance).type_ {
            NodeTag::T_OpExpr => pointers((*distance.cast::<pg_sys::OpExpr>()).args),
            _ => pointers((*distance.cast::<pg_sys::FuncExpr>()).args),
        }
    }
}

unsafe fn distance_expression(plan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: see `arguments`.
    unsafe { pointers((*plan).custom_exprs)[0] }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn execute(state: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the two callbacks get this node back.
    unsafe { pg_sys::ExecScan(&raw mut (*state).ss, Some(next_row), Some(recheck)) }
}

/// The next of the nearest rows, in the scan's slot; an empty slot after the last.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn next_row(state: *mut pg_sys::ScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the node is ours; see `begin`.
    unsafe {
        let search = &mut *(*state.cast::<Node>()).search;
        let slot = (*state).ss_ScanTupleSlot;
        let executor = (*state).ps.state;
        if search.found.is_none() {
            search.found = Some(search.run(state, search.details.limit as usize));
        }
        // The planner has said how many rows will be asked for. Should it be wrong, this is slow, but not wrong too: rows
        // come in the same order every time.
        if let Some(Found { rows, next, has_more: true }) = &search.found
            && *next == rows.len()
        {
            let next = *next;
            search.found = Some(Found { next, ..search.run(state, 2 * rows.len()) });
        }
        let Some(row) = search.found.as_mut().and_then(Found::take) else {
            return rows::clear(slot);
        };
        if !rows::fetch((*state).ss_currentRelation, (*executor).es_snapshot, row, slot) {
            let message = format!("row ({},{}) was there a moment ago", row.block, row.offset);
            SqlError::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message).raise();
        }
        slot
    }
}

impl Found {
    fn take(&mut self) -> Option<RowId> {
        let row = self.rows.get(self.next).copied();
        self.next += usize::from(row.is_some());
        row
    }
}

/// Rows are never locked behind this node, so none can have changed.
unsafe extern "C-unwind" fn recheck(_: *mut pg_sys::ScanState, _: *mut pg_sys::TupleTableSlot) -> bool {
    true
}

impl Search {
    /// Reads the table and keeps the nearest rows that pass the filter.
    unsafe fn run(&self, state: *mut pg_sys::ScanState, limit: usize) -> Found {
        // SAFETY: the node is ours; see `begin`. Rows are looked at before the next one is asked for.
        unsafe {
            let relation = (*state).ss_currentRelation;
            let descriptor = (*relation).rd_att;
            let slot = (*state).ss_ScanTupleSlot;
            let context = (*state).ps.ps_ExprContext;
            let measure = metric::of(self.details.metric);
            let mut nearest = Nearest::new(limit);
            let mut query = None;
            let mut rows = Rows::begin(relation, (*(*state).ps.state).es_snapshot);
            while let Some(row) = rows.next() {
                if !self.filter.is_null() {
                    row.store(slot);
                    if !self.passes(state, slot) {
                        continue;
                    }
                }
                // Evaluated for the first row that needs it: a filter that lets nothing pass also spares the errors.
                let query = query.get_or_insert_with(|| self.evaluate_query(context));
                let value = row.column(descriptor, self.details.column);
                let distance = match (value, query) {
                    (Some(value), Some(query)) => Some(or_raise(self.distance(value, query, measure, context))),
                    _ => None,
                };
                nearest.offer(distance, row.id());
            }
            rows::clear(slot);
            rows.end();
            Found { has_more: nearest.has_left_out(), rows: nearest.into_rows(), next: 0 }
        }
    }

    /// Whether the row in the slot passes the filter. What evaluating it allocated is freed with the next row's.
    unsafe fn passes(&self, state: *mut pg_sys::ScanState, slot: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: see `run`.
        unsafe {
            let context = (*state).ps.ps_ExprContext;
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            (*context).ecxt_scantuple = slot;
            let passes = evaluate(self.filter, context).is_some_and(|value| value.value() != 0);
            if !passes && let Some(statistics) = (*state).ps.instrument.as_mut() {
                statistics.nfiltered1 += 1.0;
            }
            passes
        }
    }

    unsafe fn evaluate_query(&self, context: *mut pg_sys::ExprContext) -> Option<OwnedVector> {
        // SAFETY: the expression's type is that of the distance's arguments.
        unsafe {
            let value = evaluate(self.query, context)?;
            let vector = datum::vector(value).and_then(|vector| OwnedVector::new(vector.tag, vector.elements.to_vec()));
            Some(or_raise(vector))
        }
    }

    #[inline]
    unsafe fn distance(
        &self,
        value: Datum,
        query: &OwnedVector,
        measure: fn(&[f32], &[f32]) -> f64,
        context: *mut pg_sys::ExprContext,
    ) -> Result<f64, VectorError> {
        // SAFETY: the value is one of the column, whose type is that of the distance's arguments.
        unsafe {
            let memory = (*context).ecxt_per_tuple_memory;
            let is_copied = !datum::is_plain(value);
            let before = pg_sys::CurrentMemoryContext;
            if is_copied {
                pg_sys::MemoryContextReset(memory);
                pg_sys::CurrentMemoryContext = memory;
            }
            let stored = datum::vector(value);
            pg_sys::CurrentMemoryContext = before;
            let (stored, query) = (stored?, query.as_vector());
            if self.details.column_is_left { same_space(&stored, &query) } else { same_space(&query, &stored) }?;
            Ok(measure(stored.elements, query.elements))
        }
    }
}

/// Evaluates an expression in the memory of the current row; `None` for NULL.
unsafe fn evaluate(expression: *mut pg_sys::ExprState, context: *mut pg_sys::ExprContext) -> Option<Datum> {
    // SAFETY: the guard turns an error of the function, called past pgrx's bindings, into a panic. After one, PostgreSQL
    // sets the memory context itself.
    unsafe {
        let function = (*expression).evalfunc?;
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
        let mut is_null = false;
        let value = pg_guard_ffi_boundary(|| function(expression, context, &mut is_null));
        pg_sys::CurrentMemoryContext = before;
        (!is_null).then_some(value)
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end(_state: *mut pg_sys::CustomScanState) {
    // Slots, relation and memory are the executor's; the table is held only while `Search::run` reads it.
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn rescan(state: *mut pg_sys::CustomScanState) {
    // SAFETY: the node is ours; see `begin`.
    unsafe {
        pg_sys::ExecScanReScan(&raw mut (*state).ss);
        let search = &mut *(*state.cast::<Node>()).search;
        // As in PostgreSQL's own sort, what was found is given out again unless a parameter has changed.
        if !(*state).ss.ps.chgParam.is_null() {
            search.found = None;
        }
        if let Some(found) = &mut search.found {
            found.next = 0;
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn explain(
    state: *mut pg_sys::CustomScanState,
    ancestors: *mut pg_sys::List,
    output: *mut pg_sys::ExplainState,
) {
    // SAFETY: the plan is ours; see `begin`.
    unsafe {
        let plan: *mut pg_sys::CustomScan = (*state).ss.ps.plan.cast();
        let context = pg_sys::set_deparse_context_plan((*output).deparse_cxt, plan.cast(), ancestors);
        let names_tables = pointers::<pg_sys::RangeTblEntry>((*output).rtable).len() > 1 || (*output).verbose;
        let text = pg_sys::deparse_expression(distance_expression(plan), context, names_tables, false);
        pg_sys::ExplainPropertyText(c"Order By".as_ptr(), text, output);
        let limit = (*(*state.cast::<Node>()).search).details.limit;
        pg_sys::ExplainPropertyInteger(c"Rows Kept".as_ptr(), std::ptr::null(), limit.into(), output);
    }
}
