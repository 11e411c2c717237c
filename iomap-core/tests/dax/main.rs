//! DAX: faults, synchronous faults, pins and moves of blocks, against a file system in memory on
//! simulated persistent memory. Mappings are soft page tables, so every step is the test's.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod edges;
mod errors;
mod file;
mod layout;
mod mapping;
mod rw;
mod sync;

#[expect(unreachable_pub, reason = "part of a crate elsewhere")]
#[path = "../../../testfs/src/device/pmem.rs"]
mod pmem;
