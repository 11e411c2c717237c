//! Changing the size of a file.
//!
//! Owns the order of truncate. Down: the rest of the last block becomes zero **on the device**, then
//! the size shrinks, then the cache beyond goes, then the blocks. So at every moment, also after a
//! crash, what lies between the size in the tree and the end of its block is zero, and a later larger
//! size shows nothing old. Up: the rest of the old last block becomes zero in the cache first, for a
//! memory mapping may have stored there.
//!
//! # Locking
//!
//! ```text
//! Inode (exclusive) -> Invalidate (exclusive) -> Folio, or transaction -> Mapping
//! ```

use iomap_core::dax_io::Content;
use iomap_core::error::Result;
use iomap_core::fsync::write_and_wait;
use iomap_core::iomap::InlineBuffer;
use iomap_core::mutation::{self, Rule};
use iomap_core::resize::{isize_extended, zero_old_end};
use iomap_core::sync::atomic::Ordering;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::zero::truncate_page;

use super::inode::TestInode;
use crate::format::item::Time;
use crate::meta::Purpose;

impl TestInode {
    /// Sets the size.
    pub(super) fn truncate(&self, size: FilePos) -> Result<()> {
        let guard = self.core.lock_exclusive();
        if !mutation::off(Rule::O6) {
            self.core.wait_for_direct(&guard);
        }
        self.check_size(size)?;
        self.touch()?;
        let _locks = self.lock_layout(guard, FileRange::from(size), Content::Dropped)?;
        if size.bytes() > self.inline.capacity() as u64 {
            self.leave_inline()?;
        }
        let old = self.core.size();
        if size > old {
            return self.grow(old, size);
        }
        if self.inline.is_used() {
            return self.cut_inline(size);
        }
        self.cut(size)
    }

    /// The file grows from `old`; what is new is a hole, or what is allocated there already.
    pub(super) fn grow(&self, old: FilePos, size: FilePos) -> Result<()> {
        self.finish_cut()?;
        zero_old_end(self, size)?;
        // The zeroes first: the size in the tree is about to pass them.
        write_and_wait(
            self,
            FileRange::between(old.round_down(self.volume.bits), size),
        )?;
        self.put_size(size)?;
        self.core.set_size(size);
        isize_extended(&self.core, old, size);
        Ok(())
    }

    /// Sets the size in the tree; for inline files in memory only, the data goes with it.
    fn put_size(&self, size: FilePos) -> Result<()> {
        if self.inline.is_used() {
            self.pending.lock().inline = true;
            return Ok(());
        }
        self.change(
            Purpose::Must,
            |txn, _| self.raise_size(txn, size.bytes()),
            |_, size| self.set_disk_size(*size),
        )?;
        Ok(())
    }

    fn cut(&self, size: FilePos) -> Result<()> {
        // Rule C10.
        if !mutation::off(Rule::C10) && truncate_page(self, size)? {
            let block = FileRange::between(size.round_down(self.volume.bits), size);
            write_and_wait(self, block)?;
        }
        self.core.set_size(size);
        self.core.cache().truncate(FileRange::from(size));
        let beyond = self.blocks_of(FileRange::from(size.round_up(self.volume.bits)));
        self.forget(beyond);
        self.uncut.store(true, Ordering::Relaxed);
        self.finish_cut()
    }

    /// Brings the tree to the size in memory and frees what lies past it, if a truncate has not done
    /// so: after an error of the device the file is shorter in memory than in the tree, and must not
    /// grow over what it had before. Holds the inode lock exclusively.
    pub(super) fn finish_cut(&self) -> Result<()> {
        if !self.uncut.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (size, now) = (self.core.size(), Time::now());
        let beyond = self.blocks_of(FileRange::from(size.round_up(self.volume.bits)));
        let result = self.volume.run(|meta| {
            meta.truncate(self.ino, size.bytes(), |inode| {
                (inode.mtime, inode.ctime) = (now, now);
            })?;
            // If the tree's size did not shrink: it never saw the larger one.
            meta.punch(self.ino, beyond)
        });
        self.uncut.store(result.is_err(), Ordering::Relaxed);
        // The mapping lock is taken in between: who has read the old size in a transaction before
        // has noted it.
        self.forget(beyond);
        self.set_disk_size(size.bytes());
        self.note_changed();
        result
    }

    /// As [`TestInode::finish_cut`], with no lock held: what becomes durable has the size that was
    /// set.
    pub(super) fn settle_cut(&self) -> Result<()> {
        if !self.uncut.load(Ordering::Relaxed) {
            return Ok(());
        }
        let guard = self.core.lock_exclusive();
        self.core.wait_for_direct(&guard);
        let _invalidate = self.core.invalidate_lock().write();
        self.finish_cut()
    }

    fn cut_inline(&self, size: FilePos) -> Result<()> {
        self.core.set_size(size);
        self.core.cache().truncate(FileRange::from(size));
        // At most what an inode holds.
        self.inline.cut(size.bytes() as usize);
        self.pending.lock().inline = true;
        Ok(())
    }
}
