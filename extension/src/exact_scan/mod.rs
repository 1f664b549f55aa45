//! The plan node "Esr Exact Scan": reads a whole table and returns the few rows nearest to one vector, in order.
//!
//! `ORDER BY style <=> query LIMIT 10` without an index is a sequential scan, a projection and a sort, and at a hundred
//! thousand rows these cost more than the distances: each row is taken apart, projected into a slot and handed to the
//! sort, which forgets all but ten of them. This node does it in one loop that touches nothing of a row but its vector,
//! and fetches whole rows only for the ten.
//!
//! `order` recognises the query, `path` offers the node to the planner, `node` runs it; `rows` reads the table and
//! `nearest`, which is pure, keeps the best. The planner decides by cost, so that a cheaper index is taken where there is
//! one, and everything that is not exactly this shape of query is left to PostgreSQL.
//!
//! The planner's hook must be in place before a session's first query is planned, but PostgreSQL loads the library only
//! when it needs a function of it. So the distances are declared with `SUPPORT esr_distance_support`: PostgreSQL asks a
//! support function for advice while it simplifies the query's expressions, which is early enough.

pub mod custom;
pub mod nearest;
pub mod node;
pub mod order;
pub mod path;
pub mod rows;

use pgrx::pg_sys::Datum;

use crate::error::SqlError;
use crate::fmgr::Call;
use crate::sql_function;

sql_function!(esr_distance_support, no_advice);

/// Being called has loaded the library; there is nothing else to say.
fn no_advice(_: &Call) -> Result<Datum, SqlError> {
    Ok(Datum::from(0))
}

/// Makes the node known to PostgreSQL; once per process, when the library is loaded.
pub fn install() {
    node::register();
    path::install_hook();
}
