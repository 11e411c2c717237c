//! A file system in memory to test with.

use std::sync::Arc;
use std::time::Duration;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{Errno, Result};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{MapOptions, Prot};
use iomap_core::units::{FilePos, FileRange, PageIndex};
use iomap_core::vfs::{Ino, IoFlags, NewInode, OpenFile, OpenFlags, SetAttr, Special, Vfs};
use testfs::device::PmemDevice;
use testfs::fs::{MkfsOptions, MountOptions, TestFs};

pub(super) const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
pub(super) const NEW: NewInode = NewInode {
    mode: 0o644,
    uid: 1000,
    gid: 1000,
};

/// Every file is a DAX file; nobody waits for pins.
pub(super) fn dax_mount() -> MountOptions {
    MountOptions {
        cache_bytes: 16 << 20,
        commit_interval: None,
        dax: true,
        pin_timeout: Some(Duration::ZERO),
        ..MountOptions::default()
    }
}

/// A device, and the file system mounted on it.
pub(super) struct Bed {
    pub(super) device: Arc<dyn BlockDevice>,
    /// The same device, if every file is a DAX file.
    pub(super) pmem: Option<Arc<PmemDevice>>,
    pub(super) fs: Arc<TestFs>,
}

impl Bed {
    pub(super) fn new(bytes: u64) -> Self {
        Self::with_blocks(bytes, 4096)
    }

    pub(super) fn with_blocks(bytes: u64, block_size: u32) -> Self {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(bytes));
        Self::on(device, block_size)
    }

    pub(super) fn on(device: Arc<dyn BlockDevice>, block_size: u32) -> Self {
        let options = MkfsOptions {
            block_size,
            ..MkfsOptions::default()
        };
        TestFs::mkfs(Arc::clone(&device), &options).unwrap();
        let fs = mount(&device);
        Self {
            device,
            pmem: None,
            fs,
        }
    }

    /// On simulated persistent memory; every file is a DAX file.
    pub(super) fn dax(bytes: u64, block_size: u32) -> Self {
        let pmem = PmemDevice::new(bytes).unwrap();
        let options = MkfsOptions {
            block_size,
            ..MkfsOptions::default()
        };
        TestFs::mkfs(pmem.clone(), &options).unwrap();
        Self::on_pmem(pmem, dax_mount())
    }

    pub(super) fn on_pmem(pmem: Arc<PmemDevice>, options: MountOptions) -> Self {
        let fs = TestFs::mount_dax(pmem.clone(), options).unwrap();
        Self {
            device: pmem.clone(),
            pmem: Some(pmem),
            fs,
        }
    }

    /// Unmounts, checks, and mounts again.
    pub(super) fn remount(&mut self) {
        self.fs.unmount().unwrap();
        check(&self.device);
        match &self.pmem {
            Some(pmem) => self.fs = TestFs::mount_dax(pmem.clone(), dax_mount()).unwrap(),
            None => self.fs = mount(&self.device),
        }
    }

    /// Mounts again as after a crash: what is not durable in memory is lost.
    pub(super) fn crash(&mut self) {
        if let Some(pmem) = &self.pmem {
            let left = PmemDevice::from_image(&pmem.durable_image()).unwrap();
            *self = Self::on_pmem(left, dax_mount());
            return;
        }
        self.fs = mount(&self.device);
    }

    pub(super) fn create(&self, name: &str) -> Arc<dyn OpenFile> {
        let attr = self
            .fs
            .mknod(self.fs.root(), name.as_bytes(), Special::Regular, &NEW)
            .unwrap();
        self.fs.open(attr.ino, RW).unwrap()
    }

    pub(super) fn open(&self, name: &str) -> Arc<dyn OpenFile> {
        self.fs.open(self.ino(name), RW).unwrap()
    }

    pub(super) fn ino(&self, name: &str) -> Ino {
        self.fs.lookup(self.fs.root(), name.as_bytes()).unwrap().ino
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        let ino = self.ino(name);
        let size = self.fs.getattr(ino).unwrap().size;
        read(&*self.open(name), 0, size as usize)
    }
}

/// Checks a file system that nobody changes.
pub(super) fn check(device: &Arc<dyn BlockDevice>) {
    let report = testfs::check::check(Arc::clone(device)).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

pub(super) fn mount(device: &Arc<dyn BlockDevice>) -> Arc<TestFs> {
    mount_with(device, |_| {})
}

pub(super) fn mount_with(
    device: &Arc<dyn BlockDevice>,
    change: impl FnOnce(&mut MountOptions),
) -> Arc<TestFs> {
    let mut options = MountOptions {
        cache_bytes: 16 << 20,
        ..MountOptions::default()
    };
    change(&mut options);
    TestFs::mount(Arc::clone(device), options).unwrap()
}

/// Sets the size.
pub(super) fn size(size: u64) -> SetAttr {
    SetAttr {
        size: Some(size),
        ..SetAttr::default()
    }
}

pub(super) fn at(pos: u64) -> FilePos {
    FilePos::saturating(pos)
}

pub(super) fn range(pos: u64, len: u64) -> FileRange {
    FileRange::at_most(at(pos), len)
}

pub(super) fn write(file: &dyn OpenFile, pos: u64, bytes: &[u8]) {
    write_with(file, pos, bytes, IoFlags::empty());
}

pub(super) fn write_with(file: &dyn OpenFile, pos: u64, bytes: &[u8], flags: IoFlags) {
    let mut done = 0;
    while done < bytes.len() {
        let n = file
            .write_at(at(pos + done as u64), &bytes[done..], flags)
            .unwrap();
        assert!(n > 0);
        done += n;
    }
}

pub(super) fn read(file: &dyn OpenFile, pos: u64, len: usize) -> Vec<u8> {
    read_with(file, pos, len, IoFlags::empty())
}

pub(super) fn read_with(file: &dyn OpenFile, pos: u64, len: usize, flags: IoFlags) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    let mut done = 0;
    while done < len {
        let n = file
            .read_at(at(pos + done as u64), &mut bytes[done..], flags)
            .unwrap();
        if n == 0 {
            break;
        }
        done += n;
    }
    bytes.truncate(done);
    bytes
}

/// Maps all of a file and what it may become.
pub(super) fn map(file: &Arc<dyn OpenFile>, options: MapOptions) -> SoftMapping {
    let handler = Arc::clone(file).fault_handler().unwrap();
    let pages = PageIndex::ZERO..PageIndex::new(1 << 20);
    SoftMapping::new(handler, pages, Prot::READ | Prot::WRITE, options)
}

/// Bytes that differ everywhere.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

pub(super) fn errno<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.errno(),
    }
}
