//! Stands where `esr-embedder` belongs, for the test of an extension that was upgraded while an older helper is installed: it greets
//! with another version of the protocol, as a program of another release does.

use std::{io, os::unix::net::UnixListener};

use esr_wire::{PROTOCOL_VERSION, Request, Response, ResponseBody};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--socket");
    let socket = arguments.nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    // Like the real one it ends with its supervisor, which holds the other end of its input.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    for stream in UnixListener::bind(socket)?.incoming() {
        let mut stream = stream?;
        while let Ok(Request { id, .. }) = esr_wire::read(&mut stream) {
            let body = Ok(ResponseBody::Hello { protocol: PROTOCOL_VERSION - 1, version: "0.0.1".into() });
            if esr_wire::write(&mut stream, &Response { id, body }).is_err() {
                break;
            }
        }
    }
    Ok(())
}
