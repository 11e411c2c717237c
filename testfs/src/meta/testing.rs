//! What the tests of this module share: small file systems in memory, and the look at them from
//! outside.

use std::sync::Arc;

use iomap_core::device::MemoryDevice;

use super::inode::NewInode;
use super::{Meta, MkfsOptions, OpenOptions};
use crate::format::item::{FileType, Time};

/// A new file system of `blocks` blocks, with nothing random about it.
pub(crate) fn new_fs(block_size: u32, blocks: u64) -> (Arc<MemoryDevice>, Meta) {
    let device = Arc::new(MemoryDevice::new(blocks * u64::from(block_size)));
    let meta = Meta::mkfs(Arc::clone(&device) as _, &options(block_size)).unwrap();
    (device, meta)
}

pub(crate) fn options(block_size: u32) -> MkfsOptions {
    MkfsOptions {
        block_size,
        label: "test".to_owned(),
        uuid: [1; 16],
        hash_seed: [2; 16],
        now: Time::default(),
        ..MkfsOptions::default()
    }
}

/// Mounts what is on the device now.
pub(crate) fn reopen(device: &Arc<MemoryDevice>) -> Meta {
    Meta::open(Arc::clone(device) as _, OpenOptions::default()).unwrap()
}

pub(crate) fn at(sec: i64) -> Time {
    Time { sec, nsec: 0 }
}

pub(crate) fn file() -> NewInode {
    NewInode {
        mode: FileType::Regular.mode_bits() | 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        now: at(1),
        inline: false,
    }
}

pub(crate) fn directory() -> NewInode {
    NewInode {
        mode: FileType::Directory.mode_bits() | 0o755,
        ..file()
    }
}

/// Asserts that a check finds nothing wrong.
pub(crate) fn assert_clean(device: &Arc<MemoryDevice>) {
    let report = crate::check::check(Arc::clone(device) as _).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}
