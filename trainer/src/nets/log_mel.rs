//! Whisper's log-mel front end inside the graph: 16 kHz waveform to `[batch, 80, frames]`, 100 frames a second.
//! The short-time Fourier transform is a convolution with cosines and sines, so every interpreter computes the same.

use std::f64::consts::PI;

use crate::graph::{Border, Fold, Function, Step, Value};

/// Samples a second.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples of one analysis window.
pub const WINDOW: usize = 400;
/// Samples between frames.
pub const HOP: usize = 160;
/// Mel bands.
pub const BANDS: usize = 80;

/// Frames of silence that are left at each end when silence is cut off.
const TRIM_MARGIN: usize = 5;
const BINS: usize = WINDOW / 2 + 1;
const LOWEST_POWER: f32 = 1e-10;
const DYNAMIC_RANGE: f32 = 8.0;
/// Log10 power of the loudest band of well recorded speech that is scaled to nearly full range.
const USUAL_PEAK: f32 = 1.5;

/// Log-mel spectrogram and what else is read off it.
pub struct LogMel<'g> {
    /// `[batch, 80, frames]`, zero in frames that are not valid.
    pub frames: Value<'g>,
    /// `[batch, 1, frames]`: log10 of each frame's energy over the loudest frame's; very low in frames that are not valid.
    pub loudness: Value<'g>,
    /// `[batch, frames]`, one where the frame lies in the clip.
    pub mask: Value<'g>,
    length: Value<'g>,
    /// First frame that was kept, when silence was cut off; then `length` is the last frame that was kept.
    start: Option<Value<'g>>,
}

impl<'g> LogMel<'g> {
    /// The mask of valid positions of `like` `[batch, channels, time]`, whose rate is that of the frames or half of it.
    pub fn valid(&self, like: Value<'g>, halved: bool) -> Value<'g> {
        let first = match self.start {
            Some(_) => Step { offset: 1, divide: 1 },
            None => Step { offset: 0, divide: HOP as i64 },
        };
        let steps = [first, Step { offset: 1, divide: 2 }];
        let steps = &steps[..if halved { 2 } else { 1 }];
        match self.start {
            Some(start) => self.length.valid_from(start, like, steps),
            None => self.length.valid(like, steps),
        }
    }

    /// The spectrogram without the silence before the first and after the last frame that is at most `gate` (log10 of
    /// energy) below the loudest; a few frames are left at both ends.
    pub fn trimmed(self, gate: f32) -> LogMel<'g> {
        let g = self.frames.graph();
        let width = 2 * TRIM_MARGIN + 1;
        let loud = ((self.loudness + gate) * 1e6).map(Function::Relu);
        let near = loud.conv1d(g.constant(&[1, 1, width], vec![1.0; width]), 1, TRIM_MARGIN).squeeze(1) * self.mask;
        let (start, last) = (near.edge(false), near.edge(true));
        let cut = LogMel {
            frames: self.frames.shift(start),
            loudness: self.loudness.shift(start),
            mask: self.mask,
            length: last,
            start: Some(start),
        };
        let mask = cut.valid(cut.frames, false);
        LogMel { frames: cut.frames * mask.unsqueeze(1), mask, ..cut }
    }
}

/// Records the front end for `waveform` `[batch, samples]` whose first `length` `[batch]` samples are valid.
/// A clip of n samples has n / 160 frames; the first window is mirrored about the first sample and the last one sees
/// zeros after the clip, as when Whisper pads a recording to 30 s.
///
/// `level` (0 to 1) says how far the loudest band of a clip is moved to a fixed level: 0 keeps Whisper's own scale, in
/// which a louder recording looks louder; 1 makes the result independent of recording gain.
pub fn log_mel<'g>(waveform: Value<'g>, length: Value<'g>, level: f32) -> LogMel<'g> {
    let g = waveform.graph();
    let half = WINDOW / 2;
    let padded = waveform.unsqueeze(1).pad(half, 0, Border::Reflect).pad(0, half - HOP, Border::Zero);
    let basis = g.constant(&[2 * BINS, 1, WINDOW], fourier_basis());
    let spectrum = padded.conv1d(basis, HOP, 0);
    // The mel matrix is applied to squared cosine and sine parts at once: power is their sum.
    let mel = g.constant(&[BANDS, 2 * BINS], twice_side_by_side(&mel_filters(), BINS));
    let power = mel.matmul(spectrum * spectrum);
    let log = power.maximum(g.scalar(LOWEST_POWER)).map(Function::Log) * (1.0 / std::f32::consts::LN_10);
    let mask = length.valid(log, &[Step { offset: 0, divide: HOP as i64 }]);
    let present = mask.unsqueeze(1);
    let peak = (log + (present + -1.0) * 1e4).reduce(Fold::Max, 2).reduce(Fold::Max, 1);
    let mut clamped = log.maximum(peak + -DYNAMIC_RANGE);
    if level != 0.0 {
        clamped = clamped + (peak + -USUAL_PEAK) * -level;
    }
    let frames = (clamped + 4.0) * 0.25 * present;
    let energy = (power * present).reduce(Fold::Sum, 1).maximum(g.scalar(LOWEST_POWER)).map(Function::Log);
    let loudness = (energy + energy.reduce(Fold::Max, 2) * -1.0) * (1.0 / std::f32::consts::LN_10);
    LogMel { frames, loudness, mask, length, start: None }
}

/// Cosine rows, then sine rows, of a periodic Hann window of [`WINDOW`] samples: `[2 * 201, 400]`.
fn fourier_basis() -> Vec<f32> {
    let hann = |n: usize| 0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos();
    let row = |bin: usize, wave: fn(f64) -> f64| {
        (0..WINDOW).map(move |n| (hann(n) * wave(2.0 * PI * (bin * n % WINDOW) as f64 / WINDOW as f64)) as f32)
    };
    let cosines = (0..BINS).flat_map(|bin| row(bin, f64::cos));
    cosines.chain((0..BINS).flat_map(|bin| row(bin, f64::sin))).collect()
}

/// Triangular filters on Slaney's mel scale, each of unit area: `[80, 201]`.
pub fn mel_filters() -> Vec<f32> {
    let top = hertz_to_mel(f64::from(SAMPLE_RATE) / 2.0);
    let edges: Vec<f64> = (0..BANDS + 2).map(|i| mel_to_hertz(top * i as f64 / (BANDS + 1) as f64)).collect();
    let weight = |band: usize, bin: usize| {
        let hertz = bin as f64 * f64::from(SAMPLE_RATE) / WINDOW as f64;
        let (low, centre, high) = (edges[band], edges[band + 1], edges[band + 2]);
        let rise = (hertz - low) / (centre - low);
        let fall = (high - hertz) / (high - centre);
        (rise.min(fall).max(0.0) * 2.0 / (high - low)) as f32
    };
    (0..BANDS).flat_map(|band| (0..BINS).map(move |bin| (band, bin))).map(|(band, bin)| weight(band, bin)).collect()
}

fn twice_side_by_side(matrix: &[f32], columns: usize) -> Vec<f32> {
    matrix.chunks(columns).flat_map(|row| row.iter().chain(row)).copied().collect()
}

// Slaney's scale: linear below 1 kHz (3 mel per 200 Hz), logarithmic above (27 mel per factor 6.4).
fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { hertz * 3.0 / 200.0 } else { 15.0 + 27.0 * (hertz / 1000.0).ln() / 6.4f64.ln() }
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * (6.4f64.ln() * (mel - 15.0) / 27.0).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_unit_area_and_cover_the_band() {
        let filters = mel_filters();
        // Wide bands are sampled finely enough for their area to show; bins are 40 Hz apart.
        for band in 60..BANDS {
            let area: f32 = filters[band * BINS..(band + 1) * BINS].iter().sum::<f32>() * 40.0;
            assert!((area - 1.0).abs() < 0.02, "band {band}: {area}");
        }
        assert!((mel_to_hertz(hertz_to_mel(3456.0)) - 3456.0).abs() < 1e-6);
    }
}
