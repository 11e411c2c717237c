//! Direct I/O against a file system in memory: coherence with the page cache, errors, orderings.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod coherence;
mod device;
mod edges;
mod errors;
mod file;
mod locks;
mod open;
mod query;
mod races;
mod tickets;

use std::sync::Arc;

use iomap_core::device::DeviceBuf;
use iomap_core::direct::{self, DirectFlags, DirectOutcome, Written};
use iomap_core::error::Result;
use iomap_core::ops::MapOps;

use file::{TestFile, pos};

/// Aligned memory full of `byte`.
fn memory(len: usize, byte: u8) -> DeviceBuf {
    DeviceBuf::from_slice(&vec![byte; len], 4096)
}

/// Reads under the shared lock.
fn read(file: &TestFile, at: u64, to: &mut [u8], flags: DirectFlags) -> Result<DirectOutcome> {
    let _lock = file.inode().lock_shared();
    direct::read(file, pos(at), to, flags)
}

/// Reads `len` bytes at `at`, all of them.
fn read_all(file: &TestFile, at: u64, len: usize) -> Vec<u8> {
    let mut to = memory(len, 0xAA);
    let outcome = read(file, at, &mut to, DirectFlags::empty()).unwrap();
    assert_eq!(outcome, DirectOutcome::Done(len as u64));
    to.to_vec()
}

/// Writes `len` bytes `byte` at `at`, with the lock it needs.
fn write(
    file: &TestFile,
    at: u64,
    len: usize,
    byte: u8,
    flags: DirectFlags,
) -> Result<DirectOutcome> {
    direct::write_locked(file, pos(at), &memory(len, byte), flags)
}

/// Writes all of it, with the lock it needs.
fn write_all(file: &TestFile, at: u64, len: usize, byte: u8, flags: DirectFlags) {
    let outcome = write(file, at, len, byte, flags).unwrap();
    assert_eq!(outcome, DirectOutcome::Done(len as u64));
}

/// Writes under the exclusive lock, whatever it needs.
fn write_exclusive(
    file: &Arc<TestFile>,
    at: u64,
    from: &[u8],
    flags: DirectFlags,
) -> Result<Written> {
    let _lock = file.inode().lock_exclusive();
    direct::write(&**file, pos(at), from, flags)
}
