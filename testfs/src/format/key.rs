//! The key of an item: whose it is, what it is, and which one.
//!
//! Owns the order of the tree. Everything of one inode lies together, its inode item first. What an
//! item of each kind holds is [`item`](super::item).

use std::fmt;

use super::units::{DiskBlock, FileBlock, Ino};

/// What an item is. The numbers are the on-disk ones; their order is the order in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Attributes of an inode, and its data if that is short. Offset: 0.
    Inode = 1,
    /// A piece of a symbolic link's target. Offset: the number of the piece.
    Symlink = 2,
    /// An extended attribute, or a piece of a long value. Offset: name hash, probe, piece.
    Xattr = 3,
    /// An entry of a directory. Offset: name hash, probe; it is the cookie of the entry too.
    Dirent = 4,
    /// Blocks of a file. Offset: the first block.
    Extent = 5,
    /// Inode 0 only: an inode to be deleted or cut at the next mount. Offset: its number.
    Orphan = 16,
    /// Inode 0 only: blocks that belong to several files. Offset: the first block on the device.
    Refcount = 17,
}

impl Kind {
    /// The kind with this on-disk number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Inode,
            2 => Self::Symlink,
            3 => Self::Xattr,
            4 => Self::Dirent,
            5 => Self::Extent,
            16 => Self::Orphan,
            17 => Self::Refcount,
            _ => return None,
        })
    }
}

/// The key of an item. Ordered by inode, then kind, then offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose item.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Which one; the meaning depends on the kind.
    pub offset: u64,
}

impl Key {
    /// Before every other key.
    pub const MIN: Self = Self::new(Ino::GLOBAL, Kind::Inode, 0);
    /// After every other key.
    pub const MAX: Self = Self::new(Ino::new(u64::MAX), Kind::Refcount, u64::MAX);

    /// A key.
    #[must_use]
    pub const fn new(ino: Ino, kind: Kind, offset: u64) -> Self {
        Self { ino, kind, offset }
    }

    /// The attributes of `ino`.
    #[must_use]
    pub const fn inode(ino: Ino) -> Self {
        Self::new(ino, Kind::Inode, 0)
    }

    /// The extent of `ino` that starts at `block`.
    #[must_use]
    pub const fn extent(ino: Ino, block: FileBlock) -> Self {
        Self::new(ino, Kind::Extent, block.get())
    }

    /// The orphan record of `ino`.
    #[must_use]
    pub const fn orphan(ino: Ino) -> Self {
        Self::new(Ino::GLOBAL, Kind::Orphan, ino.get())
    }

    /// The reference count of the blocks from `block` on.
    #[must_use]
    pub const fn refcount(block: DiskBlock) -> Self {
        Self::new(Ino::GLOBAL, Kind::Refcount, block.get())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {:?}, {})", self.ino, self.kind, self.offset)
    }
}
