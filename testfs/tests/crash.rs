//! Power cuts of whole workloads, replayed: no promise is broken wherever the power goes.
//!
//! Each test of a rule fails with that rule off.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]

use iomap_core::vfs::{Fallocate, IoFlags, RenameMode};
use testfs::crash::op::{HELD, Op};
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
    let summary =
        run(&options, &|_| {}).unwrap_or_else(|broken| panic!("BROKEN PROMISE: {broken}"));
    assert!(summary.states >= 1500 && summary.judged > summary.states);
}

/// A hole inside the file, so that no size stands before what is in its blocks.
const HOLE: [Op; 2] = [Op::Truncate("foo", 60_000), Op::Sync];

/// Rules C1, C2.
#[test]
fn what_a_sync_promised_is_there_after_the_next_one_was_cut_short() {
    holds(&[
        Op::Append("foo", 9000, NO),
        Op::Fsync("foo"),
        Op::Create("A/new"),
        Op::Rename("foo", "A/bar", RenameMode::Replace),
        Op::FsyncDir("A"),
    ]);
}

/// Rule C4.
#[test]
fn blocks_that_were_freed_are_not_used_before_that_is_durable() {
    holds(&[
        Op::Unlink("foo"),
        Op::Append("B/empty", 18_000, NO),
        Op::Writeback("B/empty", true),
        Op::Truncate("B/baz", 0),
        Op::Append("A/bar", 12_000, NO),
        Op::Writeback("A/bar", true),
        Op::FsyncDir("A"),
    ]);
}

/// Rule C5.
#[test]
fn an_overwrite_is_there_after_its_fdatasync() {
    holds(&[
        Op::Write("foo", 4096, 4096, NO),
        Op::Fdatasync("foo"),
        Op::Write("foo", 8192, 4096, IoFlags::DIRECT),
        Op::Fdatasync("foo"),
    ]);
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

/// Rules C8 and O5.
#[test]
fn new_blocks_never_show_what_the_device_held() {
    let written = [
        Op::Write("foo", 30_000, 9000, NO),
        Op::Writeback("foo", false),
        Op::FsyncDir("B"),
    ];
    holds(&[&HOLE[..], &written].concat());
}

/// Rule C9.
#[test]
fn a_private_copy_never_shows_what_the_device_held() {
    holds(&[
        Op::Clone("foo", 0, 20_000, "B/empty", 0),
        Op::Sync,
        Op::Write("B/empty", 4096, 8192, NO),
        Op::Writeback("B/empty", false),
        Op::FsyncDir("B"),
    ]);
}

#[test]
fn what_was_cut_off_does_not_come_back_with_a_larger_size() {
    // The zeroes of the old end and the new end are on their way together.
    holds(&[
        Op::Truncate("foo", 5000),
        Op::Write("foo", 40_000, 3000, NO),
        Op::Writeback("foo", false),
        Op::FsyncDir("B"),
        Op::FsyncDir("B"),
    ]);
}

/// Rules C11 and C14.
#[test]
fn what_was_appended_is_there_after_its_fdatasync() {
    holds(&[
        Op::Append("foo", 9000, NO),
        Op::Fdatasync("foo"),
        Op::Append("B/empty", 30_000, NO),
        Op::Fdatasync("B/empty"),
        Op::Write("foo", 1000, 9000, NO),
        Op::Fsync("foo"),
    ]);
}

/// Rule C12.
#[test]
fn data_inside_an_inode_is_there_after_its_fdatasync() {
    holds(&[
        Op::Append("A/bar", 50, NO),
        Op::Fdatasync("A/bar"),
        Op::Write("A/bar", 10, 20, NO),
        Op::Fdatasync("A/bar"),
    ]);
}

/// Rule C13.
#[test]
fn a_direct_write_that_is_durable_by_itself_can_be_found() {
    let written = [
        Op::Write("foo", 32_768, 8192, IoFlags::DIRECT),
        Op::Write("foo", 32_768, 4096, DIRECT_DSYNC),
    ];
    holds(&[&HOLE[..], &written].concat());
}

/// Rule C16.
#[test]
fn a_file_that_lost_its_name_while_open_is_deleted_after_the_crash() {
    holds(&[
        Op::Hold("foo"),
        Op::Unlink("foo"),
        Op::FsyncDir(""),
        Op::Write(HELD, 0, 5000, NO),
        Op::Fsync(HELD),
    ]);
}

/// Rule C17.
#[test]
fn a_hole_at_the_end_of_an_append_keeps_its_size() {
    holds(&[
        Op::Append("foo", 30_000, NO),
        Op::Fallocate("foo", Fallocate::PunchHole, 16_384, 40_000),
        Op::Fsync("foo"),
    ]);
}

#[test]
fn a_size_never_covers_bytes_that_were_not_written() {
    holds(&[
        Op::Append("foo", 9000, NO),
        Op::Write("foo", 45_000, 2000, NO),
        Op::Writeback("foo", false),
        Op::FsyncDir("B"),
        Op::FsyncDir("A"),
    ]);
}
