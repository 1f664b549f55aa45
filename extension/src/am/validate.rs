//! `amvalidate`: whether an operator class can be used. Knows the catalog's tables of operators and functions.
//!
//! Unsafe is allowed here: catalog rows are PostgreSQL's structs.
#![allow(unsafe_code)]

use pgrx::pg_sys::SysCacheIdentifier::{AMOPSTRATEGY, AMPROCNUM, CLAOID};
use pgrx::{PgLogLevel, PgSqlErrorCode, ereport, pg_sys, pg_sys::Oid};

use super::pg_missing::{check_amop_signature, opfamily_can_sort_type};
use super::relation::metric_of;

/// Says what is wrong with a class, as INFO, and whether anything is. An index needs exactly one operator: a distance whose
/// strategy number names the metric.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amvalidate(class: Oid) -> bool {
    // SAFETY: PostgreSQL passes the id of a class that exists.
    let problems = unsafe { problems(class) };
    for problem in &problems {
        ereport!(
            PgLogLevel::INFO,
            PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
            format!("operator class {} of access method esr_ivf {problem}", class.to_u32())
        );
    }
    problems.is_empty()
}

/// # Safety
/// `class` is an operator class.
unsafe fn problems(class: Oid) -> Vec<String> {
    let mut problems = Vec::new();
    // SAFETY: catalog rows are read between the lookup and the release of what was looked up.
    unsafe {
        let none = pg_sys::Datum::from(0);
        let row = pg_sys::SearchSysCache1(CLAOID as i32, class.into());
        let (family, input) = {
            let class = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_opclass>();
            (class.opcfamily, class.opcintype)
        };
        pg_sys::ReleaseSysCache(row);
        let functions = pg_sys::SearchSysCacheList(AMPROCNUM as i32, 1, family.into(), none, none);
        if (*functions).n_members > 0 {
            problems.push("has support functions, but none is known".to_owned());
        }
        pg_sys::ReleaseCatCacheList(functions);
        let operators = pg_sys::SearchSysCacheList(AMOPSTRATEGY as i32, 1, family.into(), none, none);
        let count = (*operators).n_members as usize;
        for member in (*operators).members.as_slice(count) {
            let tuple = &raw mut (**member).tuple;
            let operator = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_amop>();
            problems.extend(operator_problem(operator));
        }
        pg_sys::ReleaseCatCacheList(operators);
        let own = (1..=3)
            .filter(|&strategy| pg_sys::get_opfamily_member(family, input, input, strategy) != pg_sys::InvalidOid);
        if own.count() != 1 {
            problems.push("must have exactly one operator for its type".to_owned());
        }
    }
    problems
}

/// # Safety
/// `operator` is a row of the catalog.
unsafe fn operator_problem(operator: &pg_sys::FormData_pg_amop) -> Option<String> {
    let name = operator.amopopr.to_u32();
    if u16::try_from(operator.amopstrategy).ok().and_then(metric_of).is_none() {
        return Some(format!("has operator {name} with unknown strategy number {}", operator.amopstrategy));
    }
    if operator.amoppurpose as u8 != pg_sys::AMOP_ORDER {
        return Some(format!("has operator {name}, which must be FOR ORDER BY float_ops"));
    }
    // SAFETY: looks the ids of a catalog row up in the catalog.
    let (sorts, fits) = unsafe {
        (
            opfamily_can_sort_type(operator.amopsortfamily, pg_sys::FLOAT8OID),
            check_amop_signature(operator.amopopr, pg_sys::FLOAT8OID, operator.amoplefttype, operator.amoprighttype),
        )
    };
    (!sorts || !fits).then(|| format!("has operator {name} with a wrong signature"))
}
