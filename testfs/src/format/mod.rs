//! The on-disk format of testfs: every structure, to the byte.
//!
//! Owns the layout of superblock, nodes and items, their encoding, and what can be checked about
//! each of them alone. Owns no I/O and no relations between structures: the tree is
//! [`meta`](crate::meta), cross checks are [`check`](crate::check). The same in prose, with offsets:
//! `docs/testfs-format.md`.
//!
//! Numbers are little-endian. Every structure carries a crc32c; a node also carries its own address
//! and generation, and the pointer to it repeats generation and checksum, so that a block which is
//! damaged, misplaced or left over from another time is told from the right one.

pub mod hash;
pub mod item;
pub mod key;
pub mod node;
pub mod superblock;
pub mod units;

pub use key::{Key, Kind};
pub use node::NodePtr;
pub use superblock::{Features, Superblock};
pub use units::{BlockRange, DiskBlock, DiskRun, FileBlock, Ino};

/// Bytes of the longest name of a directory entry or an extended attribute.
pub const NAME_MAX: usize = 255;
/// Bytes of the longest symbolic link target.
pub const SYMLINK_MAX: usize = 4095;
/// Bytes of the largest extended attribute value.
pub const XATTR_VALUE_MAX: usize = 65536;
/// The level of the highest branch a tree may have; leaves are level 0.
pub const LEVEL_MAX: u8 = 16;

/// What depends on the block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    bits: u32,
    blocks: u64,
}

impl Geometry {
    /// log2 of the smallest block size, bytes.
    pub const MIN_BITS: u32 = 10;
    /// log2 of the largest block size, bytes.
    pub const MAX_BITS: u32 = 16;
    /// The fewest blocks a file system may have.
    pub const MIN_BLOCKS: u64 = 128;

    /// A file system of `blocks` blocks of `1 << bits` bytes, or `None` if the format has no such.
    #[must_use]
    pub const fn new(bits: u32, blocks: u64) -> Option<Self> {
        let fits = bits >= Self::MIN_BITS
            && bits <= Self::MAX_BITS
            && blocks >= Self::MIN_BLOCKS
            && blocks <= u64::MAX >> (bits + 1);
        if fits {
            Some(Self { bits, blocks })
        } else {
            None
        }
    }

    /// log2 of the block size, bytes.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Bytes of a block, which is also a node.
    #[must_use]
    pub const fn block_size(self) -> usize {
        1 << self.bits
    }

    /// Blocks of the file system, superblocks included.
    #[must_use]
    pub const fn blocks(self) -> u64 {
        self.blocks
    }

    /// Bytes of the file system.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        // Cannot overflow: checked in `new`.
        self.blocks << self.bits
    }

    /// Whether every block of `run` exists.
    #[must_use]
    pub const fn contains(self, run: DiskRun) -> bool {
        match run.start.get().checked_add(run.len) {
            Some(end) => run.len > 0 && end <= self.blocks,
            None => false,
        }
    }

    /// The blocks the two superblock slots lie in.
    #[must_use]
    pub const fn superblock_runs(self) -> [DiskRun; 2] {
        let len = if superblock::SLOT_BYTES > self.block_size() {
            (superblock::SLOT_BYTES >> self.bits) as u64
        } else {
            1
        };
        let second = superblock::SLOT_ADDRS[1] >> self.bits;
        [
            DiskRun::new(DiskBlock::new(0), len),
            DiskRun::new(DiskBlock::new(second), len),
        ]
    }

    /// Bytes of a node that hold slots and values.
    #[must_use]
    pub const fn node_capacity(self) -> usize {
        self.block_size() - node::HEADER_BYTES
    }

    /// Bytes of the longest value an item may have: two items always fit into a node, so that every
    /// overfull leaf can be split into two that are not.
    #[must_use]
    pub const fn value_max(self) -> usize {
        self.node_capacity() / 2 - node::SLOT_BYTES
    }

    /// Bytes of the longest file whose data may live in its inode item.
    #[must_use]
    pub const fn inline_max(self) -> usize {
        let quarter = self.block_size() / 4;
        if quarter < 2048 { quarter } else { 2048 }
    }

    /// Bytes of a full chunk of a symbolic link target or of a large attribute value.
    #[must_use]
    pub const fn chunk_bytes(self) -> usize {
        let quarter = self.block_size() / 4;
        if quarter < 4096 { quarter } else { 4096 }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_largest_items_of_every_kind_fit_every_block_size() {
        for bits in Geometry::MIN_BITS..=Geometry::MAX_BITS {
            let geometry = Geometry::new(bits, 1000).unwrap();
            let max = geometry.value_max();
            assert!(item::INODE_BYTES + geometry.inline_max() <= max);
            assert!(item::DIRENT_BYTES + NAME_MAX <= max);
            assert!(item::XATTR_BYTES + NAME_MAX <= max);
            assert!(geometry.chunk_bytes() <= max);
        }
    }

    /// The numbers of `docs/testfs-format.md`.
    #[test]
    fn structures_are_as_long_as_the_format_says() {
        assert_eq!(
            (node::HEADER_BYTES, node::SLOT_BYTES, node::ENTRY_BYTES),
            (32, 21, 37)
        );
        assert_eq!(
            (item::INODE_BYTES, item::DIRENT_BYTES, item::XATTR_BYTES),
            (120, 9, 7)
        );
        let run = DiskRun::new(DiskBlock::new(0x0102), 0x0304);
        let extent = item::ExtentItem {
            run,
            unwritten: true,
        };
        assert_eq!(extent.encode(), [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 1]);
        let count = item::RefcountItem {
            len: 0x0102,
            count: 3,
        };
        assert_eq!(count.encode(), [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn a_sealed_node_has_its_fields_where_the_format_says() {
        let mut block = vec![0; 1024];
        let key = Key::new(Ino::new(0x11), Kind::Dirent, 0x22);
        node::encode_leaf(&mut block, 1, [(key, &b"value"[..])].into_iter());
        let ptr = node::seal(&mut block, DiskBlock::new(0x33), 0x44, 0, 1);
        assert_eq!(block[..4], *b"tfsN");
        assert_eq!(block[4..8], ptr.crc.to_le_bytes());
        assert_eq!(
            (block[8], block[16], block[24], block[26]),
            (0x33, 0x44, 0, 1)
        );
        assert_eq!((block[32], block[40], block[48]), (0x11, 0x22, 4));
        assert_eq!((block[49], block[51]), (53, 5));
        assert_eq!(block[53..58], *b"value");
        let header = node::verify(&block, ptr, 0).unwrap();
        assert_eq!(node::decode_leaf(&block, &header), Ok(vec![(key, 53..58)]));
        let elsewhere = NodePtr {
            addr: DiskBlock::new(0x34),
            ..ptr
        };
        let misplaced = node::NodeError::Misplaced(DiskBlock::new(0x33));
        assert_eq!(node::verify(&block, elsewhere, 0).err(), Some(misplaced));
        let later = NodePtr {
            generation: 0x45,
            ..ptr
        };
        assert_eq!(
            node::verify(&block, later, 0).err(),
            Some(node::NodeError::Generation(0x44))
        );
    }

    #[test]
    fn the_superblock_slots_do_not_overlap() {
        for bits in Geometry::MIN_BITS..=Geometry::MAX_BITS {
            let [a, b] = Geometry::new(bits, 1000).unwrap().superblock_runs();
            assert!(a.end() <= b.start);
        }
    }
}
