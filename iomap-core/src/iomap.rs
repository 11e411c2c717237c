//! The mapping record: where a range of a file lives.
//!
//! Owns [`Iomap`] and what can be said about it. What the file system states ([`FsFlags`]) and what
//! the core states about an iteration ([`CoreFlags`]) are two types, because they have two authors.
//! How mappings are asked for and given back is [`iter`](crate::iter); the hooks are
//! [`ops`](crate::ops).
//!
//! Kernel counterpart: `struct iomap`.

use std::fmt;
use std::sync::Arc;

use crate::units::{DevAddr, FilePos, FileRange};

/// A range of a file and where it lives.
#[derive(Clone, Debug)]
pub struct Iomap {
    /// The bytes of the file that are mapped. Contains the position asked for; block aligned,
    /// except for [`MapKind::Inline`].
    pub range: FileRange,
    /// What is there. Carries the data the kind has: a hole has no address.
    pub kind: MapKind,
    /// What the file system states about it.
    pub flags: FsFlags,
    /// The generation of the mapping, sampled under the backend's mapping lock.
    pub validity: Validity,
}

impl Iomap {
    /// A hole: reads as zeroes, owns no storage.
    #[must_use]
    pub const fn hole(range: FileRange) -> Self {
        Self::new(range, MapKind::Hole)
    }

    /// A mapping of `range` with no flags and generation zero.
    #[must_use]
    pub const fn new(range: FileRange, kind: MapKind) -> Self {
        Self {
            range,
            kind,
            flags: FsFlags::empty(),
            validity: Validity(0),
        }
    }

    /// With these flags.
    #[must_use]
    pub const fn with_flags(mut self, flags: FsFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With this generation.
    #[must_use]
    pub const fn with_validity(mut self, validity: Validity) -> Self {
        self.validity = validity;
        self
    }

    /// The device address of `pos`, if the mapping has addresses.
    ///
    /// # Panics
    ///
    /// In debug builds, if `pos` lies outside the mapping.
    #[must_use]
    pub fn addr_at(&self, pos: FilePos) -> Option<DevAddr> {
        debug_assert!(self.range.contains(pos), "{pos} outside of {}", self.range);
        match self.kind {
            MapKind::Mapped { addr } | MapKind::Unwritten { addr } => {
                Some(addr.plus(pos.since(self.range.start())))
            }
            MapKind::Hole | MapKind::Delalloc | MapKind::Inline { .. } => None,
        }
    }

    /// Whether a read of a block here must fetch bytes from the device: mapped, and not just
    /// allocated.
    #[must_use]
    pub const fn is_read_from_device(&self) -> bool {
        matches!(self.kind, MapKind::Mapped { .. }) && !self.flags.contains(FsFlags::NEW)
    }

    /// The mapping cut to `range`.
    ///
    /// # Panics
    ///
    /// In debug builds, if `range` is not inside the mapping.
    #[must_use]
    pub fn cut(&self, range: FileRange) -> Self {
        debug_assert!(
            self.range.covers(range),
            "{range} outside of {}",
            self.range
        );
        let skipped = range.start().since(self.range.start());
        let kind = match &self.kind {
            MapKind::Mapped { addr } => MapKind::Mapped {
                addr: addr.plus(skipped),
            },
            MapKind::Unwritten { addr } => MapKind::Unwritten {
                addr: addr.plus(skipped),
            },
            other => other.clone(),
        };
        Self {
            range,
            kind,
            ..self.clone()
        }
    }
}

/// What a mapping is.
///
/// | Kind | Read | Buffered write | Direct write | Writeback | Zero range | Seek |
/// |---|---|---|---|---|---|---|
/// | Hole | zeroes | never as a destination | refused | refused | skipped | hole |
/// | Delalloc | zeroes | as any | refused | refused: map it first | zeroed | data |
/// | Mapped | device | as any | device | device | zeroed | data |
/// | Unwritten | zeroes | as any | device, then converted | device, then converted | dirty cache only | what the page cache holds |
/// | Inline | the inode | the inode | the inode | refused | the inode | data |
#[derive(Clone)]
pub enum MapKind {
    /// No storage.
    Hole,
    /// Storage reserved, not chosen yet.
    Delalloc,
    /// Storage with data.
    Mapped {
        /// Where the first byte of the mapping lives.
        addr: DevAddr,
    },
    /// Storage allocated, never written: reads as zeroes until converted.
    Unwritten {
        /// Where the first byte of the mapping will live.
        addr: DevAddr,
    },
    /// The bytes live in the inode. Only at position 0.
    Inline {
        /// The bytes; usable from `begin` to `end` of this mapping.
        data: Arc<dyn InlineBuffer>,
    },
}

impl MapKind {
    /// The name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Delalloc => "delalloc",
            Self::Mapped { .. } => "mapped",
            Self::Unwritten { .. } => "unwritten",
            Self::Inline { .. } => "inline",
        }
    }
}

impl fmt::Debug for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped { addr } | Self::Unwritten { addr } => {
                write!(f, "{} at {addr}", self.name())
            }
            _ => f.write_str(self.name()),
        }
    }
}

/// The bytes of an inline file, owned by the backend's inode.
///
/// Both methods are called with a folio locked; neither may lock a folio or open a transaction.
/// A change becomes durable through the inode, which the backend dirties in its `end`.
pub trait InlineBuffer: Send + Sync {
    /// Copies bytes from `offset` on into `to`; bytes past the current length read as zeroes.
    fn read_at(&self, offset: usize, to: &mut [u8]);

    /// Copies `from` to `offset` on. The core has checked that it ends inside
    /// [`capacity`](Self::capacity).
    fn write_at(&self, offset: usize, from: &[u8]);

    /// The most bytes that fit.
    fn capacity(&self) -> usize;
}

bitflags::bitflags! {
    /// What the file system states about a mapping.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct FsFlags: u16 {
        /// The blocks were allocated by this very request: what is not written must be zeroed, and
        /// nothing is read from them.
        const NEW = 1 << 0;
        /// Metadata needed to find the data is not durable, or will not be when the I/O ends
        /// (conversion, size): a durable write needs a sync, FUA alone is not enough.
        const DIRTY = 1 << 1;
        /// The blocks also belong to someone else: a write must go elsewhere.
        const SHARED = 1 << 2;
        /// Several extents were folded into one answer; a hint for fiemap.
        const MERGED = 1 << 3;
        /// I/O must not be merged across the start of this mapping.
        const BOUNDARY = 1 << 4;
        /// The whole write must go out as one untorn device write.
        const ATOMIC = 1 << 5;
        /// The mapping is of the attribute fork.
        const XATTR = 1 << 6;
        /// After the written data, zero up to the end of the block.
        const ZERO_TAIL = 1 << 7;
        /// Metadata beyond the end of the file, at or after
        /// [`Inode::metadata_start`](crate::inode::Inode::metadata_start): size checks, EOF zeroing and
        /// the update of the size do not apply, neither in memory nor when it has been written.
        const BEYOND_EOF = 1 << 8;
        /// Free for the file system.
        const PRIVATE = 1 << 15;
    }
}

bitflags::bitflags! {
    /// What the core states about an iteration, for the backend's `end`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CoreFlags: u8 {
        /// The in-memory size of the file grew: the inode has to be logged. For a change in place
        /// ([`MapFlags::DAX`](crate::ops::MapFlags::DAX)): it grows when `end` has succeeded.
        const SIZE_CHANGED = 1 << 0;
        /// The mapping was found invalid with the folio locked: the rest is mapped again.
        const STALE = 1 << 1;
    }
}

/// The generation of a file's mappings. Changes with every change of an extent; compared by the
/// backend's `is_valid` with the folio locked (rule V1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity(pub u64);
