//! The values of items, kind by kind.
//!
//! Owns their layout and the checks of one value alone. Which items must exist together is
//! [`check`](crate::check)'s business.

mod blocks;
mod inode;
mod name;

pub use blocks::{EXTENT_MAX, ExtentItem, OrphanItem, RefcountItem};
pub use inode::{Body, INODE_BYTES, Inode};
pub use name::{DIRENT_BYTES, Dirent, XATTR_BYTES, XattrItem, is_valid_name};

/// A value that cannot be: which structure, and what about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadItem(pub &'static str);

/// What an inode is. The numbers are the on-disk ones, those of `S_IFMT >> 12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// The type with this number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// The type in the upper bits of a mode.
    #[must_use]
    pub const fn of_mode(mode: u32) -> Option<Self> {
        Self::from_raw(((mode >> 12) & 0xf) as u8)
    }

    /// The upper bits of a mode.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Time {
    /// Now, by the clock of the kernel's own file systems: exact to a timer tick, and cheap.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self {
            sec: now.tv_sec,
            nsec: u32::try_from(now.tv_nsec).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::{DiskBlock, DiskRun, Ino};
    use super::*;
    use proptest::prelude::*;

    fn inode(seed: u64, size: usize) -> Inode {
        let time = |n: u64| Time {
            sec: (seed.rotate_left(n as u32)) as i64,
            nsec: (seed % 1_000_000_000) as u32,
        };
        Inode {
            mode: FileType::Regular.mode_bits() | (seed as u32 & 0o7777),
            uid: seed as u32,
            gid: (seed >> 32) as u32,
            nlink: seed as u32 / 3,
            size: size as u64,
            blocks: seed / 5,
            atime: time(1),
            mtime: time(2),
            ctime: time(3),
            btime: time(4),
            flags: seed as u32 / 7,
            rdev: seed / 11,
            generation: seed / 13,
            parent: Ino::new(seed / 17),
            entries: seed / 19,
            body: Body::Inline(vec![seed as u8; size]),
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(seed: u64, size in 0usize..300, name in "[^/\0.]{1,60}") {
            let inode = inode(seed, size);
            prop_assert_eq!(Inode::decode(&inode.encode()), Ok(inode));
            let entry = Dirent {
                ino: Ino::new(seed),
                file_type: FileType::Socket,
                name: name.clone().into_bytes(),
            };
            prop_assert_eq!(Dirent::decode(&entry.encode()), Ok(entry));
            let extent = ExtentItem {
                run: DiskRun::new(DiskBlock::new(seed), seed % EXTENT_MAX + 1),
                unwritten: seed & 1 == 0,
            };
            prop_assert_eq!(ExtentItem::decode(&extent.encode()), Ok(extent));
            let count = RefcountItem { len: seed.max(1), count: (seed as u32).max(2) };
            prop_assert_eq!(RefcountItem::decode(&count.encode()), Ok(count));
            for inline in [None, Some(vec![7; size + 1])] {
                let attribute = XattrItem {
                    name: name.clone().into_bytes(),
                    len: size + 1,
                    inline,
                };
                prop_assert_eq!(XattrItem::decode(&attribute.encode()), Ok(attribute));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_a_value(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(item) = Dirent::decode(&bytes) {
                prop_assert_eq!(item.encode(), bytes.clone());
            }
            if let Ok(item) = ExtentItem::decode(&bytes) {
                prop_assert_eq!(item.encode().to_vec(), bytes.clone());
            }
            if let Ok(item) = RefcountItem::decode(&bytes) {
                prop_assert_eq!(item.encode().to_vec(), bytes.clone());
            }
            if let Ok(item) = OrphanItem::decode(&bytes) {
                prop_assert_eq!(item.encode().to_vec(), bytes.clone());
            }
            let _ = (Inode::decode(&bytes), XattrItem::decode(&bytes));
        }
    }
}
