//! Moving extents along a file: collapse and insert.
//!
//! Owns the change of the file blocks of extents; their places on the device stay. One transaction
//! however many extents there are: a half moved file would be a wrong one.

use iomap_core::error::{FsError, Result};

use super::super::Txn;
use super::piece_range;
use crate::format::{BlockRange, FileBlock, Ino, Key};

impl Txn<'_> {
    /// Moves everything behind `range`, which is a hole, to its start.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] if `range` is not a hole; [`FsError::NoSpace`].
    pub fn collapse(&mut self, ino: Ino, range: BlockRange) -> Result<()> {
        if !self.view().pieces(ino, range, 1)?.is_empty() {
            return Err(FsError::Invalid("collapse over blocks"));
        }
        let behind = BlockRange::from(range.end());
        for (at, item) in self.view().pieces(ino, behind, usize::MAX)? {
            self.remove_known(&Key::extent(ino, at))?;
            let to = FileBlock::new(at.get() - range.len());
            self.put(ino, (to, item))?;
        }
        Ok(())
    }

    /// Moves everything from `range.start()` on behind `range`, which becomes a hole.
    ///
    /// # Errors
    ///
    /// [`FsError::TooBig`] if an extent would leave the file; [`FsError::NoSpace`].
    pub fn insert_hole(&mut self, ino: Ino, range: BlockRange) -> Result<()> {
        let behind = BlockRange::from(range.start());
        let pieces = self.take_out(ino, behind, usize::MAX)?;
        for (at, item) in pieces.into_iter().rev() {
            let to = at.plus(range.len());
            if piece_range((to, item)).len() != item.run.len {
                return Err(FsError::TooBig);
            }
            self.put(ino, (to, item))?;
        }
        Ok(())
    }
}
