//! The races, with their scripts.
//!
//! Owns the data. A script says which thread runs until which step; see [`race`](super).

use super::{AS_FAR_AS_IT_CAN, Actor, Line, Race};

const fn actor(name: &'static str, column: &'static str) -> Actor {
    Actor { name, column }
}

const fn until(actor: &'static str, until: &'static str) -> Line {
    let says = until;
    Line { actor, until, says }
}

/// The same, with other words in the picture.
const fn shown(actor: &'static str, until: &'static str, says: &'static str) -> Line {
    Line { actor, until, says }
}

/// A thread runs as far as it can; without the rule that is as far as `says`.
const fn goes_on(actor: &'static str, says: &'static str) -> Line {
    let until = AS_FAR_AS_IT_CAN;
    Line { actor, until, says }
}

const DISK_READS: Actor = actor("disk-reads", "disk");
const DISK_WRITES: Actor = actor("disk-writes", "disk");

/// Every race.
pub const RACES: &[Race] = &[
    Race {
        name: "stale-mapping",
        title: "a large write beside writeback, conversion and reclaim of a page it has not reached",
        discussion: "2022-12 iomap folio_ops, topic B",
        rules: &["V1"],
        harm: "bytes of another writer that were on the disk are replaced by zeroes",
        actors: &[
            actor("writer", "large write"),
            actor("flusher", "flusher, reclaim"),
            DISK_READS,
            DISK_WRITES,
        ],
        script: &[
            shown(
                "writer",
                "page 0 done",
                "maps both pages: unwritten; copies page 0",
            ),
            shown(
                "flusher",
                "the disk is asked to write",
                "writes page 1, another writer's bytes",
            ),
            shown(
                "disk-writes",
                "writes",
                "has page 1: its block is written now",
            ),
            shown(
                "flusher",
                "page 1 is not cached",
                "drops page 1, which is clean",
            ),
            goes_on(
                "writer",
                "still takes page 1 for unwritten: zeroes what it does not write",
            ),
        ],
    },
    Race {
        name: "done-hook",
        title: "the done hook of a journalled write beside writeback",
        discussion: "2022-12 iomap folio_ops, topic A",
        rules: &["F1"],
        harm: "bytes reach their place before the journal was told of them",
        actors: &[
            actor("writer", "write"),
            actor("flusher", "flusher"),
            DISK_READS,
            DISK_WRITES,
        ],
        script: &[
            shown("writer", "folio unlocked", "copies, unlocks the folio"),
            shown("flusher", "the disk is asked to write", "writes the page"),
            until("disk-writes", "writes"),
            goes_on("flusher", "writeback ends"),
            goes_on("writer", "done hook: the bytes are gone already"),
        ],
    },
    Race {
        name: "direct-read-delalloc",
        title: "a direct read beside a store and its writeback, delayed allocation (race A)",
        discussion: "2019-12 ext4 direct I/O under the shared lock",
        rules: &["O1"],
        harm: "the read returns what the block held for its previous owner",
        actors: &[
            actor("reader", "direct read"),
            actor("storer", "mmap store"),
            actor("flusher", "flusher"),
            DISK_READS,
            DISK_WRITES,
        ],
        script: &[
            shown(
                "reader",
                "cache settled",
                "looks at the cache: nothing dirty",
            ),
            goes_on("storer", "stores: reserves, the page is dirty"),
            shown(
                "flusher",
                "the disk is asked to write",
                "allocates a written block, asks for the write",
            ),
            shown(
                "reader",
                "the disk is asked to read",
                "finds a written block, asks for the read",
            ),
            shown("disk-reads", "reads", "reads the block first"),
            goes_on("reader", "has read the previous owner's bytes"),
            shown("disk-writes", "writes", "writes the block, too late"),
        ],
    },
    Race {
        name: "direct-read-nodelalloc",
        title: "a direct read beside a store whose fault allocates (race B)",
        discussion: "2019-12 ext4 direct I/O under the shared lock",
        rules: &["O1"],
        harm: "the read returns what the block held for its previous owner",
        actors: &[
            actor("reader", "direct read"),
            actor("storer", "mmap store"),
            DISK_READS,
            DISK_WRITES,
        ],
        script: &[
            shown(
                "reader",
                "cache settled",
                "looks at the cache: nothing dirty",
            ),
            goes_on("storer", "stores: the fault allocates a written block"),
            shown(
                "reader",
                "the disk is asked to read",
                "finds a written block, asks for the read",
            ),
            shown("disk-reads", "reads", "reads what was there before"),
            goes_on("reader", "has read the previous owner's bytes"),
        ],
    },
    Race {
        name: "write-fault-gap",
        title: "a direct read that begins before a write fault has its folio",
        discussion: "2019-12 ext4 direct I/O under the shared lock",
        rules: &["O4"],
        harm: "the read returns what the block held for its previous owner",
        actors: &[
            actor("reader", "direct read"),
            actor("storer", "mmap store"),
            DISK_READS,
            DISK_WRITES,
        ],
        script: &[
            shown(
                "storer",
                "write fault, folio not locked yet",
                "sees no direct I/O, folio not locked yet",
            ),
            shown(
                "reader",
                "cache settled",
                "raises the count, sees nothing dirty",
            ),
            goes_on("storer", "stores: the count was zero, so a written block"),
            shown(
                "reader",
                "the disk is asked to read",
                "finds a written block, asks for the read",
            ),
            shown("disk-reads", "reads", "reads what was there before"),
            goes_on("reader", "has read the previous owner's bytes"),
        ],
    },
    Race {
        name: "pinned-page",
        title: "a punch beside a device that writes to a page it has pinned",
        discussion: "2018-07 ext4 DAX layouts",
        rules: &["D1"],
        harm: "the device writes into a block that belongs to another file by now",
        actors: &[
            actor("pinner", "program with a pin"),
            actor("puncher", "punch"),
            actor("other", "write to another file"),
        ],
        script: &[
            until("pinner", "pins page 0"),
            goes_on("puncher", "frees the block"),
            goes_on("other", "gets the block and writes it"),
            goes_on("pinner", "the device writes to the page"),
        ],
    },
    Race {
        name: "pin-after-scan",
        title: "a page pinned between the search for pins and its unmapping",
        discussion: "2018-07 ext4 DAX layouts",
        rules: &["D2"],
        harm: "the device writes into a block that belongs to another file by now",
        actors: &[
            actor("pinner", "program with a pin"),
            actor("puncher", "punch, then another file"),
        ],
        script: &[
            until("pinner", "has mapped page 0"),
            until("puncher", "has looked for pins"),
            until("pinner", "pins page 0"),
            goes_on("puncher", "unmaps, frees the block; another file gets it"),
            goes_on("pinner", "the device writes to the page"),
        ],
    },
    Race {
        name: "pin-owner-faults",
        title: "a punch that waits for a pin whose owner has to fault first",
        discussion: "2018-07 ext4 DAX layouts",
        rules: &["D3"],
        harm: "the punch waits for the pin, its owner for the invalidate lock: deadlock",
        actors: &[
            actor("pinner", "program with a pin"),
            actor("puncher", "punch"),
        ],
        script: &[
            until("pinner", "pins page 0"),
            goes_on("puncher", "waits for the pin, with the invalidate lock"),
            goes_on("pinner", "faults: waits for the invalidate lock"),
        ],
    },
    Race {
        name: "sync-fault-crash",
        title: "a power cut after a store that the program itself has flushed",
        discussion: "2017-07 DAX synchronous faults",
        rules: &["S1"],
        harm: "the store is in a block that nothing finds after the power cut",
        actors: &[
            actor("storer", "mmap store (MAP_SYNC)"),
            actor("journal", "commit"),
            actor("power", "power"),
        ],
        script: &[
            shown(
                "storer",
                "relies on its store",
                "stores, flushes its lines, relies on that",
            ),
            goes_on("power", "the power goes: nothing finds the block"),
        ],
    },
    Race {
        name: "sync-fault-fsync",
        title: "fdatasync after a store whose fault has synced already",
        discussion: "2017-07 DAX synchronous faults",
        rules: &["S2"],
        harm: "fdatasync finds the page clean and leaves the store in the caches",
        actors: &[
            actor("storer", "mmap store (MAP_SYNC)"),
            actor("syncer", "fdatasync"),
            actor("power", "power"),
        ],
        script: &[
            shown(
                "storer",
                "commit: waits for open transactions",
                "faults: syncs, its page dirty already",
            ),
            goes_on("syncer", "fdatasync: the page is clean"),
            shown(
                "storer",
                "fdatasync is done",
                "stores; fdatasync sees a clean page",
            ),
            goes_on("power", "the power goes: the store was in the caches"),
        ],
    },
    Race {
        name: "sync-fault-handle",
        title: "a synchronous fault that syncs with its transaction open",
        discussion: "2017-07 DAX synchronous faults",
        rules: &["S3"],
        harm: "the commit waits for the transaction of the thread that waits for the commit: deadlock",
        actors: &[
            actor("storer", "mmap store (MAP_SYNC)"),
            actor("journal", "commit"),
        ],
        script: &[
            shown(
                "storer",
                "commit: waits for open transactions",
                "faults: syncs with its transaction open",
            ),
            goes_on("journal", "waits for the transaction too"),
            goes_on("storer", "waits for its own transaction"),
        ],
    },
    Race {
        name: "sync-fault-punch",
        title: "a punch between the sync of a fault and the moment its page becomes writable",
        discussion: "2017-07 DAX synchronous faults",
        rules: &["S5"],
        harm: "the store goes into a block that belongs to another file by now",
        actors: &[
            actor("storer", "mmap store (MAP_SYNC)"),
            actor("puncher", "punch"),
            actor("other", "write to another file"),
        ],
        script: &[
            shown("storer", "commit: the map is durable", "faults: has synced"),
            goes_on("puncher", "frees the block"),
            goes_on("other", "gets the block and writes it"),
            goes_on("storer", "stores into the block"),
        ],
    },
    Race {
        name: "commit-store",
        title: "a commit of journalled data beside a store to the page that is logged",
        discussion: "2020-06 ext4 data=journal and mmap",
        rules: &["J1", "J2"],
        harm: "what is in the log does not match its checksum: replay refuses it",
        actors: &[actor("storer", "mmap store"), actor("journal", "commit")],
        script: &[
            shown(
                "storer",
                "has stored a",
                "stores a: the page joins transaction 1",
            ),
            shown(
                "journal",
                "takes the checksum",
                "takes the checksum of the page",
            ),
            shown(
                "storer",
                "has stored X",
                "stores X: the page is still writable",
            ),
            goes_on("journal", "writes the page to the log"),
        ],
    },
    Race {
        name: "ordered-commit",
        title: "a commit beside the data of a store that has allocated, ordered mode",
        discussion: "2020-06 ext4 data=journal and mmap",
        rules: &["J6"],
        harm: "after a power cut the file shows what its block held for its previous owner",
        actors: &[
            actor("storer", "mmap store"),
            actor("journal", "commit"),
            DISK_READS,
            DISK_WRITES,
        ],
        script: &[
            shown(
                "storer",
                "has stored 0x07",
                "stores: the fault allocates a written block",
            ),
            shown(
                "journal",
                "commit record",
                "commit record: the block is in the file",
            ),
            goes_on("disk-writes", "writes the block, too late"),
        ],
    },
];
