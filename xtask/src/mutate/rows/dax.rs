//! The rows of the table for DAX files: pins and moves of blocks, synchronous faults, entries.
//!
//! Owns these rows and no others; their place in the table is in [`rows`](super).

use super::super::table::Row;
use super::{core, race, row, testfs, unit};

pub(super) const D1: Row = row(
    "D1",
    "2.2 D1",
    &[
        core(
            "dax",
            "layout::a_pinned_block_is_not_freed_before_it_is_released",
            "rule D1",
        ),
        race(
            "a_punch_beside_a_device_that_writes_to_a_pinned_page",
            "BAD: the device changed a block",
        ),
    ],
);

pub(super) const D2: Row = row(
    "D2",
    "2.2 D2",
    &[
        core(
            "dax",
            "layout::nobody_pins_a_page_after_the_search_without_a_fault",
            "rule D2",
        ),
        race(
            "a_page_pinned_beside_the_search_for_pins",
            "BAD: the device changed a block",
        ),
    ],
);

pub(super) const D3: Row = row(
    "D3",
    "2.2 D3",
    &[
        core(
            "dax",
            "layout::who_holds_a_pin_can_fault_while_it_is_waited_for",
            "rule D3",
        ),
        race(
            "a_punch_that_waits_for_a_pin_whose_owner_faults",
            "deadlock!",
        ),
    ],
);

pub(super) const D4: Row = row(
    "D4",
    "2.2 D4",
    &[core(
        "dax",
        "layout::the_inode_lock_is_held_while_a_pin_is_waited_for",
        "rule D4",
    )],
);

pub(super) const D5: Row = row(
    "D5",
    "2.2 D5",
    &[core(
        "dax",
        "layout::an_interrupted_wait_has_freed_nothing",
        "rule D5",
    )],
);

pub(super) const D6: Row = row(
    "D6",
    "2.2 D6",
    &[testfs(
        "fs::dax::every_operation_that_frees_or_moves_blocks_waits_for_pins",
        "insert (rule D6)",
    )],
);

pub(super) const S1: Row = row(
    "S1",
    "2.4 S1",
    &[
        core(
            "dax",
            "sync::what_was_stored_and_flushed_by_the_program_is_found_after_a_crash",
            "rule S1",
        ),
        testfs(
            "fs::dax::what_a_synchronous_mapping_stored_and_flushed_is_in_every_crash_image",
            "rule S1",
        ),
        race(
            "a_power_cut_after_a_store_the_program_has_flushed",
            "BAD: the power cut left a hole",
        ),
    ],
);

pub(super) const S2: Row = row(
    "S2",
    "2.4 S2",
    &[
        core(
            "dax",
            "sync::a_store_after_the_sync_of_its_fault_is_seen_by_fsync",
            "rule S2",
        ),
        race(
            "a_sync_after_a_store_whose_fault_has_synced",
            "BAD: fdatasync left the store",
        ),
    ],
);

pub(super) const S3: Row = row(
    "S3",
    "2.4 S3",
    &[
        core(
            "dax",
            "sync::no_transaction_is_open_while_a_fault_syncs",
            "rule S3",
        ),
        race("a_synchronous_fault_beside_a_commit", "deadlock!"),
    ],
);

pub(super) const S4: Row = row(
    "S4",
    "2.4 S4",
    &[testfs(
        "fs::dax::a_store_beyond_the_durable_size_is_found_after_a_crash",
        "rule S4",
    )],
);

pub(super) const S5: Row = row(
    "S5",
    "2.4 S5",
    &[
        core(
            "dax",
            "sync::a_block_that_was_punched_during_the_sync_is_not_mapped",
            "rule S5",
        ),
        race(
            "a_punch_beside_a_synchronous_fault",
            "BAD: the store changed a block",
        ),
    ],
);

pub(super) const S6: Row = row(
    "S6",
    "2.4 S6",
    &[core(
        "dax",
        "layout::loads_and_stores_after_a_move_go_to_the_new_block",
        "rule S6",
    )],
);

pub(super) const B69: Row = row(
    "B69",
    "5.7 B69",
    &[unit(
        "dax::entries::tests::everyone_who_waits_for_a_removed_entry_is_woken",
        "rule B69",
    )],
);
