//! A mounted testfs on a new image in the folder for temporary files.
//!
//! The image is gone when the mount is dropped. Background writeback stays out of the way until
//! almost all of the cache is dirty: benches of writing to the device sync by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iomap_core::device::{BlockDevice, FileDevice, OpenOptions};
use iomap_core::flusher::FlusherConfig;
use iomap_core::units::FilePos;
use iomap_core::vfs::{DirEntry, Ino, IoFlags, NewInode, OpenFile, OpenFlags, Special, Vfs};
use testfs::fs::{MkfsOptions, MountOptions, TestFs};

use crate::put_noise;

const IMAGE: u64 = 2 << 30;
const NAME: &[u8] = b"file";

/// A file system with at most one file.
pub struct Mounted {
    fs: Arc<TestFs>,
    cache: u64,
    image: PathBuf,
    folder: tempfile::TempDir,
}

impl Mounted {
    /// A new file system with `cache` bytes of page cache, 64 MiB at least.
    ///
    /// # Panics
    ///
    /// If there is no room for the image.
    #[must_use]
    pub fn with_cache(cache: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let image = folder.path().join("image");
        let cache = cache.max(64 << 20);
        let device = device(&image);
        TestFs::mkfs(device.clone(), &MkfsOptions::default()).expect("a new image");
        Self {
            fs: mount(device, cache),
            cache,
            image,
            folder,
        }
    }

    /// Makes the file, of `len` bytes of noise, durable.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[must_use]
    pub fn file_of(&self, len: u64) -> Arc<dyn OpenFile> {
        let new = NewInode {
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        self.fs
            .mknod(self.fs.root(), NAME, Special::Regular, &new)
            .expect("an empty directory");
        let file = self.open();
        put_noise(len, |at, bytes| {
            let pos = FilePos::saturating(at);
            file.write_at(pos, bytes, IoFlags::empty()).map(drop)
        })
        .expect("room in the image");
        file.fsync(false).expect("the disk works");
        file
    }

    /// Opens the file for reading and writing.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn open(&self) -> Arc<dyn OpenFile> {
        let attr = self.fs.lookup(self.fs.root(), NAME).expect("made before");
        let flags = OpenFlags::READ | OpenFlags::WRITE;
        self.fs.open(attr.ino, flags).expect("a regular file")
    }

    /// The image, which stays where it is across mounts.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The file system.
    #[must_use]
    pub fn fs(&self) -> &TestFs {
        &self.fs
    }

    /// Calls `seen` for every name of the directory but `.` and `..`.
    ///
    /// # Errors
    ///
    /// What reading the directory gives.
    pub fn list(&self, dir: Ino, mut seen: impl FnMut(&DirEntry)) -> iomap_core::error::Result<()> {
        let mut cookie = 0;
        loop {
            let before = cookie;
            self.fs.readdir(dir, cookie, &mut |entry| {
                cookie = entry.cookie;
                if entry.name != b"." && entry.name != b".." {
                    seen(entry);
                }
                true
            })?;
            if cookie == before {
                return Ok(());
            }
        }
    }

    /// The same file system mounted again: nothing is cached.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[must_use]
    pub fn remounted(self) -> Self {
        let Self {
            fs,
            cache,
            image,
            folder,
        } = self;
        fs.unmount().expect("the disk works");
        // An image is open once: the old mount goes before the new one comes.
        drop(fs);
        Self {
            fs: mount(device(&image), cache),
            cache,
            image,
            folder,
        }
    }
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted")
            .field("image", &self.image)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

fn device(image: &Path) -> Arc<dyn BlockDevice> {
    let options = OpenOptions {
        create_size: Some(IMAGE),
        ..OpenOptions::default()
    };
    Arc::new(FileDevice::open(image, &options).expect("room for a sparse image"))
}

fn mount(device: Arc<dyn BlockDevice>, cache: u64) -> Arc<TestFs> {
    let options = MountOptions {
        cache_bytes: cache,
        flusher: FlusherConfig {
            background_percent: 90,
            limit_percent: 95,
            expire: Duration::from_secs(3600),
            ..FlusherConfig::default()
        },
        ..MountOptions::default()
    };
    TestFs::mount(device, options).expect("a new image")
}
