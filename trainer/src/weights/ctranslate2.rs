//! Reads CTranslate2's `model.bin`: a little-endian header, then each variable with its name, shape, type and bytes.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use crate::torch::Params;

const NEWEST_VERSION: u32 = 6;
const LONGEST_NAME: usize = 4096;

/// Whether a file begins like CTranslate2's: a small version number and a readable specification name.
pub fn recognise(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut start = [0u8; 8];
    let read = std::fs::File::open(path)?.read(&mut start)?;
    let version = u32::from_le_bytes([start[0], start[1], start[2], start[3]]);
    Ok(read == 8 && (2..=NEWEST_VERSION).contains(&version) && start[6].is_ascii_alphabetic())
}

/// All variables as 32-bit floats.
pub fn read(path: &Path) -> Result<Params> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is not a CTranslate2 model", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Params> {
    let mut reader = Reader { bytes, at: 0 };
    let version = reader.u32()?;
    ensure!((2..=NEWEST_VERSION).contains(&version), "unknown format version {version}");
    let _specification = reader.text()?;
    let _revision = reader.u32()?;
    let count = reader.u32()?;
    let mut found = Params::new();
    for _ in 0..count {
        let name = reader.text()?;
        let rank = reader.take(1)?[0];
        let shape = (0..rank).map(|_| reader.u32().map(i64::from)).collect::<Result<Vec<_>>>()?;
        let kind = match reader.take(1)?[0] {
            0 => Kind::Float,
            1 => Kind::Int8,
            2 => Kind::Int16,
            3 => Kind::Int,
            4 => Kind::Half,
            other => bail!("variable {name} has the unknown type {other}"),
        };
        let length = reader.u32()? as usize;
        let data = reader.take(length)?;
        let elements: i64 = shape.iter().product();
        ensure!(elements as usize * kind.elt_size_in_bytes() == length, "variable {name} {shape:?} has {length} bytes");
        let tensor = Tensor::from_data_size(data, &shape, kind);
        found.insert(name, tensor.to_kind(Kind::Float));
    }
    Ok(found)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.with_context(|| format!("the file ends at byte {} inside a field", self.bytes.len()))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    /// A name: its length with the closing zero, then the bytes.
    fn text(&mut self) -> Result<String> {
        let length = u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes were taken")) as usize;
        ensure!(length <= LONGEST_NAME, "a name of {length} bytes");
        let bytes = self.take(length)?;
        let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        Ok(String::from_utf8(text.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut b = vec![];
        let text = |b: &mut Vec<u8>, s: &str| {
            b.extend((s.len() as u16 + 1).to_le_bytes());
            b.extend(s.as_bytes());
            b.push(0);
        };
        b.extend(6u32.to_le_bytes());
        text(&mut b, "WhisperSpec");
        b.extend(3u32.to_le_bytes());
        b.extend(2u32.to_le_bytes());
        text(&mut b, "a/weight");
        b.push(2);
        b.extend(2u32.to_le_bytes());
        b.extend(1u32.to_le_bytes());
        b.push(4);
        b.extend(4u32.to_le_bytes());
        b.extend(half::f16::from_f32(1.5).to_le_bytes());
        b.extend(half::f16::from_f32(-2.0).to_le_bytes());
        text(&mut b, "n");
        b.push(0);
        b.push(2);
        b.extend(2u32.to_le_bytes());
        b.extend(8i16.to_le_bytes());
        b
    }

    #[test]
    fn reads_names_shapes_and_half_floats() {
        let found = parse(&sample()).unwrap();
        assert_eq!(found["a/weight"].size(), [2, 1]);
        assert_eq!(Vec::<f32>::try_from(found["a/weight"].flatten(0, -1)).unwrap(), [1.5, -2.0]);
        assert_eq!(found["n"].double_value(&[]), 8.0);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample();
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
