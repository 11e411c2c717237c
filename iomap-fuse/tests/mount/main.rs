//! Real mounts of testfs, driven by system calls.
//!
//! Owns the list of scenarios. Each runs under both cache policies. Where nothing can be mounted
//! every scenario is skipped by name, with the reason.
#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod acl;
mod attrs;
mod basic;
mod bed;
mod crash;
mod data;
mod ends;
mod exerciser;
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
        exerciser::SCENARIOS,
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
        let alone: [ends::Alone; 1] = [(
            "a_server_killed_under_load_loses_nothing_synced",
            crash::killed_under_load,
        )];
        let alone = alone.iter().chain(ends::SCENARIOS);
        for (name, run) in alone.chain(access::SCENARIOS).chain(acl::SCENARIOS) {
            let name = format!("{policy:?}::{name}").to_lowercase();
            let run = *run;
            match &obstacle {
                None => trials.push(Trial::test(name, move || {
                    run(policy);
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
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let ("serve", [image, dir, policy]) = (what, &args[..]) {
        crash::serve(image.as_ref(), dir.as_ref(), policy);
        return ExitCode::SUCCESS;
    }
    if let ("exercise", [path, model, seed]) = (what, &args[..]) {
        exerciser::exercise_alone(path.as_ref(), model.as_ref(), seed.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let path = &args[0];
    if threads::try_lock(what, path) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
