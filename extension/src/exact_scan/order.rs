//! Recognises what a query is ordered by: one distance between a column of vectors and one vector.
//!
//! Knows the planner's trees, neither costs nor how a scan runs.
//!
//! Unsafe is allowed here: the planner's nodes are C structures. Every pointer comes from the planner, in whose memory it
//! stays valid until the plan is made.
#![allow(unsafe_code)]

use esr_vector::Metric;
use pgrx::pg_sys::{self, Datum, NodeTag};

/// Metrics in the order in which a plan numbers them.
pub const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Euclidean, Metric::InnerProduct];

/// `ORDER BY column <=> query`, or with the sides exchanged.
#[derive(Clone, Copy)]
pub struct DistanceOrder {
    /// The whole expression.
    pub expression: *mut pg_sys::Node,
    /// The function behind the operator.
    pub function: pg_sys::Oid,
    /// What it computes.
    pub metric: Metric,
    /// The column's number in its table.
    pub column: pg_sys::AttrNumber,
    /// Whether the column is the first argument; errors about two vectors name them in this order.
    pub column_is_left: bool,
    /// The other argument: has the same value for every row.
    pub query: *mut pg_sys::Node,
}

impl DistanceOrder {
    /// What the query is ordered by, if it is one distance, ascending, NULLs last, and nothing else.
    ///
    /// # Safety
    /// The planner is asking about the only relation of its query.
    pub unsafe fn of_query(root: *mut pg_sys::PlannerInfo, relation: *mut pg_sys::RelOptInfo) -> Option<Self> {
        // SAFETY: the planner's lists hold nodes of the types that their fields are documented with.
        unsafe {
            let [key] = *pointers::<pg_sys::PathKey>((*root).query_pathkeys) else { return None };
            let class = (*key).pk_eclass;
            if (*key).pk_strategy != pg_sys::BTLessStrategyNumber as i32
                || (*key).pk_nulls_first
                || (*class).ec_has_volatile
                || !is_usual_order((*key).pk_opfamily)
            {
                return None;
            }
            let members = pointers::<pg_sys::EquivalenceMember>((*class).ec_members).iter();
            members
                .filter(|member| !(***member).em_is_child)
                .find_map(|member| Self::of_expression((**member).em_expr.cast(), (*relation).relid))
        }
    }

    unsafe fn of_expression(expression: *mut pg_sys::Node, relation: pg_sys::Index) -> Option<Self> {
        // SAFETY: a node's tag says which structure it is.
        unsafe {
            let (function, arguments) = match (*expression).type_ {
                NodeTag::T_OpExpr => {
                    let operator: *mut pg_sys::OpExpr = expression.cast();
                    ((*operator).opfuncid, (*operator).args)
                }
                NodeTag::T_FuncExpr => {
                    let call: *mut pg_sys::FuncExpr = expression.cast();
                    ((*call).funcid, (*call).args)
                }
                _ => return None,
            };
            let [left, right] = *pointers::<pg_sys::Node>(arguments) else { return None };
            let (column, column_is_left, query) = match (column_of(left, relation), column_of(right, relation)) {
                (Some(column), None) => (column, true, right),
                (None, Some(column)) => (column, false, left),
                _ => return None,
            };
            let is_same_for_every_row = !pg_sys::contain_var_clause(query)
                && !pg_sys::contain_volatile_functions(query)
                && !pg_sys::contain_subplans(query);
            if !is_same_for_every_row {
                return None;
            }
            let metric = metric_of(function)?;
            Some(Self { expression, function, metric, column, column_is_left, query })
        }
    }
}

/// A plain column of the relation.
unsafe fn column_of(node: *mut pg_sys::Node, relation: pg_sys::Index) -> Option<pg_sys::AttrNumber> {
    // SAFETY: a node's tag says which structure it is.
    unsafe {
        if (*node).type_ != NodeTag::T_Var {
            return None;
        }
        let variable: *mut pg_sys::Var = node.cast();
        let is_ours = (*variable).varno as pg_sys::Index == relation && (*variable).varlevelsup == 0;
        (is_ours && (*variable).varattno > 0).then_some((*variable).varattno)
    }
}

/// Whether an operator family sorts double precision as `ORDER BY` does by itself; `ORDER BY ... USING` may name another.
unsafe fn is_usual_order(family: pg_sys::Oid) -> bool {
    let double = pg_sys::FLOAT8OID;
    // SAFETY: looks into the catalog.
    let less =
        unsafe { pg_sys::get_opfamily_member(family, double, double, pg_sys::BTLessStrategyNumber as pg_sys::int16) };
    less == pg_sys::Oid::from(pg_sys::Float8LessOperator)
}

/// Which of our distances a function is. Told by the address of its code: names and schemas are the user's to choose,
/// and a function that PostgreSQL wraps, for its SET clause say, has another address and is left alone.
unsafe fn metric_of(function: pg_sys::Oid) -> Option<Metric> {
    type SqlFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> Datum;
    unsafe extern "C-unwind" {
        // Defined by `sql_function!` in `vector/distance.rs`.
        fn esr_cosine_distance(info: pg_sys::FunctionCallInfo) -> Datum;
        fn esr_l2_distance(info: pg_sys::FunctionCallInfo) -> Datum;
        fn esr_negative_inner_product(info: pg_sys::FunctionCallInfo) -> Datum;
    }
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: the planner has taken the function from an expression, so it exists.
    unsafe { pg_sys::fmgr_info(function, &mut info) };
    let ours: [SqlFunction; 3] = [esr_cosine_distance, esr_l2_distance, esr_negative_inner_product];
    let address = info.fn_addr? as usize;
    ours.iter().position(|candidate| *candidate as usize == address).map(|index| METRICS[index])
}

/// The elements of a list of pointers.
///
/// # Safety
/// The list is empty or holds pointers to `T`, and is not changed during `'a`.
pub unsafe fn pointers<'a, T>(list: *mut pg_sys::List) -> &'a [*mut T] {
    // SAFETY: a list has `length` cells, each a union as large as a pointer.
    unsafe {
        match list.as_ref() {
            None => &[],
            Some(list) => std::slice::from_raw_parts(list.elements.cast(), list.length as usize),
        }
    }
}

const _: () = assert!(size_of::<pg_sys::ListCell>() == size_of::<*mut ()>());
