//! A node of the tree as a block on disk.
//!
//! Owns the header and the raw slots, encoding, and the checks of one block alone: checksum, place,
//! shape, key order. What a node is in memory and how nodes form a tree is
//! [`meta::node`](crate::meta).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::key::{Key, Kind};
use super::units::{DiskBlock, Ino};

/// First bytes of every node.
pub const MAGIC: [u8; 4] = *b"tfsN";
/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<RawHeader>();
/// Bytes of a slot of a leaf, without its value.
pub const SLOT_BYTES: usize = size_of::<RawSlot>();
/// Bytes of an entry of a branch.
pub const ENTRY_BYTES: usize = size_of::<RawEntry>();

/// Where a node lives and how to tell that it is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePtr {
    /// Its block.
    pub addr: DiskBlock,
    /// The generation that wrote it.
    pub generation: u64,
    /// Its checksum.
    pub crc: u32,
}

/// The head of a node.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHeader {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// crc32c of the whole block, with this field zero.
    pub crc: U32,
    /// The block this node was written to.
    pub addr: U64,
    /// The generation that wrote it.
    pub generation: U64,
    /// 0 for a leaf, one more than the children's for a branch.
    pub level: u8,
    /// Zero.
    pub pad: u8,
    /// Slots of a leaf, entries of a branch.
    pub count: U16,
    /// Zero.
    pub reserved: U32,
}

/// An item of a leaf: its key and where its value lies in the block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSlot {
    /// Key: inode.
    pub ino: U64,
    /// Key: offset.
    pub offset: U64,
    /// Key: kind.
    pub kind: u8,
    /// Bytes from the start of the block to the value.
    pub value_at: U16,
    /// Bytes of the value.
    pub value_len: U16,
}

/// A child of a branch: the lowest key it may hold, and the pointer to it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawEntry {
    /// Key: inode.
    pub ino: U64,
    /// Key: offset.
    pub offset: U64,
    /// Key: kind.
    pub kind: u8,
    /// Its block.
    pub addr: U64,
    /// The generation that wrote it.
    pub generation: U64,
    /// Its checksum.
    pub crc: U32,
}

/// What is wrong with a block that should be a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The first bytes are not [`MAGIC`].
    #[error("no node here (bad magic)")]
    Magic,
    /// The checksum of the bytes is not the one stored in them.
    #[error("checksum mismatch")]
    Checksum,
    /// The checksum is right, but not the one the parent expects: another version of the node.
    #[error("not the version its parent points to")]
    Version,
    /// The node says it belongs elsewhere.
    #[error("misplaced: written for block {0}")]
    Misplaced(DiskBlock),
    /// The node was written by another generation than the parent says.
    #[error("written by generation {0}, not the one its parent points to")]
    Generation(u64),
    /// The level is not one less than the parent's.
    #[error("level {0} in the wrong place")]
    Level(u8),
    /// Slots, entries or values reach outside of the block, or there are none.
    #[error("contents do not fit the block")]
    Shape,
    /// Keys are not strictly ascending, or of no known kind.
    #[error("bad key or key order")]
    Keys,
}

/// The raw key of a slot or an entry.
fn key_of(ino: U64, kind: u8, offset: U64) -> Result<Key, NodeError> {
    let kind = Kind::from_raw(kind).ok_or(NodeError::Keys)?;
    Ok(Key::new(Ino::new(ino.get()), kind, offset.get()))
}

/// The crc32c of a block with bytes 4..8, the checksum itself, taken as zero.
#[must_use]
pub fn checksum(block: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&block[..4]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &block[8..])
}

/// Checks that `block` is the node `ptr` points to, of the level expected, and gives its header.
///
/// # Errors
///
/// The first thing found wrong.
pub fn verify(block: &[u8], ptr: NodePtr, level: u8) -> Result<RawHeader, NodeError> {
    let (header, _) = RawHeader::read_from_prefix(block).map_err(|_| NodeError::Shape)?;
    if header.magic != MAGIC {
        return Err(NodeError::Magic);
    }
    if checksum(block) != header.crc.get() {
        return Err(NodeError::Checksum);
    }
    if header.addr.get() != ptr.addr.get() {
        return Err(NodeError::Misplaced(DiskBlock::new(header.addr.get())));
    }
    if header.generation.get() != ptr.generation {
        return Err(NodeError::Generation(header.generation.get()));
    }
    if header.crc.get() != ptr.crc {
        return Err(NodeError::Version);
    }
    if header.level != level {
        return Err(NodeError::Level(header.level));
    }
    Ok(header)
}

/// The items of a verified leaf, in order: key, and the value's place in the block.
///
/// # Errors
///
/// [`NodeError::Shape`] or [`NodeError::Keys`].
pub fn decode_leaf(
    block: &[u8],
    header: &RawHeader,
) -> Result<Vec<(Key, std::ops::Range<usize>)>, NodeError> {
    let slots = raw_array::<RawSlot>(block, header)?;
    let first_value = HEADER_BYTES + slots.len() * SLOT_BYTES;
    let mut used = first_value;
    let mut items: Vec<(Key, std::ops::Range<usize>)> = Vec::with_capacity(slots.len());
    for slot in slots {
        let key = key_of(slot.ino, slot.kind, slot.offset)?;
        if items.last().is_some_and(|last| last.0 >= key) {
            return Err(NodeError::Keys);
        }
        let at = usize::from(slot.value_at.get());
        let len = usize::from(slot.value_len.get());
        used += len;
        if (len > 0 && at < first_value) || at + len > block.len() || used > block.len() {
            return Err(NodeError::Shape);
        }
        items.push((key, at..at + len));
    }
    Ok(items)
}

/// The children of a verified branch, in order.
///
/// # Errors
///
/// [`NodeError::Shape`] or [`NodeError::Keys`].
pub fn decode_branch(block: &[u8], header: &RawHeader) -> Result<Vec<(Key, NodePtr)>, NodeError> {
    let entries = raw_array::<RawEntry>(block, header)?;
    if entries.is_empty() {
        return Err(NodeError::Shape);
    }
    let mut children: Vec<(Key, NodePtr)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let key = key_of(entry.ino, entry.kind, entry.offset)?;
        if children.last().is_some_and(|last| last.0 >= key) {
            return Err(NodeError::Keys);
        }
        let ptr = NodePtr {
            addr: DiskBlock::new(entry.addr.get()),
            generation: entry.generation.get(),
            crc: entry.crc.get(),
        };
        children.push((key, ptr));
    }
    Ok(children)
}

fn raw_array<'a, T: FromBytes + Immutable + KnownLayout + Unaligned>(
    block: &'a [u8],
    header: &RawHeader,
) -> Result<&'a [T], NodeError> {
    let bytes = usize::from(header.count.get()) * size_of::<T>();
    let array = block
        .get(HEADER_BYTES..HEADER_BYTES + bytes)
        .ok_or(NodeError::Shape)?;
    <[T]>::ref_from_bytes(array).map_err(|_| NodeError::Shape)
}

/// Writes a leaf into `block`, which is zeroed and of the block size; the items fit it. The
/// checksum is set by [`seal`].
pub fn encode_leaf<'a>(
    block: &mut [u8],
    count: usize,
    items: impl Iterator<Item = (Key, &'a [u8])>,
) {
    let mut slot_at = HEADER_BYTES;
    let mut value_at = HEADER_BYTES + count * SLOT_BYTES;
    for (key, value) in items {
        let slot = RawSlot {
            ino: key.ino.get().into(),
            offset: key.offset.into(),
            kind: key.kind as u8,
            // An empty value may lie one past the end of a 64 KiB block: say 0 instead.
            value_at: U16::new(if value.is_empty() { 0 } else { value_at as u16 }),
            value_len: U16::new(value.len() as u16),
        };
        block[slot_at..slot_at + SLOT_BYTES].copy_from_slice(slot.as_bytes());
        block[value_at..value_at + value.len()].copy_from_slice(value);
        slot_at += SLOT_BYTES;
        value_at += value.len();
    }
}

/// Writes a branch into `block`, which is zeroed and of the block size; the entries fit it. The
/// checksum is set by [`seal`].
pub fn encode_branch(block: &mut [u8], entries: impl Iterator<Item = (Key, NodePtr)>) {
    let mut at = HEADER_BYTES;
    for (key, ptr) in entries {
        let entry = RawEntry {
            ino: key.ino.get().into(),
            offset: key.offset.into(),
            kind: key.kind as u8,
            addr: ptr.addr.get().into(),
            generation: ptr.generation.into(),
            crc: ptr.crc.into(),
        };
        block[at..at + ENTRY_BYTES].copy_from_slice(entry.as_bytes());
        at += ENTRY_BYTES;
    }
}

/// Writes the header of an encoded node, checksum included, and gives the pointer to it.
#[must_use]
pub fn seal(
    block: &mut [u8],
    addr: DiskBlock,
    generation: u64,
    level: u8,
    count: usize,
) -> NodePtr {
    let mut header = RawHeader {
        magic: MAGIC,
        crc: U32::ZERO,
        addr: addr.get().into(),
        generation: generation.into(),
        level,
        pad: 0,
        count: U16::new(count as u16),
        reserved: U32::ZERO,
    };
    block[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    let crc = checksum(block);
    header.crc = crc.into();
    block[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    NodePtr {
        addr,
        generation,
        crc,
    }
}
