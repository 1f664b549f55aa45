//! Arrays of numbers, text, byte strings and vectors, taken apart and built.
//!
//! Unsafe is allowed here, as in [`crate::datum`] and on the same terms.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum};

use super::{bytes, new_vector};
use crate::vector::Vector;

/// An element type of arrays, as PostgreSQL's catalog describes it.
pub trait Element: Sized {
    /// Its type.
    const TYPE: pg_sys::Oid;
    /// Bytes, or -1 if they vary.
    const LENGTH: i16;
    /// Whether the datum is the value.
    const BY_VALUE: bool;
    /// `typalign`.
    const ALIGNMENT: c_char;

    /// # Safety
    /// `datum` has type [`Element::TYPE`].
    unsafe fn from_datum(datum: Datum) -> Self;
}

impl Element for f32 {
    const TYPE: pg_sys::Oid = pg_sys::FLOAT4OID;
    const LENGTH: i16 = 4;
    const BY_VALUE: bool = true;
    const ALIGNMENT: c_char = pg_sys::TYPALIGN_INT as c_char;

    unsafe fn from_datum(datum: Datum) -> Self {
        f32::from_bits(datum.value() as u32)
    }
}

impl Element for f64 {
    const TYPE: pg_sys::Oid = pg_sys::FLOAT8OID;
    const LENGTH: i16 = 8;
    const BY_VALUE: bool = true;
    const ALIGNMENT: c_char = pg_sys::TYPALIGN_DOUBLE as c_char;

    unsafe fn from_datum(datum: Datum) -> Self {
        f64::from_bits(datum.value() as u64)
    }
}

/// An element of variable length; `TYPE` is the number of its type.
pub struct Varlena<const TYPE: u32>(Datum);

/// Text in the server's encoding; [`to_utf8`](super::to_utf8) reads it.
pub type ServerText = Varlena<{ pg_sys::TEXTOID.to_u32() }>;

/// One `bytea`.
pub type Bytes = Varlena<{ pg_sys::BYTEAOID.to_u32() }>;

impl<const TYPE: u32> Varlena<TYPE> {
    /// Its bytes, fetched from wherever the row holds them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: built only by `from_datum`, from an element of an array of this type that outlives the call.
        unsafe { bytes(self.0) }
    }
}

impl<const TYPE: u32> Element for Varlena<TYPE> {
    const TYPE: pg_sys::Oid = pg_sys::Oid::from_u32(TYPE);
    const LENGTH: i16 = -1;
    const BY_VALUE: bool = false;
    const ALIGNMENT: c_char = pg_sys::TYPALIGN_INT as c_char;

    unsafe fn from_datum(datum: Datum) -> Self {
        Self(datum)
    }
}

/// An array taken apart.
pub struct ArrayParts<'a, T> {
    /// Number of array dimensions: 0 if empty, 2 for a matrix.
    pub array_dimensions: usize,
    /// Elements in storage order, `None` for NULL.
    pub elements: Vec<Option<T>>,
    lifetime: PhantomData<&'a ()>,
}

/// Takes an array apart.
///
/// # Safety
/// `datum` is an array of `T` that outlives `'a`.
pub unsafe fn array<'a, T: Element>(datum: Datum) -> ArrayParts<'a, T> {
    let mut values = std::ptr::null_mut();
    let mut nulls = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: the caller says what the array holds; PostgreSQL returns `count` values and as many NULL flags.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        pg_sys::deconstruct_array(
            array,
            T::TYPE,
            T::LENGTH.into(),
            T::BY_VALUE,
            T::ALIGNMENT,
            &mut values,
            &mut nulls,
            &mut count,
        );
        let elements = (0..count as usize)
            .map(|index| if *nulls.add(index) { None } else { Some(T::from_datum(*values.add(index))) })
            .collect();
        ArrayParts { array_dimensions: (*array).ndim as usize, elements, lifetime: PhantomData }
    }
}

/// Builds a one-dimensional array of numbers.
pub fn new_array<T: Element>(elements: &mut [Datum]) -> Datum {
    // SAFETY: PostgreSQL copies the elements, which the caller made of type `T` (numbers are their own datums).
    unsafe {
        Datum::from(pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            T::TYPE,
            T::LENGTH.into(),
            T::BY_VALUE,
            T::ALIGNMENT,
        ))
    }
}

/// Builds a one-dimensional array of vectors, with NULLs where there are none.
pub fn new_vector_array(vectors: &[Option<Vector<'_>>], array_type: pg_sys::Oid) -> Datum {
    let mut nulls: Vec<bool> = vectors.iter().map(Option::is_none).collect();
    let mut elements: Vec<Datum> = vectors.iter().map(|vector| vector.map_or(Datum::from(0), new_vector)).collect();
    let mut lengths = [vectors.len() as i32];
    let mut lower_bounds = [1];
    // SAFETY: PostgreSQL copies `lengths[0]` elements, of the element type that it names itself for our array type.
    unsafe {
        let element_type = pg_sys::get_element_type(array_type);
        if vectors.is_empty() {
            return Datum::from(pg_sys::construct_empty_array(element_type));
        }
        Datum::from(pg_sys::construct_md_array(
            elements.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            lengths.as_mut_ptr(),
            lower_bounds.as_mut_ptr(),
            element_type,
            -1,
            false,
            pg_sys::TYPALIGN_INT as c_char,
        ))
    }
}

/// The numbers between the parentheses of a type, from the `cstring[]` that `typmod_in` receives.
pub fn type_modifiers(array: Datum) -> Vec<i32> {
    let mut count = 0;
    // SAFETY: PostgreSQL passes a cstring array to typmod_in and returns `count` numbers.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let modifiers = pg_sys::ArrayGetIntegerTypmods(array, &mut count);
        std::slice::from_raw_parts(modifiers, count as usize).to_vec()
    }
}
