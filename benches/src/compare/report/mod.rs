//! What comes out of a run: a table on the terminal, one JSON document, one HTML page.
//!
//! Owns the document ([`Report`], versioned) from which the others are made. The pictures are in
//! [`svg`], the page in [`html`], the terminal in [`table`].

pub mod html;
pub mod svg;
pub mod table;

use serde::Serialize;

use super::budgets::Judged;
use super::machine::Machine;
use super::sample::GroupResult;

/// Everything of one run. The version changes when a field changes its meaning or goes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of this layout.
    pub version: u32,
    /// Where it ran.
    pub machine: Machine,
    /// Rounds of each group, at least; how many there were is told by each side.
    pub rounds: usize,
    /// What was measured.
    pub groups: Vec<GroupResult>,
    /// The budgets beside it.
    pub budgets: Vec<Judged>,
    /// Cost in memory of cached pages.
    pub memory: Vec<Memory>,
}

/// The version of [`Report`].
pub const VERSION: u32 = 2;

/// Bytes of metadata for one cached page.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Of which folios.
    pub folios: String,
    /// Bytes of folio and index for each 4 KiB of data.
    pub bytes_per_page: f64,
    /// The budget.
    pub bound: f64,
}

/// Text for HTML and SVG.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A time, with a unit that fits.
#[must_use]
pub fn time(ns: f64) -> String {
    match ns.abs() {
        n if n < 1e3 => format!("{ns:.0} ns"),
        n if n < 1e6 => format!("{:.2} µs", ns / 1e3),
        n if n < 1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// Bytes, with a unit that fits.
#[must_use]
pub fn bytes(count: f64) -> String {
    match count {
        n if n < 1024.0 => format!("{n:.0} B"),
        n if n < 1024.0 * 1024.0 => format!("{:.1} KiB", n / 1024.0),
        n if n < (1u64 << 30) as f64 => format!("{:.1} MiB", n / (1u64 << 20) as f64),
        n => format!("{:.2} GiB", n / (1u64 << 30) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_fit_the_number() {
        assert_eq!(time(42.4), "42 ns");
        assert_eq!(time(1500.0), "1.50 µs");
        assert_eq!(time(2.5e9), "2.50 s");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0), "3.0 MiB");
    }
}
