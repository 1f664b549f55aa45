//! What is indexed of a row.

/// What a row holds in the indexed column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Key<'a> {
    /// NULL: found after all others.
    Null,
    /// A vector of the index's dimension.
    Vector(&'a [f32]),
}
