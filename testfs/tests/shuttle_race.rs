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

#[test]
fn a_punch_beside_a_device_that_writes_to_a_pinned_page() {
    holds("pinned-page");
}

#[test]
fn a_page_pinned_beside_the_search_for_pins() {
    holds("pin-after-scan");
}

#[test]
fn a_punch_that_waits_for_a_pin_whose_owner_faults() {
    holds("pin-owner-faults");
}

#[test]
fn a_power_cut_after_a_store_the_program_has_flushed() {
    holds("sync-fault-crash");
}

#[test]
fn a_sync_after_a_store_whose_fault_has_synced() {
    holds("sync-fault-fsync");
}

#[test]
fn a_synchronous_fault_beside_a_commit() {
    holds("sync-fault-handle");
}

#[test]
fn a_punch_beside_a_synchronous_fault() {
    holds("sync-fault-punch");
}

#[test]
fn a_commit_beside_a_store_to_the_page_it_logs() {
    holds("commit-store");
}

#[test]
fn a_commit_beside_the_data_of_a_store_that_has_allocated() {
    holds("ordered-commit");
}
