//! The background worker: keeps one `esr-embedder` running for the cluster, and says why when it cannot.
//!
//! It never touches a model, a clip or ONNX Runtime, so nothing in those can restart the cluster. It is started by the
//! postmaster when the library is in `shared_preload_libraries`, else by the first call that needs an embedding. The file
//! lock decides which supervisor of a cluster is the one.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use esr_wire::{LOCK_FILE, SOCKET_FILE};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::{log, pg_guard, pg_sys};

use rustix::process::Signal;

use crate::child::Embedder;
use crate::client;
use crate::report::{LOCK_PATIENCE, Report, open_lock_file};
use crate::server::{self, Interest, OnPostmasterDeath, Woken};
use crate::settings::{self, EmbedderSettings};
use crate::writing::launch;

/// How often a starting embedder's socket is tried.
const START_POLL: Duration = Duration::from_millis(10);

/// Shortest and longest pause before an embedder is started again; it doubles in between.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An embedder that has run this long was well: its end is not counted as one of a series.
const HEALTHY_AGE: Duration = Duration::from_secs(2);

/// The worker's entry point, named in [`server`].
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub extern "C-unwind" fn esr_supervisor_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(
        SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM | SignalWakeFlags::SIGCHLD,
    );
    match acquire_lock() {
        Ok(Some(lock)) => {
            let mut supervisor = Supervisor::new(lock);
            // Rows may be pending since before a crash or a restart.
            launch::start_launcher();
            supervisor.run();
            supervisor.report.supervisor = 0;
            supervisor.publish();
            // The code with which PostgreSQL's workers end on request: a static worker is started again, if the cluster lives.
            server::exit(1);
        }
        Ok(None) => {
            log!("another esr supervisor is at work in this cluster");
            // Not to be started again.
            server::exit(0);
        }
        Err(error) => {
            log!("esr supervisor could not lock \"{LOCK_FILE}\" in the data directory: {error}");
            server::exit(1);
        }
    }
}

fn acquire_lock() -> io::Result<Option<File>> {
    let file = open_lock_file()?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {}
        }
        let woken = server::wait(None, Some(START_POLL), OnPostmasterDeath::Tell);
        if woken == Woken::PostmasterDied || BackgroundWorker::sigterm_received() || Instant::now() >= deadline {
            return Ok(None);
        }
    }
}

struct Supervisor {
    lock: File,
    report: Report,
    settings: EmbedderSettings,
    state: State,
    pause: Duration,
    last_message: String,
}

enum State {
    /// Nothing runs; start one then.
    Waiting { until: Instant },
    /// It runs and has not yet listened.
    Starting(Embedder),
    /// It runs and listens.
    Ready(Embedder),
}

impl Supervisor {
    fn new(lock: File) -> Self {
        Self {
            lock,
            report: Report { server: server::life(), supervisor: std::process::id(), ..Report::default() },
            settings: settings::embedder(),
            state: State::Waiting { until: Instant::now() },
            pause: FIRST_PAUSE,
            last_message: String::new(),
        }
    }

    /// Until the cluster stops.
    fn run(&mut self) {
        self.publish();
        loop {
            self.step();
            let (limit, descriptor) = match &self.state {
                State::Waiting { until } => (Some(until.saturating_duration_since(Instant::now())), None),
                State::Starting(embedder) => (Some(START_POLL), embedder.messages()),
                State::Ready(embedder) => (None, embedder.messages()),
            };
            let descriptor = descriptor.map(|messages| (messages, Interest::Readable));
            if server::wait(descriptor, limit, OnPostmasterDeath::Tell) == Woken::PostmasterDied {
                self.end(Embedder::kill);
                return;
            }
            if BackgroundWorker::sigterm_received() {
                self.end(Embedder::stop);
                return;
            }
            if BackgroundWorker::sighup_received() {
                self.reload();
            }
        }
    }

    /// Moves on by whatever has happened.
    fn step(&mut self) {
        self.forward_messages();
        let idle = State::Waiting { until: Instant::now() };
        self.state = match std::mem::replace(&mut self.state, idle) {
            State::Waiting { until } if Instant::now() < until => State::Waiting { until },
            State::Waiting { .. } => self.start(),
            State::Starting(mut embedder) => match embedder.ended() {
                Some(status) => self.ended(embedder, status, false),
                None if client::knock().is_ok() => {
                    self.report.failed_starts = 0;
                    self.publish();
                    State::Ready(embedder)
                }
                None => State::Starting(embedder),
            },
            State::Ready(mut embedder) => match embedder.ended() {
                Some(status) => self.ended(embedder, status, true),
                None => State::Ready(embedder),
            },
        };
    }

    fn start(&mut self) -> State {
        let _ = std::fs::remove_file(SOCKET_FILE);
        self.last_message.clear();
        match Embedder::start(&self.settings, SOCKET_FILE) {
            Ok(embedder) => {
                self.report.embedder = embedder.pid();
                self.publish();
                State::Starting(embedder)
            }
            Err(error) => self.failed(format!("could not start \"{}\": {error}", self.settings.program.display())),
        }
    }

    /// An embedder ended without being asked.
    fn ended(&mut self, mut embedder: Embedder, status: ExitStatus, was_ready: bool) -> State {
        for line in embedder.take_messages() {
            self.forward(line);
        }
        self.report.restarts += 1;
        let why = format!("esr-embedder (process {}) ended: {status}", embedder.pid());
        if was_ready {
            if embedder.age() >= HEALTHY_AGE {
                self.pause = FIRST_PAUSE;
            }
            return self.pause(why);
        }
        if status.signal() == Some(Signal::KILL.as_raw()) {
            // Somebody's doing, or the kernel's for want of memory: no reason to think that the next one will not start.
            return self.pause(why);
        }
        let reason = std::mem::take(&mut self.last_message);
        self.failed(if reason.is_empty() { why } else { reason })
    }

    /// An embedder did not come up.
    fn failed(&mut self, why: String) -> State {
        self.report.failed_starts += 1;
        self.pause(why)
    }

    fn pause(&mut self, why: String) -> State {
        let pause = self.pause;
        log!("{why}; starting it again in {} ms", pause.as_millis());
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.report.embedder = 0;
        self.report.failure = why;
        self.publish();
        State::Waiting { until: Instant::now() + pause }
    }

    fn reload(&mut self) {
        server::reload_settings();
        let settings = settings::embedder();
        // Without a change, SIGHUP still means "try again now" to an embedder that could not be started.
        if settings != self.settings || self.report.failed_starts > 0 {
            self.settings = settings;
            self.end(Embedder::stop);
            self.pause = FIRST_PAUSE;
            self.report.failed_starts = 0;
            self.report.failure.clear();
            self.publish();
        }
    }

    /// Leaves no process and no socket behind.
    fn end(&mut self, how: fn(Embedder)) {
        let idle = State::Waiting { until: Instant::now() };
        if let State::Starting(embedder) | State::Ready(embedder) = std::mem::replace(&mut self.state, idle) {
            how(embedder);
        }
        let _ = std::fs::remove_file(SOCKET_FILE);
        self.report.embedder = 0;
        self.publish();
    }

    fn forward_messages(&mut self) {
        let lines = match &mut self.state {
            State::Starting(embedder) | State::Ready(embedder) => embedder.take_messages(),
            State::Waiting { .. } => Vec::new(),
        };
        for line in lines {
            self.forward(line);
        }
    }

    /// Into the server's log.
    fn forward(&mut self, line: String) {
        if !line.trim().is_empty() {
            let message = line.trim_start_matches("esr-embedder: ");
            log!("esr-embedder: {message}");
            self.last_message = message.to_owned();
        }
    }

    fn publish(&self) {
        if let Err(error) = self.report.write(&self.lock) {
            log!("esr supervisor could not write \"{LOCK_FILE}\": {error}");
        }
    }
}
