//! The file system types: how each is recognised, and what serves it.
//!
//! Owns the table [`TYPES`] and the seam [`Driver`] behind which a file system stands. A backend is
//! added by one line in the table. Does not own opening the file: that is [`image`](crate::image).

mod magic;
mod testfs;

use std::sync::Arc;

use iomap_core::dax::DaxDevice;
use iomap_core::device::BlockDevice;
use iomap_core::vfs::Vfs;
use serde_json::Value;

pub(crate) use magic::{HEAD_BYTES, foreign};

/// A type of file system.
pub(crate) struct Type {
    /// What `-t` calls it.
    pub(crate) name: &'static str,
    /// Whether an image begins like one. The bytes are the first [`HEAD_BYTES`], or fewer.
    pub(crate) recognises: fn(&[u8]) -> bool,
    /// What serves it; `None` if nothing does yet.
    pub(crate) driver: Option<&'static dyn Driver>,
}

/// Every type the program knows: the one place to add a backend to.
#[rustfmt::skip]
pub(crate) const TYPES: &[Type] = &[
    Type { name: "testfs", recognises: testfs::recognises, driver: Some(&testfs::TestfsDriver) },
    Type { name: "ext4", recognises: magic::is_ext4, driver: None },
    Type { name: "gfs2", recognises: magic::is_gfs2, driver: None },
];

/// What a new file system is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct MkfsRequest {
    /// Bytes of a block; the type's own choice if `None`.
    pub(crate) block_size: Option<u32>,
    /// The volume label.
    pub(crate) label: String,
    /// The identity; random if `None`.
    pub(crate) uuid: Option<[u8; 16]>,
    /// Owner and group of the root directory.
    pub(crate) root_owner: (u32, u32),
}

/// Which files are DAX files: the option `dax` as ext4 and XFS have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dax {
    /// None. The image is not mapped.
    #[default]
    Never,
    /// Those that have the flag.
    Inode,
    /// All.
    Always,
}

/// How to mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountRequest {
    /// Change nothing.
    pub(crate) read_only: bool,
    /// Bytes of the page cache.
    pub(crate) cache_bytes: u64,
}

/// A mounted file system.
pub(crate) struct Mounted {
    /// The file system.
    pub(crate) vfs: Arc<dyn Vfs>,
    /// Writes everything, makes it durable and refuses changes from then on.
    pub(crate) unmount: Box<dyn Fn() -> iomap_core::error::Result<()> + Send + Sync>,
    /// What it has in memory.
    pub(crate) gauges: Gauges,
}

/// Tells what a mount has in memory at this moment: names as the kernel has them, with numbers.
pub(crate) type Gauges = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// What `info` tells: keys as JSON has them, with their values.
pub(crate) type Facts = Vec<(&'static str, Value)>;

/// What a check found.
#[derive(Debug)]
pub(crate) struct CheckReport {
    /// Wrong things, each with its place.
    pub(crate) errors: Vec<String>,
    /// Things that are normal after a crash.
    pub(crate) notes: Vec<String>,
    /// How many more findings there were.
    pub(crate) omitted: u64,
    /// What was counted.
    pub(crate) census: Vec<(&'static str, u64)>,
}

/// What serves a type. Errors are words for a person, without the name of the image.
pub(crate) trait Driver: Sync {
    /// Makes an empty file system. Everything that was there is lost.
    fn mkfs(&self, device: Arc<dyn BlockDevice>, request: &MkfsRequest) -> Result<(), String>;

    /// Mounts.
    fn mount(
        &self,
        device: Arc<dyn BlockDevice>,
        request: &MountRequest,
    ) -> Result<Mounted, String>;

    /// The same on a device whose bytes are memory. `all`: every file is a DAX file, not only those
    /// with the flag.
    fn mount_dax(
        &self,
        device: Arc<dyn DaxDevice>,
        request: &MountRequest,
        all: bool,
    ) -> Result<Mounted, String> {
        let _ = (device, request, all);
        Err("invalid argument: there are no DAX files in this type".to_owned())
    }

    /// What the superblock says.
    fn info(&self, device: Arc<dyn BlockDevice>) -> Result<Facts, String>;

    /// Looks for every inconsistency; changes nothing.
    fn check(&self, device: Arc<dyn BlockDevice>) -> Result<CheckReport, String>;
}

/// The type with this name.
pub(crate) fn by_name(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|t| t.name == name)
}

/// The type an image begins like.
pub(crate) fn by_magic(head: &[u8]) -> Option<&'static Type> {
    TYPES.iter().find(|t| (t.recognises)(head))
}

/// The names of the types, those that can be used first, for messages.
pub(crate) fn usable_names() -> String {
    let names: Vec<_> = TYPES
        .iter()
        .filter(|t| t.driver.is_some())
        .map(|t| t.name)
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        for t in TYPES {
            assert!(by_name(t.name).is_some_and(|found| found.name == t.name));
        }
        assert!(by_name("ntfs").is_none());
    }

    #[test]
    fn foreign_bytes_are_no_type() {
        for bytes in [&[][..], &[0; 8], &[0xff; HEAD_BYTES], &[0; HEAD_BYTES]] {
            assert!(by_magic(bytes).is_none());
        }
    }
}
