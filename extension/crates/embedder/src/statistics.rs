//! Counters of one embedder process. Knows only numbers; cheap enough to be updated by every request.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Latencies that the percentiles are taken over.
const WINDOW: usize = 1_000;

/// A full queue is told in the log this often.
const QUIET: Duration = Duration::from_secs(10);

/// What has happened since start.
pub struct Statistics {
    started: Instant,
    /// Requests answered, failures included.
    pub requests: Counter,
    /// Requests answered with a failure.
    pub failures: Counter,
    /// Requests whose caller left before the answer.
    pub cancelled: Counter,
    /// Texts embedded.
    pub texts: Counter,
    /// Clips embedded.
    pub clips: Counter,
    /// Passes through a tower.
    pub batches: Counter,
    /// Rows of the same.
    pub rows: Counter,
    /// Passes that failed and were tried again with half of the rows.
    pub halved: Counter,
    /// Requests given up because their time was over.
    pub expired: Counter,
    refused: Counter,
    refusal_told: Mutex<Option<Instant>>,
    latencies: Mutex<VecDeque<Duration>>,
}

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Statistics {
    /// All zero, from now.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            requests: Counter::default(),
            failures: Counter::default(),
            cancelled: Counter::default(),
            texts: Counter::default(),
            clips: Counter::default(),
            batches: Counter::default(),
            rows: Counter::default(),
            halved: Counter::default(),
            expired: Counter::default(),
            refused: Counter::default(),
            refusal_told: Mutex::default(),
            latencies: Mutex::default(),
        }
    }

    /// Counts a refusal; says so in the log, but not more often than every [`QUIET`].
    pub fn refused(&self, waiting: usize) {
        self.refused.add(1);
        let mut told = self.refusal_told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if told.is_none_or(|at| at.elapsed() >= QUIET) {
            *told = Some(Instant::now());
            eprintln!(
                "esr-embedder: refused a request: {waiting} wait ({} refused so far); raise esr.embedder_queue, or lower \
                 the load",
                self.refused.get()
            );
        }
    }

    /// Records how long one request took.
    pub fn latency(&self, took: Duration) {
        let mut latencies = self.latencies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if latencies.len() == WINDOW {
            latencies.pop_front();
        }
        latencies.push_back(took);
    }

    /// Everything as the wire tells it. `lanes`: requests that wait in each lane, and whether it computes.
    pub fn snapshot(&self, models: Vec<String>, device: String, lanes: [(usize, bool); 2]) -> esr_wire::Status {
        let memory = Memory::now();
        let latencies = self.latencies.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let mut latencies: Vec<Duration> = latencies.into();
        latencies.sort_unstable();
        let percentile = |percent: usize| {
            let at = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
            latencies.get(at).map_or(0.0, |took| took.as_secs_f32() * 1e3)
        };
        esr_wire::Status {
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            requests: self.requests.get(),
            failures: self.failures.get(),
            cancelled: self.cancelled.get(),
            texts: self.texts.get(),
            clips: self.clips.get(),
            refused: self.refused.get(),
            expired: self.expired.get(),
            batches: self.batches.get(),
            rows: self.rows.get(),
            halved: self.halved.get(),
            queued: lanes.iter().map(|(waiting, _)| *waiting as u32).sum(),
            running: lanes.iter().map(|(_, running)| u32::from(*running)).sum(),
            memory: memory.resident,
            peak_memory: memory.peak,
            device,
            models,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}

/// Resident memory of this process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most since start.
    pub peak: u64,
}

impl Memory {
    /// As the kernel counts it; zero where `/proc` does not say.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Self { resident: field("VmRSS:"), peak: field("VmHWM:") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_thousand() {
        let statistics = Statistics::new();
        assert_eq!(statistics.snapshot(vec![], String::new(), [(0, false); 2]).p50_ms, 0.0);
        (0..500).for_each(|_| statistics.latency(Duration::from_secs(9)));
        (1..=1_000).for_each(|ms| statistics.latency(Duration::from_millis(ms)));
        let status = statistics.snapshot(vec![], String::new(), [(0, false); 2]);
        assert_eq!((status.p50_ms.round(), status.p99_ms.round()), (500.0, 990.0));
    }
}
