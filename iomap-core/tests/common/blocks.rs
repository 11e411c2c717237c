//! The blocks of a file in memory, and the mappings made of them.
//!
//! Owns what a block is and how far neighbours are one mapping. Which blocks there are, who gets one
//! when, and when a mapping stops being valid is decided by the file that has the table.

use std::collections::BTreeMap;
use std::ops::Range;

use iomap_core::inode::Inode;
use iomap_core::iomap::{Iomap, MapKind};
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange};

/// What a block is; a hole is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Reserved.
    Delalloc,
    /// Allocated, not written: reads as zeroes.
    Unwritten(u64),
    /// Written.
    Written(u64),
}

/// The blocks of a file by their numbers in it.
pub(crate) type Blocks = BTreeMap<u64, Block>;

impl Block {
    /// Storage at block `at` of the device.
    pub(crate) const fn stored(at: u64, unwritten: bool) -> Self {
        if unwritten {
            Self::Unwritten(at)
        } else {
            Self::Written(at)
        }
    }

    /// Whether `next`, `n` blocks further on, goes on in the same way.
    fn goes_on(self, n: u64, next: Option<&Self>) -> bool {
        match (self, next) {
            (Self::Delalloc, Some(Self::Delalloc)) => true,
            (Self::Unwritten(a), Some(Self::Unwritten(b)))
            | (Self::Written(a), Some(Self::Written(b))) => a + n == *b,
            _ => false,
        }
    }
}

/// The blocks that `range` touches.
pub(crate) fn numbers(range: FileRange, bits: BlockBits) -> Range<u64> {
    range.start().bytes() >> bits.get()..range.end().bytes().div_ceil(bits.size())
}

/// The mapping at the start of `numbers`, as far as neighbours inside of them go on in the same way.
pub(crate) fn mapping(blocks: &Blocks, numbers: Range<u64>, bits: BlockBits) -> Iomap {
    let (start, first) = (numbers.start, blocks.get(&numbers.start).copied());
    let end = match first {
        None => {
            let next = blocks.range(start..).next();
            next.map_or(numbers.end, |(n, _)| numbers.end.min(*n))
        }
        Some(first) => {
            let mut rest = start + 1..numbers.end;
            let stop = rest.find(|n| !first.goes_on(n - start, blocks.get(n)));
            stop.unwrap_or(numbers.end)
        }
    };
    let addr = |at: u64| DevAddr::new(at << bits.get());
    let kind = match first {
        None => MapKind::Hole,
        Some(Block::Delalloc) => MapKind::Delalloc,
        Some(Block::Unwritten(at)) => MapKind::Unwritten { addr: addr(at) },
        Some(Block::Written(at)) => MapKind::Mapped { addr: addr(at) },
    };
    let pos = |n: u64| FilePos::saturating(n.saturating_mul(bits.size()));
    Iomap::new(FileRange::between(pos(start), pos(end)), kind)
}

/// Makes the unwritten blocks of `numbers` written. Returns how many there were.
pub(crate) fn convert(blocks: &mut Blocks, numbers: Range<u64>) -> u64 {
    let mut converted = 0;
    for (_, block) in blocks.range_mut(numbers) {
        if let Block::Unwritten(at) = *block {
            *block = Block::Written(at);
            converted += 1;
        }
    }
    converted
}

/// Puts what the cache has of the file over `bytes`, which are those of the file from its start on.
pub(crate) fn overlay_cached(inode: &Inode, bytes: &mut [u8]) {
    let bits = inode.block_bits();
    for (n, to) in bytes.chunks_mut(bits.size() as usize).enumerate() {
        let pos = FilePos::saturating((n as u64) << bits.get());
        let Some(folio) = inode.cache().find(pos.page()) else {
            continue;
        };
        let Some(folio) = inode.cache().lock(&folio) else {
            continue;
        };
        let from = pos.since(folio.range().start()) as usize;
        if folio.is_range_uptodate(from..from + to.len()) {
            folio.copy_out(from, to);
        }
    }
}
