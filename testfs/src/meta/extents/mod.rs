//! Where the blocks of a file are.
//!
//! Owns the extent items of a file: looking them up here, changing them in [`edit`], sharing them
//! between files in [`share`], moving them along the file in [`shift`], and cutting files in
//! [`cut`]. Which blocks are taken is [`space`](super::space); how often a block is shared,
//! `refcount`.
//!
//! # Invariants
//!
//! - Extents of a file do not overlap.
//! - An unwritten extent is never shared: unwritten is said of the file's item, not of the blocks.

pub mod cut;
pub mod edit;
pub mod share;
pub mod shift;
mod spill;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use iomap_core::error::{Corrupt, Result};

use super::View;
use super::tree::Walk;
use crate::format::item::ExtentItem;
use crate::format::{BlockRange, DiskBlock, DiskRun, FileBlock, Ino, Key};

/// A range of a file and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The blocks of the file.
    pub range: BlockRange,
    /// What is there.
    pub state: ExtentState,
}

/// What is at a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Nothing: reads as zeroes.
    Hole,
    /// Blocks.
    Mapped {
        /// The first of them.
        start: DiskBlock,
        /// Never written: reads as zeroes.
        unwritten: bool,
        /// Other files have them too, or would again after a crash: a write must go elsewhere.
        shared: bool,
    },
}

/// An extent item and where it begins in the file.
pub(crate) type Piece = (FileBlock, ExtentItem);

impl View<'_> {
    /// What is at the first block of `range`, as far as it is the same, and no further than `range`.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    ///
    /// # Panics
    ///
    /// In debug builds, if `range` is empty.
    pub fn extent_at(&self, ino: Ino, range: BlockRange) -> Result<Extent> {
        debug_assert!(!range.is_empty(), "looked up nothing");
        if let Some((at, item)) = self.extent_before(ino, range.start())? {
            let has = piece_range((at, item)).intersect(range);
            if has.contains(range.start()) {
                let run = item.run.skip(range.start().since(at)).take(has.len());
                let (len, shared) = self.sharing(run)?;
                return Ok(Extent {
                    range: BlockRange::at(range.start(), len),
                    state: ExtentState::Mapped {
                        start: run.start,
                        unwritten: item.unwritten,
                        shared,
                    },
                });
            }
        }
        let next = self.first_extent(ino, range)?;
        let end = next.map_or(range.end(), |(at, _)| at);
        Ok(Extent {
            range: BlockRange::between(range.start(), end),
            state: ExtentState::Hole,
        })
    }

    /// The allocated extents in `range`, cut to it, `max` of them at most.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn extents(&self, ino: Ino, range: BlockRange, max: usize) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        let mut rest = range;
        while !rest.is_empty() && found.len() < max {
            let extent = self.extent_at(ino, rest)?;
            rest = BlockRange::between(extent.range.end(), rest.end());
            if extent.state != ExtentState::Hole {
                found.push(extent);
            }
        }
        Ok(found)
    }

    /// The last extent item that begins at or before `block`.
    pub(super) fn extent_before(&self, ino: Ino, block: FileBlock) -> Result<Option<Piece>> {
        let from = Key::extent(ino, FileBlock::ZERO);
        let found = self.last(from, Key::extent(ino, block), ExtentItem::decode)?;
        found.map(|(key, item)| self.checked(key, item)).transpose()
    }

    /// The first extent item that begins in `range`.
    pub(super) fn first_extent(&self, ino: Ino, range: BlockRange) -> Result<Option<Piece>> {
        if range.is_empty() {
            return Ok(None);
        }
        let (from, to) = keys(ino, range);
        let found = self.first(from, to, ExtentItem::decode)?;
        found.map(|(key, item)| self.checked(key, item)).transpose()
    }

    /// The extent items that lie in `range` at least in part, whole, `max` of them at most.
    pub(super) fn pieces(&self, ino: Ino, range: BlockRange, max: usize) -> Result<Vec<Piece>> {
        let mut found = Vec::new();
        if range.is_empty() {
            return Ok(found);
        }
        if let Some(before) = self.extent_before(ino, range.start())?
            && piece_range(before).contains(range.start())
            && before.0 < range.start()
        {
            found.push(before);
        }
        let (from, to) = keys(ino, range);
        self.walk(from, to, ExtentItem::decode, |key, item| {
            if found.len() >= max {
                return Ok(Walk::Stop);
            }
            found.push(self.checked(key, item)?);
            Ok(Walk::On)
        })?;
        Ok(found)
    }

    fn checked(&self, key: Key, item: ExtentItem) -> Result<Piece> {
        let fits = key.offset <= FileBlock::MAX.get()
            && key.offset + item.run.len <= FileBlock::MAX.get()
            && self.geometry().contains(item.run);
        if !fits {
            return Err(Corrupt::new(format!("extent {key} at {}: out of range", item.run)).into());
        }
        Ok((FileBlock::new(key.offset), item))
    }

    /// How far the start of `run` is shared, or is not. It still is while a durable tree says so.
    fn sharing(&self, run: DiskRun) -> Result<(u64, bool)> {
        let (len, count) = self.owners(run)?;
        if count > 1 {
            return Ok((len, true));
        }
        Ok(self.lone().start_of(run.take(len)))
    }
}

/// The blocks of the file a piece covers.
pub(crate) const fn piece_range(piece: Piece) -> BlockRange {
    BlockRange::at(piece.0, piece.1.run.len)
}

/// The keys of the extents that begin in `range`, which is not empty.
const fn keys(ino: Ino, range: BlockRange) -> (Key, Key) {
    (
        Key::extent(ino, range.start()),
        Key::extent(ino, FileBlock::new(range.end().get() - 1)),
    )
}
