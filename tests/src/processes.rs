//! Looking at processes through `/proc`: which there are, whose children, what they run.

use std::{fs, path::Path};

/// One running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Command line, arguments separated by spaces.
    pub command: String,
}

/// Every process that this one may see. Zombies are left out: they have ended.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| read(&entry.path())).collect()
}

/// Every process whose command line contains `needle`.
pub fn matching(needle: &str) -> Vec<Process> {
    all().into_iter().filter(|process| process.command.contains(needle)).collect()
}

/// Every descendant of a process.
pub fn descendants(pid: i32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// Whether a process is there and has not ended.
pub fn is_running(pid: i32) -> bool {
    read(Path::new(&format!("/proc/{pid}"))).is_some()
}

/// Resident memory in bytes, 0 if the process is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// User and system CPU time so far, in seconds, 0 if the process is gone.
pub fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the command in parentheses: state is field 3, utime 14 and stime 15, in ticks of 1/100 s.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn read(folder: &Path) -> Option<Process> {
    let pid = folder.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let raw = fs::read(folder.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_string();
    Some(Process { pid, parent, command })
}
