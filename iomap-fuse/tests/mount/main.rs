//! Real mounts of testfs, driven by system calls.
//!
//! Owns the list of scenarios. Each runs under both cache policies. Where nothing can be mounted
//! every scenario is skipped by name, with the reason.
#![expect(clippy::unwrap_used, reason = "tests")]

mod basic;
mod bed;

use std::process::ExitCode;

use iomap_fuse::CachePolicy;
use libtest_mimic::{Arguments, Trial};

use bed::Bed;

/// A scenario: its name and what it does.
type Scenario = (&'static str, fn(&Bed));

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let scenarios: Vec<Scenario> = [basic::SCENARIOS].concat();
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
