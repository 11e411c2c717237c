//! Direct I/O: between the caller's memory and the device, around the page cache and coherent with
//! it.
//!
//! Owns the order of events of one direct I/O, its flags and its outcomes. The decision for one
//! mapping is `plan`, the loop over mappings `submit`, everything after the last device
//! request `complete`, the caller's memory `buffer`, the asynchronous form `ticket`, the choice of
//! the lock `lock`. Does not own the buffered write that follows [`DirectOutcome::UseBuffered`]:
//! the caller composes it, with the count of this I/O lowered already (rules O9, B62).
//!
//! # The order
//!
//! 1. Raise the in-flight count, full fence (rules O1, O2): before anything is asked of the cache.
//! 2. Write dirty pages of the range and wait for them; for a write remove the pages (`nowait`:
//!    give up if there is anything to do).
//! 3. Map and submit, piece by piece.
//! 4. After the last device request: the backend's [`direct_done`](crate::ops::DirectOps::direct_done)
//!    (conversion, size), **then** invalidate the range again (rules O8, B51), **then** lower the
//!    count (rule O7: on every other exit too), **then** make it durable, if asked (rule B60).
//!
//! # Locks
//!
//! The caller holds the inode lock: shared for reads and pure overwrites, exclusive otherwise
//! ([`lock_for_write`]). Asynchronous forms need it during the call only; from then on the count
//! keeps others out. No folio lock, no transaction.
//!
//! # The caller's memory
//!
//! It is read and written by the device while the caller is inside the call (borrowed memory), or
//! until the ticket gives it back ([`DeviceBuf`](crate::device::DeviceBuf)). Memory that is itself a mapping of the same
//! page cache cannot be given to a device that faults on it: such a caller copies through memory of
//! its own. `Plan` decides for whole parts, so the place to fault memory in before a part is
//! submitted, and to stop with a short count if it cannot be, is the top of `submit::mapping`.
//!
//! Kernel counterpart: `fs/iomap/direct-io.c`.

mod buffer;
mod complete;
mod lock;
mod plan;
mod submit;
#[cfg(not(any(iomap_shuttle, iomap_loom)))]
mod tasks;
mod ticket;

/// A model ends with all of its threads: each job has its own.
#[cfg(any(iomap_shuttle, iomap_loom))]
mod tasks {
    pub(super) type Job = Box<dyn FnOnce() + Send>;

    pub(super) fn run(job: Job) {
        let _detached = crate::sync::thread::spawn(job);
    }
}

pub use lock::{WriteLock, lock_for_write, write_locked};
pub use plan::{Direction, Plan, Request, Transfer, plan};
pub use ticket::{DirectResult, DirectTicket, submit_read, submit_write};

use crate::error::{FsError, Result};
use crate::inode::DirectGuard;
use crate::iter::{Flow, for_each_mapping};
use crate::mutation::{self, Rule};
use crate::ops::{DirectOps, Intent, MapFlags};
use crate::stats::Event;
use crate::units::{DevAddr, FilePos, FileRange};

use buffer::Waits;
use complete::{Finish, Finished};

bitflags::bitflags! {
    /// How a direct I/O is done.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DirectFlags: u8 {
        /// Answer `WouldBlock` instead of waiting for the page cache or a mapping.
        const NOWAIT = 1 << 0;
        /// Answer `WouldBlock` instead of allocating blocks or growing the file.
        const OVERWRITE_ONLY = 1 << 1;
        /// The asynchronous form returns only when the I/O has ended: for writes that others must
        /// not run beside.
        const FORCE_WAIT = 1 << 2;
        /// Durable with the metadata needed to find it.
        const DSYNC = 1 << 3;
        /// Durable with all metadata.
        const SYNC = 1 << 4;
        /// All or nothing, also across a power cut.
        const ATOMIC = 1 << 5;
    }
}

/// What of a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// The data and what is needed to find it.
    Data,
    /// All metadata as well.
    All,
}

impl DirectFlags {
    /// What is to be durable when the write returns.
    #[must_use]
    pub const fn sync(self) -> Option<SyncKind> {
        if self.contains(Self::SYNC) {
            Some(SyncKind::All)
        } else if self.contains(Self::DSYNC) {
            Some(SyncKind::Data)
        } else {
            None
        }
    }

    fn for_mapping(self) -> MapFlags {
        let mut flags = MapFlags::DIRECT;
        flags.set(MapFlags::NOWAIT, self.contains(Self::NOWAIT));
        flags.set(
            MapFlags::OVERWRITE_ONLY,
            self.contains(Self::OVERWRITE_ONLY),
        );
        flags.set(MapFlags::ATOMIC, self.contains(Self::ATOMIC));
        flags
    }
}

/// How a direct I/O ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the rest may have to go through the page cache"]
pub enum DirectOutcome {
    /// This many bytes were moved. Short at the end of the file, or after an error.
    Done(u64),
    /// The first `done` bytes were moved; the rest must go through the page cache (rule B52). The
    /// in-flight count is lowered, nothing has been made durable yet.
    UseBuffered {
        /// Bytes moved.
        done: u64,
    },
}

/// A direct write that has ended, and what is left to do without locks.
#[derive(Clone, Copy, Debug)]
#[must_use = "the write may not be durable yet"]
pub struct Written {
    /// How it ended.
    pub outcome: DirectOutcome,
    /// What must still be made durable: the caller drops the inode lock and calls
    /// [`Written::sync`].
    pub sync: Option<SyncKind>,
}

impl Written {
    /// Makes the write durable, as far as it was asked for and the device has not done it already.
    /// Nothing after a fall-back: the caller syncs the whole write. No locks held.
    ///
    /// # Errors
    ///
    /// The sync failed: how much is durable is not known.
    pub fn sync<B: DirectOps + ?Sized>(self, backend: &B) -> Result<DirectOutcome> {
        if let Some(kind) = self.sync {
            backend.inode().counters().count(Event::syncs);
            backend.sync_metadata(kind == SyncKind::Data)?;
        }
        Ok(self.outcome)
    }
}

/// Reads from `pos` on into `buf` and waits for it. Bytes past the size found at the start are not
/// counted, but the memory up to the next device block may be changed.
///
/// Position, length and address that are not multiples of what the device asks for
/// ([`Limits`](crate::device::Limits)) give `UseBuffered`.
///
/// Lock: the inode lock, shared.
///
/// # Errors
///
/// Only if nothing was read: of writing dirty pages, of the backend, of the device; `WouldBlock`
/// with `NOWAIT`.
pub fn read<B: DirectOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    buf: &mut [u8],
    flags: DirectFlags,
) -> Result<DirectOutcome> {
    let inode = backend.inode();
    let Some(request) = read_request(backend, pos, buf.len(), flags) else {
        return Ok(DirectOutcome::Done(0));
    };
    if !request.is_aligned(buf.as_ptr().addr()) {
        return Ok(fall_back(backend, &request));
    }
    // What lies past the size is left alone.
    let bytes = &mut buf[..request.range.len() as usize];
    let guard = start_read(backend, &request)?;
    if let Some(addr) = simple_addr(backend, &request)? {
        inode.device().read_at(addr, bytes)?;
        drop(guard);
        inode
            .counters()
            .add(Event::direct_read_bytes, request.range.len());
        return Ok(DirectOutcome::Done(request.range.len()));
    }
    let (submission, failure) = buffer::lend_mut(bytes, &**inode.device(), |cursor| {
        submit::submit(backend, &request, cursor, Waits::Yes)
    });
    Ok(Finish::new(&request, guard, submission)
        .run(backend, failure)?
        .outcome)
}

/// Writes `buf` to `pos` and waits for it.
///
/// Position, length and address that are not multiples of what the device asks for
/// ([`Limits`](crate::device::Limits)) give `UseBuffered`, and so do pages that cannot be removed
/// from the cache. File system blocks need not be written as a whole: what is new is zeroed around
/// the data.
///
/// Lock: the inode lock, as [`lock_for_write`] takes it.
///
/// # Errors
///
/// Only if nothing was written, or the backend could not make it findable. `WouldBlock` with
/// `NOWAIT` or `OVERWRITE_ONLY`, and for an untorn write whose range cannot be removed from the
/// cache; `Invalid` and `Unsupported` for an untorn write that cannot be one; `TooBig`.
pub fn write<B: DirectOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    buf: &[u8],
    flags: DirectFlags,
) -> Result<Written> {
    let Some(request) = write_request(backend, pos, buf.len(), flags)? else {
        return Ok(Written {
            outcome: DirectOutcome::Done(0),
            sync: None,
        });
    };
    let aligned = request.is_aligned(buf.as_ptr().addr());
    let guard = match start_write(backend, &request, aligned)? {
        Start::Go(guard) => guard,
        Start::UseBuffered(outcome) => {
            return Ok(Written {
                outcome,
                sync: None,
            });
        }
    };
    let device = &**backend.inode().device();
    let (submission, failure) = buffer::lend(buf, device, |cursor| {
        submit::submit(backend, &request, cursor, Waits::Yes)
    });
    let Finished { outcome, sync } =
        Finish::new(&request, guard, submission).run(backend, failure)?;
    Ok(Written { outcome, sync })
}

/// The read of `len` bytes at `pos`, cut at the size of this moment rounded up to a device block.
/// `None`: nothing to read.
fn read_request<B: DirectOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    len: usize,
    flags: DirectFlags,
) -> Option<Request<'_>> {
    let inode = backend.inode();
    let size = inode.size();
    let limits = inode.device().limits();
    let range = FileRange::at_most(pos, len as u64);
    if pos >= size || range.is_empty() {
        return None;
    }
    let inside = size
        .since(pos)
        .checked_next_multiple_of(limits.block_size)
        .unwrap_or(u64::MAX);
    Some(Request {
        direction: Direction::Read,
        range: range.take(inside),
        size,
        flags,
        block_bits: inode.block_bits(),
        limits,
    })
}

/// The write of `len` bytes at `pos`, checked. `None`: nothing to write.
fn write_request<B: DirectOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    len: usize,
    flags: DirectFlags,
) -> Result<Option<Request<'_>>> {
    let inode = backend.inode();
    let range = FileRange::at(pos, len as u64).ok_or(FsError::TooBig)?;
    if range.is_empty() {
        return Ok(None);
    }
    let request = Request {
        direction: Direction::Write,
        range,
        size: inode.size(),
        flags,
        block_bits: inode.block_bits(),
        limits: inode.device().limits(),
    };
    request.check_atomic()?;
    if flags.contains(DirectFlags::OVERWRITE_ONLY) && request.grows() {
        return Err(FsError::WouldBlock);
    }
    Ok(Some(request))
}

/// Raises the count: from here on writeback and write faults allocate unwritten (rules O1-O4).
fn begin<B: DirectOps + ?Sized>(backend: &B, request: &Request<'_>) -> DirectGuard {
    let guard = backend.inode().direct().begin();
    tracing::trace!(
        target: "iomap::direct", ino = backend.inode().ino(), range = %request.range,
        direction = ?request.direction, flags = ?request.flags, "begin",
    );
    guard
}

fn fall_back<B: DirectOps + ?Sized>(backend: &B, request: &Request<'_>) -> DirectOutcome {
    backend.inode().counters().count(Event::direct_fallbacks);
    tracing::trace!(
        target: "iomap::direct", ino = backend.inode().ino(), range = %request.range, "fall back",
    );
    DirectOutcome::UseBuffered { done: 0 }
}

/// Steps 1 and 2 of a read: raises the count, then looks at the cache. On an error the count is
/// lowered again (rule O7).
fn start_read<B: DirectOps + ?Sized>(backend: &B, request: &Request<'_>) -> Result<DirectGuard> {
    if mutation::off(Rule::O1) {
        settle_for_read(backend, request)?;
        return Ok(begin(backend, request));
    }
    let guard = begin(backend, request);
    match settle_for_read(backend, request) {
        Err(error) => Err(lowered(guard, error)),
        Ok(()) => Ok(guard),
    }
}

/// Lowers the count on the way out with an error (rule O7).
fn lowered(guard: DirectGuard, error: FsError) -> FsError {
    if mutation::off(Rule::O7) {
        std::mem::forget(guard);
    }
    error
}

/// What is dirty in the range reaches the device before it is read. The count is raised.
fn settle_for_read<B: DirectOps + ?Sized>(backend: &B, request: &Request<'_>) -> Result<()> {
    if request.flags.contains(DirectFlags::NOWAIT) {
        crate::fsync::nothing_to_write(backend.inode(), request.range)?;
    } else {
        crate::fsync::write_and_wait(backend, request.range)?;
    }
    tracing::trace!(
        target: "iomap::direct", ino = backend.inode().ino(), range = %request.range, "settled",
    );
    Ok(())
}

/// Whether a write can begin.
enum Start {
    Go(DirectGuard),
    UseBuffered(DirectOutcome),
}

/// Steps 1 and 2 of a write: raises the count and clears the range of the cache. Unless it can go
/// on, the count is lowered again (rule O7).
fn start_write<B: DirectOps + ?Sized>(
    backend: &B,
    request: &Request<'_>,
    aligned: bool,
) -> Result<Start> {
    let atomic = request.flags.contains(DirectFlags::ATOMIC);
    if !aligned && atomic {
        return Err(FsError::Invalid("alignment of an untorn write"));
    }
    if !aligned {
        return Ok(Start::UseBuffered(fall_back(backend, request)));
    }
    let early = (!mutation::off(Rule::O1)).then(|| begin(backend, request));
    let inode = backend.inode();
    let go = |early: Option<DirectGuard>| {
        Ok(Start::Go(early.unwrap_or_else(|| begin(backend, request))))
    };
    if !inode.cache().has_pages(request.range) {
        return go(early);
    }
    if request.flags.contains(DirectFlags::NOWAIT) {
        return Err(FsError::WouldBlock);
    }
    let cleared = crate::fsync::write_and_wait(backend, request.range).is_ok()
        && inode.cache().invalidate(request.range, false).is_ok();
    if cleared {
        return go(early);
    }
    inode.counters().count(Event::direct_invalidate_failures);
    tracing::debug!(
        target: "iomap::direct", ino = inode.ino(), range = %request.range, "invalidate_fail",
    );
    if atomic {
        return Err(FsError::WouldBlock);
    }
    drop(early);
    Ok(Start::UseBuffered(fall_back(backend, request)))
}

/// Where the bytes of a small read live, if one request without anything around it reads them: at
/// most one block, inside the size, mapped as a whole. `None` leaves everything as it was.
fn simple_addr<B: DirectOps + ?Sized>(
    backend: &B,
    request: &Request<'_>,
) -> Result<Option<DevAddr>> {
    let range = request.range;
    let small = range.len() <= request.block_bits.size().min(request.limits.max_transfer);
    if !small || range.end() > request.size {
        return Ok(None);
    }
    let mut addr = None;
    let flags = request.flags.for_mapping();
    let outcome = for_each_mapping(backend, range, Intent::Read, flags, |step| {
        let planned = plan(request, step.iomap(), false, step.rest())?;
        if step.rest() == range
            && let Plan::Transfer(transfer) = planned
        {
            addr = Some(transfer.addr);
            step.advance(range.len())?;
        }
        Ok(Flow::Stop)
    });
    match outcome.result {
        Ok(()) => Ok(addr),
        // The general path finds and treats it again.
        Err(crate::ops::MapError::UseBuffered) => Ok(None),
        Err(crate::ops::MapError::Fs(error)) => Err(error),
    }
}
