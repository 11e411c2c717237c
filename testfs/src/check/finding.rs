//! What can be wrong, with the place.
//!
//! Owns the types and the words. Who finds what: [`check`](super).

use crate::format::item::{BadItem, FileType};
use crate::format::superblock::SlotError;
use crate::format::{DiskBlock, DiskRun, FileBlock, Ino, Key};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Normal after a crash, and taken care of by the next mount or commit.
    Note,
    /// Wrong.
    Error,
}

/// Something a check found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// One of the two superblock slots cannot be used.
    #[error("superblock slot {slot}: {error}")]
    BadSlot {
        /// 0 or 1.
        slot: usize,
        /// Why.
        error: SlotError,
    },
    /// The slots are of two file systems.
    #[error("superblock slot {slot}: of another file system")]
    ForeignSlot {
        /// The older one.
        slot: usize,
    },
    /// A number in the superblock is not what was counted.
    #[error("superblock: {name} is {stored}, counted {counted}")]
    Counter {
        /// Which.
        name: &'static str,
        /// What it says.
        stored: u64,
        /// What is there.
        counted: u64,
    },
    /// The next inode number has been used.
    #[error("superblock: next inode number is {stored}, but inode {highest} exists")]
    NextIno {
        /// What it says.
        stored: Ino,
        /// The highest number in use.
        highest: Ino,
    },
    /// A node cannot be read or is not the one its parent points to; everything below is missing.
    #[error("tree node at block {block}: {error}")]
    Node {
        /// Where.
        block: DiskBlock,
        /// What is wrong with it.
        error: String,
    },
    /// A value cannot be.
    #[error("item {key}: {error}")]
    Item {
        /// Which.
        key: Key,
        /// What is wrong with it.
        error: BadItem,
    },
    /// An item that cannot exist beside the others of its inode.
    #[error("item {key}: {what}")]
    Misfit {
        /// Which.
        key: Key,
        /// Why not.
        what: &'static str,
    },
    /// An inode that contradicts itself or its items.
    #[error("inode {ino}: {what} is {stored}, counted {counted}")]
    InodeCount {
        /// Which.
        ino: Ino,
        /// What does not agree.
        what: &'static str,
        /// What it says.
        stored: u64,
        /// What is there.
        counted: u64,
    },
    /// An inode with fields that do not go together.
    #[error("inode {ino}: {what}")]
    Inode {
        /// Which.
        ino: Ino,
        /// What is wrong.
        what: &'static str,
    },
    /// Two extents of a file cover the same block.
    #[error("inode {ino}: extents overlap at block {at}")]
    ExtentOverlap {
        /// Whose.
        ino: Ino,
        /// Where in the file.
        at: FileBlock,
    },
    /// Written blocks behind the end of a file.
    #[error("inode {ino}: written extent at block {at} lies past the end of the file")]
    WrittenPastEnd {
        /// Whose.
        ino: Ino,
        /// Where in the file.
        at: FileBlock,
    },
    /// Blocks that do not exist.
    #[error("blocks {run} of inode {ino}: outside of the file system")]
    OutOfRange {
        /// Whose.
        ino: Ino,
        /// Which.
        run: DiskRun,
    },
    /// Blocks that hold metadata and something else, or are shared though unwritten.
    #[error("blocks {run}: used twice, though they cannot be shared")]
    UsedTwice {
        /// Which.
        run: DiskRun,
    },
    /// Blocks whose number of owners is not what the reference counts say.
    #[error("blocks {run}: reference count is {stored}, owned {counted} times")]
    Refcount {
        /// Which.
        run: DiskRun,
        /// What the items say; 1 if there is none.
        stored: u64,
        /// Extents that refer to them.
        counted: u64,
    },
    /// A name of nothing.
    #[error("directory {dir}: entry {name:?} points to inode {ino}, which does not exist")]
    Dangling {
        /// Where.
        dir: Ino,
        /// The name, unprintable bytes replaced.
        name: String,
        /// What it points to.
        ino: Ino,
    },
    /// A name that gives its inode another type.
    #[error("directory {dir}: entry {name:?} says {stored:?}, the inode is {found:?}")]
    EntryType {
        /// Where.
        dir: Ino,
        /// The name, unprintable bytes replaced.
        name: String,
        /// What the entry says.
        stored: FileType,
        /// What the inode is.
        found: FileType,
    },
    /// A name that stands twice in a directory.
    #[error("directory {dir}: entry {name:?} exists twice")]
    DuplicateName {
        /// Where.
        dir: Ino,
        /// The name, unprintable bytes replaced.
        name: String,
    },
    /// A directory whose `..` is not where its name is.
    #[error("directory {ino}: its parent is {found}, but .. says {stored}")]
    Parent {
        /// Which.
        ino: Ino,
        /// What it says.
        stored: Ino,
        /// Where its name is.
        found: Ino,
    },
    /// An inode that no path leads to, and that is not waiting to be deleted.
    #[error("inode {ino}: not reachable from the root")]
    Unreachable {
        /// Which.
        ino: Ino,
    },
    /// An orphan record without sense.
    #[error("orphan record of inode {ino}: {what}")]
    Orphan {
        /// Of which inode.
        ino: Ino,
        /// What is wrong.
        what: &'static str,
    },
    /// An inode the next mount deletes or cuts.
    #[error("inode {ino}: to be deleted or cut by the next mount")]
    PendingOrphan {
        /// Which.
        ino: Ino,
    },
}

impl Finding {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::BadSlot { .. } | Self::PendingOrphan { .. } => Severity::Note,
            _ => Severity::Error,
        }
    }
}
