//! The table: each rule, and the tests that must fail when it is off.
//!
//! A new rule needs a variant in `iomap-core/src/mutation.rs`, a switch where it is obeyed, and a
//! row here. The words of a test are part of what it prints when it fails for the right reason: the
//! message of its assertion, of a debug assertion, of the rank checker or of the scheduler.

mod bugs;
mod dax;

use super::durability::{DURABILITY, crash};
use super::table::{Case, Flavour, Row, Target};

/// A rule with its tests.
pub(super) const fn row(rule: &'static str, source: &'static str, tests: &'static [Case]) -> Row {
    Row {
        rule,
        source,
        tests,
    }
}

/// A test beside the code of `iomap-core`.
const fn unit(test: &'static str, words: &'static str) -> Case {
    Case::new("iomap-core", Flavour::Plain, Target::Lib, test, words)
}

/// A test of `iomap-core/tests/PROGRAM`.
const fn core(program: &'static str, test: &'static str, words: &'static str) -> Case {
    Case::new(
        "iomap-core",
        Flavour::Plain,
        Target::Test(program),
        test,
        words,
    )
}

/// A model of `iomap-core/tests/loom_*.rs`.
const fn loom(program: &'static str, test: &'static str, words: &'static str) -> Case {
    Case::new(
        "iomap-core",
        Flavour::Loom,
        Target::Test(program),
        test,
        words,
    )
}

/// A scheduled test of `iomap-core/tests/shuttle_*.rs`.
const fn shuttle(program: &'static str, test: &'static str, words: &'static str) -> Case {
    Case::new(
        "iomap-core",
        Flavour::Shuttle,
        Target::Test(program),
        test,
        words,
    )
}

/// A test of the mounted file system, `testfs/tests/fs`.
pub(super) const fn testfs(test: &'static str, words: &'static str) -> Case {
    Case::new(
        "testfs",
        Flavour::Plain,
        Target::Test("filesystem"),
        test,
        words,
    )
}

/// A race of `testfs/src/race`: its script and searches for it.
pub(super) const fn race(test: &'static str, words: &'static str) -> Case {
    let target = Target::Test("shuttle_race");
    Case::new("testfs", Flavour::Shuttle, target, test, words)
}

/// Every rule, in the order of `iomap_core::mutation::Rule`.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    DISCUSSIONS.iter().chain(bugs::BUGS).chain(DURABILITY)
}

/// The rules of the five discussions, section 2 of the semantics reference.
const DISCUSSIONS: &[Row] = &[
    row(
        "J1",
        "2.0 J1",
        &[
            core(
                "mmap",
                "journal::a_store_between_checksum_and_payload_belongs_to_the_next_transaction",
                "changed while it was logged",
            ),
            race(
                "a_commit_beside_a_store_to_the_page_it_logs",
                "BAD: the log holds a page",
            ),
        ],
    ),
    row(
        "J2",
        "2.0 J2",
        &[
            core(
                "mmap",
                "journal::a_store_between_checksum_and_payload_belongs_to_the_next_transaction",
                "changed while it was logged",
            ),
            race(
                "a_commit_beside_a_store_to_the_page_it_logs",
                "BAD: the log holds a page",
            ),
        ],
    ),
    row(
        "J3",
        "2.0 J3",
        &[core(
            "mmap",
            "journal::each_transaction_hears_of_a_page_that_is_stored_to_again",
            "rule J3",
        )],
    ),
    row(
        "J4",
        "2.0 J4",
        &[core(
            "mmap",
            "journal::a_folio_of_two_transactions_stays_dirty_until_it_is_in_its_place",
            "rule J4",
        )],
    ),
    row(
        "J5",
        "2.0 J5",
        &[core(
            "mmap",
            "journal::an_inode_that_goes_away_during_a_commit_waits_for_its_hook",
            "the hook of a commit may wait for",
        )],
    ),
    row(
        "J6",
        "2.0 J6",
        &[
            core(
                "mmap",
                "journal::ordered_data_of_a_store_is_on_the_device_before_the_commit_record",
                "somebody else's bytes would be exposed",
            ),
            race(
                "a_commit_beside_the_data_of_a_store_that_has_allocated",
                "BAD: after a power cut the file shows",
            ),
        ],
    ),
    row(
        "F1",
        "2.1 F1",
        &[
            shuttle(
                "shuttle_writeback",
                "reclaim_and_writeback_between_the_folios_of_a_write_lose_nothing",
                "rule F1: writeback took the bytes",
            ),
            race(
                "a_done_hook_beside_writeback",
                "BAD: writeback took bytes of a write",
            ),
        ],
    ),
    row(
        "F2",
        "2.1 F2",
        &[core(
            "buffered",
            "the_hooks_balance_on_every_path_in_both_orders",
            "folio_prepare without folio_done",
        )],
    ),
    row(
        "F3",
        "2.1 F3",
        &[core(
            "buffered",
            "a_short_copy_into_a_block_that_is_not_uptodate_shows_no_old_bytes",
            "rule F3: told of bytes never copied",
        )],
    ),
    row(
        "F4",
        "2.1 F4",
        &[core(
            "rules",
            "a_hook_that_refuses_a_folio_leaves_nothing_open_in_both_orders",
            "while holding TransactionBeforeFolio(0)",
        )],
    ),
    row(
        "F5",
        "2.1 F5",
        &[core(
            "rules",
            "a_write_behind_the_end_inside_its_folio_does_not_wait_for_itself",
            "lock order broken: taking Folio(0) while holding Folio(0)",
        )],
    ),
    row(
        "F6",
        "2.1 F6",
        &[core(
            "buffered",
            "the_size_covers_new_bytes_before_their_folio_is_unlocked",
            "rule F6",
        )],
    ),
    row(
        "V1",
        "2.1 V1",
        &[
            core(
                "buffered",
                "a_mapping_that_went_stale_loses_no_bytes_of_another_writer",
                "the other writer's bytes",
            ),
            shuttle(
                "shuttle_writeback",
                "reclaim_and_writeback_between_the_folios_of_a_write_lose_nothing",
                "durable bytes became zeroes",
            ),
            race(
                "a_write_beside_writeback_conversion_and_reclaim",
                "became zeroes",
            ),
        ],
    ),
    row(
        "V2",
        "2.1 V2",
        &[core(
            "buffered",
            "a_mapping_that_went_stale_loses_no_bytes_of_another_writer",
            "rule V2",
        )],
    ),
    row(
        "V3",
        "2.1 V3",
        &[
            core("writeback", "every_run_is_mapped_anew", "rule V3"),
            core(
                "rules",
                "a_mapping_is_not_kept_for_the_next_folio",
                "rule V3: written to a block of another file",
            ),
        ],
    ),
    dax::D1,
    dax::D2,
    dax::D3,
    dax::D4,
    dax::D5,
    dax::D6,
    row(
        "O1",
        "2.3 O1",
        &[
            core(
                "direct",
                "races::a_read_never_sees_a_block_that_writeback_has_not_written_yet",
                "writeback does not know of the direct read",
            ),
            shuttle(
                "shuttle_direct",
                "a_direct_read_beside_a_store_and_its_writeback_sees_zeroes_or_the_store",
                "somebody else's bytes",
            )
            .long(),
            race(
                "a_direct_read_beside_a_store_and_its_writeback",
                "BAD: the direct read returned what the block held",
            ),
            race(
                "a_direct_read_beside_a_store_that_allocates",
                "BAD: the direct read returned what the block held",
            ),
        ],
    ),
    row(
        "O2",
        "2.3 O2",
        &[loom(
            "loom_inflight",
            "one_of_the_two_sees_the_other",
            "both are blind",
        )],
    ),
    row(
        "O3",
        "2.3 O3",
        &[
            loom(
                "loom_inflight",
                "one_of_the_two_sees_the_other",
                "both are blind",
            ),
            core(
                "mmap",
                "races::a_direct_read_in_the_middle_of_a_fault_waits_for_it",
                "neither old bytes nor a hole",
            ),
        ],
    ),
    row(
        "O4",
        "2.3 O4",
        &[
            core(
                "writeback",
                "direct_io_that_starts_while_the_folio_is_waited_for_is_seen",
                "rule O4",
            ),
            race(
                "a_direct_read_that_begins_before_a_write_fault_has_its_folio",
                "BAD: the direct read returned what the block held",
            ),
        ],
    ),
    row(
        "O5",
        "2.3 O5",
        &[
            core(
                "writeback",
                "conversion_comes_after_the_data_and_before_the_end_of_writeback",
                "rule O5",
            ),
            crash("new_blocks_never_show_what_the_device_held"),
        ],
    ),
    row(
        "O6",
        "2.3 O6",
        &[testfs(
            "fs::rules::truncate_and_punch_wait_for_direct_writes_on_their_way",
            "rule O6",
        )],
    ),
    row(
        "O7",
        "2.3 O7",
        &[core(
            "direct",
            "errors::a_page_that_cannot_be_written_back_fails_a_read",
            "the in-flight count leaked",
        )],
    ),
    row(
        "O8",
        "2.3 O8",
        &[core(
            "direct",
            "errors::pages_that_came_in_before_the_conversion_are_removed",
            "stale zeroes in the cache",
        )],
    ),
    row(
        "O9",
        "2.3 O9",
        &[testfs(
            "fs::rules::what_went_through_the_cache_for_a_direct_write_is_on_the_device_when_it_answers",
            "rule O9",
        )],
    ),
    row(
        "O10",
        "2.3 O10",
        &[core(
            "direct",
            "locks::two_writers_of_one_unwritten_block_do_not_zero_each_other",
            "rule O10",
        )],
    ),
    dax::S1,
    dax::S2,
    dax::S3,
    dax::S4,
    dax::S5,
    dax::S6,
];
