//! Counting what a piece of work costs: CPU from process accounting, memory, write-ahead log, latencies.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use esr_tests::processes;
use postgres::Client;
use serde::{Deserialize, Serialize};

/// Time between two looks at a build's memory.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);
/// Kernel clock ticks a second, as `/proc/PID/stat` counts (fixed for user space).
const TICKS: f64 = 100.0;

/// Processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// CPU seconds of a single-threaded process so far, to the nanosecond where the kernel keeps scheduler statistics.
pub fn cpu_seconds(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    match text.split_whitespace().next().and_then(|field| field.parse::<f64>().ok()) {
        Some(nanoseconds) if nanoseconds > 0.0 => nanoseconds / 1e9,
        _ => processes::cpu_seconds(pid),
    }
}

/// CPU seconds of the children that a process has waited for; theirs of a postmaster are backends and workers that ended.
fn cpu_seconds_of_ended_children(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the command in parentheses: state is field 3, cutime 16 and cstime 17.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) / TICKS
}

/// Work of one statement, helpers included.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds.
    pub wall_s: f64,
    /// CPU seconds of the backend, all its threads, and the parallel workers.
    pub cpu_s: f64,
    /// Write-ahead log, in MB (10^6 bytes).
    pub wal_mb: f64,
    /// Of it, whole pages written because a checkpoint came before: how many.
    pub full_page_images: i64,
    /// Highest private memory of backend and workers together, with the dynamic shared memory they have mapped, in MB.
    pub peak_memory_mb: f64,
    /// Highest resident memory of the backend (VmHWM) in MB, the shared buffers it touched included.
    pub backend_high_water_mb: f64,
}

/// Runs one piece of work of a session and counts what it costs. Nothing else may happen in the cluster meanwhile. The
/// session should be fresh, or its memory of before counts.
pub fn cost_of(postmaster: i32, session: &mut Client, work: impl FnOnce(&mut Client) -> Result<()>) -> Result<Cost> {
    let pid = backend(session)?;
    let log_before = log_position(session)?;
    let cpu = || processes::cpu_seconds(pid) + cpu_seconds_of_ended_children(postmaster);
    let cpu_before = cpu();
    let start = Instant::now();
    let ended = AtomicBool::new(false);
    let (outcome, peak) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(memory_now(postmaster, pid));
                std::thread::sleep(MEMORY_INTERVAL);
            }
            peak
        });
        let outcome = work(session);
        ended.store(true, Ordering::Relaxed);
        (outcome, watcher.join().unwrap_or_default())
    });
    outcome?;
    let wall_s = start.elapsed().as_secs_f64();
    // The postmaster waits for workers a moment after the statement ends.
    std::thread::sleep(Duration::from_millis(100));
    let log = log_position(session)?.since(log_before);
    Ok(Cost {
        wall_s,
        cpu_s: cpu() - cpu_before,
        wal_mb: log.bytes / 1e6,
        full_page_images: log.full_page_images,
        peak_memory_mb: peak as f64 / 1e6,
        backend_high_water_mb: status_bytes(pid, "VmHWM:") as f64 / 1e6,
    })
}

/// Processes that wanted to run, on average over the last minute: what else the machine was busy with.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0.0)
}

/// The process id of a session's backend.
pub fn backend(session: &mut Client) -> Result<i32> {
    Ok(session.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// How much write-ahead log there is.
#[derive(Debug, Clone, Copy)]
pub struct LogPosition {
    /// Bytes.
    pub bytes: f64,
    /// Whole pages among them, counted.
    pub full_page_images: i64,
}

impl LogPosition {
    /// What was written after `earlier`.
    pub fn since(self, earlier: LogPosition) -> LogPosition {
        LogPosition {
            bytes: self.bytes - earlier.bytes,
            full_page_images: self.full_page_images - earlier.full_page_images,
        }
    }
}

/// Where the log ends now.
pub fn log_position(session: &mut Client) -> Result<LogPosition> {
    // A backend reports its counts when it is idle, at most once a second unless asked.
    session.batch_execute("SELECT pg_stat_force_next_flush()")?;
    let row = session
        .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8, wal_fpi FROM pg_stat_wal", &[])?;
    Ok(LogPosition { bytes: row.get(0), full_page_images: row.get(1) })
}

/// Private memory of a backend and all parallel workers, and the dynamic shared memory that the backend has mapped.
fn memory_now(postmaster: i32, backend: i32) -> u64 {
    let workers = processes::descendants(postmaster).into_iter().filter(|p| p.command.contains("parallel worker"));
    let private: u64 = workers.map(|worker| status_bytes(worker.pid, "RssAnon:")).sum();
    private + status_bytes(backend, "RssAnon:") + dynamic_shared_bytes(backend)
}

fn dynamic_shared_bytes(pid: i32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let names: BTreeSet<&str> =
        maps.lines().filter_map(|line| line.find("/dev/shm/PostgreSQL.").map(|at| &line[at..])).collect();
    names.iter().filter_map(|name| fs::metadata(name).ok()).map(|data| data.blocks() * 512).sum()
}

fn status_bytes(pid: i32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Size of the index in MB (10^6 bytes).
pub fn index_megabytes(session: &mut Client) -> Result<f64> {
    let bytes: i64 = session.query_one("SELECT pg_relation_size('clips_style')", &[])?.get(0);
    ensure!(bytes > 0, "the index is empty");
    Ok(bytes as f64 / 1e6)
}

/// The value below which a share of the numbers lies; 0 if there are none.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// The machine that the numbers are from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// As the kernel names it.
    pub cpu: String,
    /// Processors that may be used.
    pub processors: usize,
    /// Main memory in GB.
    pub memory_gb: f64,
    /// Instruction set of the kernels that `esr-vector` chose.
    pub kernels: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let named = |field: &str| cpus.lines().find(|line| line.starts_with(field)).and_then(|l| l.split(": ").nth(1));
        let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let total = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
        Ok(Self {
            cpu: named("model name").unwrap_or("unknown").to_string(),
            processors: processors(),
            memory_gb: (total * 1024.0 / 1e9).round(),
            kernels: esr_vector::kernels().name.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), 50.0);
        assert_eq!(percentile(&mut values, 0.95), 95.0);
        assert_eq!(percentile(&mut values, 1.0), 99.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }

    #[test]
    fn a_busy_process_uses_cpu() {
        let pid = std::process::id() as i32;
        let before = cpu_seconds(pid);
        let start = Instant::now();
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(50) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(std::hint::black_box(sum) > 0);
        assert!(cpu_seconds(pid) >= before);
    }
}
