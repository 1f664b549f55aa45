//! A long recording cut into windows. Knows samples and counts, no models and no sockets.

use esr_audio::Waveform;
use esr_wire::{Failure, FailureKind};

use crate::failure::{failure, with_hint};

/// Windows of one recording, at most: ten minutes in steps of a sixtieth of a second.
const MOST_WINDOWS: usize = 36_000;

/// One window: from which sample, to which.
pub type Window = (usize, usize);

/// Windows of `window` seconds, one every `hop` seconds. The last one ends where the recording ends, and begins earlier if
/// need be, so that every window has the full length; a recording shorter than one is a window by itself.
pub fn windows(clip: &Waveform, window: f64, hop: f64) -> Result<Vec<Window>, Failure> {
    let (length, rate) = (clip.samples().len(), f64::from(clip.rate()));
    let whole = |seconds: f64| (seconds * rate).round().clamp(1.0, 1e15) as usize;
    if !(window.is_finite() && window > 0.0 && hop.is_finite() && hop > 0.0) {
        let message = format!("windows of {window} s every {hop} s cannot be cut");
        return Err(with_hint(failure(FailureKind::BadText, message), "Both must be above zero seconds."));
    }
    let (size, hop) = (whole(window), whole(hop));
    if length <= size {
        return Ok(vec![(0, length)]);
    }
    let count = 1 + (length - size).div_ceil(hop);
    if count > MOST_WINDOWS {
        let message = format!("{count} windows are over the limit of {MOST_WINDOWS}");
        return Err(with_hint(failure(FailureKind::AudioLimit, message), "Take longer steps, or a shorter recording."));
    }
    Ok((0..count).map(|k| (k * hop).min(length - size)).map(|start| (start, start + size)).collect())
}

/// The sound of a window; `None` where it is silent.
pub fn cut(clip: &Waveform, (from, to): Window) -> Option<Waveform> {
    Waveform::new(clip.samples()[from..to].to_vec(), clip.rate()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: f64, window: f64, hop: f64, expected: &[(usize, usize)]) {
        let clip = Waveform::new(vec![0.5; (seconds * 100.0) as usize], 100).unwrap();
        assert_eq!(windows(&clip, window, hop).unwrap(), expected);
    }

    #[test]
    fn windows_cover_a_recording_and_end_with_it() {
        check(1.0, 3.0, 1.0, &[(0, 100)]);
        check(3.0, 3.0, 1.0, &[(0, 300)]);
        check(4.5, 3.0, 1.0, &[(0, 300), (100, 400), (150, 450)]);
        check(6.0, 3.0, 3.0, &[(0, 300), (300, 600)]);
        check(6.1, 3.0, 3.0, &[(0, 300), (300, 600), (310, 610)]);
    }

    #[test]
    fn nonsense_is_refused() {
        let clip = Waveform::new(vec![0.5; 100_000], 100).unwrap();
        for (window, hop) in [(0.0, 1.0), (1.0, -1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            assert!(windows(&clip, window, hop).is_err(), "{window} {hop}");
        }
        assert_eq!(windows(&clip, 1.0, 0.01).unwrap_err().kind, FailureKind::AudioLimit);
    }

    #[test]
    fn silence_is_no_window() {
        let mut samples = vec![0.5; 100];
        samples.extend([0.0; 100]);
        let clip = Waveform::new(samples, 100).unwrap();
        assert!(cut(&clip, (0, 100)).is_some() && cut(&clip, (100, 200)).is_none());
    }
}
