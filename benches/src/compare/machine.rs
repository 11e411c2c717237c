//! What a run was made on: a number without it says nothing.
//!
//! Owns reading `/proc` and `/sys`. What cannot be read is said to be unknown.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The machine, as far as the kernel tells.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors online.
    pub cpus: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// File system of the temporary folder, and the device it lies on.
    pub temporary: String,
    /// Setting of transparent huge pages.
    pub huge_pages: String,
    /// Load of the last minute when the run began.
    pub load: String,
}

impl Machine {
    /// Reads it.
    #[must_use]
    pub fn read() -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: line("/proc/sys/kernel/osrelease"),
            temporary: mount_of(&std::env::temp_dir()),
            huge_pages: line("/sys/kernel/mm/transparent_hugepage/enabled"),
            load: line("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |t| t.trim().to_owned())
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .map_or_else(|| "unknown".into(), |v| v.trim().to_owned())
}

/// `ext4 on /dev/vda (rw,…)` for the mount with the longest path above `path`.
fn mount_of(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|l| {
            let mut words = l.split(' ');
            let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(at).then(|| {
                (
                    at.len(),
                    format!("{kind} on {device}, at {}", path.display()),
                )
            })
        })
        .max_by_key(|(len, _)| *len)
        .map_or_else(|| "unknown".into(), |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_known() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory_mib > 0);
        assert!(machine.kernel.contains('.'), "{}", machine.kernel);
        assert!(machine.temporary.contains(" on "), "{}", machine.temporary);
    }
}
