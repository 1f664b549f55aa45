//! Element-wise arithmetic, length and direction.

use esr_vector::metric;

use super::{OwnedVector, VectorError, same_space};
use crate::fmgr::Call;
use crate::sql_function;

sql_function!(esr_vector_add, add);
sql_function!(esr_vector_subtract, subtract);
sql_function!(esr_vector_multiply, multiply);
sql_function!(esr_vector_scale, scale);
sql_function!(esr_vector_scale_commuted, scale_commuted);
sql_function!(esr_norm, norm);
sql_function!(esr_normalize, normalize);
sql_function!(esr_dims, dimensions);
sql_function!(esr_model_tag, model_tag);

fn add(call: &Call) -> Result<OwnedVector, VectorError> {
    element_wise(call, "addition", |a, b| a + b)
}

fn subtract(call: &Call) -> Result<OwnedVector, VectorError> {
    element_wise(call, "subtraction", |a, b| a - b)
}

fn multiply(call: &Call) -> Result<OwnedVector, VectorError> {
    element_wise(call, "multiplication", |a, b| a * b)
}

fn scale(call: &Call) -> Result<OwnedVector, VectorError> {
    scaled(call, 0, 1)
}

fn scale_commuted(call: &Call) -> Result<OwnedVector, VectorError> {
    scaled(call, 1, 0)
}

fn norm(call: &Call) -> Result<f64, VectorError> {
    Ok(metric::norm(call.vector(0)?.elements))
}

/// The same direction with length one; the zero vector, which has no direction, stays as it is.
fn normalize(call: &Call) -> Result<OwnedVector, VectorError> {
    let vector = call.vector(0)?;
    let norm = metric::norm(vector.elements);
    let unit = |element: &f32| if norm > 0.0 { (f64::from(*element) / norm) as f32 } else { 0.0 };
    OwnedVector::computed(vector.tag, vector.elements.iter().map(unit).collect(), "normalization")
}

fn dimensions(call: &Call) -> Result<i32, VectorError> {
    Ok(call.vector(0)?.elements.len() as i32)
}

/// NULL for a vector that no model made.
fn model_tag(call: &Call) -> Result<Option<String>, VectorError> {
    let tag = call.vector(0)?.tag;
    Ok((!tag.is_untagged()).then(|| tag.to_string()))
}

fn element_wise(call: &Call, name: &'static str, operation: fn(f32, f32) -> f32) -> Result<OwnedVector, VectorError> {
    let (left, right) = (call.vector(0)?, call.vector(1)?);
    let tag = same_space(&left, &right)?;
    let pairs = left.elements.iter().zip(right.elements);
    OwnedVector::computed(tag, pairs.map(|(a, b)| operation(*a, *b)).collect(), name)
}

fn scaled(call: &Call, vector: usize, factor: usize) -> Result<OwnedVector, VectorError> {
    let (vector, factor) = (call.vector(vector)?, call.f64(factor));
    let elements = vector.elements.iter().map(|element| (f64::from(*element) * factor) as f32);
    OwnedVector::computed(vector.tag, elements.collect(), "scaling")
}
