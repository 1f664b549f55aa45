//! The total order behind `<`, `=`, ORDER BY, DISTINCT and btree, and the hash that agrees with it.
//!
//! Element by element, then the shorter one first, then by tag. Unlike a distance, an order must answer for any two values
//! of a column, so two models are no error here: their vectors are simply different values.

use std::cmp::Ordering;

use super::{Vector, VectorError};
use crate::datum;
use crate::fmgr::Call;
use crate::sql_function;

sql_function!(esr_vector_cmp, compare);
sql_function!(esr_vector_lt, less);
sql_function!(esr_vector_le, less_or_equal);
sql_function!(esr_vector_eq, equal);
sql_function!(esr_vector_ne, not_equal);
sql_function!(esr_vector_ge, greater_or_equal);
sql_function!(esr_vector_gt, greater);
sql_function!(esr_vector_hash, hash);
sql_function!(esr_vector_hash_extended, hash_extended);

fn compare(call: &Call) -> Result<i32, VectorError> {
    Ok(arguments(call)? as i32)
}

fn less(call: &Call) -> Result<bool, VectorError> {
    Ok(arguments(call)?.is_lt())
}

fn less_or_equal(call: &Call) -> Result<bool, VectorError> {
    Ok(arguments(call)?.is_le())
}

fn equal(call: &Call) -> Result<bool, VectorError> {
    Ok(arguments(call)?.is_eq())
}

fn not_equal(call: &Call) -> Result<bool, VectorError> {
    Ok(arguments(call)?.is_ne())
}

fn greater_or_equal(call: &Call) -> Result<bool, VectorError> {
    Ok(arguments(call)?.is_ge())
}

fn greater(call: &Call) -> Result<bool, VectorError> {
    Ok(arguments(call)?.is_gt())
}

fn hash(call: &Call) -> Result<i32, VectorError> {
    Ok(hashed(call.vector(0)?, 0) as i32)
}

fn hash_extended(call: &Call) -> Result<i64, VectorError> {
    Ok(hashed(call.vector(0)?, call.i64(1) as u64) as i64)
}

fn arguments(call: &Call) -> Result<Ordering, VectorError> {
    Ok(order(call.vector(0)?, call.vector(1)?))
}

fn order(left: Vector<'_>, right: Vector<'_>) -> Ordering {
    // Elements are finite, so `partial_cmp` always answers; and it says that -0 equals 0, as `real` does.
    let pairs = left.elements.iter().zip(right.elements);
    pairs
        .map(|(a, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
        .then(left.elements.len().cmp(&right.elements.len()))
        .then(left.tag.cmp(&right.tag))
}

fn hashed(vector: Vector<'_>, seed: u64) -> u64 {
    let mut bytes = Vec::with_capacity(8 + vector.elements.len() * 4);
    bytes.extend(vector.tag.0.to_ne_bytes());
    // Adding zero turns -0 into 0: equal vectors must have equal hashes.
    bytes.extend(vector.elements.iter().flat_map(|element| (element + 0.0).to_ne_bytes()));
    datum::hash(&bytes, seed)
}
