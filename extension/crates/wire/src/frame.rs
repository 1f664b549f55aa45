//! Frames: a little-endian `u32` length followed by that many bytes of [postcard] encoding one [`Request`](crate::Request)
//! or one [`Response`](crate::Response). A large request lies in a memory file that is passed with the length (see
//! [`Place`]), so that neither end waits for the other while it is copied through a socket's small buffer.

use std::io::{Read, Write};

use serde::{Serialize, de::DeserializeOwned};

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
    use serde_bytes::ByteBuf;

    use super::*;
    use crate::{
        AudioLimits, Class, Failure, FailureKind, PROTOCOL_VERSION, Request, RequestBody, Response, ResponseBody,
    };

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
