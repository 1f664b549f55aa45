//! What can go wrong with an index.

use esr_ivf::StoreError;

use crate::vector::VectorError;
use crate::vector::tag::Tag;

/// What can go wrong with an index, other than PostgreSQL's own errors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IndexError {
    /// Something is wrong with its pages.
    #[error("index \"{index}\": {problem}")]
    Pages {
        /// The index.
        index: String,
        /// What is wrong.
        problem: StoreError,
    },
    /// `esr_index_check` found what no single page shows.
    #[error("index \"{index}\" is damaged: {problem}")]
    Inconsistent {
        /// The index.
        index: String,
        /// The first of the problems.
        problem: String,
        /// All that were found.
        all: Vec<String>,
    },
    /// A row whose vector is longer or shorter than the others.
    #[error("index \"{index}\" holds vectors of {expected} dimensions, not {actual}")]
    WrongDimensions {
        /// The index.
        index: String,
        /// Elements of its vectors.
        expected: usize,
        /// Elements of the new one.
        actual: usize,
    },
    /// A row embedded by another model than the others.
    #[error("index \"{index}\" holds embeddings of one model: tag {held}, not {given}")]
    OtherModel {
        /// The index.
        index: String,
        /// The model of its rows.
        held: Tag,
        /// The model of the new row.
        given: Tag,
    },
    /// Nothing says how long the vectors are.
    #[error("number of dimensions of index \"{index}\" is not known")]
    UnknownDimensions {
        /// The index.
        index: String,
    },
    /// A scan that is not a search.
    #[error("index \"{index}\" can only be scanned in the order of one distance")]
    NoOrder {
        /// The index.
        index: String,
    },
    /// A scan by a snapshot that may see two versions of a row.
    #[error("index \"{index}\" can only be scanned by an MVCC snapshot")]
    NotMvcc {
        /// The index.
        index: String,
    },
    /// Another kind of relation.
    #[error("\"{name}\" is not an index of access method esr_ivf")]
    NotAnIndex {
        /// Its name.
        name: String,
    },
    /// Somebody who may not look.
    #[error("permission denied for index \"{index}\"")]
    Denied {
        /// The index.
        index: String,
    },
    /// A call that makes no sense.
    #[error("{problem}")]
    BadArgument {
        /// What is wrong with it.
        problem: String,
    },
    /// A vector that does not fit the query.
    #[error(transparent)]
    Vector(#[from] VectorError),
}
