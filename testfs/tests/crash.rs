//! Power cuts of whole workloads, replayed: no promise is broken wherever the power goes.
//!
//! Each test of a rule fails with that rule off.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

use iomap_core::vfs::{Fallocate, IoFlags};
use testfs::crash::op::Op;
use testfs::crash::{Options, replay, run};

const NO: IoFlags = IoFlags::empty();
const DIRECT_DSYNC: IoFlags = IoFlags::DIRECT.union(IoFlags::DSYNC);

/// Replays every crash of `ops`.
fn holds(ops: &[Op]) {
    if let Err(violation) = replay(ops, 0..4) {
        panic!("BROKEN PROMISE: {violation}");
    }
}

#[test]
fn no_workload_breaks_a_promise_wherever_the_power_goes() {
    let options = Options {
        states: 1500,
        ..Options::default()
    };
    let summary = run(&options, &|_| {}).unwrap();
    assert!(summary.states >= 1500 && summary.judged > summary.states);
}

/// Rule C6.
#[test]
fn a_block_that_was_shared_is_not_written_in_place_before_that_is_durable() {
    // The other owner writes elsewhere, or goes away; both may come back.
    holds(&[
        Op::Clone("foo", 0, 20_000, "B/empty", 0),
        Op::Sync,
        Op::Write("B/empty", 8192, 4096, NO),
        Op::Writeback("B/empty", true),
        Op::Write("foo", 8192, 4096, DIRECT_DSYNC),
    ]);
    holds(&[
        Op::Clone("foo", 0, 20_000, "B/empty", 0),
        Op::Sync,
        Op::Unlink("B/empty"),
        Op::Write("foo", 4096, 4096, NO),
        Op::Fdatasync("foo"),
    ]);
}

/// Rule C7.
#[test]
fn a_block_that_moved_is_not_written_before_the_move_is_durable() {
    for mode in [Fallocate::CollapseRange, Fallocate::InsertRange] {
        holds(&[
            Op::Fallocate("foo", mode, 4096, 4096),
            Op::Write("foo", 9000, 5000, NO),
            Op::Fsync("foo"),
        ]);
    }
}
