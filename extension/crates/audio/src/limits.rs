//! How much one clip may cost. Knows numbers only; `decode` applies them.

/// Samples of all channels together that one clip may decode to, whatever the other limits say: 512 MiB of `f32`.
/// It is what bounds memory when every other limit is set high.
pub const MAX_DECODED_SAMPLES: usize = 1 << 27;

/// The lowest sample rate that is still speech, in samples per second. Below it a header is lying, and resampling
/// would blow a few bytes up into minutes of sound.
pub const MIN_RATE: u32 = 1_000;

/// Bounds on one clip, checked before decoding where the header tells, and on every packet while decoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes of the encoded file.
    pub max_bytes: u64,
    /// Seconds of decoded sound.
    pub max_seconds: f32,
    /// Channels.
    pub max_channels: u16,
    /// Samples per second.
    pub max_rate: u32,
}

impl Default for Limits {
    /// 64 MiB, ten minutes, 16 channels, 192 kHz: any clip of speech, and no more than a few seconds of one core.
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_seconds: 600.0, max_channels: 16, max_rate: 192_000 }
    }
}

impl Limits {
    /// Frames (samples per channel) that a clip of this rate and channel count may decode to.
    pub(crate) fn max_frames(&self, rate: u32, channels: u16) -> usize {
        let by_time = (f64::from(self.max_seconds.max(0.0)) * f64::from(rate)).ceil();
        (by_time as usize).min(MAX_DECODED_SAMPLES / usize::from(channels.max(1)))
    }
}
