//! What is asked and what is answered.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// What a backend asks for. New fields go to the end: bytes behind what an embedder knows are ignored, so that it still
/// reads the greeting of a newer extension and can refuse it by its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller, repeated in the response.
    pub id: u64,
    /// Milliseconds the caller will wait, if it has a limit: what is left of its `statement_timeout`, or less.
    pub timeout_ms: Option<u32>,
    /// The question itself.
    pub body: RequestBody,
    /// How urgent it is.
    pub class: Class,
    /// Oid of the role that asks; roles take turns.
    pub role: u32,
}

/// How urgent a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Bulk work in the background, which gives way to interactive requests.
    Backfill,
}

/// The questions the embedder answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RequestBody {
    /// First message on a connection.
    Hello {
        /// [`crate::PROTOCOL_VERSION`] of the caller.
        protocol: u16,
    },
    /// One embedding per text, in order.
    EmbedText {
        /// Bundle name, a folder of the model directory.
        model: String,
        /// Descriptions of a speaking style.
        texts: Vec<String>,
    },
    /// One embedding per clip, in order.
    EmbedSpeech {
        /// Bundle name, a folder of the model directory.
        model: String,
        /// Whole audio files.
        clips: Vec<ByteBuf>,
        /// What the caller's settings allow.
        limits: AudioLimits,
    },
    /// Name, tag and dimension of a bundle, loading it if need be.
    DescribeModel {
        /// Bundle name, a folder of the model directory.
        model: String,
    },
    /// Counters since start.
    Status,
    /// What an audio file holds.
    AudioInfo {
        /// A whole audio file.
        clip: ByteBuf,
        /// What the caller's settings allow.
        limits: AudioLimits,
    },
    /// One embedding for each window of a recording.
    EmbedSegments {
        /// Bundle name, a folder of the model directory.
        model: String,
        /// A whole audio file.
        clip: ByteBuf,
        /// Length of a window, seconds.
        window: f64,
        /// From the start of one window to that of the next, seconds.
        hop: f64,
        /// What the caller's settings allow.
        limits: AudioLimits,
    },
}

/// Bounds on one clip, checked before and while decoding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AudioLimits {
    /// Bytes of the encoded file.
    pub max_bytes: u64,
    /// Seconds of decoded sound.
    pub max_seconds: f32,
    /// Channels.
    pub max_channels: u16,
    /// Samples per second.
    pub max_rate: u32,
}

/// What the embedder answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The answer, or whose fault it is that there is none.
    pub body: Result<ResponseBody, Failure>,
}

/// The answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ResponseBody {
    /// Answer to [`RequestBody::Hello`].
    Hello {
        /// [`crate::PROTOCOL_VERSION`] of the embedder.
        protocol: u16,
        /// Its crate version.
        version: String,
    },
    /// Answer to the embedding requests.
    Embeddings {
        /// Identity of the model that made them.
        tag: u64,
        /// Elements per embedding.
        dimension: u32,
        /// `count * dimension` elements, row by row; every row has unit length.
        values: Vec<f32>,
    },
    /// Answer to [`RequestBody::DescribeModel`].
    Model {
        /// Bundle name.
        name: String,
        /// Version in its manifest.
        version: String,
        /// Identity derived from its contents.
        tag: u64,
        /// Elements per embedding.
        dimension: u32,
    },
    /// Answer to [`RequestBody::Status`].
    Status(Status),
    /// Answer to [`RequestBody::AudioInfo`].
    AudioInfo {
        /// File format, such as `wav`.
        container: String,
        /// Codec, such as `pcm_s16le`.
        codec: String,
        /// Samples per second and channel.
        rate: u32,
        /// Channels.
        channels: u16,
        /// Samples per channel.
        frames: u64,
    },
    /// Answer to [`RequestBody::EmbedSegments`].
    Segments {
        /// Identity of the model.
        tag: u64,
        /// Elements per embedding.
        dimension: u32,
        /// Start and end of each window, seconds, and whether it has an embedding, which silence has not.
        windows: Vec<(f64, f64, bool)>,
        /// The embeddings of the windows that have one, in order.
        values: Vec<f32>,
    },
}

/// Counters of one embedder process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: f64,
    /// Requests answered, failures included.
    pub requests: u64,
    /// Requests answered with a [`Failure`].
    pub failures: u64,
    /// Requests whose caller left before the answer.
    pub cancelled: u64,
    /// Requests refused because the queue or the memory for requests was full.
    pub refused: u64,
    /// Requests given up because their caller's time was over.
    pub expired: u64,
    /// Texts embedded.
    pub texts: u64,
    /// Clips embedded.
    pub clips: u64,
    /// ONNX Runtime calls.
    pub batches: u64,
    /// Rows (texts and windows of clips) in them.
    pub rows: u64,
    /// Calls that failed and were tried again with half of the rows.
    pub halved: u64,
    /// Requests that wait in the queue now.
    pub queued: u32,
    /// Batches that are being computed now.
    pub running: u32,
    /// Resident memory of the process, bytes.
    pub memory: u64,
    /// The most it has been, bytes.
    pub peak_memory: u64,
    /// Where the loaded models run, such as `cpu` or `cuda:0 float32`; empty while none is loaded.
    pub device: String,
    /// Names of the bundles in memory.
    pub models: Vec<String>,
    /// Median and 99th percentile of the last thousand requests, milliseconds.
    pub p50_ms: f32,
    /// See `p50_ms`.
    pub p99_ms: f32,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// Zero-based position of the offending text or clip in the request.
    pub item: Option<u32>,
    /// One sentence with the offending value.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The classes of failure; the extension gives each one SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The bytes are not a readable audio file.
    MalformedAudio,
    /// A container or codec that is not supported.
    UnsupportedAudio,
    /// Readable, but longer, larger or wider than the settings allow.
    AudioLimit,
    /// Readable, but holds nothing to embed (no samples).
    EmptyAudio,
    /// The text holds nothing to embed or is too long.
    BadText,
    /// No such bundle in the model directory, or a name that is not a plain folder name.
    UnknownModel,
    /// The bundle is there but damaged: hash, golden vector, manifest.
    BadModel,
    /// ONNX Runtime's library is missing or of the wrong version.
    MissingRuntime,
    /// The deadline passed.
    Timeout,
    /// The queue is full.
    Overloaded,
    /// Out of memory.
    OutOfMemory,
    /// The two ends do not speak the same protocol.
    Protocol,
    /// A bug of ours.
    Internal,
}
