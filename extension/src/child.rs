//! One run of the embedder program: started so that it cannot outlive its supervisor, watched, stopped.
//!
//! Two things end it when the supervisor is gone, however that happened: the kernel's parent-death signal and the end of
//! its standard input. It has a process group of its own: the postmaster signals whole groups, and a SIGQUIT would make a
//! program that does not know PostgreSQL's ways dump its core into the data directory.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::settings::EmbedderSettings;

/// How long a stopping embedder may take before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Bytes of the program's messages taken in one go.
const CHUNK: usize = 8 * 1024;

/// The kernel's out-of-memory killer should choose the embedder, not a backend: every other death restarts the cluster.
const OUT_OF_MEMORY_SCORE: &str = "800";

/// For glibc's allocator: connections decode on many threads, each of which would keep an arena of its own, and memory that is
/// free goes back to the system. (`esr-embedder bench models/default`: 179 MB with these, 206 MB without, once the model is
/// loaded.) An operator's own value stands.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// A running embedder.
pub struct Embedder {
    child: Child,
    messages: ChildStderr,
    partial_line: Vec<u8>,
    has_closed_messages: bool,
    started: Instant,
}

impl Embedder {
    /// Starts the program in the current folder, which is the data directory.
    pub fn start(settings: &EmbedderSettings, socket: &str) -> io::Result<Self> {
        let mut command = Command::new(&settings.program);
        command.arg("serve").arg("--socket").arg(socket);
        command.arg("--model-directory").arg(&settings.model_directory);
        command.arg("--onnxruntime").arg(&settings.onnxruntime);
        command.arg("--threads").arg(settings.threads.to_string()).arg("--watch-stdin");
        command.arg("--queue").arg(settings.queue.to_string());
        command.arg("--execution-provider").arg(settings.provider);
        command.arg("--cuda-device").arg(settings.cuda_device.to_string());
        command.arg("--cuda-precision").arg(settings.cuda_precision);
        command.args(settings.cuda_memory_mib.map(|mib| format!("--cuda-memory-mib={mib}")));
        command.envs(ALLOCATOR.iter().filter(|(name, _)| std::env::var_os(name).is_none()).copied());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0);
        let supervisor = rustix::process::getpid();
        // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor locks.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || before_exec(supervisor));
        }
        let mut child = command.spawn()?;
        let messages = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        rustix::io::ioctl_fionbio(&messages, true)?;
        // Best effort: some containers forbid it.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), OUT_OF_MEMORY_SCORE);
        Ok(Self { child, messages, partial_line: Vec::new(), has_closed_messages: false, started: Instant::now() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where its messages can be waited for, unless it has closed that.
    pub fn messages(&self) -> Option<BorrowedFd<'_>> {
        (!self.has_closed_messages).then(|| self.messages.as_fd())
    }

    /// The messages that have arrived since the last call, one string a line. Never waits.
    pub fn take_messages(&mut self) -> Vec<String> {
        let mut chunk = [0; CHUNK];
        match self.messages.read(&mut chunk) {
            Ok(0) => self.has_closed_messages = true,
            Ok(count) => self.partial_line.extend(&chunk[..count]),
            Err(_) => {}
        }
        let mut lines = Vec::new();
        while let Some(end) = self.partial_line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial_line.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        }
        // A program that never ends its line must not fill the supervisor's memory.
        if self.partial_line.len() > CHUNK {
            lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.partial_line)).into_owned());
        }
        lines
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to stop, and kills it if it does not.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while self.ended().is_none() && Instant::now() < deadline {
            self.take_messages();
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Fails only if it has ended already.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Runs in the new process before the program does.
fn before_exec(supervisor: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The supervisor may have died before the line above.
    if rustix::process::getppid() != Some(supervisor) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}
