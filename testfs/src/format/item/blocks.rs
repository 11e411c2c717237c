//! Values about blocks: extents, reference counts, and what is to be freed.
//!
//! Owns their layout.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::units::{DiskBlock, DiskRun};
use super::BadItem;

/// The longest extent, blocks.
pub const EXTENT_MAX: u64 = 1 << 31;

/// Blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentItem {
    /// Where they live; 1 to [`EXTENT_MAX`] of them.
    pub run: DiskRun,
    /// Allocated and never written: they read as zeroes.
    pub unwritten: bool,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    start: U64,
    len: U32,
    flags: u8,
}

impl ExtentItem {
    /// The value of an extent item.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<RawExtent>()] {
        zerocopy::transmute!(RawExtent {
            start: self.run.start.get().into(),
            len: U32::new(self.run.len as u32),
            flags: u8::from(self.unwritten),
        })
    }

    /// Reads an extent item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let raw = RawExtent::read_from_bytes(value).map_err(|_| BadItem("extent of bad length"))?;
        let len = u64::from(raw.len.get());
        if len == 0 || len > EXTENT_MAX || raw.flags > 1 {
            return Err(BadItem("extent with impossible fields"));
        }
        Ok(Self {
            run: DiskRun::new(DiskBlock::new(raw.start.get()), len),
            unwritten: raw.flags & 1 != 0,
        })
    }
}

/// How many files share blocks. Blocks without such an item have one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefcountItem {
    /// Blocks from the key's offset on.
    pub len: u64,
    /// Owners: at least 2.
    pub count: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRefcount {
    len: U64,
    count: U32,
}

impl RefcountItem {
    /// The value of a reference count item.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<RawRefcount>()] {
        zerocopy::transmute!(RawRefcount {
            len: self.len.into(),
            count: self.count.into(),
        })
    }

    /// Reads a reference count item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let raw = RawRefcount::read_from_bytes(value)
            .map_err(|_| BadItem("reference count of bad length"))?;
        if raw.len.get() == 0 || raw.count.get() < 2 {
            return Err(BadItem("reference count with impossible fields"));
        }
        Ok(Self {
            len: raw.len.get(),
            count: raw.count.get(),
        })
    }
}

/// Why an inode is an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OrphanItem {
    /// It has no name any more: delete it when nobody has it open.
    Unlinked = 1,
    /// It is being cut: free the blocks past its size.
    Truncate = 2,
}

impl OrphanItem {
    /// The value of an orphan item.
    #[must_use]
    pub const fn encode(self) -> [u8; 1] {
        [self as u8]
    }

    /// Reads an orphan item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub const fn decode(value: &[u8]) -> Result<Self, BadItem> {
        match value {
            [1] => Ok(Self::Unlinked),
            [2] => Ok(Self::Truncate),
            _ => Err(BadItem("orphan of unknown reason")),
        }
    }
}
