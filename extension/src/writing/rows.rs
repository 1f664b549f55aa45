//! Reading clips out of rows and writing vectors into them. A row is named by where it lies and by which transaction
//! wrote it there: the two together mean one version of one row, so that its audio cannot have changed meanwhile.
//!
//! Unsafe is allowed here for handing a vector to a statement and for following a row that was updated.
#![allow(unsafe_code)]

use std::ffi::c_char;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Datum, ItemPointerData, Oid, TableAmRoutine};

use crate::am::relation::{item_pointer, row_id};
use crate::datum;
use crate::embed::BYTES_PER_REQUEST;
pub use crate::embed::CLIPS_PER_REQUEST;
use crate::error::SqlError;
use crate::vector::OwnedVector;
use crate::writing::spi::{self, EQ, Parameter, column};
use crate::writing::target::{Place, Target};

/// One version of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Where it lies, as PostgreSQL prints a `tid`.
    pub tid: String,
    /// Which transaction wrote it.
    pub xmin: String,
}

/// A row that waits for its vector.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The row.
    pub version: Version,
    /// Size of its clip.
    pub bytes: i64,
}

/// The part of a condition that says which rows wait: they have audio and no style.
pub fn pending(place: &Place) -> String {
    format!("t.{} IS NULL AND t.{} IS NOT NULL", place.style, place.audio)
}

/// The columns that [`waiting`] reads.
pub fn columns(place: &Place) -> String {
    // The length of a value that lies out of line is known without fetching it.
    format!(
        "t.ctid::pg_catalog.text, t.xmin::pg_catalog.text, pg_catalog.octet_length(t.{})::pg_catalog.int8",
        place.audio
    )
}

/// Reads [`columns`].
pub fn waiting(row: &pgrx::spi::SpiHeapTupleData<'_>) -> pgrx::spi::SpiResult<Waiting> {
    Ok(Waiting { version: version(row)?, bytes: column(row, 3)? })
}

/// Which of these rows wait, as they are now.
pub fn still_pending(place: &Place, tids: &[&str]) -> Result<Vec<Waiting>, SqlError> {
    let sql = format!(
        "SELECT {} FROM ONLY {} t WHERE t.ctid {EQ} ANY ($1) AND {}",
        columns(place),
        place.table,
        pending(place)
    );
    spi::select(&sql, &[tid_array(tids.iter().copied())], waiting)
}

/// The clips of these versions, in their order; `None` for those that are no more.
pub fn clips(place: &Place, versions: &[Version]) -> Result<Vec<Option<Vec<u8>>>, SqlError> {
    let sql = format!(
        "SELECT t.ctid::pg_catalog.text, t.xmin::pg_catalog.text, t.{}::pg_catalog.bytea
         FROM ONLY {} t WHERE t.ctid {EQ} ANY ($1) AND t.{} IS NOT NULL",
        place.audio, place.table, place.audio
    );
    let read = |row: &pgrx::spi::SpiHeapTupleData<'_>| -> pgrx::spi::SpiResult<(Version, Vec<u8>)> {
        Ok((version(row)?, column(row, 3)?))
    };
    let mut found: std::collections::HashMap<_, _> =
        spi::select(&sql, &[tids_of(versions)], read)?.into_iter().collect();
    Ok(versions.iter().map(|version| found.remove(version)).collect())
}

/// Locks what can be locked at once of these versions, while `condition` holds of them; says which.
pub fn lock(place: &Place, versions: &[Version], condition: &str) -> Result<Vec<Version>, SqlError> {
    let sql = format!(
        "SELECT t.ctid::pg_catalog.text, t.xmin::pg_catalog.text FROM ONLY {} t
         WHERE t.ctid {EQ} ANY ($1) AND {condition} FOR NO KEY UPDATE SKIP LOCKED",
        place.table
    );
    let locked = spi::write_returning(&sql, &[tids_of(versions)], version)?;
    Ok(locked.into_iter().filter(|version| versions.contains(version)).collect())
}

/// Which of these versions are still there.
fn standing(place: &Place, versions: &[Version]) -> Result<Vec<Version>, SqlError> {
    let sql = format!(
        "SELECT t.ctid::pg_catalog.text, t.xmin::pg_catalog.text FROM ONLY {} t WHERE t.ctid {EQ} ANY ($1)",
        place.table
    );
    let there = spi::select(&sql, &[tids_of(versions)], version)?;
    Ok(there.into_iter().filter(|version| versions.contains(version)).collect())
}

fn version(row: &pgrx::spi::SpiHeapTupleData<'_>) -> pgrx::spi::SpiResult<Version> {
    Ok(Version { tid: column(row, 1)?, xmin: column(row, 2)? })
}

/// What became of vectors that were to be written.
#[derive(Debug, Default)]
pub struct Stored {
    /// Rows that have theirs.
    pub written: usize,
    /// Versions that are there as before, because a trigger or a rule has suppressed their UPDATE. Those that are no more are
    /// neither written nor here.
    pub suppressed: Vec<Version>,
}

/// Writes vectors into versions of rows, in one statement.
pub fn store(place: &Place, rows: &[(&Version, &OwnedVector)]) -> Result<Stored, SqlError> {
    if rows.is_empty() {
        return Ok(Stored::default());
    }
    let sql = format!(
        "UPDATE ONLY {} AS t SET {} = v.style
         FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS v (tid, xmin, style)
         WHERE t.ctid {EQ} v.tid AND t.xmin {EQ} v.xmin",
        place.table, place.style
    );
    let versions: Vec<Version> = rows.iter().map(|(version, _)| (*version).clone()).collect();
    let vectors: Vec<_> = rows.iter().map(|(_, vector)| Some(vector.as_vector())).collect();
    // SAFETY: looks a type up, and the value is an array of that type.
    let vectors = unsafe {
        let array = pg_sys::get_array_type(place.vector);
        DatumWithOid::new(datum::new_vector_array(&vectors, array), array)
    };
    let written = spi::write(&sql, &[tids_of(&versions), xids_of(&versions), vectors])?;
    let suppressed = if written < rows.len() { standing(place, &versions)? } else { Vec::new() };
    Ok(Stored { written, suppressed })
}

/// As [`store`], for versions that are locked and so cannot be gone; says which have their vectors.
pub fn store_locked(place: &Place, rows: &[(&Version, &OwnedVector)]) -> Result<Vec<Version>, SqlError> {
    let stored = store(place, rows)?;
    let versions = rows.iter().map(|(version, _)| *version);
    Ok(versions.filter(|version| !stored.suppressed.contains(version)).cloned().collect())
}

fn tids_of(versions: &[Version]) -> Parameter<'static> {
    tid_array(versions.iter().map(|version| version.tid.as_str()))
}

/// Places as a `tid[]`. As a text it would be read anew for each row that a plan compares with it.
fn tid_array<'a>(tids: impl Iterator<Item = &'a str>) -> Parameter<'static> {
    let mut places: Vec<ItemPointerData> = tids.filter_map(parse_tid).map(item_pointer).collect();
    let elements = places.iter_mut().map(|place| Datum::from(std::ptr::from_mut(place))).collect();
    array(elements, pg_sys::TIDOID, size_of::<ItemPointerData>(), false, pg_sys::TYPALIGN_SHORT, pg_sys::TIDARRAYOID)
}

/// Who wrote the versions, as an `xid[]`.
fn xids_of(versions: &[Version]) -> Parameter<'static> {
    let number = |version: &Version| Datum::from(version.xmin.parse::<u32>().unwrap_or(0));
    let elements = versions.iter().map(number).collect();
    array(elements, pg_sys::XIDOID, size_of::<pg_sys::TransactionId>(), true, pg_sys::TYPALIGN_INT, pg_sys::XIDARRAYOID)
}

fn array(mut elements: Vec<Datum>, of: Oid, size: usize, by_value: bool, align: u8, array: Oid) -> Parameter<'static> {
    let (values, count) = (elements.as_mut_ptr(), elements.len() as i32);
    // SAFETY: PostgreSQL copies the elements, which are of a type of its own whose description the callers above give.
    unsafe {
        let made = pg_sys::construct_array(values, count, of, size as i32, by_value, align as c_char);
        DatumWithOid::new(Datum::from(made), array)
    }
}

/// Reads a `tid` as PostgreSQL prints it.
pub fn parse_tid(tid: &str) -> Option<esr_ivf::RowId> {
    let (block, offset) = tid.trim_matches(['(', ')']).split_once(',')?;
    Some(esr_ivf::RowId { block: block.parse().ok()?, offset: offset.parse().ok()? })
}

/// Where the newest version of a row lies that this transaction sees, if it was updated since it lay at `tid`.
pub fn newest(relation: Oid, tid: &str) -> Option<String> {
    let row = parse_tid(tid)?;
    let mut pointer = item_pointer(row);
    // SAFETY: the table is locked by the statement that wrote the row; everything opened here is closed here.
    unsafe {
        let table = pg_sys::table_open(relation, pg_sys::NoLock as i32);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        // The table's access method does the work; PostgreSQL's wrappers of these are inline functions.
        if let TableAmRoutine {
            scan_begin: Some(begin), scan_end: Some(end), tuple_get_latest_tid: Some(follow), ..
        } = &*(*table).rd_tableam
        {
            let kind = pg_sys::ScanOptions::SO_TYPE_TIDSCAN;
            let scan = begin(table, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), kind);
            follow(scan, &mut pointer);
            end(scan);
        }
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(table, pg_sys::NoLock as i32);
    }
    let found = row_id(pointer);
    (found != row).then(|| format!("({},{})", found.block, found.offset))
}

/// How a person finds a row: by its primary key if it has one, else by where it lies.
pub fn describe(target: &Target, place: &Place, version: &Version) -> Result<String, SqlError> {
    let keys = spi::pin(
        "SELECT pg_catalog.format('%I', a.attname) FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_attribute a ON a.attrelid == i.indrelid AND a.attnum == ANY (i.indkey)
         WHERE i.indrelid == $1 AND i.indisprimary",
    );
    let keys: Vec<String> = spi::select(&keys, &[target.relation.into()], |row| column(row, 1))?;
    if keys.is_empty() {
        return Ok(version.tid.clone());
    }
    let shown: Vec<String> = keys.iter().map(|key| format!("{} = %s", key.replace('%', "%%"))).collect();
    let values: Vec<String> = keys.iter().map(|key| format!("t.{key}")).collect();
    let sql = format!(
        "SELECT pg_catalog.format({}, {}) FROM ONLY {} t WHERE t.ctid {EQ} $1::pg_catalog.tid",
        pgrx::spi::quote_literal(shown.join(", ")),
        values.join(", "),
        place.table
    );
    let found = spi::select(&sql, &[version.tid.as_str().into()], |row| column(row, 1))?;
    Ok(found.into_iter().next().map_or_else(|| version.tid.clone(), |keys: String| format!("({keys})")))
}

/// Cuts rows into what fits one request.
pub fn batches(rows: &[Waiting]) -> Vec<&[Waiting]> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, row) in rows.iter().enumerate() {
        if index > start && (index - start >= CLIPS_PER_REQUEST || bytes + row.bytes > BYTES_PER_REQUEST as i64) {
            batches.push(&rows[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += row.bytes;
    }
    if start < rows.len() {
        batches.push(&rows[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_count_and_by_bytes_and_lose_nothing() {
        let row = |bytes| Waiting { version: Version { tid: String::new(), xmin: String::new() }, bytes };
        let check = |sizes: &[i64], expected: &[usize]| {
            let rows: Vec<_> = sizes.iter().map(|bytes| row(*bytes)).collect();
            assert_eq!(batches(&rows).iter().map(|batch| batch.len()).collect::<Vec<_>>(), expected);
        };
        check(&[], &[]);
        check(&[1; 33], &[32, 1]);
        check(&[BYTES_PER_REQUEST as i64, 1, 1], &[1, 2]);
        check(&[1 << 30, 1 << 30], &[1, 1]);
    }
}
