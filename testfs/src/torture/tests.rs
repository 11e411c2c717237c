//! The harness must notice what it is made to notice: each way of misbehaving is found, and a file
//! system that does not misbehave passes.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use iomap_core::dax::{DaxDevice, DaxMemory};
use iomap_core::device::{Bio, BlockDevice};
use iomap_core::error::{DeviceError, Result, SeekError};
use iomap_core::fiemap::Extent;
use iomap_core::seek::Whence;
use iomap_core::stats::Snapshot;
use iomap_core::units::{DevAddr, FilePos, FileRange};
use iomap_core::vfs::*;

use super::image::ImageTarget;
use super::target::{MemTarget, Target};
use super::*;
use crate::device::PmemDevice;
use crate::meta::MkfsOptions;

/// How the file system misbehaves, now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sin {
    None,
    DropWrite,
    StaleRead,
    TruncateKeepsBytes,
    PunchKeepsBytes,
    LostRename,
    SkippedData,
    ShortWrite,
    CollapseByOneBlockLess,
}

/// A file system with a sin, committed every fifth time.
struct Sinner {
    fs: Arc<dyn Vfs>,
    sin: Sin,
    count: Arc<AtomicU64>,
}

struct SinnerFile {
    file: Arc<dyn OpenFile>,
    sin: Sin,
    count: Arc<AtomicU64>,
}

fn tempted(sin: Sin, this: Sin, count: &AtomicU64) -> bool {
    sin == this && count.fetch_add(1, Relaxed) % 5 == 4
}

macro_rules! pass {
    ($field:ident: $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)+) => {
        $(fn $name(&self, $($arg: $ty),*) -> $ret { self.$field.$name($($arg),*) })+
    };
}

impl Vfs for Sinner {
    pass! { fs:
        fn root() -> Ino;
        fn lookup(dir: Ino, name: &[u8]) -> Result<Attr>;
        fn getattr(ino: Ino) -> Result<Attr>;
        fn hold(ino: Ino) -> Result<Held>;
        fn mknod(dir: Ino, name: &[u8], special: Special, new: &NewInode) -> Result<Attr>;
        fn mkdir(dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr>;
        fn symlink(dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr>;
        fn readlink(ino: Ino) -> Result<Vec<u8>>;
        fn link(ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr>;
        fn unlink(dir: Ino, name: &[u8]) -> Result<()>;
        fn rmdir(dir: Ino, name: &[u8]) -> Result<()>;
        fn readdir(dir: Ino, cookie: u64, emit: &mut dyn FnMut(&DirEntry) -> bool) -> Result<()>;
        fn getxattr(ino: Ino, name: &[u8]) -> Result<Vec<u8>>;
        fn setxattr(ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;
        fn listxattr(ino: Ino) -> Result<Vec<Vec<u8>>>;
        fn removexattr(ino: Ino, name: &[u8]) -> Result<()>;
        fn statfs() -> Result<StatFs>;
        fn sync() -> Result<()>;
        fn fsync_inode(ino: Ino, data_only: bool) -> Result<()>;
        fn counters() -> Snapshot;
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if let Some(size) = set.size
            && tempted(self.sin, Sin::TruncateKeepsBytes, &self.count)
        {
            let file = self.fs.open(ino, OpenFlags::READ | OpenFlags::WRITE)?;
            let mut old = vec![0; 1 << 16];
            let n = file.read_at(FilePos::saturating(size), &mut old, IoFlags::empty())?;
            self.fs.setattr(ino, set)?;
            // The bytes cut off show again.
            file.write_at(FilePos::saturating(size), &old[..n], IoFlags::empty())?;
            return self.fs.getattr(ino);
        }
        self.fs.setattr(ino, set)
    }

    fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        to_dir: Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        if tempted(self.sin, Sin::LostRename, &self.count) {
            return self.fs.lookup(dir, name).map(|_| ());
        }
        self.fs.rename(dir, name, to_dir, to_name, mode)
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Arc<dyn OpenFile>> {
        Ok(Arc::new(SinnerFile {
            file: self.fs.open(ino, flags)?,
            sin: self.sin,
            count: Arc::clone(&self.count),
        }))
    }
}

impl OpenFile for SinnerFile {
    pass! { file:
        fn ino() -> Ino;
        fn fsync(data_only: bool) -> Result<()>;
        fn sync_range(range: FileRange, wait: bool) -> Result<()>;
        fn fiemap(range: FileRange, sync: bool) -> Result<Vec<Extent>>;
    }

    fn read_at(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        let n = self.file.read_at(pos, to, flags)?;
        if n > 100 && tempted(self.sin, Sin::StaleRead, &self.count) {
            to[n / 2..n / 2 + 8].fill(0xaa);
        }
        Ok(n)
    }

    fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        if from.len() > 64 && tempted(self.sin, Sin::DropWrite, &self.count) {
            let n = self.file.write_at(pos, &from[..64], flags)?;
            assert_eq!(n, 64);
            return Ok(from.len());
        }
        if from.len() > 64 && tempted(self.sin, Sin::ShortWrite, &self.count) {
            return self.file.write_at(pos, &from[..64], flags);
        }
        self.file.write_at(pos, from, flags)
    }

    fn fallocate(&self, mode: Fallocate, range: FileRange) -> Result<()> {
        let (punch, collapse) = (Sin::PunchKeepsBytes, Sin::CollapseByOneBlockLess);
        if mode == Fallocate::PunchHole && tempted(self.sin, punch, &self.count) {
            return self.file.fallocate(mode, range.skip(range.len() / 2));
        }
        if mode == Fallocate::CollapseRange && tempted(self.sin, collapse, &self.count) {
            return self.file.fallocate(mode, range.skip(4096));
        }
        self.file.fallocate(mode, range)
    }

    fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError> {
        let at = self.file.seek(pos, whence)?;
        if whence == Whence::Data && tempted(self.sin, Sin::SkippedData, &self.count) {
            return Ok(at.saturating_add(4096));
        }
        Ok(at)
    }

    fn clone_range(&self, range: FileRange, to: &dyn OpenFile, at: FilePos) -> Result<()> {
        let to = to.as_any().downcast_ref::<Self>().expect("one file system");
        self.file.clone_range(range, &*to.file, at)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn target(sin: Sin) -> Arc<dyn Target> {
    let count = Arc::new(AtomicU64::new(0));
    Arc::new(MemTarget::new(move |fs| {
        let count = Arc::clone(&count);
        Arc::new(Sinner { fs, sin, count })
    }))
}

fn options(threads: u8, ops: u64) -> Options {
    Options {
        ops,
        threads,
        seed: 1,
        faults: 0.0,
        time: None,
        patience: Duration::from_secs(120),
    }
}

/// One thread, so that the answer is the same every time.
fn found(sin: Sin) -> bool {
    (1..=8).any(|seed| {
        let options = Options {
            seed,
            ..options(1, 20_000)
        };
        run(&target(sin), &options, &|_| {}).is_err()
    })
}

#[test]
fn the_reference_passes_with_one_thread_and_with_many() {
    for threads in [1, 4] {
        let summary = run(&target(Sin::None), &options(threads, 6_000), &|_| {});
        let summary = summary.unwrap_or_else(|f| panic!("{f:?}"));
        assert_eq!(summary.ops, 6_000);
        assert!(summary.verified > 0);
    }
}

/// Persistent memory that now and then does not make stores durable.
#[derive(Debug)]
struct Forgetful {
    pmem: Arc<PmemDevice>,
    count: AtomicU64,
}

impl BlockDevice for Forgetful {
    iomap_core::device::pass_to_device!(self => self.pmem);

    fn submit(&self, bio: Bio) {
        self.pmem.submit(bio);
    }
}

impl DaxDevice for Forgetful {
    fn memory(&self) -> &DaxMemory {
        self.pmem.memory()
    }

    fn persist(&self, addr: DevAddr, len: u64) -> Result<(), DeviceError> {
        if self.count.fetch_add(1, Relaxed) % 5 == 4 {
            return Ok(());
        }
        self.pmem.persist(addr, len)
    }

    fn persists_cheaply(&self) -> bool {
        false
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        self.pmem.backing()
    }
}

const VOLUME: u64 = 32 << 20;

#[test]
fn dax_files_pass_also_on_a_failing_device() {
    for (threads, faults) in [(1, 0.0), (4, 0.0), (4, 0.002), (4, 0.02)] {
        let pmem = PmemDevice::new(VOLUME).expect("memory");
        let mkfs = MkfsOptions::default();
        let target: Arc<dyn Target> = Arc::new(ImageTarget::on_pmem(&pmem, mkfs, 1));
        let options = Options {
            faults,
            ..options(threads, 4_000)
        };
        let summary = run(&target, &options, &|_| {}).unwrap_or_else(|f| panic!("{f:?}"));
        assert_eq!(summary.ops, 4_000);
        assert_eq!(summary.faults > 0, faults > 0.0);
    }
}

#[test]
fn a_store_that_does_not_become_durable_is_found() {
    let pmem = PmemDevice::new(VOLUME).expect("memory");
    let device = Arc::new(Forgetful {
        pmem: Arc::clone(&pmem),
        count: AtomicU64::new(0),
    });
    let mkfs = MkfsOptions::default();
    let target: Arc<dyn Target> = Arc::new(ImageTarget::dax(device, Some(pmem), mkfs, 1));
    assert!(run(&target, &options(1, 4_000), &|_| {}).is_err());
}

#[test]
fn a_dropped_write_is_found() {
    assert!(found(Sin::DropWrite));
}

#[test]
fn a_stale_read_is_found() {
    assert!(found(Sin::StaleRead));
}

#[test]
fn a_truncate_that_keeps_bytes_is_found() {
    assert!(found(Sin::TruncateKeepsBytes));
}

#[test]
fn a_punch_that_keeps_half_is_found() {
    assert!(found(Sin::PunchKeepsBytes));
}

#[test]
fn a_lost_rename_is_found() {
    assert!(found(Sin::LostRename));
}

#[test]
fn data_skipped_by_a_seek_is_found() {
    assert!(found(Sin::SkippedData));
}

#[test]
fn a_short_write_without_reason_is_found() {
    assert!(found(Sin::ShortWrite));
}

#[test]
fn a_collapse_of_too_little_is_found() {
    assert!(found(Sin::CollapseByOneBlockLess));
}

#[test]
fn a_failure_is_shrunk_to_a_few_operations() {
    let options = options(1, 2_000);
    // Replays format the target; the sin is committed by count, so begin anew each time.
    let target: Arc<dyn Target> = Arc::new(MemTarget::new(|fs| {
        let count = Arc::new(AtomicU64::new(0));
        Arc::new(Sinner {
            fs,
            sin: Sin::DropWrite,
            count,
        })
    }));
    let steps = shrink::interleaved(&*target, &options, options.ops);
    let (short, fail) = shrink::shrink(&target, steps, Duration::from_secs(20)).expect("fails");
    assert!(
        short.len() <= 60,
        "{} operations left: {}",
        short.len(),
        fail.what
    );
}
