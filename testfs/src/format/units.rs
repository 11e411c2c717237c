//! Inode numbers and block numbers as distinct types.
//!
//! Owns the arithmetic on them. Bytes are [`iomap_core::units`]; how many bytes a block has is
//! [`Geometry`](super::Geometry).

use std::fmt;

/// An inode number. Never used twice in the life of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(u64);

impl Ino {
    /// Owns what belongs to no file: orphans and reference counts.
    pub const GLOBAL: Self = Self(0);
    /// The root directory.
    pub const ROOT: Self = Self(1);

    /// The inode `n`.
    #[must_use]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of a block of a file, at most [`FileBlock::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileBlock(u64);

impl FileBlock {
    /// The first block.
    pub const ZERO: Self = Self(0);
    /// One past the block of the last possible byte, for the smallest blocks.
    pub const MAX: Self = Self(1 << 53);

    /// The block `n`, at most [`FileBlock::MAX`].
    #[must_use]
    pub const fn new(n: u64) -> Self {
        if n > Self::MAX.0 { Self::MAX } else { Self(n) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The block `n` further on, at most [`FileBlock::MAX`].
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self::new(self.0.saturating_add(n))
    }

    /// Blocks from `earlier` to here; zero if `earlier` lies after `self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for FileBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A half-open range of blocks of a file. `start <= end` always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockRange {
    start: FileBlock,
    end: FileBlock,
}

impl BlockRange {
    /// The whole file.
    pub const ALL: Self = Self {
        start: FileBlock::ZERO,
        end: FileBlock::MAX,
    };

    /// The `len` blocks from `start` on, cut at [`FileBlock::MAX`].
    #[must_use]
    pub const fn at(start: FileBlock, len: u64) -> Self {
        Self {
            start,
            end: start.plus(len),
        }
    }

    /// From `start` up to `end`; empty at `start` if `end` lies before it.
    #[must_use]
    pub const fn between(start: FileBlock, end: FileBlock) -> Self {
        let end = if end.0 < start.0 { start } else { end };
        Self { start, end }
    }

    /// From `start` to [`FileBlock::MAX`].
    #[must_use]
    pub const fn from(start: FileBlock) -> Self {
        Self {
            start,
            end: FileBlock::MAX,
        }
    }

    /// The first block.
    #[must_use]
    pub const fn start(self) -> FileBlock {
        self.start
    }

    /// One past the last block.
    #[must_use]
    pub const fn end(self) -> FileBlock {
        self.end
    }

    /// Blocks in the range.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether there is no block in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `block` lies inside.
    #[must_use]
    pub const fn contains(self, block: FileBlock) -> bool {
        self.start.0 <= block.0 && block.0 < self.end.0
    }

    /// The blocks in both; empty, at the later start, if there are none.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// The number of a block of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskBlock(u64);

impl DiskBlock {
    /// The block `n`.
    #[must_use]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The block `n` further on, in a run that is known to lie on the device.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// Blocks from `earlier` to here; zero if `earlier` lies after `self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for DiskBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Neighbouring blocks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskRun {
    /// The first.
    pub start: DiskBlock,
    /// How many.
    pub len: u64,
}

impl DiskRun {
    /// The `len` blocks from `start` on.
    #[must_use]
    pub const fn new(start: DiskBlock, len: u64) -> Self {
        Self { start, len }
    }

    /// One past the last.
    #[must_use]
    pub const fn end(self) -> DiskBlock {
        self.start.plus(self.len)
    }

    /// Without the first `n` blocks.
    #[must_use]
    pub const fn skip(self, n: u64) -> Self {
        let n = if n < self.len { n } else { self.len };
        Self::new(self.start.plus(n), self.len - n)
    }

    /// The first `n` blocks, or all if there are fewer.
    #[must_use]
    pub const fn take(self, n: u64) -> Self {
        Self::new(self.start, if n < self.len { n } else { self.len })
    }
}

impl fmt::Display for DiskRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}
