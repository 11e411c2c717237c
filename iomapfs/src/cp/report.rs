//! What a copy tells: errors as they happen, progress on a terminal, a summary for programs.
//!
//! Owns the counts and the rule that no error is lost: each is told at once and makes the exit code
//! 1. Shared by all threads of a copy.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use iomap_core::error::Errno;
use parking_lot::Mutex;
use serde_json::json;

use super::side::{Losses, Trouble};
use crate::cli::CpArgs;
use crate::failure::Outcome;
use crate::out::printable;

/// Errors that the JSON summary has in words; the number is always whole.
const ERRORS_KEPT: usize = 10_000;

/// What was made. Statistics: no ordering, nothing is decided by them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) symlinks: AtomicU64,
    pub(super) special: AtomicU64,
    pub(super) hard_links: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) skipped: AtomicU64,
    errors: AtomicU64,
}

/// What all threads of a copy tell to.
pub(super) struct Report {
    pub(super) counts: Counts,
    verbose: bool,
    json: bool,
    bar: ProgressBar,
    started: Instant,
    /// Set by a signal: stop as soon as what is being done is done.
    interrupted: Arc<AtomicBool>,
    told: Mutex<Vec<String>>,
    /// Attributes that were not kept, by name: how often, and why the first time.
    lost: Mutex<BTreeMap<String, (u64, String)>>,
}

impl Report {
    pub(super) fn new(args: &CpArgs, interrupted: Arc<AtomicBool>) -> Self {
        let shown = std::io::stderr().is_terminal() && !args.quiet && !args.json.json;
        Self {
            counts: Counts::default(),
            verbose: args.verbose,
            json: args.json.json,
            bar: if shown { bar() } else { ProgressBar::hidden() },
            started: Instant::now(),
            interrupted,
            told: Mutex::new(Vec::new()),
            lost: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether a progress bar is shown, so that it is worth knowing the total.
    pub(super) fn wants_total(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// More is known to come.
    pub(super) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Bytes were copied, or a hole of so many bytes was made.
    pub(super) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Whether a signal asked to stop.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Tells what was not copied.
    pub(super) fn error(&self, what: &str, trouble: &Trouble) {
        self.counts.errors.fetch_add(1, Relaxed);
        self.tell(format!("{what}: {trouble}"));
    }

    /// Tells why a source was not copied at all.
    pub(super) fn failure(&self, failure: &crate::failure::Failure) {
        self.counts.errors.fetch_add(1, Relaxed);
        self.tell(failure.message.clone());
        if let Some(hint) = &failure.hint {
            self.bar
                .suspend(|| crate::out::warn_line(&format!("  hint: {hint}")));
        }
    }

    /// Tells something that is no error.
    pub(super) fn note(&self, what: &str, trouble: &Trouble) {
        self.counts.skipped.fetch_add(1, Relaxed);
        self.tell(format!("{what}: {trouble}"));
    }

    fn tell(&self, line: String) {
        self.bar.suspend(|| crate::failure::complain(&line));
        let mut told = self.told.lock();
        if told.len() < ERRORS_KEPT {
            told.push(line);
        }
    }

    /// Tells a copy that was made, if the user wants to know.
    pub(super) fn made(&self, from: &str, to: &str) {
        if self.verbose && !self.json {
            self.bar.suspend(|| {
                // Whoever reads this may go away; the copy goes on.
                let _ = writeln!(std::io::stdout(), "{from} -> {to}");
            });
        }
    }

    /// Takes note of what could not be kept. An attribute of the user is an error; those of the
    /// system are the kernel's policy, and told once at the end.
    pub(super) fn losses(&self, what: &str, losses: Losses) {
        for (name, trouble) in losses.xattrs {
            let shown = printable(&name);
            let ours = name.starts_with(b"user.");
            let policy = matches!(
                trouble.errno,
                Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL
            );
            if ours || !policy {
                self.error(
                    what,
                    &trouble.during(&format!("extended attribute {shown}")),
                );
                continue;
            }
            let mut lost = self.lost.lock();
            lost.entry(shown)
                .or_insert_with(|| (0, trouble.to_string()))
                .0 += 1;
        }
    }

    /// Ends the bar, prints the summary, and tells the exit code.
    pub(super) fn finish(&self) -> Outcome {
        self.bar.finish_and_clear();
        let lost = self.lost.lock();
        for (name, (times, why)) in &*lost {
            crate::failure::complain(&format!(
                "note: {name} of {times} files was not kept: {why}"
            ));
        }
        let errors = self.counts.errors.load(Relaxed);
        let code = match (self.interrupted(), errors) {
            (true, _) => crate::failure::code::INTERRUPTED,
            (false, 0) => 0,
            (false, _) => crate::failure::code::FAILED,
        };
        if self.json {
            let get = |count: &AtomicU64| count.load(Relaxed);
            let counts = &self.counts;
            crate::out::json(
                "cp",
                json!({
                    "files": get(&counts.files),
                    "directories": get(&counts.directories),
                    "symlinks": get(&counts.symlinks),
                    "special": get(&counts.special),
                    "hard_links": get(&counts.hard_links),
                    "bytes": get(&counts.bytes),
                    "skipped": get(&counts.skipped),
                    "errors": errors,
                    "messages": *self.told.lock(),
                    "xattrs_not_kept": lost.iter().map(|(name, (times, _))| (name.clone(), *times)).collect::<BTreeMap<_, _>>(),
                    "seconds": self.started.elapsed().as_secs_f64(),
                    "interrupted": self.interrupted(),
                }),
            )?;
        }
        Ok(code)
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let template = "{bar:30} {bytes:>10} of {total_bytes}  {binary_bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
