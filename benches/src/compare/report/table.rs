//! The run on a terminal.

use crate::compare::budgets::{Judged, Verdict};
use crate::compare::sample::{GroupResult, ratio};

use super::{Memory, bytes, time};

/// One group: each side with its time, its ratio to the first side, and its throughput.
#[must_use]
pub fn group(group: &GroupResult) -> String {
    let mut out = format!("{}\n", group.id);
    let base = group.sides.iter().find(|s| s.ns.is_some());
    for side in &group.sides {
        let Some(ns) = side.ns else {
            let why = side.missing.as_deref().unwrap_or("no reason given");
            out += &format!("  {:<18} not measured: {why}\n", side.name);
            continue;
        };
        let cpu = side.cpu_ns.map_or(0.0, |c| c.median);
        let against = base.map_or(1.0, |b| ratio(&side.rounds, &b.rounds).median);
        let rate = side
            .throughput(group.bytes)
            .map_or_else(String::new, |b| format!("{}/s", bytes(b)));
        out += &format!(
            "  {:<18} {:>10}  [{} .. {}]  cpu {:>10}  x {against:<6.2} {rate:>14}  device r {} w {}\n",
            side.name,
            time(ns.median),
            time(ns.low),
            time(ns.high),
            time(cpu),
            bytes(side.device.read as f64),
            bytes(side.device.written as f64),
        );
    }
    out
}

/// The budgets: the ratio, the interval that holds it with 95 % confidence, and the verdict.
#[must_use]
pub fn budgets(judged: &[Judged], memory: &[Memory]) -> String {
    let mut out = String::from("budgets\n");
    for j in judged {
        let number = j.measured.map_or_else(String::new, |s| {
            format!("{:.2} [{:.2} .. {:.2}] ", s.median, s.least, s.most)
        });
        out += &format!(
            "  {:<12} {:<62} {number}{}\n",
            j.verdict.name(),
            j.text,
            j.note()
        );
    }
    for m in memory {
        let verdict = if m.bytes_per_page <= m.bound {
            Verdict::Ahead
        } else {
            Verdict::Behind
        };
        out += &format!(
            "  {:<12} metadata of {}: at most {} B a page {:>14.1}\n",
            verdict.name(),
            m.folios,
            m.bound,
            m.bytes_per_page
        );
    }
    out
}
