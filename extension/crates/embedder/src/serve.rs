//! The server: socket, signals, end of life. Knows who may connect and when to stop; what is said on a connection is
//! `connection`'s.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use esr_encoder::device::DeviceOptions;
use esr_encoder::encoder::SHORTEST_SHARE;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::process::{Signal, geteuid, set_parent_process_death_signal, umask};

use crate::admission::{self, Admission};
use crate::batcher::Limits;
use crate::connection;
use crate::gate::Gate;
use crate::inference::Lane;
use crate::models::{Models, Tower};
use crate::shared::Shared;
use crate::statistics::Statistics;

/// Connections that may be open at once; each costs a thread.
const MAX_CONNECTIONS: usize = 1_024;

/// A request frame is read into memory while it arrives, on the connection's thread, which needs little stack itself;
/// symphonia and the tokenizer recurse a little.
const CONNECTION_STACK: usize = 2 << 20;

/// The kernel's choice when memory runs out: rather this process than PostgreSQL (0) or a neighbour.
const OUT_OF_MEMORY_SCORE: &str = "500";

/// Interactive batches in a row while backfill waits: it gets a tenth of them at least.
const STREAK: u32 = 9;

/// Batches form from what has come in while the last one was computed; on a CPU nothing is gained by waiting for more
/// (ARCHITECTURE.md), and a lone request would only become slower.
const MAX_DELAY: Duration = Duration::ZERO;

fn limits(jobs: usize) -> Limits {
    Limits { shortest_share: SHORTEST_SHARE, jobs, max_delay: MAX_DELAY, streak: STREAK }
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the socket is made; a file that is there already is replaced if it is a socket.
    pub socket: PathBuf,
    /// Folder of model folders.
    pub model_directory: PathBuf,
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// Threads of one run.
    pub threads: usize,
    /// Where models run.
    pub device: DeviceOptions,
    /// Requests that may wait.
    pub queue: usize,
    /// A supervisor holds the other end of standard input: end when it is closed.
    pub watch_stdin: bool,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Socket {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Threads, signals or polling.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Serves until SIGTERM, SIGINT or, if watched, the end of standard input. Removes the socket on return.
pub fn run(options: Options) -> Result<(), ServeError> {
    if options.watch_stdin {
        follow_supervisor();
    }
    // Handlers are there before any thread of ours or of ONNX Runtime.
    let (signals, wake) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
    }
    let listener =
        listen(&options.socket).map_err(|source| ServeError::Socket { path: options.socket.clone(), source })?;
    let statistics = Arc::new(Statistics::new());
    let shared = Arc::new(Shared {
        models: Models::new(options.model_directory.clone(), options.library.clone(), options.threads, options.device),
        speech: Lane::start(Tower::Speech, limits(options.queue), statistics.clone())?,
        text: Lane::start(Tower::Text, limits(options.queue), statistics.clone())?,
        decoders: Gate::new(2 * std::thread::available_parallelism().map_or(1, usize::from)),
        admission: Admission::new(admission::ROOM),
        statistics,
    });
    eprintln!(
        "esr-embedder: version {} listens on {}: {} thread(s), execution provider {}, room for {} waiting requests",
        env!("CARGO_PKG_VERSION"),
        options.socket.display(),
        options.threads,
        options.device.provider,
        options.queue
    );
    let reason = accept_until_told(&listener, &signals, options.watch_stdin, &shared)?;
    let _ = std::fs::remove_file(&options.socket);
    eprintln!("esr-embedder: ends: {reason}");
    Ok(())
}

/// If the supervisor dies, so does this process: standard input tells, and the kernel's signal catches what it misses.
fn follow_supervisor() {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("esr-embedder: cannot ask for a signal when the supervisor dies: {error}");
    }
    // Not possible in every container, and not necessary.
    let _ = std::fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE);
}

/// A listening socket that only this user can open from the moment it exists.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        // A dead predecessor's: the supervisor's lock says that there is only one embedder at a time.
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Err(_) => {}
    }
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Why the server ends.
type Reason = &'static str;

fn accept_until_told(
    listener: &UnixListener,
    signals: &UnixStream,
    watch_stdin: bool,
    shared: &Arc<Shared>,
) -> Result<Reason, std::io::Error> {
    let stdin = std::io::stdin();
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut ends = vec![PollFd::new(listener, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let stdin_end = stdin.as_fd();
        if watch_stdin {
            ends.push(PollFd::new(&stdin_end, PollFlags::IN));
        }
        match poll(&mut ends, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        if ready[1] {
            return Ok("it was asked to by a signal");
        }
        // A supervisor says nothing on standard input; it only holds it open.
        if watch_stdin && ready[2] && matches!(stdin.lock().read(&mut [0; 64]), Ok(0) | Err(_)) {
            return Ok("its supervisor has ended");
        }
        if ready[0] {
            match listener.accept() {
                Ok((stream, _)) => welcome(stream, shared, &open),
                // Too many open files, most likely. Without a pause this loop would take a core until there are fewer.
                Err(error) => {
                    eprintln!("esr-embedder: cannot accept a connection: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

fn welcome(stream: UnixStream, shared: &Arc<Shared>, open: &Arc<AtomicUsize>) {
    match rustix::net::sockopt::socket_peercred(&stream) {
        Ok(peer) if peer.uid == geteuid() => {}
        Ok(peer) => {
            eprintln!("esr-embedder: refused a connection of user id {}", peer.uid.as_raw());
            return;
        }
        Err(error) => {
            eprintln!("esr-embedder: refused a connection of an unknown user: {error}");
            return;
        }
    }
    if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
        open.fetch_sub(1, Ordering::SeqCst);
        eprintln!("esr-embedder: refused a connection: {MAX_CONNECTIONS} are open");
        return;
    }
    let (shared, counter) = (shared.clone(), Open(open.clone()));
    let thread = std::thread::Builder::new().name("connection".into()).stack_size(CONNECTION_STACK);
    // If there is no thread to be had, the closure and with it the stream and the count are dropped.
    if let Err(error) = thread.spawn(move || {
        let _counter = counter;
        connection::serve(stream, &shared);
    }) {
        eprintln!("esr-embedder: cannot serve a connection: {error}");
    }
}

/// Counts one connection until it is dropped, also by a panic.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
