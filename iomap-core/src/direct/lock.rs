//! Which inode lock a direct write needs.
//!
//! Owns the decision (rule O10) and the change from shared to exclusive (rule B65: everything is
//! asked again). What an overwrite is, the backend knows
//! ([`is_overwrite`](crate::ops::DirectOps::is_overwrite)).

use super::{DirectFlags, DirectOutcome, write};
use crate::error::{FsError, Result};
use crate::inode::{ExclusiveGuard, Inode, SharedGuard};
use crate::mutation::{self, Rule};
use crate::ops::{DirectOps, Overwrite};
use crate::units::{BlockBits, FilePos, FileRange};

/// The inode lock as a direct write needs it.
#[derive(Debug)]
#[must_use = "the lock is released when it is dropped"]
pub enum WriteLock<'a> {
    /// A pure overwrite: others may run beside it.
    Shared(SharedGuard<'a>),
    /// It grows the file or allocates.
    Exclusive {
        /// The lock.
        guard: ExclusiveGuard<'a>,
        /// The write must have ended before the lock is released: the asynchronous form is to be
        /// called with [`DirectFlags::FORCE_WAIT`].
        force_wait: bool,
    },
}

impl WriteLock<'_> {
    /// What to add to the flags of the write.
    #[must_use]
    pub const fn flags(&self) -> DirectFlags {
        match self {
            Self::Shared(_)
            | Self::Exclusive {
                force_wait: false, ..
            } => DirectFlags::empty(),
            Self::Exclusive { .. } => DirectFlags::FORCE_WAIT,
        }
    }
}

/// What a write needs, by what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Shared,
    Exclusive,
    /// Alone: partly written blocks are zeroed around the data, or the size moves at the end.
    Alone,
}

/// The decision of rule O10.
fn need(range: FileRange, size: FilePos, bits: BlockBits, overwrite: Overwrite) -> Need {
    let aligned = range.start().is_aligned(bits) && range.end().is_aligned(bits);
    let grows = range.end() > size;
    if mutation::off(Rule::O10) && overwrite != Overwrite::No && !grows {
        return Need::Shared;
    }
    match overwrite {
        Overwrite::Written if !grows => Need::Shared,
        Overwrite::Allocated if !grows && aligned => Need::Shared,
        _ if aligned && !grows => Need::Exclusive,
        _ => Need::Alone,
    }
}

/// Takes the inode lock for a direct write of `range`: shared if it is a pure overwrite, of whole
/// blocks or of blocks that are all written; otherwise exclusive. A write of parts of blocks that
/// are not written has waited for all other direct I/O.
///
/// # Errors
///
/// [`FsError::WouldBlock`] with `NOWAIT`, if the lock is taken, has to be changed, or others have
/// to be waited for; with `OVERWRITE_ONLY`, if the shared lock does not do. What
/// [`is_overwrite`](DirectOps::is_overwrite) answers.
pub fn lock_for_write<B: DirectOps + ?Sized>(
    backend: &B,
    range: FileRange,
    flags: DirectFlags,
) -> Result<WriteLock<'_>> {
    let inode = backend.inode();
    let nowait = flags.contains(DirectFlags::NOWAIT);
    if range.end() <= inode.size() {
        let guard = shared(inode, nowait)?;
        if look(backend, range)? == Need::Shared {
            return Ok(WriteLock::Shared(guard));
        }
        drop(guard);
        if nowait {
            return Err(FsError::WouldBlock);
        }
    }
    if flags.contains(DirectFlags::OVERWRITE_ONLY) {
        return Err(FsError::WouldBlock);
    }
    let guard = exclusive(inode, nowait)?;
    // Nothing found under the other lock holds any more.
    let need = look(backend, range)?;
    if need == Need::Alone {
        drain(inode, &guard, nowait)?;
    }
    Ok(WriteLock::Exclusive {
        guard,
        force_wait: need == Need::Alone,
    })
}

/// What the write needs as the file is now. The inode lock is held.
fn look<B: DirectOps + ?Sized>(backend: &B, range: FileRange) -> Result<Need> {
    let inode = backend.inode();
    let (size, bits) = (inode.size(), inode.block_bits());
    let overwrite = if range.end() > size {
        Overwrite::No
    } else {
        backend.is_overwrite(range)?
    };
    Ok(need(range, size, bits, overwrite))
}

fn shared(inode: &Inode, nowait: bool) -> Result<SharedGuard<'_>> {
    if nowait {
        inode.try_lock_shared().ok_or(FsError::WouldBlock)
    } else {
        Ok(inode.lock_shared())
    }
}

fn exclusive(inode: &Inode, nowait: bool) -> Result<ExclusiveGuard<'_>> {
    if nowait {
        inode.try_lock_exclusive().ok_or(FsError::WouldBlock)
    } else {
        Ok(inode.lock_exclusive())
    }
}

fn drain(inode: &Inode, guard: &ExclusiveGuard<'_>, nowait: bool) -> Result<()> {
    if nowait && inode.direct().is_busy_after_fence() {
        return Err(FsError::WouldBlock);
    }
    inode.wait_for_direct(guard);
    Ok(())
}

/// A whole direct write: takes the lock it needs, writes, releases the lock, makes it durable if
/// asked. No locks held.
///
/// After [`DirectOutcome::UseBuffered`] the caller writes the rest through the page cache: takes
/// the inode lock exclusively, waits for direct I/O
/// ([`wait_for_direct`](Inode::wait_for_direct), rule B62), writes, writes back and waits,
/// invalidates (rule O9), and syncs.
///
/// # Errors
///
/// Those of [`lock_for_write`], [`write()`] and [`Written::sync`](super::Written::sync).
pub fn write_locked<B: DirectOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    buf: &[u8],
    flags: DirectFlags,
) -> Result<DirectOutcome> {
    let range = FileRange::at(pos, buf.len() as u64).ok_or(FsError::TooBig)?;
    let lock = lock_for_write(backend, range, flags)?;
    let written = write(backend, pos, buf, flags | lock.flags())?;
    drop(lock);
    written.sync(backend)
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> FileRange {
        FileRange::between(FilePos::saturating(start), FilePos::saturating(end))
    }

    #[test]
    fn only_a_pure_overwrite_shares_the_lock() {
        let (size, bits) = (FilePos::saturating(1 << 20), BlockBits::PAGE);
        let (whole, half) = (range(4096, 8192), range(512, 1024));
        let (tail, head) = (range(4608, 8192), range(4096, 4608));
        let beyond = range((1 << 20) - 4096, (1 << 20) + 4096);
        let table = [
            (whole, Overwrite::Written, Need::Shared),
            (half, Overwrite::Written, Need::Shared),
            (whole, Overwrite::Allocated, Need::Shared),
            (half, Overwrite::Allocated, Need::Alone),
            (tail, Overwrite::Allocated, Need::Alone),
            (head, Overwrite::Allocated, Need::Alone),
            (whole, Overwrite::No, Need::Exclusive),
            (half, Overwrite::No, Need::Alone),
            (beyond, Overwrite::Written, Need::Alone),
            (beyond, Overwrite::No, Need::Alone),
        ];
        for (range, overwrite, wanted) in table {
            assert_eq!(
                need(range, size, bits, overwrite),
                wanted,
                "{range} {overwrite:?}"
            );
        }
    }
}
