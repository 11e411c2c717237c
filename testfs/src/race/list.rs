//! The races, with their scripts.
//!
//! Owns the data. A script says which thread runs until which step; see [`race`](super).

use super::{AS_FAR_AS_IT_CAN, Actor, Line, Race};

const fn actor(name: &'static str, column: &'static str) -> Actor {
    Actor { name, column }
}

const fn until(actor: &'static str, until: &'static str) -> Line {
    Line { actor, until }
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
            until("writer", "page 0 done"),
            until("flusher", "the disk is asked to write"),
            until("disk-writes", "writes"),
            until("flusher", "page 1 is not cached"),
            until("writer", AS_FAR_AS_IT_CAN),
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
            until("writer", "folio unlocked"),
            until("flusher", "the disk is asked to write"),
            until("disk-writes", "writes"),
            until("flusher", AS_FAR_AS_IT_CAN),
            until("writer", AS_FAR_AS_IT_CAN),
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
            until("reader", "cache settled"),
            until("storer", AS_FAR_AS_IT_CAN),
            until("flusher", "the disk is asked to write"),
            until("reader", "the disk is asked to read"),
            until("disk-reads", "reads"),
            until("reader", AS_FAR_AS_IT_CAN),
            until("disk-writes", "writes"),
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
            until("reader", "cache settled"),
            until("storer", AS_FAR_AS_IT_CAN),
            until("reader", "the disk is asked to read"),
            until("disk-reads", "reads"),
            until("reader", AS_FAR_AS_IT_CAN),
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
            until("storer", "write fault, folio not locked yet"),
            until("reader", "cache settled"),
            until("storer", AS_FAR_AS_IT_CAN),
            until("reader", "the disk is asked to read"),
            until("disk-reads", "reads"),
            until("reader", AS_FAR_AS_IT_CAN),
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
            until("puncher", AS_FAR_AS_IT_CAN),
            until("other", AS_FAR_AS_IT_CAN),
            until("pinner", AS_FAR_AS_IT_CAN),
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
            until("puncher", AS_FAR_AS_IT_CAN),
            until("pinner", AS_FAR_AS_IT_CAN),
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
            until("puncher", AS_FAR_AS_IT_CAN),
            until("pinner", AS_FAR_AS_IT_CAN),
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
            until("storer", "relies on its store"),
            until("power", AS_FAR_AS_IT_CAN),
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
            until("storer", "commit: waits for open transactions"),
            until("syncer", AS_FAR_AS_IT_CAN),
            until("storer", "fdatasync is done"),
            until("power", AS_FAR_AS_IT_CAN),
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
            until("storer", "commit: waits for open transactions"),
            until("journal", AS_FAR_AS_IT_CAN),
            until("storer", AS_FAR_AS_IT_CAN),
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
            until("storer", "commit: the map is durable"),
            until("puncher", AS_FAR_AS_IT_CAN),
            until("other", AS_FAR_AS_IT_CAN),
            until("storer", AS_FAR_AS_IT_CAN),
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
            until("storer", "has stored a"),
            until("journal", "takes the checksum"),
            until("storer", "has stored X"),
            until("journal", AS_FAR_AS_IT_CAN),
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
            until("storer", "has stored 0x07"),
            until("journal", "commit record"),
            until("disk-writes", AS_FAR_AS_IT_CAN),
        ],
    },
];
