//! What requests come from: a stream that may bring a memory file with a length.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A stream of requests.
pub trait Incoming: Read {
    /// The next request's length prefix, and the memory file that came with it.
    fn prefix(&mut self) -> io::Result<([u8; 4], Option<File>)>;
}

impl Incoming for UnixStream {
    fn prefix(&mut self) -> io::Result<([u8; 4], Option<File>)> {
        let mut prefix = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut prefix)];
            match recvmsg(&*self, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        let mut file = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.map(File::from).next();
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_exact(&mut prefix[received.bytes..])?;
        Ok((prefix, file))
    }
}

#[cfg(test)]
impl Incoming for &[u8] {
    fn prefix(&mut self) -> io::Result<([u8; 4], Option<File>)> {
        let mut prefix = [0; 4];
        self.read_exact(&mut prefix)?;
        Ok((prefix, None))
    }
}
