//! An open file: which path a read or write takes, under which locks, and what it promises.
//!
//! Owns the routing between buffered and direct I/O, the inode lock of every read and write, the
//! fall-back of a direct write (rules O9, B62), append, the synchronous flags, and the report of
//! writeback errors once per open file. A backend's [`OpenFile`](crate::vfs::OpenFile) is a thin
//! wrapper. Does not own what changes the storage of a file otherwise (truncate, fallocate): that
//! is the backend's.
//!
//! # Locking
//!
//! ```text
//! buffered read          nothing, or Invalidate (shared) -> Folio where bytes are missing
//! buffered write         Inode (exclusive) -> Folio
//! direct read            Inode (shared)
//! direct write           Inode (shared) for an overwrite, otherwise exclusive
//! sync                   nothing
//! ```

use std::sync::Arc;

use crate::error::{FsError, Result};
use crate::fsync::{SyncRange, fsync, sync_file_range};
use crate::inode::{ExclusiveGuard, Inode};
use crate::ops::DirectOps;
use crate::page_cache::ErrSeq;
use crate::read::{ReadOptions, buffered_read};
use crate::readahead::Readahead;
use crate::resize;
use crate::sync::{Mutex, Rank};
use crate::units::{FilePos, FileRange};
use crate::user::SliceSource;
use crate::vfs::{IoFlags, OpenFlags};
use crate::write::{WriteOptions, buffered_write};

/// How durable a write is when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    /// Not at all.
    No,
    /// With the metadata needed to find the data.
    Data,
    /// With all metadata.
    All,
}

/// An open regular file of a backend.
#[derive(Debug)]
pub struct File<B> {
    backend: Arc<B>,
    flags: OpenFlags,
    /// The last writeback error this open file was told of.
    seen: Mutex<ErrSeq>,
    readahead: Readahead,
}

impl<B: DirectOps> File<B> {
    /// Opens the file. An error of an earlier writeback that nobody was told of is reported by its
    /// first sync.
    #[must_use]
    pub fn new(backend: Arc<B>, flags: OpenFlags) -> Self {
        let seen = backend.inode().cache().sample_error();
        Self {
            backend,
            flags,
            seen: Mutex::new(Rank::InodeState, seen),
            readahead: Readahead::new(),
        }
    }

    /// The file system's inode.
    #[must_use]
    pub const fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// How it was opened.
    #[must_use]
    pub const fn flags(&self) -> OpenFlags {
        self.flags
    }

    fn inode(&self) -> &Inode {
        self.backend.inode()
    }

    /// Reads from `pos` on. See [`OpenFile::read_at`](crate::vfs::OpenFile::read_at).
    ///
    /// # Errors
    ///
    /// `EBADF` if not opened for reading; what [`buffered_read`] answers.
    pub fn read_at(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        if !self.flags.contains(OpenFlags::READ) {
            return Err(crate::error::Errno::BADF.into());
        }
        if to.is_empty() {
            return Ok(0);
        }
        self.read_buffered(pos, to, flags)
    }

    fn read_buffered(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        let options = ReadOptions {
            nowait: flags.contains(IoFlags::NOWAIT),
            dontcache: flags.contains(IoFlags::DONTCACHE),
            readahead: Some(&self.readahead),
        };
        buffered_read(&*self.backend, pos, to, options)
    }

    /// Writes at `pos`, or at the end with `APPEND`. See
    /// [`OpenFile::write_at`](crate::vfs::OpenFile::write_at).
    ///
    /// # Errors
    ///
    /// `EBADF` if not opened for writing, `EFBIG` at the largest position; what
    /// [`buffered_write`] answers; with a synchronous flag what the sync answers, although the
    /// bytes are in the cache.
    pub fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        if !self.flags.contains(OpenFlags::WRITE) {
            return Err(crate::error::Errno::BADF.into());
        }
        if from.is_empty() {
            return Ok(0);
        }
        let written = self.write_buffered(pos, from, flags)?;
        self.settle(written, flags)?;
        // No larger than the slice.
        Ok(written.len() as usize)
    }

    /// A buffered write under the exclusive lock.
    fn write_buffered(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<FileRange> {
        let nowait = flags.contains(IoFlags::NOWAIT);
        let guard = self.lock_exclusive(nowait)?;
        let pos = self.position(pos, flags);
        self.write_cached(&guard, pos, from, flags)
    }

    /// Where a write goes. Holding the inode lock exclusively when it may be the end.
    fn position(&self, pos: FilePos, flags: IoFlags) -> FilePos {
        if flags.contains(IoFlags::APPEND) || self.flags.contains(OpenFlags::APPEND) {
            self.inode().size()
        } else {
            pos
        }
    }

    fn lock_exclusive(&self, nowait: bool) -> Result<ExclusiveGuard<'_>> {
        if nowait {
            self.inode().try_lock_exclusive().ok_or(FsError::WouldBlock)
        } else {
            Ok(self.inode().lock_exclusive())
        }
    }

    /// Bytes into the cache: direct I/O in flight is waited for first (rule B62), and what lies
    /// between the old end and `pos` is made zero.
    fn write_cached(
        &self,
        guard: &ExclusiveGuard<'_>,
        pos: FilePos,
        from: &[u8],
        flags: IoFlags,
    ) -> Result<FileRange> {
        let nowait = flags.contains(IoFlags::NOWAIT);
        let range = FileRange::at_most(pos, from.len() as u64);
        if range.is_empty() {
            return Err(FsError::TooBig);
        }
        let inode = self.inode();
        if nowait && (inode.direct().is_busy_after_fence() || pos > inode.size()) {
            return Err(FsError::WouldBlock);
        }
        inode.wait_for_direct(guard);
        self.backend.file_modified(nowait)?;
        if pos > inode.size() {
            resize::zero_old_end(&*self.backend, pos)?;
        }
        // No larger than the slice.
        let mut source = SliceSource::new(&from[..range.len() as usize]);
        let options = WriteOptions {
            nowait,
            dontcache: flags.contains(IoFlags::DONTCACHE),
        };
        let done = buffered_write(&*self.backend, pos, &mut source, options)?;
        Ok(range.take(done))
    }

    /// What the flags of a write promise about its bytes. No locks held.
    fn settle(&self, written: FileRange, flags: IoFlags) -> Result<()> {
        match self.durable(flags) {
            Durable::No if flags.contains(IoFlags::DONTCACHE) => {
                // The folios leave the cache when they have been written.
                sync_file_range(&*self.backend, written, SyncRange::WRITE)
            }
            Durable::No => Ok(()),
            durable => self.sync(written, durable == Durable::Data),
        }
    }

    fn durable(&self, flags: IoFlags) -> Durable {
        if flags.contains(IoFlags::SYNC) || self.flags.contains(OpenFlags::SYNC) {
            Durable::All
        } else if flags.contains(IoFlags::DSYNC) || self.flags.contains(OpenFlags::DSYNC) {
            Durable::Data
        } else {
            Durable::No
        }
    }

    /// Makes the file durable. See [`OpenFile::fsync`](crate::vfs::OpenFile::fsync).
    ///
    /// # Errors
    ///
    /// What could not be written or synced now, or an error of an earlier writeback this open file
    /// was not told of yet.
    pub fn fsync(&self, data_only: bool) -> Result<()> {
        self.sync(FileRange::ALL, data_only)
    }

    fn sync(&self, range: FileRange, data_only: bool) -> Result<()> {
        let synced = fsync(&*self.backend, range, data_only);
        let earlier = self.new_errors();
        synced.and(earlier)
    }

    /// Starts, or starts and awaits, writeback of a range. See
    /// [`OpenFile::sync_range`](crate::vfs::OpenFile::sync_range).
    ///
    /// # Errors
    ///
    /// As [`File::fsync`].
    pub fn sync_range(&self, range: FileRange, wait: bool) -> Result<()> {
        let steps = if wait {
            SyncRange::all()
        } else {
            SyncRange::WRITE
        };
        let written = sync_file_range(&*self.backend, range, steps);
        if !wait {
            return written;
        }
        let earlier = self.new_errors();
        written.and(earlier)
    }

    /// The writeback error this open file was not told of yet, once.
    fn new_errors(&self) -> Result<()> {
        let mut seen = self.seen.lock();
        self.inode()
            .cache()
            .check_and_advance(&mut seen)
            .map_err(FsError::Writeback)
    }
}
