//! The bytes of a stored `esr_vector`. Pure: knows neither PostgreSQL's memory nor its API.
//!
//! ```text
//!  byte 0        4            6         8                 16
//!  ┌────────────┬────────────┬─────────┬─────────────────┬──────────────────────────┐
//!  │ length     │ dimensions │ format  │ model tag       │ elements                 │
//!  │ varlena u32│ u16        │ u16 = 1 │ u64, 0 = none   │ f32 x dimensions         │
//!  └────────────┴────────────┴─────────┴─────────────────┴──────────────────────────┘
//! ```
//!
//! Native byte order, like everything in PostgreSQL's data files. `format` is the version of this drawing: a change here
//! raises it. PostgreSQL aligns a value to 4 bytes, so the tag is read as bytes; elements then are aligned as `f32`
//! demands. (8-byte alignment was measured too: the same number of rows to a page and the same scan time at 512
//! dimensions, and up to 4 wasted bytes a row elsewhere.)

use super::{MAX_DIMENSIONS, VectorError, tag::Tag};

/// Bytes before the first element, the varlena length included.
pub const HEADER_BYTES: usize = 16;

/// Version of the drawing above.
pub const FORMAT: u16 = 1;

/// What lies between the varlena length and the elements.
#[repr(C)]
struct Header {
    varlena_length: u32,
    dimensions: u16,
    format: u16,
    tag: [u8; 8],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(HEADER_BYTES.is_multiple_of(align_of::<f32>()));
const _: () = assert!(MAX_DIMENSIONS <= u16::MAX as usize);

/// Size of a whole value.
pub const fn value_bytes(dimensions: usize) -> usize {
    HEADER_BYTES + dimensions * size_of::<f32>()
}

/// The header's bytes after the varlena length.
pub fn encode(dimensions: usize, tag: Tag) -> [u8; HEADER_BYTES - 4] {
    let mut bytes = [0; HEADER_BYTES - 4];
    bytes[..2].copy_from_slice(&(dimensions as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&FORMAT.to_ne_bytes());
    bytes[4..].copy_from_slice(&tag.0.to_ne_bytes());
    bytes
}

/// Reads what [`encode`] wrote and checks it against the size of the whole value.
#[inline]
pub fn decode(bytes: &[u8; HEADER_BYTES - 4], total_bytes: usize) -> Result<(usize, Tag), VectorError> {
    let [d0, d1, f0, f1, t0, t1, t2, t3, t4, t5, t6, t7] = *bytes;
    let dimensions = usize::from(u16::from_ne_bytes([d0, d1]));
    let format = u16::from_ne_bytes([f0, f1]);
    if format != FORMAT || value_bytes(dimensions) != total_bytes || dimensions == 0 || dimensions > MAX_DIMENSIONS {
        return Err(damaged(dimensions, format, total_bytes));
    }
    Ok((dimensions, Tag(u64::from_ne_bytes([t0, t1, t2, t3, t4, t5, t6, t7]))))
}

#[cold]
fn damaged(dimensions: usize, format: u16, total_bytes: usize) -> VectorError {
    let problem = if format != FORMAT {
        format!("format {format}, where this version of esr knows {FORMAT}")
    } else {
        format!("{dimensions} dimensions in {total_bytes} bytes")
    };
    VectorError::Damaged { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn golden_bytes() {
        let header = encode(512, Tag(0x0123_4567_89ab_cdef));
        assert_eq!(header, [0x00, 0x02, 0x01, 0x00, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
        assert_eq!(decode(&header, 2064).unwrap(), (512, Tag(0x0123_4567_89ab_cdef)));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        let good = encode(3, Tag(7));
        assert!(decode(&good, value_bytes(3)).is_ok());
        for total in [0, HEADER_BYTES, value_bytes(2), value_bytes(3) + 1, value_bytes(4)] {
            assert!(matches!(decode(&good, total), Err(VectorError::Damaged { .. })), "{total} bytes were accepted");
        }
        assert!(decode(&encode(0, Tag(7)), value_bytes(0)).is_err());
        let mut other_format = good;
        other_format[2..4].copy_from_slice(&2u16.to_ne_bytes());
        assert!(decode(&other_format, value_bytes(3)).is_err());
    }
}
