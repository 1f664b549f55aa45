//! Running SQL from inside the server: statements whose operators no search path can change, results as Rust values.

use pgrx::datum::DatumWithOid;
use pgrx::spi::{Spi, SpiError, SpiHeapTupleData, SpiResult};
use pgrx::{FromDatum, IntoDatum, PgSqlErrorCode, pg_sys};

use crate::error::SqlError;

/// A parameter of a statement.
pub type Parameter<'a> = DatumWithOid<'a>;

/// PostgreSQL's own `=`. Statements run with the search path of whoever caused them, because they may fire triggers; so
/// operators are named in full.
pub const EQ: &str = "OPERATOR(pg_catalog.=)";

/// Names the operators in full in a statement without foreign names in it: ` == ` becomes PostgreSQL's own `=`.
pub fn pin(sql: &str) -> String {
    sql.replace(" == ", &format!(" {EQ} "))
}

/// Runs a statement that only reads and turns each row into a value.
pub fn select<T>(
    sql: &str,
    parameters: &[Parameter<'_>],
    read: impl Fn(&SpiHeapTupleData<'_>) -> SpiResult<T>,
) -> Result<Vec<T>, SqlError> {
    Spi::connect(|client| client.select(sql, None, parameters)?.map(|row| read(&row)).collect::<SpiResult<Vec<T>>>())
        .map_err(failed)
}

/// Runs a statement that writes; returns how many rows it changed.
pub fn write(sql: &str, parameters: &[Parameter<'_>]) -> Result<usize, SqlError> {
    Spi::connect_mut(|client| client.update(sql, None, parameters).map(|_| processed())).map_err(failed)
}

/// Runs a statement that writes and returns rows.
pub fn write_returning<T>(
    sql: &str,
    parameters: &[Parameter<'_>],
    read: impl Fn(&SpiHeapTupleData<'_>) -> SpiResult<T>,
) -> Result<Vec<T>, SqlError> {
    Spi::connect_mut(|client| {
        client.update(sql, None, parameters)?.map(|row| read(&row)).collect::<SpiResult<Vec<T>>>()
    })
    .map_err(failed)
}

/// A column that is never NULL.
pub fn column<T: FromDatum + IntoDatum>(row: &SpiHeapTupleData<'_>, number: usize) -> SpiResult<T> {
    row.get(number)?.ok_or(SpiError::InvalidPosition)
}

/// Texts as the literal of an array, each in quotes.
pub fn array_literal<'a>(elements: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> =
        elements.into_iter().map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

/// Schema of the extension, quoted; `None` if this database does not have it.
pub fn extension_schema() -> Result<Option<String>, SqlError> {
    let sql = "SELECT pg_catalog.format('%I', n.nspname) FROM pg_catalog.pg_extension e
               JOIN pg_catalog.pg_namespace n ON n.oid == e.extnamespace WHERE e.extname == 'esr'";
    Ok(select(&pin(sql), &[], |row| column(row, 1))?.pop())
}

/// For the rest of the transaction, which must run no code of users': pending rows are few, and found by their index.
pub fn use_indexes() -> Result<(), SqlError> {
    select("SELECT pg_catalog.set_config('enable_seqscan', 'off', true)", &[], |row| column::<String>(row, 1)).map(drop)
}

#[allow(unsafe_code)]
fn processed() -> usize {
    // SAFETY: a number that SPI leaves behind for the statement just run.
    unsafe { pg_sys::SPI_processed as usize }
}

fn failed(error: SpiError) -> SqlError {
    SqlError::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("a statement of esr could not be run: {error}"))
        .hint("This is a bug; please report it with the server log.")
}
