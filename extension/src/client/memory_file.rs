//! Hands a large request to the embedder in a file of memory, whose descriptor travels over the socket.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A file of memory that holds `message`. Nobody else can open it, and it is gone with its last descriptor.
///
/// # Errors
/// No descriptor or memory is to be had, or the kernel has no such files.
pub fn holding(message: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("esr_request", MemfdFlags::CLOEXEC)?);
    file.write_all(message)?;
    Ok(file.into())
}

/// Sends `bytes` with the descriptor; how many of them were sent. The descriptor goes with the first.
pub fn pass(stream: &UnixStream, bytes: &[u8], file: &OwnedFd) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    // There is space for one.
    control.push(SendAncillaryMessage::ScmRights(&files));
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
