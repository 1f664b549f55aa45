//! The binary form, for `COPY BINARY` and drivers. Pure.
//!
//! ```text
//!  dimensions u16 │ kind u16 │ model tag u64, only if kind = 1 │ f32 x dimensions        (all big-endian)
//! ```
//!
//! Kind 0, an untagged vector, is byte for byte what pgvector's `vector` sends, so drivers that know that type read it.

use super::{MAX_DIMENSIONS, OwnedVector, Vector, VectorError, tag::Tag};

const UNTAGGED: u16 = 0;
const TAGGED: u16 = 1;

/// Writes the binary form.
pub fn encode(vector: Vector<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + vector.elements.len() * 4);
    bytes.extend((vector.elements.len() as u16).to_be_bytes());
    if vector.tag.is_untagged() {
        bytes.extend(UNTAGGED.to_be_bytes());
    } else {
        bytes.extend(TAGGED.to_be_bytes());
        bytes.extend(vector.tag.0.to_be_bytes());
    }
    bytes.extend(vector.elements.iter().flat_map(|element| element.to_be_bytes()));
    bytes
}

/// Reads the binary form; the bytes come from a client and are not trusted.
pub fn decode(bytes: &[u8]) -> Result<OwnedVector, VectorError> {
    let malformed = |problem: String| VectorError::MalformedBinary { problem };
    let ended = || malformed(format!("the message ends after {} bytes", bytes.len()));
    let (dimensions, rest) = bytes.split_first_chunk().ok_or_else(ended)?;
    let (kind, mut rest) = rest.split_first_chunk().ok_or_else(ended)?;
    let dimensions = usize::from(u16::from_be_bytes(*dimensions));
    let tag = match u16::from_be_bytes(*kind) {
        UNTAGGED => Tag::UNTAGGED,
        TAGGED => {
            let (tag, after) = rest.split_first_chunk().ok_or_else(ended)?;
            rest = after;
            Tag(u64::from_be_bytes(*tag))
        }
        other => return Err(malformed(format!("unknown kind {other}"))),
    };
    if dimensions > MAX_DIMENSIONS {
        return Err(VectorError::TooManyDimensions);
    }
    if rest.len() != dimensions * 4 {
        return Err(malformed(format!("{dimensions} dimensions in {} bytes", rest.len())));
    }
    let (elements, _) = rest.as_chunks();
    OwnedVector::new(tag, elements.iter().map(|element| f32::from_be_bytes(*element)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let untagged = OwnedVector::new(Tag::UNTAGGED, vec![1.0, -2.0]).unwrap();
        assert_eq!(encode(untagged.as_vector()), [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0]);
        let tagged = OwnedVector::new(Tag(0x0123_4567_89ab_cdef), vec![1.0]).unwrap();
        let bytes = [0, 1, 0, 1, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x3f, 0x80, 0, 0];
        assert_eq!(encode(tagged.as_vector()), bytes);
        assert_eq!(decode(&bytes).unwrap(), tagged);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "a message cut at {cut} was accepted");
        }
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let nan = [0, 1, 0, 0, 0x7f, 0xc0, 0, 0];
        assert!(matches!(decode(&nan), Err(VectorError::NotFinite { position: 1, .. })));
        assert_eq!(decode(&[0, 0, 0, 0]), Err(VectorError::NoDimensions));
        assert_eq!(decode(&[0xff, 0xff, 0, 0]), Err(VectorError::TooManyDimensions));
        assert!(matches!(decode(&[0, 1, 0, 9, 0, 0, 0, 0]), Err(VectorError::MalformedBinary { .. })));
        assert!(matches!(decode(&[0, 1, 0, 0, 0, 0, 0, 0, 0]), Err(VectorError::MalformedBinary { .. })));
    }
}
