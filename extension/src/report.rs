//! What the supervisor tells the backends about the embedder: a few lines in the lock file. Pure, but for opening,
//! reading and writing that file.
//!
//! There is no shared memory to use: that can only be reserved when the library is preloaded, which a newcomer has not
//! done.

use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use esr_wire::LOCK_FILE;

/// How long a starting supervisor tries for the lock: a backend holds it for a moment while it starts one.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Size of the report in the file. Always written whole and by one call, so that a reader never sees half of one.
const FILE_BYTES: usize = 2048;

/// Opens the lock file in the data directory, the working directory of every PostgreSQL process.
pub fn open_lock_file() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(LOCK_FILE)
}

/// State of the embedder as its supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Which life of the server it is about: the postmaster's start. What an earlier life left in the file is of no use.
    pub server: i64,
    /// Process id of the supervisor, 0 once it has ended.
    pub supervisor: u32,
    /// Process id of the embedder, 0 while none runs.
    pub embedder: u32,
    /// How often an embedder ended by itself and was started again.
    pub restarts: u64,
    /// Attempts in a row that ended before the embedder listened on its socket.
    pub failed_starts: u32,
    /// Why the last embedder ended, in one line.
    pub failure: String,
}

impl Report {
    /// Writes it into the lock file.
    pub fn write(&self, file: &File) -> io::Result<()> {
        let mut bytes = self.print().into_bytes();
        bytes.truncate(FILE_BYTES - 1);
        bytes.resize(FILE_BYTES - 1, b' ');
        bytes.push(b'\n');
        file.write_all_at(&bytes, 0)
    }

    /// Reads it from the lock file; `None` if there is none about this life of the server.
    pub fn read(path: &str, server: i64) -> Option<Report> {
        let bytes = std::fs::read(path).ok()?;
        Report::parse(&String::from_utf8_lossy(&bytes)).filter(|report| report.server == server)
    }

    fn print(&self) -> String {
        let mut text = String::new();
        let Report { server, supervisor, embedder, restarts, failed_starts, failure } = self;
        let failure = failure.replace(['\n', '\r'], " ");
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "server {server}\nsupervisor {supervisor}\nembedder {embedder}\nrestarts {restarts}\nfailed_starts {failed_starts}\n\
             failure {failure}\n"
        );
        text
    }

    fn parse(text: &str) -> Option<Report> {
        let mut report = Report::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let value = value.trim();
            match key {
                "server" => report.server = value.parse().ok()?,
                "supervisor" => report.supervisor = value.parse().ok()?,
                "embedder" => report.embedder = value.parse().ok()?,
                "restarts" => report.restarts = value.parse().ok()?,
                "failed_starts" => report.failed_starts = value.parse().ok()?,
                "failure" => report.failure = value.to_owned(),
                _ => {}
            }
        }
        (report.server != 0).then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let report = Report {
            server: -7,
            supervisor: 12,
            embedder: 0,
            restarts: 3,
            failed_starts: 2,
            failure: "no such file\nor directory".into(),
        };
        let read = Report::parse(&report.print()).unwrap();
        assert_eq!(read, Report { failure: "no such file or directory".into(), ..report });
        assert_eq!(Report::parse(""), None);
    }
}
