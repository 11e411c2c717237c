//! `fallocate`: giving and taking storage of a range.
//!
//! Owns the seven modes. Each settles the cache over what it changes before it touches an extent,
//! with inode lock and invalidate lock held exclusively and no direct I/O in flight, so that nobody
//! fills the cache from blocks that are about to go. Of a DAX file the pages are in no mapping then,
//! and nobody has pinned them ([`dax`](super::dax)).

use iomap_core::dax_io::Content;
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::fsync::write_and_wait;
use iomap_core::iomap::InlineBuffer;
use iomap_core::mutation::{self, Rule};
use iomap_core::page_cache::InvalidateError;
use iomap_core::units::{BlockBits, FilePos, FileRange};
use iomap_core::unshare::unshare_range;
use iomap_core::vfs::Fallocate;
use iomap_core::zero::zero_range;

use super::inode::TestInode;
use super::mapping::Place;
use crate::format::BlockRange;
use crate::meta::Purpose;

/// How often the cache is written and emptied again when somebody dirties it in between.
const SETTLE_TRIES: u32 = 64;

impl TestInode {
    /// Changes the storage of a range.
    pub(super) fn fallocate(&self, mode: Fallocate, range: FileRange) -> Result<()> {
        if range.is_empty() {
            return Err(FsError::Invalid("an empty range"));
        }
        self.check_size(range.end())?;
        let guard = self.core.lock_exclusive();
        if !mutation::off(Rule::O6) {
            self.core.wait_for_direct(&guard);
        }
        self.touch()?;
        let _locks = match moved_by(mode, range) {
            Some((range, content)) => self.lock_layout(guard, range, content)?,
            None => self.lock_still(guard)?,
        };
        self.finish_cut()?;
        match mode {
            Fallocate::Allocate => self.preallocate(range, true),
            Fallocate::AllocateKeepSize => self.preallocate(range, false),
            Fallocate::PunchHole => self.punch_hole(range),
            Fallocate::ZeroRange => self.zero_storage(range, true),
            Fallocate::ZeroRangeKeepSize => self.zero_storage(range, false),
            Fallocate::CollapseRange => self.collapse_range(range),
            Fallocate::InsertRange => self.insert_range(range),
            Fallocate::UnshareRange => {
                unshare_range(self, range)?;
                write_and_wait(self, range)
            }
        }
    }

    /// Whether the file is inline and stays so with `range` in it.
    fn stays_inline(&self, range: FileRange) -> Result<bool> {
        if range.end().bytes() > self.inline.capacity() as u64 {
            self.leave_inline()?;
        }
        Ok(self.inline.is_used())
    }

    fn preallocate(&self, range: FileRange, grows: bool) -> Result<()> {
        if !self.stays_inline(range)? {
            self.fill_holes(self.blocks_of(range))?;
        }
        self.grow_to(range.end(), grows)
    }

    fn grow_to(&self, end: FilePos, grows: bool) -> Result<()> {
        let size = self.core.size();
        if grows && end > size {
            self.grow(size, end)?;
        }
        Ok(())
    }

    /// Allocates, unwritten, what is neither allocated nor promised in `blocks`: all or nothing, as
    /// far as space goes.
    fn fill_holes(&self, blocks: BlockRange) -> Result<()> {
        let mut missing = 0_u64;
        self.for_each_place(blocks, |place, range| {
            if matches!(place, Place::Hole(_)) {
                missing = missing.saturating_add(range.len());
            }
            Ok(())
        })?;
        if missing == 0 {
            return Ok(());
        }
        let room = self.volume.reserve(missing)?;
        self.for_each_place(blocks, |place, range| {
            let mut rest = range;
            while matches!(place, Place::Hole(_)) && !rest.is_empty() {
                let Some(extent) = self.allocate(rest, Some(&room))? else {
                    break;
                };
                rest = BlockRange::between(extent.range.end(), rest.end());
            }
            Ok(())
        })
    }

    /// Visits what is at `blocks`, piece by piece.
    fn for_each_place(
        &self,
        blocks: BlockRange,
        mut visit: impl FnMut(Place, BlockRange) -> Result<()>,
    ) -> Result<()> {
        let mut rest = blocks;
        while !rest.is_empty() {
            let place = self.spot(rest.start(), false)?.place();
            let range = place.range().intersect(rest);
            rest = BlockRange::between(range.end(), rest.end());
            visit(place, range)?;
        }
        Ok(())
    }

    fn punch_hole(&self, range: FileRange) -> Result<()> {
        // The block of the end of the file has nothing behind it that has to stay.
        let end = if range.end() >= self.core.size() {
            range.end().round_up(self.volume.bits)
        } else {
            range.end()
        };
        let range = FileRange::between(range.start(), end);
        if self.inline.is_used() {
            return self.zero_bytes(range);
        }
        let inner = self.zero_edges(range)?;
        self.free(inner)
    }

    fn zero_bytes(&self, range: FileRange) -> Result<()> {
        zero_range(self, range.intersect(self.core.bytes())).map(|_| ())
    }

    /// Zeroes the blocks of `range` that lie in it in part. Returns the others.
    fn zero_edges(&self, range: FileRange) -> Result<FileRange> {
        let inner = range.round_in(self.volume.bits);
        if inner.is_empty() {
            zero_range(self, range)?;
            return Ok(inner);
        }
        zero_range(self, FileRange::between(range.start(), inner.start()))?;
        zero_range(self, FileRange::between(inner.end(), range.end()))?;
        Ok(inner)
    }

    /// Frees the blocks of `range`, which is block aligned, and what the cache has of it.
    pub(super) fn free(&self, range: FileRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let blocks = self.drop_data(range)?;
        let result = self.volume.run(|meta| meta.punch(self.ino, blocks));
        self.forget(blocks);
        self.note_changed();
        result
    }

    /// Drops what the cache holds of `range`, and the promises for it. Returns its blocks.
    ///
    /// If the file ends in it the tree learns of the size here: no writeback will tell it any more
    /// (rule C17).
    fn drop_data(&self, range: FileRange) -> Result<BlockRange> {
        let size = self.core.size().bytes();
        let told = size <= self.disk_size() || mutation::off(Rule::C17);
        if range.end().bytes() >= size && !told {
            self.change(
                Purpose::Must,
                |txn, _| self.raise_size(txn, size),
                |_, size| self.set_disk_size(*size),
            )?;
        }
        self.core.cache().truncate(range);
        let blocks = self.blocks_of(range);
        self.forget(blocks);
        Ok(blocks)
    }

    fn zero_storage(&self, range: FileRange, grows: bool) -> Result<()> {
        if self.stays_inline(range)? {
            self.zero_bytes(range)?;
            return self.grow_to(range.end(), grows);
        }
        let inner = self.zero_edges(range)?;
        if !inner.is_empty() {
            let blocks = self.drop_data(inner)?;
            self.make_unwritten(blocks)?;
        }
        self.fill_holes(self.blocks_of(range))?;
        self.grow_to(range.end(), grows)
    }

    /// Makes what is written in `blocks` read as zeroes: its own blocks stay, shared ones go.
    fn make_unwritten(&self, blocks: BlockRange) -> Result<()> {
        self.for_each_place(blocks, |place, range| match place {
            Place::Mapped { shared: true, .. } => {
                self.volume.run(|meta| meta.punch(self.ino, range))?;
                self.forget(range);
                self.note_changed();
                Ok(())
            }
            Place::Mapped {
                unwritten: false, ..
            } => self.change(
                Purpose::Must,
                |txn, _| txn.mark_unwritten(self.ino, range),
                |_, ()| {},
            ),
            _ => Ok(()),
        })
    }

    fn collapse_range(&self, range: FileRange) -> Result<()> {
        let size = self.core.size();
        if !self.is_block_aligned(range) || range.end() >= size {
            return Err(FsError::Invalid("collapse: misaligned, or up to the end"));
        }
        self.leave_inline()?;
        self.empty_cache_from(range.start())?;
        self.free(range)?;
        let blocks = self.blocks_of(range);
        let shorter = FilePos::saturating(size.bytes() - range.len());
        self.shift(BlockRange::from(blocks.start()), shorter, |txn| {
            txn.collapse(self.ino, blocks)
        })
    }

    fn insert_range(&self, range: FileRange) -> Result<()> {
        let size = self.core.size();
        if !self.is_block_aligned(range) || range.start() >= size {
            return Err(FsError::Invalid("insert: misaligned, or past the end"));
        }
        let longer = size.checked_add(range.len()).ok_or(FsError::TooBig)?;
        self.check_size(longer)?;
        self.leave_inline()?;
        self.empty_cache_from(range.start())?;
        let blocks = self.blocks_of(range);
        self.shift(BlockRange::from(blocks.start()), longer, |txn| {
            txn.insert_hole(self.ino, blocks)
        })
    }

    fn is_block_aligned(&self, range: FileRange) -> bool {
        let bits = self.volume.bits;
        range.start().is_aligned(bits) && range.end().is_aligned(bits)
    }

    /// Moves extents by `f` and sets the size, in one transaction, which is durable at the end: what
    /// is written to a block in its new place must not be found in its old one after a crash (rule
    /// C7).
    fn shift(
        &self,
        moved: BlockRange,
        size: FilePos,
        f: impl FnOnce(&mut crate::meta::Txn<'_>) -> Result<()>,
    ) -> Result<()> {
        self.forget(moved);
        self.change(
            Purpose::Release,
            |txn, _| {
                f(txn)?;
                txn.update_inode(self.ino, |inode| {
                    inode.size = size.bytes();
                    Ok(())
                })
            },
            |_, _| {
                self.set_disk_size(size.bytes());
                self.core.set_size(size);
            },
        )?;
        if mutation::off(Rule::C7) {
            return Ok(());
        }
        let newest = self.pending.lock().generation();
        self.volume.make_durable(newest)
    }

    /// Writes everything from `start` on and takes it out of the cache, whole folios: what they
    /// hold is about to have another place.
    fn empty_cache_from(&self, start: FilePos) -> Result<()> {
        self.empty_cache(FileRange::from(start.round_down(BlockBits::PAGE)))
    }

    /// Writes `range` and takes it out of the cache, whole folios.
    pub(super) fn empty_cache(&self, range: FileRange) -> Result<()> {
        for _ in 0..SETTLE_TRIES {
            write_and_wait(self, range)?;
            match self.core.cache().invalidate(range, false) {
                Ok(()) => return Ok(()),
                Err(InvalidateError::Busy) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::BUSY.into())
    }
}

/// The bytes whose blocks a mode frees or moves, and whether they stay bytes of the file (rule D6).
fn moved_by(mode: Fallocate, range: FileRange) -> Option<(FileRange, Content)> {
    let behind = FileRange::from(range.start());
    match mode {
        Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize => {
            Some((range, Content::Dropped))
        }
        Fallocate::CollapseRange => Some((behind, Content::Kept)),
        Fallocate::InsertRange if mutation::off(Rule::D6) => None,
        Fallocate::InsertRange => Some((behind, Content::Kept)),
        // Blocks come where there are none; a page of a copy is exchanged by itself.
        Fallocate::Allocate | Fallocate::AllocateKeepSize | Fallocate::UnshareRange => None,
    }
}

impl Place {
    /// The blocks of the file.
    pub(super) const fn range(self) -> BlockRange {
        match self {
            Self::Hole(range) | Self::Delalloc(range) | Self::Mapped { range, .. } => range,
        }
    }
}
