//! Real mounts of testfs, driven by system calls.
//!
//! Owns the list of scenarios. Each runs under both cache policies, by the device and through rings,
//! which the kernel is told to offer meanwhile. Where nothing can be mounted, or there are no rings, every
//! scenario is skipped by name, with the reason.
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
mod short;
mod threads;
mod xattr;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use bed::{Bed, RingsOffered, SETUPS};

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
    let offered = RingsOffered::new();
    for setup in SETUPS {
        let no_rings = offered.as_ref().err().filter(|_| setup.rings);
        let obstacle = obstacle.as_ref().or(no_rings);
        for (name, run) in &scenarios {
            let name = format!("{}::{name}", setup.name);
            let run = *run;
            match obstacle {
                None => trials.push(Trial::test(name, move || {
                    Bed::run(setup, run);
                    Ok(())
                })),
                Some(why) => println!("SKIP iomap-fuse mount {name}: {why}"),
            }
        }
        let alone: [ends::Alone; 2] = [
            (
                "a_server_killed_under_load_loses_nothing_synced",
                crash::killed_under_load,
            ),
            (
                "a_server_short_of_threads_serves_with_fewer_or_gives_up",
                short::of_threads,
            ),
        ];
        let alone = alone.iter().chain(ends::SCENARIOS);
        for (name, run) in alone.chain(access::SCENARIOS).chain(acl::SCENARIOS) {
            let name = format!("{}::{name}", setup.name);
            let run = *run;
            match obstacle {
                None => trials.push(Trial::test(name, move || {
                    run(setup);
                    Ok(())
                })),
                Some(why) => println!("SKIP iomap-fuse mount {name}: {why}"),
            }
        }
    }
    let ended = libtest_mimic::run(&args, trials);
    drop(offered);
    ended.exit_code()
}

/// The second program of a scenario.
fn child(what: &str) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let ("serve", [image, dir, setup]) = (what, &args[..]) {
        crash::serve(image.as_ref(), dir.as_ref(), setup);
        return ExitCode::SUCCESS;
    }
    if let ("serve with few threads", [image, dir, setup, threads]) = (what, &args[..]) {
        short::serve(image.as_ref(), dir.as_ref(), setup, threads);
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
