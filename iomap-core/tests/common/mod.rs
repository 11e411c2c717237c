//! What the tests of `iomap-core` share: a device that completes when told, and a small file system
//! in memory that records every hook.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part of this"
)]

pub(crate) mod blocks;
pub(crate) mod device;
pub(crate) mod file;

pub(crate) use blocks::Block;
pub(crate) use device::{Mode, TestDevice};
pub(crate) use file::{Hook, OrderA, OrderB, TestFile, Volume};
