//! How durable an open file's writes are, its syncs, and the errors it is told of.

use super::File;
use crate::error::{FsError, Result};
use crate::fsync::{SyncRange, fsync, sync_file_range};
use crate::ops::DirectOps;
use crate::units::FileRange;
use crate::vfs::{IoFlags, OpenFlags};

/// How durable a write is when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// Not at all.
    No,
    /// With the metadata needed to find the data.
    Data,
    /// With all metadata.
    All,
}

impl<B: DirectOps> File<B> {
    /// What the flags of a write promise about its bytes. No locks held.
    #[inline]
    pub(super) fn settle(&self, written: FileRange, flags: IoFlags) -> Result<()> {
        match self.durable(flags) {
            Durable::No if flags.contains(IoFlags::DONTCACHE) && !self.is_dax() => {
                // The folios leave the cache when they have been written.
                sync_file_range(&*self.backend, written, SyncRange::WRITE)
            }
            Durable::No => Ok(()),
            durable => self.sync(written, durable == Durable::Data),
        }
    }

    /// Whether a write with these flags is durable when it returns.
    #[must_use]
    pub fn is_durable(&self, flags: IoFlags) -> bool {
        self.durable(flags) != Durable::No
    }

    #[inline]
    pub(super) fn durable(&self, flags: IoFlags) -> Durable {
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

    pub(super) fn sync(&self, range: FileRange, data_only: bool) -> Result<()> {
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

    /// Whether an error of an earlier writeback waits for the next sync of this open file, which
    /// reports it all the same: for who is about to copy what is on the device.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn check_writeback(&self) -> Result<()> {
        let seen = *self.seen.lock();
        let checked = self.inode().cache().check_error(seen);
        checked.map_err(FsError::Writeback)
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
