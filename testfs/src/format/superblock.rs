//! The superblock: where a mount begins.
//!
//! Owns the two slots, their layout and the checks of one slot alone. A commit writes the slot that
//! does not hold the newest durable state, so one slot is always whole. Choosing between the slots
//! is [`Meta::open`](crate::meta::Meta::open).

use iomap_core::error::Corrupt;
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::node::NodePtr;
use super::units::{DiskBlock, Ino};
use super::{Geometry, LEVEL_MAX};

/// First bytes of a superblock.
pub const MAGIC: [u8; 8] = *b"testfs\r\n";
/// The version of the format.
pub const VERSION: u32 = 1;
/// Byte addresses of the two slots.
pub const SLOT_ADDRS: [u64; 2] = [0, 65536];
/// Bytes written for a slot; the structure is the first 512 of them, the rest is zero.
pub const SLOT_BYTES: usize = 4096;
/// The last generation: a commit every nanosecond reaches it after 292 years.
pub const GENERATION_MAX: u64 = 1 << 63;
/// Bytes of the volume label.
pub const LABEL_BYTES: usize = 64;

/// Feature bits, by what a program may do that does not know one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// May read and write.
    pub compat: u64,
    /// May only read.
    pub ro_compat: u64,
    /// May not touch.
    pub incompat: u64,
}

impl Features {
    /// What this program knows. Version 1 has no optional features.
    pub const KNOWN: Self = Self {
        compat: 0,
        ro_compat: 0,
        incompat: 0,
    };
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    uuid: [u8; 16],
    label: [u8; LABEL_BYTES],
    created: I64,
    hash_seed: [u8; 16],
    block_bits: u8,
    root_level: u8,
    pad: [u8; 2],
    root_crc: U32,
    total_blocks: U64,
    generation: U64,
    root_addr: U64,
    root_generation: U64,
    next_ino: U64,
    inodes: U64,
    used_blocks: U64,
    reserved: [u8; 304],
}

const _: () = assert!(size_of::<Raw>() == 512);

/// A superblock in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Feature bits.
    pub features: Features,
    /// Identity of the file system.
    pub uuid: [u8; 16],
    /// Volume label, UTF-8.
    pub label: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// Seed of the name hashes, so that nobody can choose colliding names.
    pub hash_seed: [u8; 16],
    /// Block size and number of blocks.
    pub geometry: Geometry,
    /// The transaction that wrote this superblock.
    pub generation: u64,
    /// The root of the tree.
    pub root: NodePtr,
    /// The level of the root.
    pub root_level: u8,
    /// The next inode number.
    pub next_ino: Ino,
    /// Inodes in the tree.
    pub inodes: u64,
    /// Blocks in use: superblocks, nodes and data.
    pub used_blocks: u64,
}

/// Why a slot cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The magic is not there.
    #[error("no testfs superblock")]
    Magic,
    /// The checksum is wrong: damaged, or written halfway.
    #[error("superblock checksum mismatch")]
    Checksum,
    /// A format of another version.
    #[error("format version {0}")]
    Version(u32),
    /// A field has a value that cannot be.
    #[error("superblock field {0} out of range")]
    Field(&'static str),
}

impl From<SlotError> for Corrupt {
    fn from(error: SlotError) -> Self {
        Self::new(error.to_string())
    }
}

impl Superblock {
    /// Reads a slot.
    ///
    /// # Errors
    ///
    /// The first thing found wrong.
    pub fn decode(slot: &[u8]) -> Result<Self, SlotError> {
        let (raw, _) = Raw::read_from_prefix(slot).map_err(|_| SlotError::Magic)?;
        if raw.magic != MAGIC {
            return Err(SlotError::Magic);
        }
        if checksum(&raw) != raw.crc.get() {
            return Err(SlotError::Checksum);
        }
        if raw.version.get() != VERSION {
            return Err(SlotError::Version(raw.version.get()));
        }
        let geometry = Geometry::new(raw.block_bits.into(), raw.total_blocks.get())
            .ok_or(SlotError::Field("block size or count"))?;
        if raw.root_level > LEVEL_MAX {
            return Err(SlotError::Field("root level"));
        }
        if raw.root_addr.get() >= geometry.blocks() {
            return Err(SlotError::Field("root address"));
        }
        if raw.generation.get() > GENERATION_MAX {
            return Err(SlotError::Field("generation"));
        }
        if raw.used_blocks.get() > geometry.blocks() {
            return Err(SlotError::Field("used blocks"));
        }
        let label_len = raw.label.iter().position(|b| *b == 0);
        let label = str::from_utf8(&raw.label[..label_len.unwrap_or(LABEL_BYTES)])
            .map_err(|_| SlotError::Field("label"))?;
        Ok(Self {
            features: Features {
                compat: raw.compat.get(),
                ro_compat: raw.ro_compat.get(),
                incompat: raw.incompat.get(),
            },
            uuid: raw.uuid,
            label: label.to_owned(),
            created: raw.created.get(),
            hash_seed: raw.hash_seed,
            geometry,
            generation: raw.generation.get(),
            root: NodePtr {
                addr: DiskBlock::new(raw.root_addr.get()),
                generation: raw.root_generation.get(),
                crc: raw.root_crc.get(),
            },
            root_level: raw.root_level,
            next_ino: Ino::new(raw.next_ino.get()),
            inodes: raw.inodes.get(),
            used_blocks: raw.used_blocks.get(),
        })
    }

    /// The bytes of a slot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut label = [0; LABEL_BYTES];
        let len = self.label.len().min(LABEL_BYTES);
        label[..len].copy_from_slice(&self.label.as_bytes()[..len]);
        let mut raw = Raw {
            magic: MAGIC,
            crc: U32::ZERO,
            version: VERSION.into(),
            compat: self.features.compat.into(),
            ro_compat: self.features.ro_compat.into(),
            incompat: self.features.incompat.into(),
            uuid: self.uuid,
            label,
            created: self.created.into(),
            hash_seed: self.hash_seed,
            block_bits: self.geometry.bits() as u8,
            root_level: self.root_level,
            pad: [0; 2],
            root_crc: self.root.crc.into(),
            total_blocks: self.geometry.blocks().into(),
            generation: self.generation.into(),
            root_addr: self.root.addr.get().into(),
            root_generation: self.root.generation.into(),
            next_ino: self.next_ino.get().into(),
            inodes: self.inodes.into(),
            used_blocks: self.used_blocks.into(),
            reserved: [0; 304],
        };
        raw.crc = checksum(&raw).into();
        let mut slot = vec![0; SLOT_BYTES];
        slot[..size_of::<Raw>()].copy_from_slice(raw.as_bytes());
        slot
    }
}

/// The crc32c of the structure with its checksum field zero.
fn checksum(raw: &Raw) -> u32 {
    let mut raw = *raw;
    raw.crc = U32::ZERO;
    crc32c::crc32c(raw.as_bytes())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            features: Features::KNOWN,
            uuid: [7; 16],
            label: "a label".to_owned(),
            created: -5,
            hash_seed: [9; 16],
            geometry: Geometry::new(12, 1000).unwrap(),
            generation: 3,
            root: NodePtr {
                addr: DiskBlock::new(77),
                generation: 3,
                crc: 0xdead_beef,
            },
            root_level: 1,
            next_ino: Ino::new(9),
            inodes: 4,
            used_blocks: 12,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(Superblock::decode(&sample().encode()), Ok(sample()));
    }

    /// The offsets of `docs/testfs-format.md`.
    #[test]
    fn fields_are_where_the_format_says() {
        let slot = sample().encode();
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!((&slot[..8], slot[12]), (&MAGIC[..], 1));
        assert_eq!((slot[40], slot[56], slot[128], slot[144]), (7, b'a', 9, 12));
        assert_eq!(slot[148..152], 0xdead_beef_u32.to_le_bytes());
        let at = |offset: usize| u64::from_le_bytes(std::array::from_fn(|n| slot[offset + n]));
        assert_eq!(at(120) as i64, -5);
        let numbers = [152, 160, 168, 176, 184, 192, 200].map(at);
        assert_eq!(numbers, [1000, 3, 77, 3, 9, 4, 12]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let slot = sample().encode();
        for bit in 0..512 * 8 {
            let mut bad = slot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
