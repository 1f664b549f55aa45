//! Lets requests into memory, as many bytes as there is room for. Knows frames, not what they say.

use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicU64, Ordering};

use esr_wire::{FrameError, Place, Request};

use crate::incoming::Incoming;

/// Bytes that requests may hold together. One alone may always come in: a frame has at most as many.
pub const ROOM: u64 = 1 << 30;

/// The part of the room (64 KiB of 1 GiB) up to which a request takes none: there are at most as many as connections, and a
/// text or a look at the status must not be refused because others send clips.
const SMALL_PART: u64 = 1 << 14;

/// Bytes of a refused request that are read, to find its id.
const HEAD: usize = 16;

/// The room that is left.
pub struct Admission {
    room: u64,
    held: AtomicU64,
}

/// Why there is no request.
#[derive(Debug)]
pub enum ReadError {
    /// No more of them will come.
    Frame(FrameError),
    /// It was read away; the connection is usable.
    NoRoom {
        /// Of the request.
        id: u64,
        /// Its size.
        bytes: u64,
        /// By the others.
        held: u64,
    },
}

/// Room that a request takes, until it is dropped.
pub struct Held<'a> {
    admission: &'a Admission,
    bytes: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.admission.held.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Admission {
    /// All of `room` bytes are free.
    pub fn new(room: u64) -> Self {
        Self { room, held: AtomicU64::new(0) }
    }

    /// Reads the next request, or reads it away if it does not fit beside the others; a memory file is just let go.
    pub fn read(&self, stream: &mut impl Incoming) -> Result<(Request, Held<'_>), ReadError> {
        let (prefix, file) = stream.prefix().map_err(broken)?;
        match esr_wire::frame_head(prefix).map_err(ReadError::Frame)? {
            (length, Place::Stream) => {
                let mut message = stream.take(length as u64);
                let read = self.read_message(&mut message, length);
                if matches!(read, Err(ReadError::NoRoom { .. })) {
                    // The next request begins behind it.
                    io::copy(&mut message, &mut io::sink()).map_err(broken)?;
                }
                read
            }
            (length, Place::MemoryFile) => {
                let mut file = file.ok_or(ReadError::Frame(FrameError::NoFile))?;
                // Both ends share one place in it, and the sender's writing has moved that to its end.
                file.rewind().map_err(broken)?;
                self.read_message(&mut file, length)
            }
        }
    }

    /// Reads a message if there is room for it, else as much of it as says whose it is.
    fn read_message(&self, source: &mut impl Read, length: usize) -> Result<(Request, Held<'_>), ReadError> {
        match self.admit(length as u64) {
            Ok(held) => Ok((esr_wire::read_payload(source, length).map_err(ReadError::Frame)?, held)),
            Err(held) => {
                let mut head = Vec::new();
                source.take(HEAD.min(length) as u64).read_to_end(&mut head).map_err(broken)?;
                let id = esr_wire::decode(&head).map_err(ReadError::Frame)?;
                Err(ReadError::NoRoom { id, bytes: length as u64, held })
            }
        }
    }

    fn admit(&self, bytes: u64) -> Result<Held<'_>, u64> {
        let bytes = if bytes <= self.room / SMALL_PART { 0 } else { bytes };
        let fits = |held: u64| (held == 0 || bytes == 0 || held + bytes <= self.room).then_some(held + bytes);
        self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)?;
        Ok(Held { admission: self, bytes })
    }
}

fn broken(error: io::Error) -> ReadError {
    ReadError::Frame(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use esr_wire::{Class, RequestBody};

    #[test]
    fn what_does_not_fit_is_read_away_and_named() {
        let request = |id: u64, letters: usize| Request {
            id,
            timeout_ms: None,
            body: RequestBody::EmbedText { model: "m".into(), texts: vec!["x".repeat(letters)] },
            class: Class::Interactive,
            role: 1,
        };
        let frames = [request(1, 500), request(300_000, 600), request(3, 100)];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| esr_wire::encode(frame).unwrap()).collect();
        let mut stream = bytes.as_slice();
        let admission = Admission::new(1_000);
        let (first, held) = admission.read(&mut stream).unwrap();
        assert_eq!(first, frames[0]);
        let refused = admission.read(&mut stream).err().unwrap();
        assert!(matches!(refused, ReadError::NoRoom { id: 300_000, bytes: 610.., held: 500.. }), "{refused:?}");
        drop(held);
        assert_eq!(admission.read(&mut stream).unwrap().0, frames[2]);
        assert_eq!(admission.held.load(Ordering::SeqCst), 0);
        // Alone, anything comes in.
        let large = esr_wire::encode(&request(4, 5_000)).unwrap();
        assert!(admission.read(&mut large.as_slice()).is_ok());
        assert!(matches!(admission.read(&mut &large[..9]), Err(ReadError::Frame(_))));
        // Small ones do not count.
        let admission = Admission::new(ROOM);
        let _whole = admission.admit(ROOM).unwrap();
        assert!(admission.admit(SMALL_PART * 4).is_ok() && admission.admit(SMALL_PART * 4 + 1).is_err());
    }
}
