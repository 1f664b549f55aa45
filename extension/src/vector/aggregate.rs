//! `avg(esr_vector)` and `sum(esr_vector)`: sums in double precision, NULLs skipped, models never mixed.
//!
//! The transition value is a `bytea`, so that PostgreSQL can hand it from parallel workers to their leader without
//! functions of ours:
//!
//! ```text
//!  count u64 │ tag u64 │ f64 x dimensions       (native byte order; no bytes at all before the first row)
//! ```

use pgrx::pg_sys::Datum;

use super::{OwnedVector, Vector, VectorError, tag::Tag};
use crate::fmgr::{Call, IntoSql};
use crate::sql_function;

sql_function!(esr_vector_accumulate, accumulate);
sql_function!(esr_vector_combine, combine);
sql_function!(esr_vector_avg, average);
sql_function!(esr_vector_sum, sum);

const HEADER: usize = 16;

fn accumulate(call: &Call) -> Result<Datum, VectorError> {
    let vector = call.vector(1)?;
    let Some(state) = State::read(call.bytes(0))? else {
        return Ok(first(vector).into_sql(call));
    };
    let tag = state.tag_with(vector.elements.len(), vector.tag)?;
    let count = state.count + 1;
    Ok(update(call, count, tag, vector.elements.iter().map(|element| f64::from(*element))))
}

fn combine(call: &Call) -> Result<Datum, VectorError> {
    let (Some(left), right) = (State::read(call.bytes(0))?, State::read(call.bytes(1))?) else {
        return Ok(call.raw(1));
    };
    let Some(right) = right else {
        return Ok(call.raw(0));
    };
    let tag = left.tag_with(right.sums.len(), right.tag)?;
    let count = left.count + right.count;
    Ok(update(call, count, tag, right.sums.iter().map(|sum| f64::from_ne_bytes(*sum))))
}

fn average(call: &Call) -> Result<Option<OwnedVector>, VectorError> {
    finish(call, "average", |sum, count| sum / count)
}

fn sum(call: &Call) -> Result<Option<OwnedVector>, VectorError> {
    finish(call, "sum", |sum, _| sum)
}

/// A transition value, read.
struct State<'a> {
    count: u64,
    tag: Tag,
    sums: &'a [[u8; 8]],
}

impl<'a> State<'a> {
    /// `None` before the first row.
    fn read(bytes: &'a [u8]) -> Result<Option<Self>, VectorError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (count, rest) = bytes.split_first_chunk().ok_or(VectorError::BadAggregateState)?;
        let (tag, rest) = rest.split_first_chunk().ok_or(VectorError::BadAggregateState)?;
        let (sums, []) = rest.as_chunks() else {
            return Err(VectorError::BadAggregateState);
        };
        Ok(Some(Self { count: u64::from_ne_bytes(*count), tag: Tag(u64::from_ne_bytes(*tag)), sums }))
    }

    /// The tag after something with `dimensions` elements and a tag of its own joins.
    fn tag_with(&self, dimensions: usize, tag: Tag) -> Result<Tag, VectorError> {
        if self.sums.len() != dimensions {
            return Err(VectorError::DifferentDimensions { left: self.sums.len(), right: dimensions });
        }
        self.tag.join(tag)
    }
}

fn first(vector: Vector<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + vector.elements.len() * 8);
    bytes.extend(1u64.to_ne_bytes());
    bytes.extend(vector.tag.0.to_ne_bytes());
    bytes.extend(vector.elements.iter().flat_map(|element| f64::from(*element).to_ne_bytes()));
    bytes
}

/// Adds to the sums of argument 0, in place where an aggregate allows it. The sizes were compared before.
fn update(call: &Call, count: u64, tag: Tag, terms: impl Iterator<Item = f64>) -> Datum {
    let change = |bytes: &mut [u8]| {
        bytes[..8].copy_from_slice(&count.to_ne_bytes());
        bytes[8..HEADER].copy_from_slice(&tag.0.to_ne_bytes());
        let (sums, _) = bytes[HEADER..].as_chunks_mut();
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum = (f64::from_ne_bytes(*sum) + term).to_ne_bytes();
        }
    };
    call.change_state(change)
}

fn finish(call: &Call, name: &'static str, element: fn(f64, f64) -> f64) -> Result<Option<OwnedVector>, VectorError> {
    let Some(state) = State::read(call.bytes(0))? else {
        return Ok(None);
    };
    let count = state.count as f64;
    let elements = state.sums.iter().map(|sum| element(f64::from_ne_bytes(*sum), count) as f32);
    OwnedVector::computed(state.tag, elements.collect(), name).map(Some)
}
