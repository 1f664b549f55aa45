//! The three distances, behind operators and by name. These are the functions a scan calls for every row.

use esr_vector::metric;

use super::{VectorError, same_space};
use crate::fmgr::Call;
use crate::sql_function;

sql_function!(esr_cosine_distance, cosine);
sql_function!(esr_l2_distance, euclidean);
sql_function!(esr_inner_product, inner_product);
sql_function!(esr_negative_inner_product, negative_inner_product);

/// NaN if either vector is zero: PostgreSQL sorts that after every number, so such a row is never "nearest".
#[inline]
fn cosine(call: &Call) -> Result<f64, VectorError> {
    measure(call, metric::cosine_distance)
}

#[inline]
fn euclidean(call: &Call) -> Result<f64, VectorError> {
    measure(call, metric::l2_distance)
}

#[inline]
fn inner_product(call: &Call) -> Result<f64, VectorError> {
    measure(call, metric::inner_product)
}

#[inline]
fn negative_inner_product(call: &Call) -> Result<f64, VectorError> {
    measure(call, |a, b| -metric::inner_product(a, b))
}

#[inline]
fn measure(call: &Call, distance: impl Fn(&[f32], &[f32]) -> f64) -> Result<f64, VectorError> {
    let (left, right) = (call.scanned_vector(0)?, call.scanned_vector(1)?);
    same_space(&left, &right)?;
    Ok(distance(left.elements, right.elements))
}
