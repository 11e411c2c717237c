//! The rows of the rules of durability: what a power cut must not take.
//!
//! Owns the rows whose names begin with C. How a row is read is [`rows`](mod@super::rows)'s.

use super::rows::{row, testfs};
use super::table::{Case, Flavour, Row, Target};

/// A replay of every crash, `testfs/tests/crash.rs`.
pub(super) const fn crash(test: &'static str) -> Case {
    Case::new(
        "testfs",
        Flavour::Plain,
        Target::Test("crash"),
        test,
        "BROKEN PROMISE",
    )
}

/// A test beside the code of `testfs`.
const fn meta(test: &'static str, words: &'static str) -> Case {
    Case::new("testfs", Flavour::Plain, Target::Lib, test, words)
}

/// The rules C, in the order of `iomap_core::mutation::Rule`.
pub(super) const DURABILITY: &[Row] = &[
    row(
        "C1",
        "docs/TESTING.md",
        &[crash(
            "what_a_sync_promised_is_there_after_the_next_one_was_cut_short",
        )],
    ),
    row(
        "C2",
        "docs/TESTING.md",
        &[crash(
            "what_a_sync_promised_is_there_after_the_next_one_was_cut_short",
        )],
    ),
    row(
        "C3",
        "docs/TESTING.md",
        &[meta(
            "meta::crash_tests::a_superblock_write_that_tears_inside_a_sector_costs_that_commit_only",
            "superblock checksum mismatch",
        )],
    ),
    row(
        "C4",
        "docs/TESTING.md",
        &[crash(
            "blocks_that_were_freed_are_not_used_before_that_is_durable",
        )],
    ),
    row(
        "C5",
        "docs/TESTING.md",
        &[crash("an_overwrite_is_there_after_its_fdatasync")],
    ),
    row(
        "C6",
        "docs/TESTING.md",
        &[crash(
            "a_block_that_was_shared_is_not_written_in_place_before_that_is_durable",
        )],
    ),
    row(
        "C7",
        "docs/TESTING.md",
        &[crash(
            "a_block_that_moved_is_not_written_before_the_move_is_durable",
        )],
    ),
    row(
        "C8",
        "docs/TESTING.md",
        &[crash("new_blocks_never_show_what_the_device_held")],
    ),
    row(
        "C9",
        "docs/TESTING.md",
        &[crash("a_private_copy_never_shows_what_the_device_held")],
    ),
    row(
        "C10",
        "docs/TESTING.md",
        &[testfs(
            "fs::crash::a_cut_leaves_zeroes_behind_it_on_the_device",
            "old bytes behind the cut",
        )],
    ),
    row(
        "C11",
        "docs/TESTING.md",
        &[crash("what_was_appended_is_there_after_its_fdatasync")],
    ),
    row(
        "C12",
        "docs/TESTING.md",
        &[crash("data_inside_an_inode_is_there_after_its_fdatasync")],
    ),
    row(
        "C13",
        "docs/TESTING.md",
        &[crash(
            "a_direct_write_that_is_durable_by_itself_can_be_found",
        )],
    ),
    row(
        "C14",
        "docs/TESTING.md",
        &[crash("what_was_appended_is_there_after_its_fdatasync")],
    ),
    row(
        "C15",
        "docs/TESTING.md",
        &[meta(
            "meta::crash_tests::a_commit_that_failed_anywhere_can_be_repeated",
            "Node {",
        )],
    ),
    row(
        "C16",
        "docs/TESTING.md",
        &[crash(
            "a_file_that_lost_its_name_while_open_is_deleted_after_the_crash",
        )],
    ),
    row(
        "C17",
        "docs/TESTING.md",
        &[crash("a_hole_at_the_end_of_an_append_keeps_its_size")],
    ),
];
