//! A naive WAV writer, the oracle of the tests: every sample format, plain and WAVE_FORMAT_EXTENSIBLE headers.

#![allow(dead_code, reason = "each test binary uses its part")]

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encoding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

impl Encoding {
    pub const ALL: [Self; 6] = [Self::U8, Self::I16, Self::I24, Self::I32, Self::F32, Self::F64];

    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// What a reader must give back for `sample`.
    pub fn quantise(self, sample: f64) -> f64 {
        match self {
            Self::F32 | Self::F64 => f64::from(sample as f32),
            _ => self.integer(sample) as f64 / self.full_scale(),
        }
    }

    fn full_scale(self) -> f64 {
        2f64.powi(self.bytes() as i32 * 8 - 1)
    }

    fn integer(self, sample: f64) -> i64 {
        let scale = self.full_scale();
        (sample * scale).round().clamp(-scale, scale - 1.0) as i64
    }

    fn write(self, sample: f64, out: &mut Vec<u8>) {
        match self {
            Self::U8 => out.push((self.integer(sample) + 128) as u8),
            Self::I16 => out.extend((self.integer(sample) as i16).to_le_bytes()),
            Self::I24 => out.extend(&(self.integer(sample) as i32).to_le_bytes()[..3]),
            Self::I32 => out.extend((self.integer(sample) as i32).to_le_bytes()),
            Self::F32 => out.extend((sample as f32).to_le_bytes()),
            Self::F64 => out.extend(sample.to_le_bytes()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct WavFile {
    pub encoding: Encoding,
    pub channels: u16,
    pub rate: u32,
    pub extensible: bool,
}

impl WavFile {
    /// The whole file for interleaved samples in -1..1.
    pub fn write(&self, samples: &[f64]) -> Vec<u8> {
        let mut data = Vec::new();
        samples.iter().for_each(|sample| self.encoding.write(*sample, &mut data));
        let length = data.len() as u32;
        self.with_data(&data, length)
    }

    /// A file whose header states `length` bytes of data, whatever there really is.
    pub fn with_data(&self, data: &[u8], length: u32) -> Vec<u8> {
        let float = matches!(self.encoding, Encoding::F32 | Encoding::F64);
        let tag: u16 = if float { 3 } else { 1 };
        let width = self.encoding.bytes() as u16;
        let block = self.channels.wrapping_mul(width);
        let mut format = Vec::new();
        format.extend(if self.extensible { 0xfffe } else { tag }.to_le_bytes());
        format.extend(self.channels.to_le_bytes());
        format.extend(self.rate.to_le_bytes());
        format.extend(self.rate.wrapping_mul(u32::from(block)).to_le_bytes());
        format.extend(block.to_le_bytes());
        format.extend((width * 8).to_le_bytes());
        if self.extensible {
            format.extend(22u16.to_le_bytes());
            format.extend((width * 8).to_le_bytes());
            format.extend(((1u32 << self.channels.min(18)) - 1).to_le_bytes());
            format.extend(tag.to_le_bytes());
            format.extend([0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71]);
        }
        let mut file = b"RIFF".to_vec();
        file.extend((4 + 8 + format.len() as u32 + 8).wrapping_add(length).to_le_bytes());
        file.extend(b"WAVEfmt ");
        file.extend((format.len() as u32).to_le_bytes());
        file.extend(&format);
        file.extend(b"data");
        file.extend(length.to_le_bytes());
        file.extend(data);
        file
    }
}
