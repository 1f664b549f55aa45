//! A clip's file, or a piece of it, as the waveform a network sees: decoded and resampled by the same code as in production.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use esr_audio::{Limits, Pcm, Waveform};

use crate::data::piece::Piece;
use crate::nets::log_mel::SAMPLE_RATE;

/// Bounds on a recording of which pieces are taken: half an hour of stereo, more than production accepts as one clip.
/// Expresso's conversations are longer than ten minutes.
const RECORDING: Limits = Limits { max_bytes: 1 << 30, max_seconds: 1800.0, max_channels: 16, max_rate: 192_000 };

thread_local! {
    /// The recording that was read last: its pieces come one after the other.
    static LAST: RefCell<Option<(PathBuf, Pcm)>> = const { RefCell::new(None) };
}

/// Reads a file or a [`Piece`] of one as mono samples at 16 kHz.
///
/// # Errors
/// Names the file when it cannot be read or decoded, or ends before the piece.
pub fn read(path: &Path) -> Result<Vec<f32>> {
    Ok(waveform(path, SAMPLE_RATE)?.into_samples())
}

/// Reads a file or a [`Piece`] of one as production does: mono, at a model's rate.
///
/// # Errors
/// As [`read`].
pub fn waveform(path: &Path, rate: u32) -> Result<Waveform> {
    let (file, piece) = Piece::split(path);
    let pcm = match piece {
        None => decode(&file, &Limits::default())?,
        Some(piece) => with_recording(&file, |recording| cut(recording, piece).with_context(|| describe(path)))?,
    };
    pcm.to_model_rate(rate).with_context(|| describe(path))
}

/// Channels of a recording.
///
/// # Errors
/// As [`read`].
pub fn channels(file: &Path) -> Result<u16> {
    with_recording(file, |recording| Ok(recording.channels()))
}

/// Length of a recording in seconds, by decoding it.
///
/// # Errors
/// As [`read`].
pub fn seconds(file: &Path) -> Result<f64> {
    with_recording(file, |recording| Ok(recording.frames() as f64 / f64::from(recording.rate())))
}

/// A waveform of at least `shortest` samples, repeated as often as needed, as the embedder does with short clips.
pub fn at_least(mut samples: Vec<f32>, shortest: usize) -> Vec<f32> {
    let once = samples.len();
    while !samples.is_empty() && samples.len() < shortest {
        let more = (shortest - samples.len()).min(once);
        samples.extend_from_within(..more);
    }
    samples
}

fn cut(recording: &Pcm, piece: Piece) -> Result<Pcm> {
    let frame = |seconds: f64| (seconds * f64::from(recording.rate())).round() as usize;
    if let Some(channel) = piece.channel {
        ensure!(channel < recording.channels(), "there is no channel {channel}, only {}", recording.channels());
    }
    let until = piece.until.map_or(recording.frames(), frame).min(recording.frames());
    recording.part(piece.channel, frame(piece.from)..until).with_context(|| {
        let length = recording.frames() as f64 / f64::from(recording.rate());
        format!("the recording ends at {length:.2} s, before the piece begins")
    })
}

fn with_recording<T>(file: &Path, use_it: impl FnOnce(&Pcm) -> Result<T>) -> Result<T> {
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(known, _)| known != file) {
            *last = None;
            *last = Some((file.to_path_buf(), decode(file, &RECORDING)?));
        }
        let (_, recording) = last.as_ref().expect("it was read above");
        use_it(recording)
    })
}

fn decode(file: &Path, limits: &Limits) -> Result<Pcm> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    esr_audio::decode(&bytes, limits).map_err(|e| anyhow!("{}: {e}", file.display()))
}

fn describe(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seconds, two channels at 8 kHz: the left one is 0.25 then 0.5, the right one is -0.5 throughout.
    fn stereo(file: &Path) {
        let format = hound::WavSpec {
            channels: 2,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(file, format).unwrap();
        for n in 0..16_000 {
            writer.write_sample(if n < 8000 { 8192i16 } else { 16384 }).unwrap();
            writer.write_sample(-16384i16).unwrap();
        }
        writer.finalize().unwrap();
    }

    #[test]
    fn pieces_are_cut_by_channel_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.wav");
        stereo(&file);
        let middle = |from, until, channel| {
            let samples = waveform(&Piece { from, until, channel }.of(&file), 8000).unwrap().into_samples();
            (samples.len(), samples[samples.len() / 2])
        };
        assert_eq!(middle(0.0, Some(0.5), Some(0)), (4000, 0.25));
        assert_eq!(middle(1.0, None, Some(0)), (8000, 0.5));
        assert_eq!(middle(0.25, Some(0.75), Some(1)), (4000, -0.5));
        assert_eq!(middle(0.0, Some(1.0), None), (8000, -0.125));
        assert_eq!(read(&Piece { from: 1.5, until: Some(9.0), channel: Some(1) }.of(&file)).unwrap().len(), 8000);
        assert_eq!((channels(&file).unwrap(), seconds(&file).unwrap()), (2, 2.0));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.wav");
        stereo(&file);
        let error = |piece: Piece| format!("{:#}", read(&piece.of(&file)).unwrap_err());
        let late = error(Piece { from: 2.5, until: None, channel: Some(0) });
        assert!(late.contains("talk.wav") && late.contains("2.00 s"), "{late}");
        let other = error(Piece { from: 0.0, until: None, channel: Some(2) });
        assert!(other.contains("no channel 2"), "{other}");
        let missing = format!("{:#}", read(&folder.path().join("none.wav")).unwrap_err());
        assert!(missing.contains("none.wav"), "{missing}");
    }
}
