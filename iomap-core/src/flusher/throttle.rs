//! Slowing writers down when too much is dirty.

use std::time::Duration;

use super::{CHUNK, Flusher, wait_for_room};
use crate::error::{FsError, Result};
use crate::inode::Inode;
use crate::stats::Event;
use crate::sync::{Rank, rank};
use crate::units::FileRange;

/// How long a writer waits for the flusher when it can do nothing itself.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it does that before it goes on regardless: a device that does not answer must not
/// hold up writers of another one forever.
const PAUSES_MAX: u32 = 10;

/// Called by a writer of `inode` before it dirties more: above the background limit the flusher is
/// woken; above the hard limit the writer writes its own inode and waits for the device until
/// there is room, for a bounded time. Without a flusher ([`writeback::attach`]) nothing is limited.
///
/// The writer holds no folio lock and no transaction: what it waits for may need them.
///
/// # Errors
///
/// [`FsError::WouldBlock`] above the hard limit, if `nowait`.
///
/// # Panics
///
/// With the rank checker on, if a folio lock or a transaction is held.
///
/// [`writeback::attach`]: crate::writeback::attach
#[inline]
pub fn balance_dirty_pages(inode: &Inode, nowait: bool) -> Result<()> {
    rank::assert_none_from(Rank::TransactionBeforeFolio, "dirty throttling");
    let Some(attached) = inode.attached() else {
        return Ok(());
    };
    let flusher = attached.flusher();
    if flusher.shared.excess() == 0 {
        return Ok(());
    }
    above_background(inode, flusher, nowait)
}

#[cold]
fn above_background(inode: &Inode, flusher: &Flusher, nowait: bool) -> Result<()> {
    flusher.wake();
    if flusher.shared.over_limit() == 0 {
        return Ok(());
    }
    inode.counters().count(Event::throttled);
    if nowait {
        return Err(FsError::WouldBlock);
    }
    tracing::trace!(target: "iomap::flusher", ino = inode.ino(), "throttled");
    make_room(inode, flusher);
    Ok(())
}

/// Writes and waits until there is room, or nothing can be done about it.
fn make_room(inode: &Inode, flusher: &Flusher) {
    let device = &**inode.device();
    let mut pauses = 0;
    while flusher.shared.over_limit() > 0 && pauses < PAUSES_MAX {
        // An error is kept for fsync by the inode itself.
        let written = match inode.attached() {
            Some(attached) => attached
                .owner()
                .write_dirty(FileRange::ALL, CHUNK)
                .unwrap_or(0),
            None => 0,
        };
        wait_for_room(&flusher.shared, device);
        if written == 0 && flusher.shared.over_limit() > 0 {
            pauses += 1;
            flusher.shared.list.await_progress(PAUSE);
        }
    }
}
