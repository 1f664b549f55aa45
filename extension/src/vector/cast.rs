//! Casts between `esr_vector` and arrays of numbers.

use pgrx::pg_sys::Datum;

use super::io::modifier;
use super::{OwnedVector, VectorError, tag::Tag};
use crate::datum::{self, ArrayParts};
use crate::fmgr::{Call, IntoSql};
use crate::sql_function;

sql_function!(esr_real_array_to_vector, from_real);
sql_function!(esr_double_array_to_vector, from_double);
sql_function!(esr_vector_to_real_array, to_real);
sql_function!(esr_vector_to_double_array, to_double);

fn from_real(call: &Call) -> Result<OwnedVector, VectorError> {
    let elements = elements(call.array::<f32>(0))?;
    OwnedVector::new(Tag::UNTAGGED, elements)?.fitting(modifier(call.i32(1)))
}

fn from_double(call: &Call) -> Result<OwnedVector, VectorError> {
    let doubles = elements(call.array::<f64>(0))?;
    let mut narrowed = Vec::with_capacity(doubles.len());
    for (index, double) in doubles.into_iter().enumerate() {
        let single = double as f32;
        if double.is_finite() && !single.is_finite() {
            return Err(VectorError::OutOfRange { position: index + 1, value: format!("{double:e}") });
        }
        narrowed.push(single);
    }
    OwnedVector::new(Tag::UNTAGGED, narrowed)?.fitting(modifier(call.i32(1)))
}

fn to_real(call: &Call) -> Result<Datum, VectorError> {
    let vector = call.vector(0)?;
    let mut elements: Vec<Datum> = vector.elements.iter().map(|element| Datum::from(element.to_bits())).collect();
    Ok(datum::new_array::<f32>(&mut elements))
}

fn to_double(call: &Call) -> Result<Datum, VectorError> {
    let vector = call.vector(0)?;
    let mut elements: Vec<Datum> = vector.elements.iter().map(|element| f64::from(*element).into_sql(call)).collect();
    Ok(datum::new_array::<f64>(&mut elements))
}

fn elements<T>(array: ArrayParts<'_, T>) -> Result<Vec<T>, VectorError> {
    if array.array_dimensions > 1 {
        return Err(VectorError::NotOneDimensional { dimensions: array.array_dimensions });
    }
    let numbered = array.elements.into_iter().enumerate();
    numbered.map(|(index, element)| element.ok_or(VectorError::NullElement { position: index + 1 })).collect()
}
