//! An open file: which path a read or write takes, under which locks, and what it promises.
//!
//! Owns the routing between buffered and direct I/O, the inode lock of every read and write, the
//! fall-back of a direct write (rules O9, B62) and append. The synchronous flags and the report of
//! writeback errors, once per open file, are `durable`. A backend's
//! [`OpenFile`](crate::vfs::OpenFile) is a thin wrapper. Does not own what changes the storage of a file otherwise (truncate, fallocate): that
//! is the backend's.
//!
//! # Locking
//!
//! ```text
//! buffered read          nothing, or Invalidate (shared) -> Folio where bytes are missing
//! buffered write         Inode (exclusive) -> Folio
//! direct read            Inode (shared)
//! direct write           Inode (shared) for an overwrite, otherwise exclusive
//! DAX read               Inode (shared)
//! DAX write              Inode (exclusive)
//! sync                   nothing
//! ```

mod durable;
mod map;

use std::sync::Arc;

use map::is_shown;

use crate::dax_io;
use crate::direct::{self, DirectFlags, DirectOutcome, WriteLock};
use crate::error::{FsError, Result, SeekError};
use crate::fiemap::{Extent, fiemap};
use crate::fsync::write_and_wait;
use crate::inode::{ExclusiveGuard, Inode, SharedGuard};
use crate::mutation::{self, Rule};
use crate::ops::DirectOps;
use crate::page_cache::ErrSeq;
use crate::read::{Filling, ReadOptions, buffered_read, start_fill};
use crate::readahead::Readahead;
use crate::resize;
use crate::seek::{Whence, seek};
use crate::sync::{Mutex, Rank};
use crate::units::{FilePos, FileRange};
use crate::user::SliceSource;
use crate::vfs::{IoFlags, OpenFlags};
use crate::write::{WriteOptions, buffered_write};
use durable::Durable;

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

    #[inline]
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
        if is_shown(to) {
            return self.read_shown(pos, to, flags);
        }
        if self.is_dax() {
            self.read_dax(pos, to, flags)
        } else if self.is_direct(flags) {
            self.read_direct(pos, to, flags)
        } else {
            self.read_buffered(pos, to, flags)
        }
    }

    /// Whether the file has no cache: every I/O goes to the device's bytes.
    #[must_use]
    pub fn is_dax(&self) -> bool {
        self.inode().dax().is_some()
    }

    /// Whether an I/O with these flags goes around the cache. A DAX file has none.
    #[must_use]
    #[inline]
    pub fn is_direct(&self, flags: IoFlags) -> bool {
        if self.is_dax() {
            return false;
        }
        flags.contains(IoFlags::DIRECT) || self.flags.contains(OpenFlags::DIRECT)
    }

    /// Starts fetching what is missing at the start of `range`, without waiting.
    ///
    /// # Errors
    ///
    /// What [`start_fill`] answers.
    pub fn start_fill(&self, range: FileRange, flags: IoFlags) -> Result<Option<Filling>> {
        if self.is_dax() {
            return Ok(None);
        }
        start_fill(&*self.backend, range, self.read_options(flags))
    }

    #[inline]
    fn read_options(&self, flags: IoFlags) -> ReadOptions<'_> {
        ReadOptions {
            nowait: flags.contains(IoFlags::NOWAIT),
            dontcache: flags.contains(IoFlags::DONTCACHE),
            readahead: Some(&self.readahead),
        }
    }

    /// A direct read; what the device cannot do comes through the cache.
    fn read_direct(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        let mut how = DirectFlags::empty();
        how.set(DirectFlags::NOWAIT, flags.contains(IoFlags::NOWAIT));
        let outcome = {
            let _shared = self.lock_shared(flags.contains(IoFlags::NOWAIT))?;
            direct::read(&*self.backend, pos, to, how)?
        };
        match outcome {
            // No larger than the slice.
            DirectOutcome::Done(done) => Ok(done as usize),
            DirectOutcome::UseBuffered { done } => {
                let rest = &mut to[done as usize..];
                match self.read_buffered(pos.saturating_add(done), rest, flags) {
                    Err(_) if done > 0 => Ok(done as usize),
                    result => result.map(|more| done as usize + more),
                }
            }
        }
    }

    #[inline]
    fn read_buffered(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        buffered_read(&*self.backend, pos, to, self.read_options(flags))
    }

    /// Writes at `pos`, or at the end with `APPEND`. See
    /// [`OpenFile::write_at`](crate::vfs::OpenFile::write_at).
    ///
    /// # Errors
    ///
    /// `EBADF` if not opened for writing, `EFBIG` at the largest position; what
    /// [`buffered_write`] answers; with a synchronous flag what the sync answers, although the
    /// bytes are in the cache. So they may be after an error, or a short count, of a direct write
    /// that went through the cache and could not be written from there: the size covers them then.
    pub fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        if !self.flags.contains(OpenFlags::WRITE) {
            return Err(crate::error::Errno::BADF.into());
        }
        if from.is_empty() {
            return Ok(0);
        }
        if is_shown(from) {
            return self.write_shown(pos, from, flags);
        }
        let written = if self.is_direct(flags) {
            self.write_direct(pos, from, flags)?
        } else if flags.contains(IoFlags::ATOMIC) {
            return Err(FsError::Unsupported("an untorn write that is not direct"));
        } else {
            let written = self.write_buffered(pos, from, flags)?;
            self.settle(written, flags)?;
            written
        };
        // No larger than the slice.
        Ok(written.len() as usize)
    }

    /// A direct write under the lock it needs, durable as asked; what cannot be done so goes
    /// through the cache.
    fn write_direct(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<FileRange> {
        let mut how = self.direct_flags(flags);
        let (lock, pos) = self.lock_for_direct(pos, from.len() as u64, how, flags)?;
        how |= lock.flags();
        let range = FileRange::at_most(pos, from.len() as u64);
        if range.is_empty() {
            return Err(FsError::TooBig);
        }
        self.backend
            .file_modified(how.contains(DirectFlags::NOWAIT))?;
        if pos > self.inode().size() {
            resize::zero_old_end(&*self.backend, pos)?;
        }
        // No larger than the slice.
        let written = direct::write(&*self.backend, pos, &from[..range.len() as usize], how)?;
        drop(lock);
        match written.outcome {
            DirectOutcome::Done(done) => {
                let _ = written.sync(&*self.backend)?;
                Ok(range.take(done))
            }
            DirectOutcome::UseBuffered { .. } if flags.contains(IoFlags::ATOMIC) => {
                Err(FsError::Unsupported("an untorn write through the cache"))
            }
            DirectOutcome::UseBuffered { done } => self.write_instead(range, done, from, flags),
        }
    }

    /// The rest of a direct write, through the cache and out of it again, so that what follows
    /// directly sees it (rule O9). Bytes that were written win over an error of the rest (rule B61).
    fn write_instead(
        &self,
        range: FileRange,
        done: u64,
        from: &[u8],
        flags: IoFlags,
    ) -> Result<FileRange> {
        let rest = range.skip(done);
        let cached = {
            let guard = self.lock_exclusive(flags.contains(IoFlags::NOWAIT))?;
            let pos = if done == 0 {
                self.position(rest.start(), flags)
            } else {
                rest.start()
            };
            let written = self.write_cached(&guard, pos, &from[done as usize..], flags);
            written.and_then(|written| {
                if mutation::off(Rule::O9) {
                    return Ok(written);
                }
                write_and_wait(&*self.backend, written)?;
                // A folio that cannot leave stays coherent: it was written, and is clean.
                let _ = self.inode().cache().invalidate(written, false);
                Ok(written)
            })
        };
        let written = match cached {
            Ok(cached) if done == 0 => cached,
            Ok(cached) => range.take(done + cached.len()),
            Err(_) if done > 0 => range.take(done),
            Err(error) => return Err(error),
        };
        self.settle(written, flags)?;
        Ok(written)
    }

    fn direct_flags(&self, flags: IoFlags) -> DirectFlags {
        let mut how = match self.durable(flags) {
            Durable::No => DirectFlags::empty(),
            Durable::Data => DirectFlags::DSYNC,
            Durable::All => DirectFlags::SYNC,
        };
        how.set(DirectFlags::NOWAIT, flags.contains(IoFlags::NOWAIT));
        how.set(DirectFlags::ATOMIC, flags.contains(IoFlags::ATOMIC));
        how
    }

    /// The lock of a direct write, and where it goes. At the end of the file that is only known
    /// under the exclusive lock.
    fn lock_for_direct(
        &self,
        pos: FilePos,
        len: u64,
        how: DirectFlags,
        flags: IoFlags,
    ) -> Result<(WriteLock<'_>, FilePos)> {
        if !self.appends(flags) {
            let range = FileRange::at_most(pos, len);
            return Ok((direct::lock_for_write(&*self.backend, range, how)?, pos));
        }
        let nowait = how.contains(DirectFlags::NOWAIT);
        let guard = self.lock_exclusive(nowait)?;
        if nowait && self.inode().direct().is_busy_after_fence() {
            return Err(FsError::WouldBlock);
        }
        self.inode().wait_for_direct(&guard);
        let pos = self.inode().size();
        Ok((
            WriteLock::Exclusive {
                guard,
                force_wait: true,
            },
            pos,
        ))
    }

    /// Whether a write with these flags goes to the end of the file.
    #[must_use]
    #[inline]
    pub fn appends(&self, flags: IoFlags) -> bool {
        flags.contains(IoFlags::APPEND) || self.flags.contains(OpenFlags::APPEND)
    }

    /// A buffered write under the exclusive lock.
    #[inline]
    fn write_buffered(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<FileRange> {
        let nowait = flags.contains(IoFlags::NOWAIT);
        let guard = self.lock_exclusive(nowait)?;
        let pos = self.position(pos, flags);
        self.write_cached(&guard, pos, from, flags)
    }

    /// Where a write goes. Holding the inode lock exclusively when it may be the end.
    #[inline]
    fn position(&self, pos: FilePos, flags: IoFlags) -> FilePos {
        if self.appends(flags) {
            self.inode().size()
        } else {
            pos
        }
    }

    fn lock_shared(&self, nowait: bool) -> Result<SharedGuard<'_>> {
        if nowait {
            self.inode().try_lock_shared().ok_or(FsError::WouldBlock)
        } else {
            Ok(self.inode().lock_shared())
        }
    }

    #[inline]
    fn lock_exclusive(&self, nowait: bool) -> Result<ExclusiveGuard<'_>> {
        if nowait {
            self.inode().try_lock_exclusive().ok_or(FsError::WouldBlock)
        } else {
            Ok(self.inode().lock_exclusive())
        }
    }

    /// Bytes into the cache, or into the file itself where it has none: direct I/O in flight is waited
    /// for first (rule B62), and what lies between the old end and `pos` is made zero.
    #[inline]
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
        if !mutation::off(Rule::B62) {
            inode.wait_for_direct(guard);
        }
        self.backend.file_modified(nowait)?;
        if pos > inode.size() {
            resize::zero_old_end(&*self.backend, pos)?;
        }
        // No larger than the slice.
        let from = &from[..range.len() as usize];
        if inode.dax().is_some() {
            return dax_io::write(&*self.backend, pos, from, nowait).map(|done| range.take(done));
        }
        let mut source = SliceSource::new(from);
        let options = WriteOptions {
            nowait,
            dontcache: flags.contains(IoFlags::DONTCACHE),
        };
        let done = buffered_write(&*self.backend, pos, &mut source, options)?;
        Ok(range.take(done))
    }

    /// The next data or hole. See [`OpenFile::seek`](crate::vfs::OpenFile::seek).
    ///
    /// # Errors
    ///
    /// What [`seek`] answers.
    pub fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError> {
        let _shared = self.inode().lock_shared();
        seek(&*self.backend, pos, whence)
    }

    /// The extents of a range. See [`OpenFile::fiemap`](crate::vfs::OpenFile::fiemap).
    ///
    /// # Errors
    ///
    /// What [`fiemap`] answers.
    pub fn fiemap(&self, range: FileRange, sync: bool) -> Result<Vec<Extent>> {
        let _shared = self.inode().lock_shared();
        fiemap(&*self.backend, range, sync)
    }
}
