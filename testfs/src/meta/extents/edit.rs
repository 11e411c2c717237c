//! Changing the extents of a file: allocate, convert, remove.
//!
//! Owns the two primitives everything else is made of, `put` and `take_out`, and the splitting and
//! merging of neighbours. They leave the file's block count to the public operations.

use iomap_core::error::{FsError, Result};

use super::super::{Reservation, Txn};
use super::{Extent, ExtentState, Piece, piece_range};
use crate::format::item::{EXTENT_MAX, ExtentItem};
use crate::format::{BlockRange, DiskBlock, FileBlock, Ino, Key};

impl Txn<'_> {
    /// Allocates blocks for the hole at the start of `range`: as many neighbouring ones as there
    /// are, the whole of `range` at most. `unwritten`: they read as zeroes until
    /// [`Txn::convert_unwritten`].
    ///
    /// `goal`: where they would be best; by default right behind the blocks before.
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`] if the reservation is empty; [`FsError::Invalid`] if there is no hole.
    pub fn allocate_extent(
        &mut self,
        ino: Ino,
        range: BlockRange,
        unwritten: bool,
        goal: Option<DiskBlock>,
        reservation: &Reservation,
    ) -> Result<Extent> {
        if range.is_empty() {
            return Err(FsError::Invalid("allocation of nothing"));
        }
        let hole = self.view().extent_at(ino, range)?;
        if hole.state != ExtentState::Hole {
            return Err(FsError::Invalid("allocation where blocks are already"));
        }
        let goal = match goal {
            Some(goal) => Some(goal),
            None => self.goal_behind(ino, range.start())?,
        };
        let want = hole.range.len().min(EXTENT_MAX);
        let run = self.take_blocks(goal, want, reservation)?;
        self.put(ino, (range.start(), ExtentItem { run, unwritten }))?;
        self.add_blocks(ino, run.len, 0)?;
        Ok(Extent {
            range: BlockRange::at(range.start(), run.len),
            state: ExtentState::Mapped {
                start: run.start,
                unwritten,
                shared: false,
            },
        })
    }

    /// The block that would continue the extent before `block`.
    fn goal_behind(&self, ino: Ino, block: FileBlock) -> Result<Option<DiskBlock>> {
        let before = self.view().extent_before(ino, block)?;
        Ok(before.map(|(at, item)| {
            let gap = block.since(piece_range((at, item)).end());
            // Leaves room for what the gap may get, unless it is a very sparse file.
            item.run.end().plus(if gap < 1024 { gap } else { 0 })
        }))
    }

    /// Makes everything unwritten in `range` written: its data is on the device now.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn convert_unwritten(&mut self, ino: Ino, range: BlockRange) -> Result<()> {
        self.set_unwritten(ino, range, false)
    }

    /// Makes everything in `range` that no other file has read as zeroes, and keeps the blocks.
    /// Shared blocks must have been removed before.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] if blocks are shared.
    pub fn mark_unwritten(&mut self, ino: Ino, range: BlockRange) -> Result<()> {
        let mut rest = range;
        while !rest.is_empty() {
            let extent = self.view().extent_at(ino, rest)?;
            if matches!(extent.state, ExtentState::Mapped { shared: true, .. }) {
                return Err(FsError::Invalid("shared blocks cannot become unwritten"));
            }
            rest = BlockRange::between(extent.range.end(), rest.end());
        }
        self.set_unwritten(ino, range, true)
    }

    fn set_unwritten(&mut self, ino: Ino, range: BlockRange, unwritten: bool) -> Result<()> {
        let mut rest = range;
        while let Some(piece) = self.view().pieces(ino, rest, 1)?.pop() {
            let part = piece_range(piece).intersect(rest);
            rest = BlockRange::between(part.end(), rest.end());
            if piece.1.unwritten != unwritten {
                for (at, item) in self.take_out(ino, part, usize::MAX)? {
                    self.put(ino, (at, ExtentItem { unwritten, ..item }))?;
                }
            }
        }
        Ok(())
    }

    /// Adds an extent where there is a hole, and merges it with its neighbours.
    pub(super) fn put(&mut self, ino: Ino, piece: Piece) -> Result<()> {
        let (mut at, mut item) = piece;
        let after = piece_range(piece).end();
        if let Some(left) = self.view().extent_before(ino, at)?
            && follows(left, (at, item))
        {
            self.remove_known(&Key::extent(ino, left.0))?;
            item.run.start = left.1.run.start;
            item.run.len += left.1.run.len;
            at = left.0;
        }
        let next = self.view().first_extent(ino, BlockRange::at(after, 1))?;
        if let Some(right) = next
            && follows((at, item), right)
        {
            self.remove_known(&Key::extent(ino, right.0))?;
            item.run.len += right.1.run.len;
        }
        self.insert(Key::extent(ino, at), &item.encode())
    }

    /// Removes what lies in `range` from the file, at most `max` items from the front, and returns
    /// the pieces: their blocks belong to the caller now.
    pub(super) fn take_out(
        &mut self,
        ino: Ino,
        range: BlockRange,
        max: usize,
    ) -> Result<Vec<Piece>> {
        let mut taken = self.view().pieces(ino, range, max)?;
        for piece in &mut taken {
            let (at, item) = *piece;
            let whole = piece_range(*piece);
            let part = whole.intersect(range);
            let head = part.start().since(at);
            let tail = whole.end().since(part.end());
            if head > 0 {
                let run = item.run.take(head);
                self.insert(Key::extent(ino, at), &ExtentItem { run, ..item }.encode())?;
            } else {
                self.remove_known(&Key::extent(ino, at))?;
            }
            if tail > 0 {
                let run = item.run.skip(head + part.len());
                let rest = ExtentItem { run, ..item };
                self.insert(Key::extent(ino, part.end()), &rest.encode())?;
            }
            let run = item.run.skip(head).take(part.len());
            *piece = (part.start(), ExtentItem { run, ..item });
        }
        Ok(taken)
    }
}

/// Whether `right` continues `left`, in the file and on the device, as one extent could.
fn follows(left: Piece, right: Piece) -> bool {
    piece_range(left).end() == right.0
        && left.1.run.end() == right.1.run.start
        && left.1.unwritten == right.1.unwritten
        && left.1.run.len + right.1.run.len <= EXTENT_MAX
}
