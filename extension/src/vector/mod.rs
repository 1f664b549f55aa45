//! The type `esr_vector`: what its values are, and what can be wrong with them.
//!
//! `layout`, `text` and `binary` are pure; `datum` (one level up) is where values meet PostgreSQL's memory; the other
//! files hold the SQL functions, one file per family.

pub mod aggregate;
pub mod arithmetic;
pub mod binary;
pub mod cast;
pub mod compare;
pub mod distance;
pub mod io;
pub mod layout;
pub mod tag;
pub mod text;

pub use esr_vector::MAX_DIMENSIONS;
use tag::Tag;

/// A vector somewhere in PostgreSQL's memory: finite elements, at least one and at most [`MAX_DIMENSIONS`].
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a> {
    /// The model that made it.
    pub tag: Tag,
    /// Its elements.
    pub elements: &'a [f32],
}

/// A vector of our own, on its way into PostgreSQL. Built only by [`OwnedVector::new`], so its elements are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedVector {
    tag: Tag,
    elements: Vec<f32>,
}

impl OwnedVector {
    /// Checks the number of elements and that each is finite.
    pub fn new(tag: Tag, elements: Vec<f32>) -> Result<Self, VectorError> {
        if elements.is_empty() {
            return Err(VectorError::NoDimensions);
        }
        if elements.len() > MAX_DIMENSIONS {
            return Err(VectorError::TooManyDimensions);
        }
        match elements.iter().position(|element| !element.is_finite()) {
            Some(index) => Err(VectorError::NotFinite { position: index + 1, value: spell(elements[index]) }),
            None => Ok(Self { tag, elements }),
        }
    }

    /// The result of a computation, where an element that is not finite means that it overflowed.
    pub fn computed(tag: Tag, elements: Vec<f32>, operation: &'static str) -> Result<Self, VectorError> {
        Self::new(tag, elements).map_err(|error| match error {
            VectorError::NotFinite { position, .. } => VectorError::Overflow { operation, position },
            other => other,
        })
    }

    /// Borrows it.
    pub fn as_vector(&self) -> Vector<'_> {
        Vector { tag: self.tag, elements: &self.elements }
    }

    /// Refuses a vector that does not fit a column declared with a number of dimensions.
    pub fn fitting(self, modifier: Option<usize>) -> Result<Self, VectorError> {
        check_fits(self.elements.len(), modifier)?;
        Ok(self)
    }
}

/// The tag two vectors have in common, if they may be compared at all: same number of elements, same model.
pub fn same_space(left: &Vector<'_>, right: &Vector<'_>) -> Result<Tag, VectorError> {
    if left.elements.len() != right.elements.len() {
        return Err(VectorError::DifferentDimensions { left: left.elements.len(), right: right.elements.len() });
    }
    left.tag.join(right.tag)
}

/// Refuses a number of elements that differs from the declared one.
pub fn check_fits(actual: usize, modifier: Option<usize>) -> Result<(), VectorError> {
    match modifier {
        Some(expected) if expected != actual => Err(VectorError::WrongDimensions { expected, actual }),
        _ => Ok(()),
    }
}

/// A number that is none, as SQL spells it.
fn spell(element: f32) -> String {
    let infinity = if element > 0.0 { "Infinity" } else { "-Infinity" };
    if element.is_nan() { "NaN".into() } else { infinity.into() }
}

/// What can be wrong with a vector, or with two of them together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VectorError {
    /// The text is not a vector.
    #[error("malformed esr_vector literal \"{text}\": {problem} at character {position}")]
    Syntax {
        /// The beginning of the text.
        text: String,
        /// What was expected or found.
        problem: &'static str,
        /// Where, counting from one.
        position: usize,
    },
    /// No elements.
    #[error("an esr_vector must have at least 1 dimension")]
    NoDimensions,
    /// More than the limit.
    #[error("an esr_vector cannot have more than {MAX_DIMENSIONS} dimensions")]
    TooManyDimensions,
    /// NaN or an infinity.
    #[error("{value} at element {position} is not allowed in an esr_vector")]
    NotFinite {
        /// Which element, counting from one.
        position: usize,
        /// The element as it was given.
        value: String,
    },
    /// A number that `real` cannot hold.
    #[error("{value} at element {position} is out of range for an esr_vector")]
    OutOfRange {
        /// Which element, counting from one.
        position: usize,
        /// The element as it was given.
        value: String,
    },
    /// A computation left the range of `real`.
    #[error("{operation} of esr_vectors leaves the range of type real at element {position}")]
    Overflow {
        /// The operator or aggregate.
        operation: &'static str,
        /// Which element, counting from one.
        position: usize,
    },
    /// Two vectors of different length together.
    #[error("different esr_vector dimensions {left} and {right}")]
    DifferentDimensions {
        /// Elements on the left.
        left: usize,
        /// Elements on the right.
        right: usize,
    },
    /// A vector that does not fit the declared type.
    #[error("expected {expected} dimensions, not {actual}")]
    WrongDimensions {
        /// As declared.
        expected: usize,
        /// As given.
        actual: usize,
    },
    /// Embeddings of two models together.
    #[error("embeddings of two different models: tags {left} and {right}")]
    DifferentModels {
        /// Model on the left.
        left: Tag,
        /// Model on the right.
        right: Tag,
    },
    /// A type modifier outside 1 to the limit.
    #[error("type modifier of esr_vector must be one number from 1 to {MAX_DIMENSIONS}, not {given}")]
    BadModifier {
        /// What was written between the parentheses.
        given: String,
    },
    /// A NULL inside an array.
    #[error("array with a NULL at element {position} cannot become an esr_vector")]
    NullElement {
        /// Which element, counting from one.
        position: usize,
    },
    /// A matrix or deeper.
    #[error("array with {dimensions} array dimensions cannot become an esr_vector")]
    NotOneDimensional {
        /// Number of array dimensions.
        dimensions: usize,
    },
    /// Bytes that are not the binary form.
    #[error("malformed binary esr_vector: {problem}")]
    MalformedBinary {
        /// What is wrong with them.
        problem: String,
    },
    /// A stored value whose header contradicts itself.
    #[error("damaged esr_vector value: {problem}")]
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// A transition value that avg and sum did not make.
    #[error("malformed state of an esr_vector aggregate")]
    BadAggregateState,
}
