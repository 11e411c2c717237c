//! The races of the discussions with every rule on: their scripts end well, and a search finds
//! nothing. With the rule of a race off each of these tests fails (`cargo xtask mutate`).

#![cfg(iomap_shuttle)]

use testfs::race::engine::{Outcome, Search, replay, search};
use testfs::race::{find, render};

fn schedules() -> usize {
    let factor = std::env::var("IOMAP_SCHEDULES_FACTOR").ok();
    400 * factor
        .and_then(|factor| factor.parse::<usize>().ok())
        .unwrap_or(1)
}

fn ends_well(outcome: &Outcome) {
    let (n, picture) = (outcome.schedules, render::text(&outcome.trace));
    assert!(outcome.is_good(), "schedule {n}\n{picture}");
}

/// The script, then searches from two seeds.
fn holds(name: &str) {
    let race = find(name).expect("a race of the list");
    ends_well(&replay(race));
    for kind in [Search::Random, Search::Pct] {
        for (seed, fine) in [(1, false), (2, false), (3, true)] {
            ends_well(&search(race, kind, schedules(), seed, fine));
        }
    }
    ends_well(&search(race, Search::DepthFirst, schedules(), 0, false));
}

#[test]
fn a_write_beside_writeback_conversion_and_reclaim() {
    holds("stale-mapping");
}

#[test]
fn a_done_hook_beside_writeback() {
    holds("done-hook");
}

#[test]
fn a_direct_read_beside_a_store_and_its_writeback() {
    holds("direct-read-delalloc");
}

#[test]
fn a_direct_read_beside_a_store_that_allocates() {
    holds("direct-read-nodelalloc");
}

#[test]
fn a_direct_read_that_begins_before_a_write_fault_has_its_folio() {
    holds("write-fault-gap");
}
