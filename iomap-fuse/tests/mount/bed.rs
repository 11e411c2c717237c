//! A testfs in memory, mounted for one scenario, and checked after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::vfs::Vfs;
use iomap_fuse::{CachePolicy, Mount, MountOptions};
use tempfile::TempDir;
use testfs::fs::{MkfsOptions, TestFs};

/// Why nothing can be mounted here.
pub(crate) fn obstacle() -> Option<String> {
    let device = Arc::new(MemoryDevice::new(16 << 20));
    TestFs::mkfs(device.clone(), &MkfsOptions::default()).unwrap();
    let fs = TestFs::mount(device, testfs::fs::MountOptions::default()).unwrap();
    let dir = TempDir::new().unwrap();
    match iomap_fuse::mount(fs, dir.path(), &MountOptions::default()) {
        Ok(mount) => {
            mount.unmount().unwrap();
            mount.wait().unwrap();
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// A mounted file system.
pub(crate) struct Bed {
    fs: Arc<TestFs>,
    mount: Mount,
    dir: TempDir,
}

impl Bed {
    /// Mounts, runs `scenario`, unmounts, and checks what is on the device.
    pub(crate) fn run(policy: CachePolicy, scenario: fn(&Self)) {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(256 << 20));
        TestFs::mkfs(Arc::clone(&device), &MkfsOptions::default()).unwrap();
        let fs = TestFs::mount(Arc::clone(&device), testfs::fs::MountOptions::default()).unwrap();
        let dir = TempDir::new().unwrap();
        let options = MountOptions {
            cache: policy,
            allow_other: true,
            dev: true,
            suid: true,
            ..MountOptions::default()
        };
        let served: Arc<dyn Vfs> = fs.clone();
        let bed = Self {
            mount: iomap_fuse::mount(served, dir.path(), &options).unwrap(),
            fs,
            dir,
        };
        scenario(&bed);
        bed.mount.unmount().unwrap();
        bed.mount.wait().unwrap();
        bed.fs.unmount().unwrap();
        let report = testfs::check::check(device).unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }

    /// A path on the mount.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }
}
