//! Offers the exact scan to the planner, with its cost.
//!
//! Knows which queries the node is right for and what it costs; not how it runs.
//!
//! Unsafe is allowed here: the planner's nodes are C structures, valid until the plan is made, and it alone calls these
//! functions.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Cost, NodeTag};

use super::custom::{Details, NAME, Static, new_node};
use super::nearest::Nearest;
use super::node;
use super::order::DistanceOrder;
use crate::settings;

/// What another extension had hooked before us; called first.
static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;

static METHODS: Static<pg_sys::CustomPathMethods> = Static(pg_sys::CustomPathMethods {
    CustomName: NAME.as_ptr(),
    PlanCustomPath: Some(plan),
    ReparameterizeCustomPathByChild: None,
});

/// From now on every query of this process is looked at.
pub fn install_hook() {
    // SAFETY: runs once, while the library is loaded, in a process with one thread.
    unsafe {
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(offer);
    }
}

/// Called for each relation of each query, once PostgreSQL has found its own ways to read it.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn offer(
    root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    index: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the arguments are the planner's.
    unsafe {
        if let Some(previous) = PREVIOUS {
            pg_guard_ffi_boundary(|| previous(root, relation, index, entry));
        }
        // The commonest queries leave first: those without a limit.
        let Some(limit) = limit_of(root) else { return };
        if !settings::exact_scan_is_enabled() || !is_one_plain_heap(root, relation, entry) {
            return;
        }
        if let Some(order) = DistanceOrder::of_query(root, relation) {
            pg_sys::add_path(relation, path(root, relation, &order, limit));
        }
    }
}

/// How many rows the query wants at most, its offset included, if the planner knows for certain and they fit into
/// `work_mem`.
unsafe fn limit_of(root: *mut pg_sys::PlannerInfo) -> Option<c_int> {
    // SAFETY: as in `offer`.
    unsafe {
        // Already negative where rows are grouped, made distinct or multiplied between the scan and the limit.
        let rows = (*root).limit_tuples;
        if rows < 1.0 {
            return None;
        }
        let query = (*root).parse;
        // Of anything but constants the planner has only estimated the value.
        let is_certain = is_constant((*query).limitCount)
            && ((*query).limitOffset.is_null() || is_constant((*query).limitOffset))
            && (*query).limitOption != pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES;
        let room = f64::from(pg_sys::work_mem) * 1024.0 / Nearest::BYTES_PER_ROW as f64;
        (is_certain && rows <= room.min(f64::from(c_int::MAX))).then_some(rows as c_int)
    }
}

unsafe fn is_constant(node: *mut pg_sys::Node) -> bool {
    // SAFETY: NULL or a node of the planner's.
    unsafe { node.as_ref().is_some_and(|node| node.type_ == NodeTag::T_Const) }
}

/// Whether the query reads one ordinary table, locks no rows and changes nothing.
unsafe fn is_one_plain_heap(
    root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    entry: *mut pg_sys::RangeTblEntry,
) -> bool {
    // SAFETY: as in `offer`.
    unsafe {
        let query = (*root).parse;
        (*query).commandType == pg_sys::CmdType::CMD_SELECT
            && (*query).rowMarks.is_null()
            && (*root).rowMarks.is_null()
            && (*relation).reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL
            && (*relation).lateral_relids.is_null()
            && pg_sys::bms_membership((*root).all_baserels) == pg_sys::BMS_Membership::BMS_SINGLETON
            && (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && !(*entry).inh
            && (*entry).tablesample.is_null()
            && matches!((*entry).relkind as u8, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_MATVIEW)
            && is_heap((*entry).relid)
    }
}

unsafe fn is_heap(table: pg_sys::Oid) -> bool {
    // SAFETY: the planner holds a lock on the table.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let is_heap = (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine();
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        is_heap
    }
}

unsafe fn path(
    root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    order: &DistanceOrder,
    limit: c_int,
) -> *mut pg_sys::Path {
    // SAFETY: as in `offer`; the new nodes are zeroed and hold what the planner wants to find in them.
    unsafe {
        let path: *mut pg_sys::CustomPath = new_node(NodeTag::T_CustomPath);
        let rows = f64::from(limit).min((*relation).rows);
        let costs = costs(root, relation, order, rows);
        (*path).path.pathtype = NodeTag::T_CustomScan;
        (*path).path.parent = relation;
        (*path).path.pathtarget = (*relation).reltarget;
        (*path).path.parallel_safe = (*relation).consider_parallel && pg_sys::is_parallel_safe(root, order.expression);
        (*path).path.rows = rows;
        (*path).path.startup_cost = costs.startup;
        (*path).path.total_cost = costs.total;
        (*path).path.pathkeys = (*root).query_pathkeys;
        (*path).flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
        let details =
            Details { limit, metric: order.metric, column: order.column, column_is_left: order.column_is_left };
        let private = pg_sys::lappend(std::ptr::null_mut(), order.expression.cast());
        (*path).custom_private = pg_sys::lappend(private, details.to_list().cast());
        (*path).methods = METHODS.address();
        path.cast()
    }
}

struct Costs {
    startup: Cost,
    total: Cost,
}

/// Reading the table and testing its rows costs what it costs a sequential scan; the query vector is evaluated once; each
/// row that passes is measured and compared with the furthest that is kept, and those that are nearer replace it.
unsafe fn costs(
    root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    order: &DistanceOrder,
    kept: f64,
) -> Costs {
    // SAFETY: as in `offer`; the settings are numbers of this session.
    unsafe {
        let (mut random_page, mut sequential_page) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs((*relation).reltablespace, &mut random_page, &mut sequential_page);
        let (mut query, mut distance) = (pg_sys::QualCost::default(), pg_sys::QualCost::default());
        pg_sys::cost_qual_eval_node(&mut query, order.query, root);
        pg_sys::add_function_cost(root, order.function, order.expression, &mut distance);
        let filter = (*relation).baserestrictcost;
        let (pages, tuples, passing) = (f64::from((*relation).pages), (*relation).tuples, (*relation).rows);

        // Of rows in random order, the n-th is among the k nearest so far with probability k / n.
        let replacements = kept * (1.0 + (passing / kept).max(1.0).ln());
        let comparisons = (passing - kept).max(0.0) + 2.0 * replacements * (kept + 1.0).log2();

        let mut startup = query.startup + query.per_tuple + distance.startup + filter.startup;
        startup += sequential_page * pages + tuples * (pg_sys::cpu_tuple_cost + filter.per_tuple);
        startup += passing * distance.per_tuple + comparisons * pg_sys::cpu_operator_cost;
        if !pg_sys::enable_seqscan {
            startup += pg_sys::disable_cost;
        }
        // The rows that are kept are fetched again: from the cache, as far as the table fits there.
        let uncached = (1.0 - f64::from(pg_sys::effective_cache_size) / pages.max(1.0)).max(0.0);
        let target = (*(*relation).reltarget).cost;
        startup += target.startup;
        let each = pg_sys::cpu_tuple_cost + uncached * random_page + target.per_tuple;
        Costs { startup, total: startup + kept * each }
    }
}

/// Turns the path that the planner has chosen into a plan.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn plan(
    _root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    path: *mut pg_sys::CustomPath,
    target_list: *mut pg_sys::List,
    clauses: *mut pg_sys::List,
    _children: *mut pg_sys::List,
) -> *mut pg_sys::Plan {
    // SAFETY: the path is one of ours, so its private list is what `path` put there.
    unsafe {
        let [expression, details] = *super::order::pointers::<c_void>((*path).custom_private) else {
            unreachable!("a path of ours has two things in its private list")
        };
        let scan: *mut pg_sys::CustomScan = new_node(NodeTag::T_CustomScan);
        (*scan).scan.plan.targetlist = target_list;
        // In this order they are also evaluated, before any distance: PostgreSQL has put those first that guard others.
        (*scan).scan.plan.qual = pg_sys::extract_actual_clauses(clauses, false);
        (*scan).scan.scanrelid = (*relation).relid;
        (*scan).flags = (*path).flags;
        (*scan).custom_exprs = pg_sys::lappend(std::ptr::null_mut(), expression);
        (*scan).custom_private = details.cast();
        (*scan).methods = node::methods();
        scan.cast()
    }
}
