//! SQL functions that bring an `esr_vector` in and out: text, binary, type modifier.

use pgrx::pg_sys::Datum;

use super::{MAX_DIMENSIONS, OwnedVector, VectorError, binary, check_fits, text};
use crate::datum;
use crate::fmgr::Call;
use crate::sql_function;

sql_function!(esr_vector_in, input);
sql_function!(esr_vector_out, output);
sql_function!(esr_vector_recv, receive);
sql_function!(esr_vector_send, send);
sql_function!(esr_vector_typmod_in, modifier_in);
sql_function!(esr_vector_resize, fit);

/// The number of dimensions a type modifier demands, if it demands one.
pub fn modifier(typmod: i32) -> Option<usize> {
    usize::try_from(typmod).ok()
}

fn input(call: &Call) -> Result<OwnedVector, VectorError> {
    text::parse(&call.cstring(0))?.fitting(modifier(call.i32(2)))
}

fn output(call: &Call) -> Result<Datum, VectorError> {
    Ok(datum::new_cstring(&text::print(call.vector(0)?)))
}

fn receive(call: &Call) -> Result<OwnedVector, VectorError> {
    binary::decode(&datum::take_message(call.raw(0)))?.fitting(modifier(call.i32(2)))
}

fn send(call: &Call) -> Result<Vec<u8>, VectorError> {
    Ok(binary::encode(call.vector(0)?))
}

fn modifier_in(call: &Call) -> Result<i32, VectorError> {
    let modifiers = datum::type_modifiers(call.raw(0));
    match modifiers[..] {
        [dimensions] if (1..=MAX_DIMENSIONS as i32).contains(&dimensions) => Ok(dimensions),
        _ => {
            let given = modifiers.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
            Err(VectorError::BadModifier { given })
        }
    }
}

/// The cast from `esr_vector` to `esr_vector(n)`: the same value, if it fits.
fn fit(call: &Call) -> Result<Datum, VectorError> {
    check_fits(call.vector(0)?.elements.len(), modifier(call.i32(1)))?;
    Ok(call.raw(0))
}
