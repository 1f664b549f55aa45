//! The one table from what can go wrong to what SQL sees: SQLSTATE, message, detail, hint.
//!
//! Every operation has its own small error enum; this file alone turns them into [`SqlError`]. Applications may rely on
//! the SQLSTATEs; `COMMENT`s in the install script and the README name them.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

use crate::vector::VectorError;

/// An error as PostgreSQL reports it.
#[derive(Debug)]
pub struct SqlError {
    state: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl SqlError {
    /// An error without detail or hint.
    pub fn new(state: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { state, message: message.into(), detail: None, hint: None }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds facts that help to find the cause.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Reports the error to PostgreSQL, which aborts the statement. Unwinds; the guard of the SQL function that is
    /// running turns the unwinding into an `ereport(ERROR)`.
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.state, self.message, "esr");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        std::panic::panic_any(report)
    }
}

impl From<std::convert::Infallible> for SqlError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<VectorError> for SqlError {
    fn from(error: VectorError) -> Self {
        use PgSqlErrorCode as State;
        let message = error.to_string();
        match error {
            VectorError::Syntax { .. } => SqlError::new(State::ERRCODE_INVALID_TEXT_REPRESENTATION, message)
                .hint("Write an esr_vector as '[1,2,3]', or as '[1,2,3]@0123456789abcdef' with its model's tag."),
            VectorError::NoDimensions => {
                SqlError::new(State::ERRCODE_DATA_EXCEPTION, message).hint("Give at least one element, as in '[1]'.")
            }
            VectorError::TooManyDimensions => SqlError::new(State::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
                .hint("Reduce the vector before storing it; models for speech style use a few hundred elements."),
            VectorError::NotFinite { .. } | VectorError::OutOfRange { .. } => {
                SqlError::new(State::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
                    .hint("Elements must be finite numbers within the range of type real.")
            }
            VectorError::Overflow { .. } => SqlError::new(State::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
                .hint("Scale the vectors down first, for example with esr_normalize()."),
            VectorError::DifferentDimensions { .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint("Both sides must be embeddings of the same model; esr_dims() shows the dimensions of a value."),
            VectorError::WrongDimensions { expected, .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint(format!("The column or cast was declared as esr_vector({expected}).")),
            VectorError::DifferentModels { .. } => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
                "Embed both sides with the same model, or cast one side to real[] and back to compare regardless.",
            ),
            VectorError::BadModifier { .. } => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("Declare the type as esr_vector or esr_vector(n), such as esr_vector(512)."),
            VectorError::NullElement { .. } => SqlError::new(State::ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
                .hint("Remove the NULLs with array_remove(array, NULL), or replace them."),
            VectorError::NotOneDimensional { .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint("Cast a one-dimensional array, such as '{1,2,3}'."),
            VectorError::MalformedBinary { .. } => SqlError::new(State::ERRCODE_INVALID_BINARY_REPRESENTATION, message)
                .hint("The binary form is described beside the type in the extension's install script."),
            VectorError::Damaged { .. } => SqlError::new(State::ERRCODE_DATA_CORRUPTED, message)
                .hint("The stored value was not written by esr; restore the row from a backup."),
            VectorError::BadAggregateState => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("The functions behind avg(esr_vector) and sum(esr_vector) are not meant to be called directly."),
        }
    }
}
