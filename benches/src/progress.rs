//! Lines on standard error that say how far a long piece of work is and how long the rest may take.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

/// One piece of work with a known number of steps.
pub struct Progress {
    label: String,
    total: usize,
    start: Instant,
    last: Mutex<Instant>,
}

impl Progress {
    /// Starts the clock.
    pub fn new(label: impl Into<String>, total: usize) -> Self {
        let now = Instant::now();
        Self { label: label.into(), total, start: now, last: Mutex::new(now) }
    }

    /// Says where the work is, if the last line is long enough ago.
    pub fn at(&self, done: usize) {
        let Ok(mut last) = self.last.lock() else { return };
        if last.elapsed() < INTERVAL || done == 0 {
            return;
        }
        *last = Instant::now();
        let elapsed = self.start.elapsed().as_secs_f64();
        let left = elapsed / done as f64 * self.total.saturating_sub(done) as f64;
        note(&format!("  {}: {} of {}, about {left:.0} s left", self.label, done, self.total));
    }
}

/// One line on standard error.
pub fn note(line: &str) {
    eprintln!("{line}");
}
