//! Simulated devices: wrappers that hold, fail, record or delay what goes to another device.
//!
//! Owns the wrappers and the fault model below. Each is generic over the device inside (an
//! `Arc<dyn BlockDevice>` is one too), so they stack: a recording device under a faulty one under a
//! deferred one. The real devices, and the one in memory, are `iomap_core::device`.
//!
//! # The fault model
//!
//! A device is a row of 512-byte sectors with a volatile cache.
//!
//! - A sector is written whole or not at all. A longer write is not: after a power cut any subset
//!   of its sectors may have arrived, unless it was atomic.
//! - A write is durable once it completed and a flush *submitted after that* has completed, or if
//!   it was FUA once it completed. Until then a power cut may keep or lose it, whatever happens to
//!   other writes. Discards and write-zeroes are writes of zeroes in this respect.
//! - Writes that were submitted and not completed may have arrived as well.
//! - A request that fails did nothing, something, or everything; reads that fail leave the memory
//!   undefined. A flush that fails promises nothing.
//! - Requests complete in any order, whatever the order they were submitted in.
//! - A device may be gone: from then on everything fails with `ENODEV`.

pub mod counting;
pub mod deferred;
pub mod faulty;
pub mod image;
pub mod pmem;
pub mod recording;
pub mod replay;
pub mod slow;
pub mod walk;

pub use counting::{CountingDevice, Traffic};
pub use deferred::{DeferredDevice, Held};
pub use faulty::{Counts, Effect, Fault, FaultyDevice, When};
pub use image::{Image, ImageDevice};
pub use pmem::PmemDevice;
pub use recording::RecordingDevice;
pub use replay::{Fate, Recording, SECTOR};
pub use slow::{Latency, SlowDevice};
pub use walk::Walk;
