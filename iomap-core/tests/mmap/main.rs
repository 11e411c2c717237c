//! Memory mappings of files, on the page table in software: faults, what takes permission away, and
//! the orders of events that a store must survive.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::allow_attributes,
    reason = "shared with tests that use all of it"
)]

mod deadlocks;
#[path = "../direct/device.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod device;
mod edges;
mod faults;
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod file;
mod journal;
mod races;
