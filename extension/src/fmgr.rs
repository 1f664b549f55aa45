//! How PostgreSQL calls a function of ours: arguments in, one value out, errors as values.
//!
//! `sql_function!(name, path)` exports `path` under the name that the install script gives to `CREATE FUNCTION ... AS
//! 'MODULE_PATHNAME', 'name'`. The Rust side is an ordinary function `fn(&Call) -> Result<impl IntoSql, impl
//! Into<SqlError>>`: it sees no raw pointers. pgrx's own `#[pg_extern]` was not taken: a scan calls these functions for
//! every row, so nothing may stand between PostgreSQL's call and the kernel, and it would write the install script for us.
//!
//! Unsafe is allowed here: this file and `datum.rs` are where SQL values become Rust values. What makes it sound is the
//! install script, which declares each function with exactly the argument types that its Rust side reads.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum};

use crate::datum;
use crate::error::SqlError;
use crate::vector::{OwnedVector, Vector, VectorError};

/// The arguments of the call that is running. Values borrowed from it live as long as the call.
pub struct Call {
    info: pg_sys::FunctionCallInfo,
}

impl Call {
    /// # Safety
    /// `info` is what PostgreSQL passed to the function that is running now.
    #[inline]
    pub unsafe fn new(info: pg_sys::FunctionCallInfo) -> Self {
        Self { info }
    }

    /// The call as PostgreSQL sees it, for the few callers that must hand it back to PostgreSQL.
    pub fn info(&self) -> pg_sys::FunctionCallInfo {
        self.info
    }

    #[inline]
    fn argument(&self, index: usize) -> pg_sys::NullableDatum {
        // SAFETY: `new` says the call is PostgreSQL's, which fills `nargs` elements of `args`.
        unsafe {
            assert!(index < (*self.info).nargs as usize, "argument {index} does not exist");
            *(*self.info).args.as_ptr().add(index)
        }
    }

    /// How many arguments there are.
    pub fn count(&self) -> usize {
        // SAFETY: see `argument`.
        unsafe { (*self.info).nargs as usize }
    }

    /// Whether an argument is NULL; only functions that are not STRICT need to ask.
    pub fn is_null(&self, index: usize) -> bool {
        self.argument(index).isnull
    }

    #[inline]
    fn datum(&self, index: usize) -> Datum {
        let argument = self.argument(index);
        debug_assert!(!argument.isnull, "argument {index} is NULL");
        argument.value
    }

    /// The bare value, for another function of PostgreSQL's.
    pub fn raw(&self, index: usize) -> Datum {
        self.datum(index)
    }

    /// An `esr_vector` argument.
    #[inline]
    pub fn vector(&self, index: usize) -> Result<Vector<'_>, VectorError> {
        // SAFETY: the install script declares this argument as esr_vector, and the value lives as long as the call.
        unsafe { datum::vector(self.datum(index)) }
    }

    /// An `esr_vector` argument of a function that scans call row by row.
    #[inline]
    pub fn scanned_vector(&self, index: usize) -> Result<Vector<'_>, VectorError> {
        // SAFETY: as in `vector`.
        unsafe { datum::scanned_vector(self.datum(index)) }
    }

    /// An `integer` argument.
    pub fn i32(&self, index: usize) -> i32 {
        self.datum(index).value() as i32
    }

    /// A `bigint` argument.
    pub fn i64(&self, index: usize) -> i64 {
        self.datum(index).value() as i64
    }

    /// A `double precision` argument.
    pub fn f64(&self, index: usize) -> f64 {
        f64::from_bits(self.datum(index).value() as u64)
    }

    /// An `oid` (or `regclass`) argument.
    pub fn oid(&self, index: usize) -> pg_sys::Oid {
        pg_sys::Oid::from(self.datum(index).value() as u32)
    }

    /// A `cstring` argument; text outside ASCII may come out mangled, which input functions of numbers can bear.
    pub fn cstring(&self, index: usize) -> Cow<'_, str> {
        // SAFETY: PostgreSQL's cstring is a NUL-terminated string that lives as long as the call.
        unsafe { CStr::from_ptr(self.datum(index).cast_mut_ptr()) }.to_string_lossy()
    }

    /// A `name` argument, in the server's encoding.
    pub fn name(&self, index: usize) -> String {
        self.cstring(index).into_owned()
    }

    /// A `text` argument.
    pub fn text(&self, index: usize) -> Result<Cow<'_, str>, SqlError> {
        datum::to_utf8(self.bytes(index))
    }

    /// A `bytea` argument, or the bytes of a `text`.
    pub fn bytes(&self, index: usize) -> &[u8] {
        // SAFETY: the install script declares this argument as a variable-length type of plain bytes.
        unsafe { datum::bytes(self.datum(index)) }
    }

    /// A `real[]` or `double precision[]` argument, each element as the other functions of `cast.rs` want it.
    pub fn array<T: datum::Element>(&self, index: usize) -> datum::ArrayParts<'_, T> {
        // SAFETY: the install script declares this argument as an array of `T`.
        unsafe { datum::array(self.datum(index)) }
    }

    /// What the SQL function is declared to return.
    pub fn return_type(&self) -> pg_sys::Oid {
        // SAFETY: PostgreSQL fills flinfo for every call that comes from SQL.
        unsafe { pg_sys::get_func_rettype((*(*self.info).flinfo).fn_oid) }
    }

    /// Whether an aggregate is calling, so that the transition value in argument 0 may be changed in place.
    pub fn is_aggregate(&self) -> bool {
        // SAFETY: only inspects the call.
        unsafe { pg_sys::AggCheckCallContext(self.info, std::ptr::null_mut()) != 0 }
    }

    /// Changes an aggregate's transition value, argument 0 of its call and a `bytea`: in place where it is an aggregate that
    /// calls and the value is plain, else a copy of it. Returns the one changed.
    pub fn change_state(&self, change: impl FnOnce(&mut [u8])) -> Datum {
        // SAFETY: the install script declares argument 0 of these functions as bytea, and an aggregate may write over its own
        // transition value.
        unsafe { datum::change_bytes(self.datum(0), self.is_aggregate(), change) }
    }

    fn set_null(&self) {
        // SAFETY: see `argument`.
        unsafe { (*self.info).isnull = true }
    }
}

/// A value that a function can return to SQL.
pub trait IntoSql {
    /// Puts it into PostgreSQL's memory if it does not fit a datum.
    fn into_sql(self, call: &Call) -> Datum;
}

impl IntoSql for Datum {
    #[inline]
    fn into_sql(self, _: &Call) -> Datum {
        self
    }
}

impl IntoSql for f64 {
    #[inline]
    fn into_sql(self, _: &Call) -> Datum {
        Datum::from(self.to_bits())
    }
}

impl IntoSql for i32 {
    fn into_sql(self, _: &Call) -> Datum {
        Datum::from(self)
    }
}

impl IntoSql for i64 {
    fn into_sql(self, _: &Call) -> Datum {
        Datum::from(self)
    }
}

impl IntoSql for bool {
    fn into_sql(self, _: &Call) -> Datum {
        Datum::from(self)
    }
}

impl IntoSql for () {
    fn into_sql(self, _: &Call) -> Datum {
        Datum::from(0)
    }
}

impl IntoSql for OwnedVector {
    fn into_sql(self, _: &Call) -> Datum {
        datum::new_vector(self.as_vector())
    }
}

impl IntoSql for Vec<u8> {
    fn into_sql(self, _: &Call) -> Datum {
        datum::new_bytes(&self)
    }
}

impl IntoSql for String {
    fn into_sql(self, _: &Call) -> Datum {
        datum::new_text(&self)
    }
}

impl<T: IntoSql> IntoSql for Option<T> {
    fn into_sql(self, call: &Call) -> Datum {
        match self {
            Some(value) => value.into_sql(call),
            None => {
                call.set_null();
                Datum::from(0)
            }
        }
    }
}

/// Turns the result of a function into what PostgreSQL expects: a datum, or an error raised.
#[inline]
pub fn finish<T: IntoSql, E: Into<SqlError>>(call: &Call, result: Result<T, E>) -> Datum {
    match result {
        Ok(value) => value.into_sql(call),
        Err(error) => raise(error.into()),
    }
}

#[cold]
fn raise(error: SqlError) -> ! {
    error.raise()
}

/// Exports a Rust function to SQL under a C name.
#[macro_export]
macro_rules! sql_function {
    ($name:ident, $body:path) => {
        // Unsafe: the two exported names must be ours alone, which `esr_` sees to.
        #[allow(unsafe_code)]
        const _: () = {
            // PostgreSQL looks for this companion to learn the calling convention.
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
            extern "C" fn convention() -> &'static pgrx::pg_sys::Pg_finfo_record {
                static VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &VERSION_1
            }

            #[unsafe(export_name = stringify!($name))]
            unsafe extern "C-unwind" fn entry(info: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL calls this with its own call information, on its only thread; the guard keeps
                // panics from unwinding into C.
                unsafe {
                    pgrx::pgrx_extern_c_guard(|| {
                        let call = $crate::fmgr::Call::new(info);
                        $crate::fmgr::finish(&call, $body(&call))
                    })
                }
            }
        };
    };
}
