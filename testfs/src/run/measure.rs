//! What a run measures, and how it is printed.
//!
//! Owns rows, percentiles, the table and the JSON form ([`SCHEMA`]). Served bytes are what the
//! caller moved, device bytes what the device moved meanwhile.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::device::Traffic;

/// The version of the JSON form.
pub const SCHEMA: u32 = 1;

/// One data path, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The path.
    pub path: &'static str,
    /// Calls.
    pub calls: u64,
    /// Bytes the calls moved.
    pub bytes: u64,
    /// Seconds over all calls, as the clock on the wall has it.
    pub seconds: f64,
    /// Half of the calls took no longer, microseconds.
    pub p50_us: f64,
    /// All but one in a hundred took no longer, microseconds.
    pub p99_us: f64,
    /// Of the folios a buffered read looked for, how many were there, percent; none if no such
    /// read was made.
    pub hit_percent: Option<f64>,
    /// Bytes the device read meanwhile.
    pub device_read: u64,
    /// Bytes the device wrote meanwhile.
    pub device_written: u64,
}

/// The calls of one path, while they are made.
#[derive(Debug, Default)]
pub struct Calls {
    /// How long each took, nanoseconds.
    pub nanos: Vec<u64>,
    /// Bytes moved.
    pub bytes: u64,
}

impl Calls {
    /// Adds a call.
    pub fn add(&mut self, took: Duration, bytes: u64) {
        self.nanos
            .push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.bytes += bytes;
    }

    /// Adds the calls of another thread.
    pub fn merge(&mut self, other: Self) {
        self.nanos.extend(other.nanos);
        self.bytes += other.bytes;
    }

    /// The row.
    #[must_use]
    pub fn row(
        mut self,
        path: &'static str,
        wall: Duration,
        hit_percent: Option<f64>,
        traffic: Traffic,
    ) -> Row {
        self.nanos.sort_unstable();
        Row {
            path,
            calls: self.nanos.len() as u64,
            bytes: self.bytes,
            seconds: wall.as_secs_f64(),
            p50_us: percentile(&self.nanos, 50),
            p99_us: percentile(&self.nanos, 99),
            hit_percent,
            device_read: traffic.read,
            device_written: traffic.written,
        }
    }
}

/// The value below which `percent` of the sorted `nanos` lie, microseconds.
fn percentile(nanos: &[u64], percent: usize) -> f64 {
    let at = (nanos.len() * percent / 100).min(nanos.len().saturating_sub(1));
    nanos.get(at).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
}

/// A run that went well.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Always true: a run that found something wrong has no report.
    pub verified: bool,
    /// The seed.
    pub seed: u64,
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// Bytes of the page cache.
    pub cache_bytes: u64,
    /// Whether every file was a DAX file.
    pub dax: bool,
    /// The paths.
    pub rows: Vec<Row>,
    /// The paths that cannot be driven here, and why.
    pub skipped: Vec<String>,
    /// Bytes compared with the model after the remount.
    pub verified_bytes: u64,
    /// Files compared.
    pub verified_files: u64,
    /// Seconds from mount to check.
    pub seconds: f64,
}

impl Report {
    /// The table and the verdict.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<26} {:>8} {:>10} {:>10} {:>10} {:>10} {:>6} {:>10} {:>10}\n",
            "path", "calls", "bytes", "MiB/s", "p50 us", "p99 us", "hits", "dev read", "dev writ"
        );
        for row in &self.rows {
            let hits = row
                .hit_percent
                .map_or_else(|| "-".to_owned(), |hits| format!("{hits:.0}%"));
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:<26} {:>8} {:>10} {:>10} {:>10.1} {:>10.1} {:>6} {:>10} {:>10}",
                row.path,
                row.calls,
                human(row.bytes),
                rate(row),
                row.p50_us,
                row.p99_us,
                hits,
                human(row.device_read),
                human(row.device_written),
            );
        }
        for skipped in &self.skipped {
            let _ = writeln!(text, "SKIPPED {skipped}");
        }
        let _ = write!(
            text,
            "\nverified after remount: {} in {} files, every byte; check: clean; {:.1} s\nOK",
            human(self.verified_bytes),
            self.verified_files,
            self.seconds
        );
        text
    }
}

fn rate(row: &Row) -> String {
    if row.bytes == 0 || row.seconds <= 0.0 {
        return "-".to_owned();
    }
    format!("{:.0}", row.bytes as f64 / row.seconds / f64::from(1 << 20))
}

/// Bytes with a unit.
fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_calls() {
        let mut calls = Calls::default();
        for n in (1..=100).rev() {
            calls.add(Duration::from_micros(n), 10);
        }
        let row = calls.row("x", Duration::from_secs(1), None, Traffic::default());
        assert_eq!((row.calls, row.bytes), (100, 1000));
        assert_eq!((row.p50_us, row.p99_us), (51.0, 100.0));
        assert_eq!(percentile(&[], 50), 0.0);
    }
}
