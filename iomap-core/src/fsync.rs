//! fsync and its family: what was written becomes durable, or the caller hears of it.
//!
//! Owns the order *write, wait, metadata* and the variants of it. An error that lost data is kept
//! in the page cache and reported by the open file that asks
//! ([`PageCache::check_and_advance`]), once to each; it is not returned here a second time.
//!
//! [`PageCache::check_and_advance`]: crate::page_cache::PageCache::check_and_advance

use crate::dax_io;
use crate::error::{FsError, Result};
use crate::inode::Inode;
use crate::mutation::{self, Rule};
use crate::ops::WritebackOps;
use crate::stats::Event;
use crate::sync::{Rank, rank};
use crate::units::FileRange;
use crate::writeback::{WritebackControl, wait, walk};

/// Makes the data of `range` durable, and the metadata needed to find it (`data_only`) or all of
/// the inode. The caller asks its open file for errors of writeback afterwards, whatever this
/// returns.
///
/// # Errors
///
/// Something could not even be submitted and is still dirty, or the metadata could not be synced.
///
/// # Panics
///
/// With the rank checker on, if the inode lock or a lock further in is held.
pub fn fsync<B: WritebackOps + ?Sized>(
    backend: &B,
    range: FileRange,
    data_only: bool,
) -> Result<()> {
    rank::assert_none_from(Rank::Inode, "fsync");
    backend.inode().counters().count(Event::syncs);
    if backend.inode().dax().is_some() {
        dax_io::flush_range(backend.inode(), range)?;
        return backend.sync_metadata(data_only);
    }
    let written = walk(backend, &WritebackControl::sync(range), true);
    // Rule C14.
    if !mutation::off(Rule::C14) {
        wait::for_range(backend, range, true);
    }
    written?;
    backend.sync_metadata(data_only)
}

bitflags::bitflags! {
    /// The steps of [`sync_file_range`], in this order.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SyncRange: u8 {
        /// Wait for the writeback under way.
        const WAIT_BEFORE = 1 << 0;
        /// Start writing what is dirty.
        const WRITE = 1 << 1;
        /// Wait for that.
        const WAIT_AFTER = 1 << 2;
    }
}

/// Writes data of a range, without metadata and without flushing the device: no promise about a
/// power cut. Holds no locks. Errors of writeback are kept as for [`fsync`].
///
/// # Errors
///
/// Something could not be submitted and is still dirty.
pub fn sync_file_range<B: WritebackOps + ?Sized>(
    backend: &B,
    range: FileRange,
    steps: SyncRange,
) -> Result<()> {
    rank::assert_none_from(Rank::Inode, "sync_file_range");
    if backend.inode().dax().is_some() {
        return dax_io::flush_range(backend.inode(), range);
    }
    if steps.contains(SyncRange::WAIT_BEFORE) {
        wait::for_range(backend, range, true);
    }
    if steps.contains(SyncRange::WRITE) {
        walk(backend, &WritebackControl::sync(range), true)?;
    }
    if steps.contains(SyncRange::WAIT_AFTER) {
        wait::for_range(backend, range, true);
    }
    Ok(())
}

/// Writes what is dirty in `range` and waits for it: what direct I/O, zeroing and truncation do
/// before they look at storage. The inode lock and the invalidate lock may be held; no folio lock,
/// no transaction. Nothing becomes durable by it.
///
/// # Errors
///
/// Something is still dirty, or some writeback of the inode failed meanwhile.
pub fn write_and_wait<B: WritebackOps + ?Sized>(backend: &B, range: FileRange) -> Result<()> {
    let inode = backend.inode();
    if !inode.cache().has_dirty_or_writeback(range) {
        return Ok(());
    }
    let before = inode.ioends().errors();
    let written = walk(backend, &WritebackControl::sync(range), false);
    wait::for_range(backend, range, false);
    written?;
    inode
        .ioends()
        .errors_since(before)
        .map_err(FsError::Writeback)
}

/// As [`write_and_wait`] for a caller that must not wait.
///
/// # Errors
///
/// [`FsError::WouldBlock`] if something in `range` is dirty or under writeback.
pub fn nothing_to_write(inode: &Inode, range: FileRange) -> Result<()> {
    if inode.cache().has_dirty_or_writeback(range) {
        return Err(FsError::WouldBlock);
    }
    Ok(())
}
