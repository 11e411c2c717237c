//! Sharing storage between files, or between places of one file.
//!
//! Owns the rules of `FICLONERANGE` and the order of a clone: both files quiet, the source on the
//! device, the destination out of the cache, then the extents in one transaction.
//!
//! # Locking
//!
//! Both inode locks, then both invalidate locks, each pair in the order of the inode numbers.

use iomap_core::dax_io::{Content, unmap_and_wait_for_pins};
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::fsync::write_and_wait;
use iomap_core::inode::{ExclusiveGuard, Inode};
use iomap_core::resize::isize_extended;
use iomap_core::sync::RwLockWriteGuard;
use iomap_core::units::{FilePos, FileRange};

use super::inode::TestInode;
use super::mapping::Mapping;
use crate::meta::Purpose;

/// The inode locks of one or two different files, in order, with no direct I/O in flight.
fn lock_inodes<'a>(a: &'a Inode, b: &'a Inode) -> impl Iterator<Item = ExclusiveGuard<'a>> {
    let (first, second) = if a.ino() <= b.ino() { (a, b) } else { (b, a) };
    let second = (first.ino() != second.ino()).then_some(second);
    let guards = (first.lock_exclusive(), second.map(Inode::lock_exclusive));
    first.wait_for_direct(&guards.0);
    if let (Some(second), Some(guard)) = (second, &guards.1) {
        second.wait_for_direct(guard);
    }
    std::iter::once(guards.0).chain(guards.1)
}

impl TestInode {
    /// Makes `range` of this file share its storage with `to` from `at` on. `lost` says whether some
    /// of what was written to this file did not reach its storage, and its owner does not know yet.
    pub(super) fn clone_to(
        &self,
        (range, lost): (FileRange, &dyn Fn() -> Result<()>),
        to: &Self,
        at: FilePos,
    ) -> Result<()> {
        let target = FileRange::at(at, range.len()).ok_or(FsError::TooBig)?;
        if range.is_empty() {
            return Ok(());
        }
        to.check_size(target.end())?;
        let same = self.ino == to.ino;
        if same && range.overlaps(target) {
            return Err(FsError::Invalid("reflink onto itself"));
        }
        // What was writable in a mapping of the source must be copied on the next store.
        let parts = [
            self.part(range, Content::Kept),
            to.part(target, Content::Dropped),
        ];
        let inodes = lock_inodes(&self.core, &to.core);
        self.check_clone(range, to, target)?;
        let _locks = unmap_and_wait_for_pins(&parts, inodes, self.volume.pin_timeout())?;
        to.touch()?;
        to.finish_cut()?;
        self.leave_inline()?;
        to.leave_inline()?;
        let old = to.core.size();
        if at > old {
            to.grow(old, at)?;
        }
        write_and_wait(self, range)?;
        // What the cache shows is not what would be shared.
        lost()?;
        let bits = self.volume.bits;
        to.empty_cache(target.round_out(bits))?;
        to.free(target.round_out(bits))?;
        self.share(range, to, target)
    }

    /// The rules of the system call, beside those of ranges alone.
    fn check_clone(&self, range: FileRange, to: &Self, target: FileRange) -> Result<()> {
        let bits = self.volume.bits;
        let size = self.core.size();
        if range.end() > size {
            return Err(FsError::Invalid("reflink past the end of the source"));
        }
        if !range.start().is_aligned(bits) || !target.start().is_aligned(bits) {
            return Err(FsError::Invalid("reflink of parts of blocks"));
        }
        let whole = range.end().is_aligned(bits);
        let last = range.end() == size && target.end() >= to.core.size();
        if !whole && !last {
            return Err(FsError::Invalid("reflink of parts of blocks"));
        }
        Ok(())
    }

    /// The transaction.
    fn share(&self, range: FileRange, to: &Self, target: FileRange) -> Result<()> {
        let (blocks, at) = (self.blocks_of(range), to.blocks_of(target).start());
        let (size, generation) = self.volume.update(Purpose::Normal, |txn| {
            let (mut a, mut b) = self.mappings_with(to);
            txn.clone_range(self.ino, blocks, to.ino, at)?;
            let size = to.raise_size(txn, target.end().bytes())?;
            for map in std::iter::once(&mut *a).chain(b.as_deref_mut()) {
                map.recent = None;
            }
            self.invalidate_mappings(&a);
            to.invalidate_mappings(&a);
            Ok((size, txn.generation()))
        })?;
        to.set_disk_size(size);
        for inode in [self, to] {
            inode.pending.lock().note(generation);
        }
        let old = to.core.size();
        if target.end() > old {
            to.core.set_size(target.end());
            isize_extended(&to.core, old, target.end());
        }
        Ok(())
    }

    /// The mapping locks of both files, in order.
    fn mappings_with<'a>(
        &'a self,
        other: &'a Self,
    ) -> (
        RwLockWriteGuard<'a, Mapping>,
        Option<RwLockWriteGuard<'a, Mapping>>,
    ) {
        match self.ino.cmp(&other.ino) {
            std::cmp::Ordering::Equal => (self.mapping.write(), None),
            std::cmp::Ordering::Less => {
                let first = self.mapping.write();
                (first, Some(other.mapping.write()))
            }
            std::cmp::Ordering::Greater => {
                let first = other.mapping.write();
                (first, Some(self.mapping.write()))
            }
        }
    }
}

/// Files of two mounts.
pub(super) const fn other_mount() -> FsError {
    FsError::Os { errno: Errno::XDEV }
}
