//! What can go wrong while a trigger fires.

use crate::client::error::EmbedError;
use crate::vector::VectorError;

/// Why a row could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// Called in some other way.
    #[error("{0} can only be called as a trigger that esr_attach made")]
    NotAsTrigger(&'static str),
    /// A column's type was changed.
    #[error(
        "column \"{column}\" of relation \"{table}\", or its style, has another type than when the trigger was attached"
    )]
    WrongType {
        /// The column.
        column: String,
        /// The table.
        table: String,
    },
    /// The clip has no embedding.
    #[error("{source}")]
    Embed {
        /// Why.
        source: EmbedError,
        /// Where.
        row: String,
    },
    /// The embedding does not fit the column.
    #[error(transparent)]
    Vector(#[from] VectorError),
}
