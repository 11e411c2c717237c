//! What a file system supplies: every trait of a backend, and nothing else.
//!
//! | Trait | Asked for by | Answers |
//! |---|---|---|
//! | [`MapOps`] | every operation | where a range of the file lives |
//! | [`FolioOps`] | buffered write, zero, unshare, write fault, writeback | what must happen around a locked folio |
//! | [`WritebackOps`] | writeback, fsync | where dirty bytes go, and what makes them findable |
//! | [`DirectOps`] | direct I/O | what makes directly written bytes findable |
//!
//! A backend implements them on its in-memory inode. The hooks run in the caller's thread and may
//! block unless the request says `nowait`; then they answer
//! [`FsError::WouldBlock`] instead. How the core calls them is
//! [`iter`](crate::iter) and the operation files; what it promises meanwhile stands with each hook
//! in four lines: called when, holding what, may do, must do.
//!
//! # The two transaction orders
//!
//! A journalling backend opens its transaction either before the folio lock (gfs2, ext4) or inside
//! it (XFS-like, testfs). It says which with [`MapOps::ORDER`], and takes its transaction lock with
//! the matching [`Rank`](crate::sync::Rank); the rank checker holds it to that.

mod direct;

pub use direct::{DirectDone, DirectKinds, DirectOps, Overwrite};

use crate::error::{Errno, FsError, Result};
use crate::folio::LockedFolio;
use crate::inode::Inode;
use crate::iomap::{CoreFlags, Iomap};
use crate::units::{FilePos, FileRange};

/// Where a backend's transactions stand in the lock ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOrder {
    /// Opened before a folio is locked: in [`FolioOps::before_lock`], or in `begin` of an
    /// operation that calls it without a folio lock, and closed there.
    BeforeFolio,
    /// Opened with the folio locked: in `begin` of reads and faults, in
    /// [`WritebackOps::map_writeback`].
    InFolio,
}

/// What an operation is about to do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Read bytes. Folio locked.
    Read,
    /// Write bytes: allocate or reserve; never answer with a hole. May grow the file.
    Write,
    /// Make bytes zero. A hole or an unwritten extent may stay what it is.
    Zero,
    /// Break sharing without changing data.
    Unshare,
    /// Make a page writable for a memory mapping: allocate or reserve. Folio locked.
    WriteFault,
    /// Only tell. Never allocates; beyond the end of the mappings answer a hole.
    Report,
}

impl Intent {
    /// Whether bytes will change or must get storage.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Self::Write | Self::Zero | Self::Unshare | Self::WriteFault
        )
    }
}

bitflags::bitflags! {
    /// How a mapping is asked for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MapFlags: u16 {
        /// Do not wait: answer `WouldBlock`, and never a partial mapping that would make an
        /// all-or-nothing operation wait later.
        const NOWAIT = 1 << 0;
        /// For direct I/O: no delayed allocation; new blocks unwritten. The backend may answer
        /// [`MapError::UseBuffered`].
        const DIRECT = 1 << 1;
        /// Only blocks that are allocated already, inside the file: otherwise `WouldBlock`.
        const OVERWRITE_ONLY = 1 << 2;
        /// The mapping must cover the whole request and be one untorn device write.
        const ATOMIC = 1 << 3;
        /// The bytes will not be wanted again soon.
        const DONTCACHE = 1 << 4;
        /// Direct I/O is in flight on the inode (read with the folio locked, after a full fence):
        /// allocate unwritten, convert when the data is on disk (rules O1-O4).
        const DIRECT_IN_FLIGHT = 1 << 5;
        /// The extended attribute fork is asked for.
        const XATTR = 1 << 6;
        /// The bytes are used where they are, on a device that is memory (DAX). Who changes them
        /// gets blocks of the file's own that hold zeroes where they held nothing
        /// ([`MapKind::Mapped`](crate::iomap::MapKind::Mapped)): zeroed, and the zeroes durable,
        /// before a mapping of the file shows them. Over shared blocks it gets new ones with
        /// [`FsFlags::SHARED`](crate::iomap::FsFlags::SHARED) and the old as the source; they become
        /// the file's in `end`, as far as the operation got. [`FsFlags::DIRTY`] says that the data
        /// could not be found after a crash, now or when a change under way ends (rule S4).
        ///
        /// [`FsFlags::DIRTY`]: crate::iomap::FsFlags::DIRTY
        const DAX = 1 << 7;
    }
}

/// A question to [`MapOps::begin`].
#[derive(Clone, Copy, Debug)]
pub struct MapRequest {
    /// What is left of the operation. The answer must contain its first byte; the rest is a hint.
    /// Never empty.
    pub range: FileRange,
    /// What for.
    pub intent: Intent,
    /// How.
    pub flags: MapFlags,
}

impl MapRequest {
    /// Whether the backend must not wait.
    #[must_use]
    pub const fn nowait(&self) -> bool {
        self.flags.contains(MapFlags::NOWAIT)
    }

    /// Whether the bytes are used in place.
    #[must_use]
    pub const fn is_dax(&self) -> bool {
        self.flags.contains(MapFlags::DAX)
    }

    /// Whether direct I/O asks.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.flags.contains(MapFlags::DIRECT)
    }
}

/// An answer of [`MapOps::begin`].
#[derive(Debug)]
pub struct Mapped<L> {
    /// Where the bytes live, or will live.
    pub iomap: Iomap,
    /// Where the current content of partly written blocks is, when that is elsewhere (copy on
    /// write). `None`: `iomap` itself.
    pub source: Option<Iomap>,
    /// What the backend keeps until `end`: a transaction handle, a reservation, a pinned buffer.
    pub lease: L,
}

impl<L> Mapped<L> {
    /// An answer without a separate source.
    #[must_use]
    pub const fn new(iomap: Iomap, lease: L) -> Self {
        Self {
            iomap,
            source: None,
            lease,
        }
    }
}

/// Why [`MapOps::begin`] gives no mapping.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Direct I/O cannot be done here: the whole rest must go through the page cache. Only to a
    /// request with [`MapFlags::DIRECT`].
    #[error("direct I/O is not possible here")]
    UseBuffered,
    /// It failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What became of a mapping, for [`MapOps::end`].
#[derive(Debug)]
pub struct Finished<'a> {
    /// The mapping.
    pub iomap: &'a Iomap,
    /// The part of the request that lay in it.
    pub range: FileRange,
    /// The bytes, from the start of `range` on, that the operation got through.
    pub done: u64,
    /// What the operation was.
    pub intent: Intent,
    /// How it was asked for.
    pub flags: MapFlags,
    /// What the core has to say.
    pub core: CoreFlags,
}

/// How a file system answers "where does this range of the file live?". The only trait every
/// backend implements.
pub trait MapOps: Send + Sync {
    /// What `begin` hands to `end`: a transaction handle, a reservation, or `()`.
    type Lease;

    /// Where this backend's transactions stand in the lock ladder.
    const ORDER: TransactionOrder;

    /// The framework's part of the inode.
    fn inode(&self) -> &Inode;

    /// Maps the first byte of the request, and as much after it as one mapping covers.
    ///
    /// - Called: once per mapping, by [`iter`](crate::iter) only.
    /// - Holding: the operation's upper locks (`docs/LOCKING.md`); the folio lock for
    ///   [`Intent::Read`] and [`Intent::WriteFault`], no folio lock otherwise.
    /// - May: block, open and close a transaction where [`MapOps::ORDER`] allows it, keep things
    ///   in the lease.
    /// - Must: answer a mapping that contains `req.range.start()`, sampled under the mapping lock
    ///   together with its `validity`. A copy-on-write source starts at or before it too.
    ///
    /// # Errors
    ///
    /// Nothing stays held; `end` is not called.
    fn begin(&self, req: &MapRequest) -> Result<Mapped<Self::Lease>, MapError>;

    /// Settles a mapping: keeps `finished.done` bytes, gives back what was reserved and not used.
    ///
    /// - Called: once for every successful `begin`, also on errors and short operations. For
    ///   direct I/O and reads at submission: the bytes are not on disk yet.
    /// - Holding: what `begin` was called with.
    /// - Must: release everything in the lease.
    ///
    /// # Errors
    ///
    /// Reported by the operation only if it got nothing done.
    fn end(&self, lease: Self::Lease, finished: &Finished<'_>) -> Result<()>;

    /// Whether a mapping still describes the file (rules V1, V3).
    ///
    /// - Called: by buffered write, zero, unshare for each folio, before the mapping is used on
    ///   it.
    /// - Holding: the folio lock: no new writeback of the folio can start, and a conversion by an
    ///   earlier one is visible already.
    /// - May: take the mapping lock, or read a sequence counter (`Acquire`).
    fn is_valid(&self, iomap: &Iomap) -> bool {
        let _ = iomap;
        true
    }

    /// Bytes of the file are about to change: note the time, drop set-id bits and the like.
    ///
    /// - Called: once per write, before the first byte, and once per write fault. Holding: the inode
    ///   lock; for a write fault nothing.
    ///
    /// # Errors
    ///
    /// The write does not happen.
    fn file_modified(&self, nowait: bool) -> Result<()> {
        let _ = nowait;
        Ok(())
    }

    /// Gives back delayed allocation reservations of the blocks of `range` (block aligned), and
    /// nothing else.
    ///
    /// - Called: after a failed or short write, for blocks with no dirty data over them; by
    ///   writeback, for dirty blocks that got no storage and lose their data.
    /// - Holding: after a write the inode lock and the invalidate lock exclusively; the lock of the
    ///   folio over the range, where there is one. In writeback the folio lock alone, and in order
    ///   A the transaction.
    /// - Must: not lock folios; not touch allocated blocks; know by itself whether the reservation
    ///   is one for copy on write (`iomap` is the mapping that was written to).
    fn release_delalloc(&self, range: FileRange, iomap: &Iomap) {
        let _ = (range, iomap);
    }
}

/// Which operation passes the four folio points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolioOp {
    /// Buffered write.
    Write,
    /// Zeroing.
    Zero,
    /// Breaking of sharing.
    Unshare,
    /// A store through a memory mapping is about to be allowed.
    WriteFault,
    /// Writeback of the folio.
    Writeback,
}

/// A passage through the four folio points.
#[derive(Clone, Copy, Debug)]
pub struct FolioRequest {
    /// Which operation.
    pub op: FolioOp,
    /// The bytes of the file concerned. In `before_lock` it may reach past the folio that is found
    /// later; in the others it lies inside the folio.
    pub range: FileRange,
    /// Do not wait.
    pub nowait: bool,
}

/// What [`FolioOps::folio_prepare`] makes of a folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The operation may change or write it.
    Ready,
    /// Not like this: between `before_lock` and the folio lock something changed that the guard
    /// does not fit. Writeback leaves the folio dirty, and a sync takes it as cared for: the backend
    /// has its bytes in a transaction, which its `sync_metadata` makes durable. Every other
    /// operation unlocks the folio, passes `after_unlock`, and starts again at `before_lock`.
    Again,
}

/// What a backend does around a locked folio: the four points, in this order. All default to
/// nothing.
///
/// | Point | Folio | For |
/// |---|---|---|
/// | [`before_lock`](FolioOps::before_lock) | not locked | opening a transaction (order A) |
/// | [`folio_prepare`](FolioOps::folio_prepare) | locked | pinning, journal write access, private state |
/// | [`folio_done`](FolioOps::folio_done) | locked | adding the data to the transaction |
/// | [`after_unlock`](FolioOps::after_unlock) | not locked | closing the transaction |
pub trait FolioOps: MapOps {
    /// Carried from `before_lock` to `after_unlock`. Its default means "nothing held".
    type Guard: Default;

    /// Before the folio is looked up and locked.
    ///
    /// - Holding: the operation's upper locks, no folio lock.
    /// - May: block, open a transaction.
    /// - Must: on error leave nothing held (rule F4).
    ///
    /// # Errors
    ///
    /// Ends the operation at this folio; none of the other points is passed.
    fn before_lock(&self, req: &FolioRequest) -> Result<Self::Guard> {
        let _ = req;
        Ok(Self::Guard::default())
    }

    /// The folio is locked and in the cache; its mapping was found valid; nothing is changed yet.
    ///
    /// - May: read the folio, set its private state, put it off ([`Prepared::Again`]).
    ///
    /// # Errors
    ///
    /// Ends the operation at this folio. `folio_done` is not passed for a folio that was refused
    /// or put off; `after_unlock` is.
    fn folio_prepare(
        &self,
        guard: &mut Self::Guard,
        folio: &mut LockedFolio,
        req: &FolioRequest,
    ) -> Result<Prepared> {
        let _ = (guard, folio, req);
        Ok(Prepared::Ready)
    }

    /// The bytes were changed, dirtied, and the size updated; the folio is still locked (rule F1).
    /// For writeback: the dirty ranges have been handed to the device.
    ///
    /// - Called: exactly once for every `folio_prepare` that answered [`Prepared::Ready`], on every
    ///   path (rule F2).
    /// - `done`: the bytes really accepted, from the start of `req.range` on; zero if none (rule
    ///   F3).
    /// - Must: not unlock (it cannot) and not fail: what can fail belongs into `folio_prepare`.
    fn folio_done(
        &self,
        guard: &mut Self::Guard,
        folio: &mut LockedFolio,
        req: &FolioRequest,
        done: u64,
    ) {
        let _ = (guard, folio, req, done);
    }

    /// The folio is unlocked.
    ///
    /// - Called: exactly once for every successful `before_lock`.
    /// - Must: close what `before_lock` opened.
    ///
    /// # Errors
    ///
    /// Reported by the operation as its own if it got nothing done, otherwise kept for `fsync`.
    fn after_unlock(&self, guard: Self::Guard, req: &FolioRequest) -> Result<()> {
        let _ = (guard, req);
        Ok(())
    }
}

/// A question to [`WritebackOps::map_writeback`].
#[derive(Debug)]
pub struct WritebackRequest {
    /// A run of dirty blocks of one folio, cut at the end of the file rounded up to a block.
    pub range: FileRange,
    /// Where further dirty data may follow: a hint for how much to allocate at once.
    pub hint_end: FilePos,
    /// Direct I/O was in flight on the inode when it was looked at with the folio locked: allocate
    /// unwritten (rules O1-O4).
    pub direct_in_flight: bool,
    /// `false`: answer `None` for what is not allocated yet, open no transaction (a journal commit
    /// writing ordered data must not wait for a transaction).
    pub may_allocate: bool,
}

/// A finished run of writeback, told to [`WritebackOps::ioend_done`].
#[derive(Clone, Debug)]
pub struct IoendRange {
    /// The bytes written; its end is exact to the byte at the end of the file as it was at
    /// submission (rule B39).
    pub range: FileRange,
    /// What was written to, cut to `range` rounded out to blocks.
    pub iomap: Iomap,
}

/// Where dirty bytes go, and what makes them findable.
pub trait WritebackOps: FolioOps {
    /// Maps dirty bytes for writing, allocating what is only reserved.
    ///
    /// - Called: for each run of dirty blocks of a folio, every time anew (rule V3).
    /// - Holding: the folio lock; the folio is under writeback. In order A inside the transaction
    ///   of `before_lock`, which is `guard` (`None` when `may_allocate` is false).
    /// - May: open a transaction in order B.
    /// - Must: answer [`Mapped`](crate::iomap::MapKind::Mapped) or
    ///   [`Unwritten`](crate::iomap::MapKind::Unwritten) containing `req.range.start()`, or `None`
    ///   if `may_allocate` is false and nothing is allocated: the folio then stays dirty.
    ///
    /// # Errors
    ///
    /// The run is not written, the error is kept for `fsync`; the core calls
    /// [`release_delalloc`](MapOps::release_delalloc) for it.
    fn map_writeback(
        &self,
        guard: Option<&mut Self::Guard>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>>;

    /// Whether [`ioend_done`](WritebackOps::ioend_done) has work for this run: a conversion, a
    /// remap, a larger size on disk. `false` lets the completion finish where it is.
    ///
    /// - Called: at submission, folio locked. Must not block.
    fn ioend_needs_work(&self, ioend: &IoendRange) -> bool;

    /// The bytes are written. Makes them findable: first convert unwritten or remap copied
    /// blocks, then move the size on disk, up to `ioend.range.end()` at most.
    ///
    /// - Called: in task context with no locks held, before the writeback bit of the folios is
    ///   cleared; only if the I/O succeeded (rules O5, B45).
    /// - May: open a transaction; must not wait for writeback or for a folio lock.
    ///
    /// # Errors
    ///
    /// Kept for `fsync`.
    fn ioend_done(&self, ioend: &IoendRange) -> Result<()>;

    /// The bytes could not be written; `errno` is kept for `fsync`. Nothing is converted.
    ///
    /// - Called: in task context with no locks held. Default: nothing.
    fn ioend_failed(&self, ioend: &IoendRange, errno: Errno) {
        let _ = (ioend, errno);
    }

    /// Makes the metadata durable that is needed to find the file's written data (`data_only`), or
    /// everything about the inode. Includes a device flush when anything written before must be
    /// durable.
    ///
    /// - Called: by fsync after the data has been written; no locks held.
    ///
    /// # Errors
    ///
    /// The sync failed.
    fn sync_metadata(&self, data_only: bool) -> Result<()>;

    /// Whether the cache may drop the folio: private state is not needed any more.
    ///
    /// - Called: by reclaim and invalidation, folio locked and clean. Must not block.
    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        let _ = folio;
        true
    }
}
