//! What a direct I/O does with one mapping: pure arithmetic and rules, no I/O.
//!
//! Owns the alignment checks of a request, and the decision what happens to the part of it that
//! lies in one mapping: which bytes are moved from or to where, which bytes around them must be
//! made zero, whether the write is durable by itself, what the backend has to be told in the end.
//! Does not touch memory, devices or the cache: that is [`submit`](super::submit).

use super::DirectFlags;
use crate::device::Limits;
use crate::error::{FsError, ProtocolError, Result};
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::ops::DirectKinds;
use crate::units::{BlockBits, DevAddr, FilePos, FileRange};

/// Reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file.
    Write,
}

/// A direct I/O as a whole: what does not depend on the mapping.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which way.
    pub direction: Direction,
    /// The bytes asked for; for reads cut at the size, rounded up to a device block.
    pub range: FileRange,
    /// The size of the file, read once at the start.
    pub size: FilePos,
    /// How.
    pub flags: DirectFlags,
    /// The block size of the file system.
    pub block_bits: BlockBits,
    /// What the device can do.
    pub limits: &'a Limits,
}

impl Request<'_> {
    /// Whether the device can move these bytes from or to memory at `memory` at all: position,
    /// length and address are multiples of what it asks for. File system blocks do not matter:
    /// partly written new blocks are zeroed around the data.
    #[must_use]
    pub fn is_aligned(&self, memory: usize) -> bool {
        let block = self.limits.block_size;
        self.range.start().bytes().is_multiple_of(block)
            && self.range.len().is_multiple_of(block)
            && memory.is_multiple_of(self.limits.memory_align.max(1))
    }

    /// Checks the shape of an untorn write: a power of two of bytes, at a multiple of its length,
    /// inside the limits of the device. Everything else passes.
    ///
    /// # Errors
    ///
    /// [`FsError::Unsupported`] if the device has no untorn writes, [`FsError::Invalid`] for a
    /// shape it cannot write untorn.
    pub fn check_atomic(&self) -> Result<()> {
        if !self.flags.contains(DirectFlags::ATOMIC) {
            return Ok(());
        }
        let (min, max) = self.limits.atomic_write;
        let len = self.range.len();
        if max == 0 {
            return Err(FsError::Unsupported("untorn writes on this device"));
        }
        if !len.is_power_of_two() || len < min || len > max || len > self.limits.max_transfer {
            return Err(FsError::Invalid("length of an untorn write"));
        }
        if !self.range.start().bytes().is_multiple_of(len) {
            return Err(FsError::Invalid("alignment of an untorn write"));
        }
        Ok(())
    }

    /// Whether the write ends past the size it found.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.direction == Direction::Write && self.range.end() > self.size
    }
}

/// What to do with the part of a request that lies in one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The bytes read as zeroes.
    Zeroes,
    /// The bytes live in the inode.
    Inline,
    /// The device moves them.
    Transfer(Transfer),
    /// Not here: this part, and all after it, must go through the page cache.
    UseBuffered,
}

/// What the device is asked to do for one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Where the first byte of the part lives.
    pub addr: DevAddr,
    /// Bytes to make zero before the part, from the start of its first block on.
    pub zero_head: u64,
    /// Bytes to make zero behind the part, to the end of its last block. If the transfer stops
    /// early, ask [`Transfer::zero_tail_after`].
    pub zero_tail: u64,
    /// The longest single request, bytes (rule B64).
    pub max_bio: u64,
    /// Ask the device for durability of each write.
    pub fua: bool,
    /// The write is durable, and can be found, when the device has completed it.
    pub write_through: bool,
    /// One untorn device write.
    pub atomic: bool,
    /// What the backend has to do in the end.
    pub kinds: DirectKinds,
    /// Around the data there may be old bytes of somebody else.
    pub fresh: bool,
    block_bits: BlockBits,
    zeroes_tail: bool,
}

impl Transfer {
    /// Where the first byte lives that is made zero before the part.
    #[must_use]
    pub const fn head_addr(&self) -> DevAddr {
        // Inside the same extent: the head lies in the first block of the part.
        DevAddr::new(self.addr.bytes().saturating_sub(self.zero_head))
    }

    /// The bytes to make zero behind `end`, where the transfer really ended (rule B56).
    #[must_use]
    pub const fn zero_tail_after(&self, end: FilePos) -> u64 {
        if self.zeroes_tail {
            end.round_up(self.block_bits).since(end)
        } else {
            0
        }
    }

    /// Where the bytes on disk end, if the device write that starts at `at` failed. In blocks that
    /// must be converted or are new, all of the block is lost: half of it may be somebody else's
    /// old bytes.
    #[must_use]
    pub const fn lost_from(&self, at: FilePos) -> FilePos {
        if self.fresh {
            at.round_down(self.block_bits)
        } else {
            at
        }
    }
}

/// Decides what happens to `part` of `request`, which lies in `iomap`.
///
/// `from_elsewhere`: the current content lies in another mapping (copy on write).
///
/// # Errors
///
/// [`FsError::Protocol`] for a kind that may not be written to: delayed allocation, or a hole. [`FsError::Invalid`] for an untorn write that is not covered by the mapping.
pub fn plan(
    request: &Request<'_>,
    iomap: &Iomap,
    from_elsewhere: bool,
    part: FileRange,
) -> Result<Plan> {
    let bad = |what| {
        Err(FsError::Protocol(ProtocolError::BadKind {
            what,
            pos: part.start(),
        }))
    };
    let reads = request.direction == Direction::Read;
    let addr = match (&iomap.kind, iomap.addr_at(part.start())) {
        // A store through a memory mapping got in between the look at the cache and the mapping:
        // what it stored is in the cache only.
        (MapKind::Delalloc, _) if reads => return Ok(Plan::UseBuffered),
        (MapKind::Delalloc, _) => return bad("delayed allocation to a direct write"),
        (MapKind::Inline { .. }, _) => return Ok(Plan::Inline),
        (MapKind::Hole, _) if !reads => return bad("a hole to a direct write"),
        (MapKind::Hole | MapKind::Unwritten { .. }, _) if reads => return Ok(Plan::Zeroes),
        (_, Some(addr)) => addr,
        (_, None) => return bad("a mapping without an address to direct I/O"),
    };
    if reads && iomap.flags.contains(FsFlags::NEW) {
        return Ok(Plan::Zeroes);
    }
    let block = request.limits.block_size;
    if !addr.is_aligned(block) || !part.len().is_multiple_of(block) {
        return Ok(Plan::UseBuffered);
    }
    if reads {
        return Ok(Plan::Transfer(Transfer::plain(request, addr)));
    }
    plan_write(request, iomap, from_elsewhere, part, addr)
}

fn plan_write(
    request: &Request<'_>,
    iomap: &Iomap,
    from_elsewhere: bool,
    part: FileRange,
    addr: DevAddr,
) -> Result<Plan> {
    let bits = request.block_bits;
    let unwritten = matches!(iomap.kind, MapKind::Unwritten { .. });
    let cow = from_elsewhere || iomap.flags.contains(FsFlags::SHARED);
    let fresh = unwritten || iomap.flags.contains(FsFlags::NEW);
    if cow && !(part.start().is_aligned(bits) && part.end().is_aligned(bits)) {
        // The rest of the block would have to be copied first: the page cache does that.
        return Ok(Plan::UseBuffered);
    }
    let atomic =
        request.flags.contains(DirectFlags::ATOMIC) || iomap.flags.contains(FsFlags::ATOMIC);
    if atomic && (part != request.range || part.len() > request.limits.max_transfer) {
        return Err(FsError::Invalid("an untorn write over several extents"));
    }
    if atomic && !addr.bytes().is_multiple_of(part.len()) {
        return Err(FsError::Invalid("device address of an untorn write"));
    }
    let overwrite = !fresh && !cow && !iomap.flags.contains(FsFlags::DIRTY) && !request.grows();
    let cached = request.limits.volatile_cache;
    let write_through = request.flags.sync() == Some(super::SyncKind::Data)
        && overwrite
        && (request.limits.fua || !cached);
    let zeroes_tail =
        fresh || part.end() >= request.size || iomap.flags.contains(FsFlags::ZERO_TAIL);
    let mut kinds = DirectKinds::empty();
    kinds.set(DirectKinds::UNWRITTEN, unwritten);
    kinds.set(DirectKinds::COW, cow);
    let mut transfer = Transfer {
        zero_head: if fresh {
            part.start().offset_in(bits)
        } else {
            0
        },
        fua: write_through && cached,
        write_through,
        atomic,
        kinds,
        fresh: fresh || cow,
        zeroes_tail,
        ..Transfer::plain(request, addr)
    };
    transfer.zero_tail = transfer.zero_tail_after(part.end());
    Ok(Plan::Transfer(transfer))
}

impl Transfer {
    /// Nothing but the bytes themselves.
    fn plain(request: &Request<'_>, addr: DevAddr) -> Self {
        let block = request.limits.block_size;
        let whole_blocks = request.limits.max_transfer / block * block;
        Self {
            addr,
            zero_head: 0,
            zero_tail: 0,
            max_bio: whole_blocks.max(block),
            fua: false,
            write_through: false,
            atomic: false,
            kinds: DirectKinds::empty(),
            fresh: false,
            block_bits: request.block_bits,
            zeroes_tail: false,
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests;
