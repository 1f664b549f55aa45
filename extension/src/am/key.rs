//! What an index demands of the vectors in it: one number of dimensions, one model. Knows values, not pages.
//!
//! Unsafe is allowed here: a stored value may have to be fetched into a copy, which is freed after use.
#![allow(unsafe_code)]

use pgrx::pg_sys::{self, Datum};

use super::error::IndexError;
use super::relation::Index;
use crate::datum;
use crate::vector::tag::Tag;
use crate::vector::{Vector, VectorError, layout, same_space};

/// The space that the vectors of an index are in.
pub struct Space {
    index: Index,
    /// Elements of a vector.
    pub dimension: usize,
    /// The model of all rows that have one.
    pub tag: Tag,
}

impl Space {
    /// An index's space.
    pub fn new(index: Index, dimension: usize, tag: Tag) -> Self {
        Self { index, dimension, tag }
    }

    /// Refuses a row that cannot be among the others. The first tagged one decides on the model.
    pub fn admit(&mut self, vector: &Vector<'_>) -> Result<(), IndexError> {
        let (expected, actual) = (self.dimension, vector.elements.len());
        if expected != actual {
            return Err(IndexError::WrongDimensions { index: self.index.name(), expected, actual });
        }
        match self.tag.join(vector.tag) {
            Ok(tag) => {
                self.tag = tag;
                Ok(())
            }
            Err(_) => Err(IndexError::OtherModel { index: self.index.name(), held: self.tag, given: vector.tag }),
        }
    }

    /// Refuses a query as the operators do: a row is on their left, the query on their right.
    pub fn check_query(&self, query: &Vector<'_>) -> Result<(), VectorError> {
        if self.dimension != query.elements.len() {
            return Err(VectorError::DifferentDimensions { left: self.dimension, right: query.elements.len() });
        }
        let row = Vector { tag: self.tag, elements: query.elements };
        same_space(&row, query).map(|_| ())
    }
}

/// Lends a stored vector to a function. A copy that had to be made to read it is freed afterwards: thousands of rows may be
/// read in one memory context.
///
/// # Safety
/// `value` is an `esr_vector`.
pub unsafe fn with_vector<T>(
    value: Datum,
    read: impl FnOnce(Vector<'_>) -> Result<T, IndexError>,
) -> Result<T, IndexError> {
    // SAFETY: as the caller says; a copy starts `HEADER_BYTES` before its elements, and nothing of it is used after `read`.
    unsafe {
        let vector = datum::vector(value)?;
        let start = vector.elements.as_ptr().cast::<u8>().sub(layout::HEADER_BYTES).cast_mut();
        let result = read(vector);
        if start as usize != value.value() {
            pg_sys::pfree(start.cast());
        }
        result
    }
}
