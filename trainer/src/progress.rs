//! Progress of a long step: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use std::cell::Cell;

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(20);

/// A running count.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    last_line: Cell<Instant>,
    started: Instant,
    what: &'static str,
}

impl Progress {
    /// Starts counting to `total`.
    pub fn start(total: u64, what: &'static str) -> Self {
        let bar = ProgressBar::new(total);
        let style = "{bar:32} {pos}/{len} {msg} {per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is fixed").progress_chars("=> "));
        bar.set_message(what);
        let now = Instant::now();
        Self { bar, plain: !std::io::stderr().is_terminal(), last_line: Cell::new(now), started: now, what }
    }

    /// Counts on.
    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
        if self.plain && self.last_line.get().elapsed() > LINE_EVERY {
            self.last_line.set(Instant::now());
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let rate = done as f64 / self.started.elapsed().as_secs_f64();
            let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
            eprintln!("{done}/{total} {}, {rate:.1}/s, {left:.0} s left", self.what);
        }
    }

    /// A remark beside the bar.
    pub fn remark(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
