//! Real mounts of testfs, driven by system calls.
//!
//! Owns the list of scenarios. Each runs under both cache policies. Where nothing can be mounted
//! every scenario is skipped by name, with the reason.
#![expect(clippy::unwrap_used, reason = "tests")]

mod attrs;
mod basic;
mod bed;
mod data;
mod names;
mod raw;
mod threads;
mod xattr;

use std::process::ExitCode;

use iomap_fuse::CachePolicy;
use libtest_mimic::{Arguments, Trial};

use bed::Bed;

/// A scenario: its name and what it does.
type Scenario = (&'static str, fn(&Bed));

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(bed::CHILD) {
        return child(&what);
    }
    let args = Arguments::from_args();
    let scenarios: Vec<Scenario> = [
        basic::SCENARIOS,
        attrs::SCENARIOS,
        names::SCENARIOS,
        data::SCENARIOS,
        xattr::SCENARIOS,
        threads::SCENARIOS,
    ]
    .concat();
    let mut trials = Vec::new();
    let obstacle = bed::obstacle();
    for policy in [CachePolicy::User, CachePolicy::Kernel] {
        for (name, run) in &scenarios {
            let name = format!("{policy:?}::{name}").to_lowercase();
            let run = *run;
            match &obstacle {
                None => trials.push(Trial::test(name, move || {
                    Bed::run(policy, run);
                    Ok(())
                })),
                Some(why) => println!("SKIP iomap-fuse mount {name}: {why}"),
            }
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// The second program of a scenario.
fn child(what: &str) -> ExitCode {
    let path = std::env::args().nth(1).unwrap();
    if threads::try_lock(what, &path) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
