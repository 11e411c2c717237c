//! A mounted testfs whose device is memory, and which has no threads of its own.
//!
//! What is measured on it is processor time of the caller and nothing else; whatever is to be
//! written has to be synced by the bench.

use std::sync::Arc;

use iomap_core::device::MemoryDevice;
use iomap_core::error::Result;
use iomap_core::flusher::FlusherConfig;
use iomap_core::vfs::{NewInode, OpenFile, OpenFlags, Special, Vfs};
use testfs::fs::{MkfsOptions, MountOptions, TestFs};

/// Attributes of what the benches create.
pub const NEW: NewInode = NewInode {
    mode: 0o700,
    uid: 0,
    gid: 0,
};

/// A new file system of `size` bytes with `cache` bytes of page cache.
///
/// # Errors
///
/// What formatting and mounting give.
pub fn in_memory(size: u64, cache: u64) -> Result<Arc<TestFs>, Box<dyn std::error::Error>> {
    let device = Arc::new(MemoryDevice::new(size));
    TestFs::mkfs(device.clone(), &MkfsOptions::default())?;
    let options = MountOptions {
        cache_bytes: cache,
        commit_interval: None,
        flusher: FlusherConfig {
            threads: false,
            background_percent: 95,
            limit_percent: 98,
            ..FlusherConfig::default()
        },
        ..MountOptions::default()
    };
    Ok(TestFs::mount(device, options)?)
}

/// A new, empty file in the root directory, open for reading and writing.
///
/// # Errors
///
/// What creating and opening it give.
pub fn new_file(fs: &TestFs, name: &[u8]) -> Result<Arc<dyn OpenFile>> {
    let attr = fs.mknod(fs.root(), name, Special::Regular, &NEW)?;
    fs.open(attr.ino, OpenFlags::READ | OpenFlags::WRITE)
}
