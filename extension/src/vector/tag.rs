//! The identity of the model that made an embedding. Knows nothing of where models lie.

use std::fmt;

use super::VectorError;

/// First eight bytes of a hash over a model bundle's contents; zero says "not made by a model".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(pub u64);

impl Tag {
    /// The tag of a vector that no model made, such as a cast from `real[]`. Compares with anything.
    pub const UNTAGGED: Tag = Tag(0);

    /// Whether no model is known.
    pub fn is_untagged(self) -> bool {
        self == Self::UNTAGGED
    }

    /// The tag of a value computed from two others, or an error if two models disagree.
    pub fn join(self, other: Tag) -> Result<Tag, VectorError> {
        if self == other || other.is_untagged() {
            Ok(self)
        } else if self.is_untagged() {
            Ok(other)
        } else {
            Err(VectorError::DifferentModels { left: self, right: other })
        }
    }
}

/// Sixteen lowercase hexadecimal digits.
impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untagged_value_joins_anything_and_two_models_never_join() {
        let (one, two) = (Tag(1), Tag(2));
        assert_eq!(one.join(one).unwrap(), one);
        assert_eq!(one.join(Tag::UNTAGGED).unwrap(), one);
        assert_eq!(Tag::UNTAGGED.join(two).unwrap(), two);
        assert_eq!(
            one.join(two).unwrap_err().to_string(),
            "embeddings of two different models: tags 0000000000000001 and 0000000000000002"
        );
    }
}
