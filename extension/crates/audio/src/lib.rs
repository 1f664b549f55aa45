//! Untrusted audio bytes in, a mono waveform at the model's rate out.
//!
//! Two steps, each a proof for the next: [`decode()`] turns a whole file into [`Pcm`] (finite samples, known rate and
//! channel count, inside [`Limits`]); [`Pcm::to_model_rate`] mixes it down and resamples it to a [`Waveform`] (mono,
//! finite, not silent, at the rate asked for), which is the only thing the encoder accepts. [`info`] answers what a
//! file holds without keeping its samples, and [`write_wav`] writes fixtures and cached clips.
//!
//! Reads WAV (8, 16, 24, 32-bit integer, 32 and 64-bit float, A-law, mu-law, Microsoft and IMA ADPCM), FLAC, Ogg
//! Vorbis, MP3 and AAC or ALAC in MP4 (also bare ADTS AAC). Knows no models, no sockets, no PostgreSQL.
//!
//! ```
//! let mut file = std::io::Cursor::new(Vec::new());
//! let tone: Vec<f32> = (0..8000).map(|n| (n as f32 * 0.1).sin() * 0.5).collect();
//! esr_audio::write_wav(&mut file, &tone, 8000)?;
//! let waveform = esr_audio::decode(file.get_ref(), &esr_audio::Limits::default())?.to_model_rate(16_000)?;
//! assert_eq!(waveform.samples().len(), 16_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod container;
mod decode;
mod limits;
mod waveform;
mod write;

pub use container::Container;
pub use decode::{AudioInfo, DecodeError, Pcm, decode, info};
pub use limits::{Limits, MAX_DECODED_SAMPLES, MIN_RATE};
pub use waveform::{SILENCE_PEAK, Waveform, WaveformError};
pub use write::write_wav;
