//! Counters of one embedder process. Knows only numbers; cheap enough to be updated by every request.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Latencies that the percentiles are taken over.
const WINDOW: usize = 1_000;

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
            latencies: Mutex::default(),
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

    /// Everything as the wire tells it.
    pub fn snapshot(&self, models: Vec<String>) -> esr_wire::Status {
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
            batches: self.batches.get(),
            device: "cpu".into(),
            models,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_thousand() {
        let statistics = Statistics::new();
        assert_eq!(statistics.snapshot(vec![]).p50_ms, 0.0);
        (0..500).for_each(|_| statistics.latency(Duration::from_secs(9)));
        (1..=1_000).for_each(|ms| statistics.latency(Duration::from_millis(ms)));
        let status = statistics.snapshot(vec![]);
        assert_eq!((status.p50_ms.round(), status.p99_ms.round()), (500.0, 990.0));
    }
}
