//! The messages between a PostgreSQL backend and `esr-embedder`, and their framing.
//!
//! A connection carries one request at a time; a caller that no longer wants its answer closes the connection, and that is
//! the cancel message. Knows no sockets beyond `Read` and `Write`, no models, no PostgreSQL.

mod frame;
mod message;

pub use frame::{
    FrameError, MAX_FRAME_BYTES, MEMORY_FILE_FROM, Place, decode, encode, frame_head, frame_length, memory_file_prefix,
    read, read_payload, write,
};
pub use message::{AudioLimits, Class, Failure, FailureKind, Request, RequestBody, Response, ResponseBody, Status};
pub use serde_bytes::ByteBuf;

/// Raised whenever a message changes shape; the two ends refuse each other when it differs.
pub const PROTOCOL_VERSION: u16 = 3;

/// The embedder's socket, relative to the data directory (every backend's working directory, so that a long data
/// directory cannot overflow the 108 bytes of `sun_path`).
pub const SOCKET_FILE: &str = "esr_embedder.sock";

/// Held with `flock` by the one supervisor of a cluster; lies beside the socket.
pub const LOCK_FILE: &str = "esr_embedder.lock";
