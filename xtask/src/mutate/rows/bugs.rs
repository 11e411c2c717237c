//! The rules behind bugs that others had, section 5 of the semantics reference.
//!
//! Owns nothing else: how a row is made of tests is one level up.

use super::super::table::Row;
use super::{core, row, testfs, unit};

/// In the order of `iomap_core::mutation::Rule`.
pub(super) const BUGS: &[Row] = &[
    row(
        "B8",
        "5.2 B8",
        &[core(
            "buffered",
            "zeroing_reaches_dirty_bytes_over_unwritten_blocks_and_skips_the_rest",
            "rule B8",
        )],
    ),
    row(
        "B10",
        "5.2 B10",
        &[core(
            "rules",
            "zeroing_waits_for_bytes_that_are_being_written",
            "rule B10",
        )],
    ),
    row(
        "B21",
        "5.3 B21",
        &[core(
            "writeback",
            "dirty_bits_and_reservations_go_when_there_is_no_storage",
            "rule B21",
        )],
    ),
    row(
        "B22",
        "5.3 B22",
        &[core(
            "rules",
            "a_range_of_no_bytes_changes_no_block",
            "rule B22",
        )],
    ),
    row(
        "B23",
        "5.3 B23",
        &[core(
            "rules",
            "nobody_gets_a_folio_whose_read_has_not_ended",
            "rule B23",
        )],
    ),
    row(
        "B26",
        "5.3 B26",
        &[core(
            "rules",
            "a_folio_stays_locked_until_its_last_piece_has_been_read",
            "rule B26",
        )],
    ),
    row(
        "B27",
        "5.3 B27",
        &[core(
            "writeback",
            "an_early_completion_does_not_end_the_writeback_of_the_folio",
            "writeback of a folio started twice",
        )],
    ),
    row(
        "B29",
        "5.4 B29",
        &[core(
            "buffered",
            "a_write_cut_short_keeps_the_reservations_under_dirty_bytes_and_no_others",
            "rule B29",
        )],
    ),
    row(
        "B30",
        "5.4 B30",
        &[core(
            "rules",
            "reservations_past_the_end_go_whatever_the_cache_holds_there",
            "rule B30",
        )],
    ),
    row(
        "B36",
        "5.4 B36",
        &[core(
            "buffered",
            "a_write_cut_short_keeps_the_reservations_under_dirty_bytes_and_no_others",
            "rule B36",
        )],
    ),
    row(
        "B37",
        "5.4 B37",
        &[core(
            "buffered",
            "a_short_copy_into_a_block_that_is_not_uptodate_shows_no_old_bytes",
            "rule B37",
        )],
    ),
    row(
        "B39",
        "5.5 B39",
        &[core(
            "writeback",
            "the_size_on_disk_is_exact_to_the_byte_and_never_covers_unwritten_data",
            "rule B39",
        )],
    ),
    row(
        "B40",
        "5.5 B40",
        &[unit(
            "ioend::build::tests::the_exact_range_is_what_lies_below_the_end",
            "rules B39, B40",
        )],
    ),
    row(
        "B41",
        "5.5 B41",
        &[core(
            "writeback",
            "bytes_beyond_the_end_are_zeroed_at_every_writeback",
            "rule B41",
        )],
    ),
    row(
        "B45",
        "5.5 B45",
        &[core(
            "writeback",
            "a_failed_write_is_not_converted_and_reaches_each_opener_once",
            "rule B45",
        )],
    ),
    row(
        "B51",
        "5.6 B51",
        &[core(
            "direct",
            "errors::pages_that_came_in_before_the_conversion_are_removed",
            "stale zeroes in the cache",
        )],
    ),
    row(
        "B53",
        "5.6 B53",
        &[core(
            "direct",
            "tickets::a_dropped_ticket_ends_nothing_early",
            "rule B53",
        )],
    ),
    row(
        "B55",
        "5.6 B55",
        &[core(
            "direct",
            "errors::a_failed_request_stops_the_rest",
            "rule B55",
        )],
    ),
    row(
        "B56",
        "5.6 B56",
        &[core(
            "direct",
            "errors::the_rest_of_a_new_block_is_zeroed_after_an_error_too",
            "rule B56",
        )],
    ),
    row(
        "B62",
        "5.6 B62",
        &[testfs(
            "fs::rules::a_buffered_write_waits_for_direct_writes_on_their_way",
            "rule B62",
        )],
    ),
    super::dax::B69,
];
