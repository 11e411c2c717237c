//! Sharing blocks between files, and going separate ways again.
//!
//! Owns reflink and the swap of shared blocks for private ones after a copy-on-write. The copying
//! itself is the data path's: it allocates a [`Grant`], writes it, and hands it over here.

use iomap_core::error::{FsError, Result};

use super::super::{Grant, Txn};
use super::piece_range;
use crate::format::item::ExtentItem;
use crate::format::{BlockRange, FileBlock, Ino};

impl Txn<'_> {
    /// Makes the blocks of `grant` the blocks at `at`, as written; what was there before loses an
    /// owner. The way out of a shared extent, and the end of a write out of place.
    ///
    /// If the transaction fails, the grant is gone and its blocks are free.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn remap(&mut self, ino: Ino, at: FileBlock, grant: Grant) -> Result<()> {
        let run = self.attach(grant);
        if run.len == 0 {
            return Ok(());
        }
        let mut dropped = 0;
        for (_, item) in self.take_out(ino, BlockRange::at(at, run.len), usize::MAX)? {
            dropped += item.run.len;
            self.drop_owner(item.run)?;
        }
        let item = ExtentItem {
            run,
            unwritten: false,
        };
        self.put(ino, (at, item))?;
        self.add_blocks(ino, run.len, dropped)
    }

    /// Makes `to` a reflink of `range` of `from`: the same blocks from block `at` on. Unwritten
    /// extents become holes. What was at the destination must have been punched.
    ///
    /// One transaction however many extents there are: all or nothing.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] if the ranges overlap in one file, or the destination is not a hole;
    /// [`FsError::NoSpace`].
    pub fn clone_range(
        &mut self,
        from: Ino,
        range: BlockRange,
        to: Ino,
        at: FileBlock,
    ) -> Result<()> {
        let target = BlockRange::at(at, range.len());
        if target.len() != range.len() {
            return Err(FsError::TooBig);
        }
        if from == to && !range.intersect(target).is_empty() {
            return Err(FsError::Invalid("reflink onto itself"));
        }
        if !self.view().pieces(to, target, 1)?.is_empty() {
            return Err(FsError::Invalid("reflink over blocks"));
        }
        let mut shared = 0;
        for piece in self.view().pieces(from, range, usize::MAX)? {
            let part = piece_range(piece).intersect(range);
            if piece.1.unwritten {
                continue;
            }
            let skipped = part.start().since(piece.0);
            let run = piece.1.run.skip(skipped).take(part.len());
            self.add_owner(run)?;
            let item = ExtentItem {
                run,
                unwritten: false,
            };
            self.put(to, (at.plus(part.start().since(range.start())), item))?;
            shared += run.len;
        }
        self.add_blocks(to, shared, 0)
    }
}
