//! The command `crash`.
//!
//! Owns its arguments, the progress bar, and what is printed of a broken promise: the seed, the
//! operations, the writes in doubt, and what was found.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{REFUSED, USAGE, VERIFICATION_FAILED};
use crate::crash::workload::{ALL, Workload};
use crate::crash::{Options, Violation, run};
use crate::device::Fate;

#[derive(Debug, Args)]
pub(super) struct CrashArgs {
    /// Only this workload; see --list
    #[arg(long)]
    workload: Option<String>,
    /// Makes the operations and the crashes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after so many different images
    #[arg(long, default_value_t = 10_000)]
    states: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The most images of one crash point
    #[arg(long, default_value_t = 24)]
    per_point: usize,
    /// Save the image of a broken promise
    #[arg(long)]
    save: Option<PathBuf>,
    /// Print the workloads
    #[arg(long)]
    list: bool,
    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn command(args: &CrashArgs) -> u8 {
    if args.list {
        for workload in ALL {
            println!("{:10} {}", workload.name, workload.about);
        }
        return 0;
    }
    let workload = match args
        .workload
        .as_deref()
        .map(|name| (name, Workload::named(name)))
    {
        Some((name, None)) => {
            eprintln!("testfs: no workload is called {name:?}; see --list");
            return USAGE;
        }
        found => found.and_then(|(_, workload)| workload),
    };
    let options = Options {
        workload,
        seed: args.seed,
        states: args.states.max(1),
        threads: args.threads,
        per_point: args.per_point.max(2),
    };
    let bar = bar(args);
    let started = Instant::now();
    let result = run(&options, &|states| bar.set_position(states));
    bar.finish_and_clear();
    match result {
        Ok(summary) => {
            println!(
                "seed {}: {} states of {} workloads at {} crash points, judged {} times in {:.1} s: ok",
                args.seed,
                summary.states,
                summary.workloads,
                summary.points,
                summary.judged,
                started.elapsed().as_secs_f64(),
            );
            0
        }
        Err(violation) => {
            report(args, &violation);
            if violation.workload.is_empty() {
                REFUSED
            } else {
                VERIFICATION_FAILED
            }
        }
    }
}

/// A bar on a terminal, and nothing elsewhere.
fn bar(args: &CrashArgs) -> ProgressBar {
    if args.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(args.states);
    let template = "{bar:40} {pos}/{len} states, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn report(args: &CrashArgs, violation: &Violation) {
    if violation.workload.is_empty() {
        eprintln!("testfs: {}", violation.what);
        return;
    }
    println!("BROKEN PROMISE: {}", violation.what);
    let (done, begun) = violation.progress;
    println!("workload {}, seed {}:", violation.workload, violation.seed);
    for (n, op) in (1..).zip(&violation.ops) {
        let crash = match n {
            _ if n == done + 1 && n == begun => "   <- the power went here",
            _ if n == done && n == begun => "   <- the power went after this",
            _ => "",
        };
        println!("  {n:3} {op}{crash}");
    }
    if violation.image.is_some() {
        let fates: Vec<_> = violation.fates.iter().map(fate).collect();
        println!(
            "crash point {}; writes in doubt: {}",
            violation.point,
            if fates.is_empty() {
                "none".to_owned()
            } else {
                fates.join(" ")
            }
        );
    }
    println!(
        "again: testfs crash --workload {} --seed {} --states 100000 --threads 1 --per-point {}",
        violation.workload, violation.seed, args.per_point,
    );
    if let (Some(path), Some(image)) = (&args.save, &violation.image) {
        match std::fs::write(path, image.bytes()) {
            Ok(()) => println!("saved: {}", path.display()),
            Err(error) => eprintln!("testfs: {}: {error}", path.display()),
        }
    }
}

/// `-` lost, `+` arrived, or its sectors.
fn fate(fate: &Fate) -> String {
    let sign = |arrived: &bool| if *arrived { '+' } else { '-' };
    match fate {
        Fate::Lost => "-".to_owned(),
        Fate::Arrived => "+".to_owned(),
        Fate::Torn(sectors) => {
            let sectors: String = sectors.iter().map(sign).collect();
            format!("[{sectors}]")
        }
    }
}
