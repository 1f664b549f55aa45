//! Writes mono waveforms as 16-bit WAV, for fixtures, the trainer's caches and the demo. Knows no resampling.

use std::io::{Seek, Write};

/// Writes mono samples (full scale 1, clipped beyond it) as a 16-bit WAV file.
pub fn write_wav(out: impl Write + Seek, samples: &[f32], rate: u32) -> Result<(), hound::Error> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::new(out, spec)?;
    for sample in samples {
        writer.write_sample((sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16)?;
    }
    writer.finalize()
}
