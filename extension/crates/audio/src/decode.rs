//! A whole audio file to PCM, with limits. Knows containers and codecs only through symphonia; no resampling.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, well_known};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::TrackType;

use crate::container::{Container, wav_channels};
use crate::limits::{Limits, MIN_RATE};

/// Beyond this a float sample is not sound: full scale is 1, and integers written as floats by mistake reach 2^31.
const MAX_AMPLITUDE: f32 = 4.0e9;

/// Frames that one packet of any real codec stays under (FLAC's longest block is 65,535). Decoders allocate that much
/// when a header asks for it.
const MAX_FRAMES_PER_PACKET: u64 = 1 << 17;

/// Packets without sound (other tracks, empty ones) that are skipped before a file counts as malformed. Ten minutes of
/// video at 60 pictures a second are 36,000.
const MAX_IDLE_PACKETS: usize = 1 << 20;

/// Of this many packets of a lossy stream one may be damaged.
const DAMAGED_PACKET_SHARE: usize = 20;

/// Samples of one clip: interleaved, finite, at least one frame, inside the limits it was decoded with.
#[derive(Debug, Clone, PartialEq)]
pub struct Pcm {
    samples: Vec<f32>,
    rate: u32,
    channels: u16,
}

impl Pcm {
    /// Interleaved samples, `frames * channels` of them; full scale is 1.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Samples per second and channel.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Channels, at least one.
    pub fn channels(&self) -> u16 {
        self.channels
    }

    /// Samples per channel.
    pub fn frames(&self) -> usize {
        self.samples.len() / usize::from(self.channels)
    }

    pub(crate) fn into_samples(self) -> Vec<f32> {
        self.samples
    }

    /// A stretch of frames, of one channel (counted from 0) or of all. `None` if there is no such channel or the stretch is
    /// empty or reaches beyond the end.
    pub fn part(&self, channel: Option<u16>, frames: Range<usize>) -> Option<Pcm> {
        if frames.is_empty() || frames.end > self.frames() || channel.is_some_and(|c| c >= self.channels) {
            return None;
        }
        let width = usize::from(self.channels);
        let all = &self.samples[frames.start * width..frames.end * width];
        Some(match channel {
            None => Self { samples: all.to_vec(), ..*self },
            Some(channel) => {
                let samples = all.iter().skip(usize::from(channel)).step_by(width).copied().collect();
                Self { samples, rate: self.rate, channels: 1 }
            }
        })
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioInfo {
    /// File format.
    pub container: Container,
    /// Codec name, such as `pcm_s16le` or `vorbis`.
    pub codec: String,
    /// Samples per second and channel.
    pub rate: u32,
    /// Channels.
    pub channels: u16,
    /// Samples per channel, counted by decoding.
    pub frames: u64,
}

impl AudioInfo {
    /// Length of the sound.
    pub fn seconds(&self) -> f64 {
        self.frames as f64 / f64::from(self.rate)
    }
}

/// Why there is no sound to be had from a file. Every variant is the fault of the file or of the limits.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes, or a valid file with no samples.
    #[error("the audio holds no samples")]
    Empty,
    /// Not a container or codec that is read here.
    #[error("unsupported audio: {0}")]
    Unsupported(String),
    /// Damaged, truncated or lying.
    #[error("malformed audio: {0}")]
    Malformed(String),
    /// The file is larger than [`Limits::max_bytes`].
    #[error("the audio file has {bytes} bytes, over the limit of {limit}")]
    TooManyBytes {
        /// Of the file.
        bytes: u64,
        /// The setting.
        limit: u64,
    },
    /// The sound is longer than [`Limits::max_seconds`] or [`crate::MAX_DECODED_SAMPLES`] allows.
    #[error("the audio is longer than the limit of {limit_seconds:.1} seconds at {rate} Hz and {channels} channel(s)")]
    TooLong {
        /// The setting, or what the memory bound leaves of it.
        limit_seconds: f64,
        /// Samples per second.
        rate: u32,
        /// Channels.
        channels: u16,
    },
    /// More channels than [`Limits::max_channels`].
    #[error("the audio has {channels} channels, over the limit of {limit}")]
    TooManyChannels {
        /// Of the file.
        channels: usize,
        /// The setting.
        limit: u16,
    },
    /// A rate above [`Limits::max_rate`].
    #[error("the audio's rate is {rate} Hz, over the limit of {limit}")]
    RateTooHigh {
        /// Of the file.
        rate: u32,
        /// The setting.
        limit: u32,
    },
    /// The samples do not fit in memory.
    #[error("out of memory while decoding audio")]
    OutOfMemory,
}

/// Decodes a whole audio file.
///
/// Whatever the bytes are, the answer comes in time and memory bounded by the limits: peak memory is about three times
/// the decoded samples. A WAV or FLAC file that ends before the length in its header is malformed; MP3, AAC and Ogg
/// state no exact length, so of those the part that is there is decoded. AAC in MP4 keeps the
/// encoder's start-up silence (64 ms at 16 kHz).
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Pcm, DecodeError> {
    let mut samples: Vec<f32> = Vec::new();
    let format = walk(bytes, limits, &mut |chunk| {
        samples.try_reserve(chunk.len()).map_err(|_| DecodeError::OutOfMemory)?;
        samples.extend_from_slice(chunk);
        Ok(())
    })?;
    Ok(Pcm { samples, rate: format.rate, channels: format.channels })
}

/// What a file holds, by decoding it without keeping the samples: a header's word is not taken for its length.
/// Fails where [`decode`] fails.
pub fn info(bytes: &[u8], limits: &Limits) -> Result<AudioInfo, DecodeError> {
    walk(bytes, limits, &mut |_| Ok(()))
}

type Sink<'a> = dyn FnMut(&[f32]) -> Result<(), DecodeError> + 'a;

fn walk(bytes: &[u8], limits: &Limits, sink: &mut Sink<'_>) -> Result<AudioInfo, DecodeError> {
    if bytes.len() as u64 > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: bytes.len() as u64, limit: limits.max_bytes });
    }
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let Some((container, start)) = Container::sniff(bytes) else {
        let head = &bytes[..bytes.len().min(8)];
        return Err(DecodeError::Unsupported(format!("no known audio format starts with the bytes {head:02x?}")));
    };
    // The last fence, not a normal path: symphonia promises not to panic on any input, and where it breaks that promise
    // one clip must fail and not the whole embedder. Nothing of ours outlives the closure but the sink's samples, which
    // the caller drops with the error.
    match catch_unwind(AssertUnwindSafe(|| demux(container, &bytes[start..], limits, sink))) {
        Ok(result) => result,
        Err(_) => Err(DecodeError::Malformed(format!("the {} decoder gave up on it", container.name()))),
    }
}

fn demux(container: Container, bytes: &[u8], limits: &Limits, sink: &mut Sink<'_>) -> Result<AudioInfo, DecodeError> {
    let blame = |error| explain(container, error);
    // Before the reader multiplies them by the sample size in sixteen bits.
    if let (Container::Wav, Some(channels)) = (container, wav_channels(bytes)) {
        check_channels(channels.into(), limits)?;
    }
    let mut reader = container.open(bytes).map_err(blame)?;
    let track = reader
        .default_track(TrackType::Audio)
        .or_else(|| reader.first_track(TrackType::Audio))
        .ok_or_else(|| DecodeError::Unsupported(format!("this {} file has no audio track", container.name())))?;
    let stated_frames = if container.states_exact_length() { track.num_frames } else { None };
    let id = track.id;
    let parameters = track
        .codec_params
        .as_ref()
        .and_then(|parameters| parameters.audio())
        .ok_or_else(|| DecodeError::Unsupported(format!("unknown codec in {}", container.name())))?
        .clone();
    check_parameters(&parameters, stated_frames, limits)?;
    let mut decoder =
        symphonia::default::get_codecs().make_audio_decoder(&parameters, &Default::default()).map_err(blame)?;
    let codec = decoder.codec_info().short_name.to_owned();
    let mut progress = Progress::new(container, bytes.len(), limits);
    loop {
        match reader.next_packet() {
            Ok(Some(packet)) => progress.packet(&mut *decoder, &packet, id, sink)?,
            Ok(None) => break,
            // A WAV that was written to a pipe states no length and ends where the file ends; one that does state a
            // length is compared with it below.
            Err(SymphoniaError::IoError(_)) if container == Container::Wav => break,
            Err(error) => return Err(blame(error)),
        }
    }
    progress.finish(codec, stated_frames)
}

/// The checks that a header allows before any decoder allocates.
fn check_parameters(
    parameters: &AudioCodecParameters,
    stated_frames: Option<u64>,
    limits: &Limits,
) -> Result<(), DecodeError> {
    let channels = parameters.channels.as_ref().map(|channels| channels.count());
    if let Some(channels) = channels {
        check_channels(channels, limits)?;
    }
    if let Some(rate) = parameters.sample_rate {
        check_rate(rate, limits)?;
        if let (Some(frames), Some(channels)) = (stated_frames, channels)
            && frames > limits.max_frames(rate, channels as u16) as u64
        {
            return Err(too_long(rate, channels as u16, limits));
        }
    }
    // The magic cookie of ALAC starts with the frames per packet, and the decoder allocates them all.
    let alac_frames = (parameters.codec == well_known::CODEC_ID_ALAC)
        .then(|| parameters.extra_data.as_deref().and_then(|cookie| cookie.first_chunk::<4>()))
        .flatten()
        .map(|frames| u64::from(u32::from_be_bytes(*frames)));
    let per_packet = alac_frames.or(parameters.max_frames_per_packet).unwrap_or(0);
    if per_packet > MAX_FRAMES_PER_PACKET {
        return Err(DecodeError::Malformed(format!("{per_packet} frames in one packet")));
    }
    Ok(())
}

fn check_channels(channels: usize, limits: &Limits) -> Result<u16, DecodeError> {
    match u16::try_from(channels) {
        Ok(0) => Err(DecodeError::Malformed("no channels".into())),
        Ok(count) if count <= limits.max_channels => Ok(count),
        _ => Err(DecodeError::TooManyChannels { channels, limit: limits.max_channels }),
    }
}

fn check_rate(rate: u32, limits: &Limits) -> Result<(), DecodeError> {
    if rate < MIN_RATE {
        Err(DecodeError::Malformed(format!("a rate of {rate} Hz, under {MIN_RATE}")))
    } else if rate > limits.max_rate {
        Err(DecodeError::RateTooHigh { rate, limit: limits.max_rate })
    } else {
        Ok(())
    }
}

fn too_long(rate: u32, channels: u16, limits: &Limits) -> DecodeError {
    let limit_seconds = limits.max_frames(rate, channels) as f64 / f64::from(rate);
    DecodeError::TooLong { limit_seconds, rate, channels }
}

/// What has been decoded so far, and the budgets that every packet is charged to.
struct Progress<'a> {
    container: Container,
    limits: &'a Limits,
    /// Bytes of packets that may still come. A sample table of MP4 can name the same bytes a million times.
    byte_budget: usize,
    spec: Option<(u32, u16)>,
    frames: usize,
    decoded: usize,
    damaged: usize,
    idle: usize,
    scratch: Vec<f32>,
}

impl<'a> Progress<'a> {
    fn new(container: Container, file_bytes: usize, limits: &'a Limits) -> Self {
        Self {
            container,
            limits,
            byte_budget: file_bytes,
            spec: None,
            frames: 0,
            decoded: 0,
            damaged: 0,
            idle: 0,
            scratch: Vec::new(),
        }
    }

    fn packet(
        &mut self,
        decoder: &mut dyn AudioDecoder,
        packet: &symphonia::core::packet::Packet,
        track: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeError> {
        self.byte_budget = self
            .byte_budget
            .checked_sub(packet.data.len())
            .ok_or_else(|| DecodeError::Malformed("its packets hold more bytes than the file".into()))?;
        if packet.track_id != track {
            return self.skip();
        }
        let buffer = match decoder.decode(packet) {
            Ok(buffer) => buffer,
            Err(SymphoniaError::DecodeError(reason)) if self.container.tolerates_damage() => {
                self.damaged += 1;
                // Only a stream of nothing but damage is given up on at once; the share is judged at the end.
                let hopeless = self.decoded == 0 && self.damaged > DAMAGED_PACKET_SHARE;
                return if hopeless { Err(DecodeError::Malformed(reason.into())) } else { self.skip() };
            }
            Err(error) => return Err(explain(self.container, error)),
        };
        if buffer.frames() == 0 {
            return self.skip();
        }
        let rate = buffer.spec().rate();
        let channels = check_channels(buffer.spec().channels().count(), self.limits)?;
        if *self.spec.get_or_insert((rate, channels)) != (rate, channels) {
            return Err(DecodeError::Unsupported("its rate or channel count changes on the way".into()));
        }
        check_rate(rate, self.limits)?;
        if self.frames + buffer.frames() > self.limits.max_frames(rate, channels) {
            return Err(too_long(rate, channels, self.limits));
        }
        buffer.copy_to_vec_interleaved(&mut self.scratch);
        let is_sound = |sample: &f32| sample.is_finite() && sample.abs() <= MAX_AMPLITUDE;
        if let Some(at) = self.scratch.iter().position(|sample| !is_sound(sample)) {
            let frame = self.frames + at / usize::from(channels);
            return Err(DecodeError::Malformed(format!("sample {frame} is {}", self.scratch[at])));
        }
        self.frames += buffer.frames();
        self.decoded += 1;
        sink(&self.scratch)
    }

    fn skip(&mut self) -> Result<(), DecodeError> {
        self.idle += 1;
        if self.idle > MAX_IDLE_PACKETS {
            return Err(DecodeError::Malformed(format!("more than {MAX_IDLE_PACKETS} packets without sound")));
        }
        Ok(())
    }

    fn finish(self, codec: String, stated_frames: Option<u64>) -> Result<AudioInfo, DecodeError> {
        let Some((rate, channels)) = self.spec else {
            return Err(if self.damaged > 0 {
                DecodeError::Malformed(format!("none of its {} packets can be decoded", self.damaged))
            } else if stated_frames.is_some_and(|stated| stated > 0) {
                DecodeError::Malformed("it ends before its first sample".into())
            } else {
                DecodeError::Empty
            });
        };
        if self.damaged > 1 + self.decoded / DAMAGED_PACKET_SHARE {
            let all = self.damaged + self.decoded;
            return Err(DecodeError::Malformed(format!("{} of {all} packets are damaged", self.damaged)));
        }
        let frames = self.frames as u64;
        match stated_frames {
            Some(stated) if frames < stated => Err(DecodeError::Malformed(format!(
                "it is truncated: its header states {stated} samples, {frames} are there"
            ))),
            _ => Ok(AudioInfo { container: self.container, codec, rate, channels, frames }),
        }
    }
}

fn explain(container: Container, error: SymphoniaError) -> DecodeError {
    let name = container.name();
    match error {
        // Reads come from memory, so the only thing that can fail is that there is no more of it.
        SymphoniaError::IoError(_) => DecodeError::Malformed(format!("the {name} data ends too early")),
        SymphoniaError::Unsupported(what) => DecodeError::Unsupported(format!("{name}: {what}")),
        SymphoniaError::ResetRequired => DecodeError::Unsupported(format!("{name}: several streams in a row")),
        SymphoniaError::DecodeError(what) | SymphoniaError::LimitError(what) => {
            DecodeError::Malformed(format!("{name}: {what}"))
        }
        other => DecodeError::Malformed(format!("{name}: {other}")),
    }
}
