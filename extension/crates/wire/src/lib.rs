//! The messages between a PostgreSQL backend and `esr-embedder`, and their framing.
//!
//! A frame is a little-endian `u32` length followed by that many bytes of [postcard] encoding one [`Request`] or one
//! [`Response`]. A large request lies in a memory file that is passed with the length (see [`Place`]), so that neither end
//! waits for the other while it is copied through a socket's small buffer. A connection carries one request at a time; a
//! caller that no longer wants its answer closes the connection, and that is the cancel message. Knows no sockets beyond `Read` and `Write`, no models, no PostgreSQL.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub use serde_bytes::ByteBuf;

/// Raised whenever a message changes shape; the two ends refuse each other when it differs.
pub const PROTOCOL_VERSION: u16 = 3;

/// The embedder's socket, relative to the data directory (every backend's working directory, so that a long data
/// directory cannot overflow the 108 bytes of `sun_path`).
pub const SOCKET_FILE: &str = "esr_embedder.sock";

/// Held with `flock` by the one supervisor of a cluster; lies beside the socket.
pub const LOCK_FILE: &str = "esr_embedder.lock";

/// No frame may be longer: PostgreSQL's own limit on one value is 1 GiB.
pub const MAX_FRAME_BYTES: u32 = 1 << 30;

/// From this length on a request goes by memory file: it would not fit into a socket's buffer at once, which by default holds
/// 208 KiB and keeps its own books in it (`net.core.wmem_default`).
pub const MEMORY_FILE_FROM: usize = 128 * 1024;

/// Set in a length whose message lies in a memory file.
const IN_MEMORY_FILE: u32 = 1 << 31;

/// Where a frame's message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind the length.
    Stream,
    /// In a file of memory (memfd_create(2)), from its beginning on, whose descriptor comes with the length (`SCM_RIGHTS`,
    /// unix(7)).
    MemoryFile,
}

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
        /// [`PROTOCOL_VERSION`] of the caller.
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
        /// [`PROTOCOL_VERSION`] of the embedder.
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

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end closed the connection, or the operating system failed.
    #[error("embedder connection: {0}")]
    Io(#[from] std::io::Error),
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("frame of {0} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLong(u64),
    /// A length says that the message lies in a memory file, but none came with it.
    #[error("a frame came without its memory file")]
    NoFile,
    /// Not the encoding of the expected message.
    #[error("malformed frame: {0}")]
    Malformed(#[from] postcard::Error),
}

/// Encodes one message as a whole frame, length included.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0u8; 4])?;
    let length = frame.len() as u64 - 4;
    if length > u64::from(MAX_FRAME_BYTES) {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Decodes the bytes after a frame's length.
pub fn decode<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    Ok(postcard::from_bytes(payload)?)
}

/// Reads a frame's length prefix.
pub fn frame_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix);
    if length > MAX_FRAME_BYTES { Err(FrameError::TooLong(u64::from(length))) } else { Ok(length as usize) }
}

/// The length of an encoded frame as it is sent when the message lies in a memory file.
pub fn memory_file_prefix(frame: &[u8]) -> [u8; 4] {
    (frame.len().saturating_sub(4) as u32 | IN_MEMORY_FILE).to_le_bytes()
}

/// Reads a request's length prefix: how long its message is, and where.
pub fn frame_head(prefix: [u8; 4]) -> Result<(usize, Place), FrameError> {
    let word = u32::from_le_bytes(prefix);
    let place = if word & IN_MEMORY_FILE == 0 { Place::Stream } else { Place::MemoryFile };
    Ok((frame_length((word & !IN_MEMORY_FILE).to_le_bytes())?, place))
}

/// Writes one message to a blocking stream.
pub fn write<M: Serialize>(stream: &mut impl Write, message: &M) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads one message from a blocking stream.
pub fn read<M: DeserializeOwned>(stream: &mut impl Read) -> Result<M, FrameError> {
    let mut prefix = [0u8; 4];
    stream.read_exact(&mut prefix)?;
    read_payload(stream, frame_length(prefix)?)
}

/// Reads the message behind a frame's length from a blocking stream.
pub fn read_payload<M: DeserializeOwned>(stream: &mut impl Read, length: usize) -> Result<M, FrameError> {
    // Grows with what really arrives, so a lying length costs nothing.
    let mut payload = Vec::new();
    let got = stream.take(length as u64).read_to_end(&mut payload)?;
    if got < length {
        return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    decode(&payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: M) {
        let frame = encode(&message).unwrap();
        assert_eq!(read::<M>(&mut frame.as_slice()).unwrap(), message);
        for cut in 0..frame.len() {
            assert!(read::<M>(&mut &frame[..cut]).is_err(), "a frame cut at {cut} was accepted");
        }
    }

    #[test]
    fn messages_survive_the_trip_and_truncation_is_an_error() {
        let limits = AudioLimits { max_bytes: 1, max_seconds: 2.5, max_channels: 3, max_rate: 4 };
        check(Request {
            id: 7,
            timeout_ms: None,
            body: RequestBody::Hello { protocol: PROTOCOL_VERSION },
            class: Class::Interactive,
            role: 10,
        });
        check(Request {
            id: u64::MAX,
            timeout_ms: Some(10),
            body: RequestBody::EmbedSpeech { model: "m".into(), clips: vec![ByteBuf::from(vec![0u8, 255])], limits },
            class: Class::Backfill,
            role: u32::MAX,
        });
        check(Response {
            id: 1,
            body: Ok(ResponseBody::Embeddings { tag: 9, dimension: 2, values: vec![0.5, -0.25, 1.0, 0.0] }),
        });
        check(Response {
            id: 1,
            body: Err(Failure {
                kind: FailureKind::MalformedAudio,
                item: Some(3),
                message: "x".into(),
                hint: Some("y".into()),
            }),
        });
    }

    #[test]
    fn an_embedder_reads_the_greeting_of_a_newer_extension() {
        let greeting = RequestBody::Hello { protocol: PROTOCOL_VERSION + 1 };
        let request = Request { id: 1, timeout_ms: None, body: greeting, class: Class::Interactive, role: 0 };
        let mut payload = encode(&request).unwrap()[4..].to_vec();
        payload.extend([1, 2, 3]);
        assert_eq!(decode::<Request>(&payload).unwrap(), request);
    }

    #[test]
    fn a_length_says_where_its_message_lies() {
        let frame = encode(&RequestBody::Status).unwrap();
        let length = frame.len() - 4;
        let plain = [frame[0], frame[1], frame[2], frame[3]];
        assert_eq!(frame_head(plain).unwrap(), (length, Place::Stream));
        let apart = memory_file_prefix(&frame);
        assert_eq!(frame_head(apart).unwrap(), (length, Place::MemoryFile));
        // Answers never lie in one.
        assert!(matches!(frame_length(apart), Err(FrameError::TooLong(_))));
        assert!(matches!(frame_head(u32::MAX.to_le_bytes()), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_lying_length_is_refused() {
        let mut frame = (MAX_FRAME_BYTES + 1).to_le_bytes().to_vec();
        frame.extend([0; 8]);
        assert!(matches!(read::<Request>(&mut frame.as_slice()), Err(FrameError::TooLong(_))));
    }
}
