//! A file of the host as a byte-addressable device.
//!
//! Owns [`FileDaxDevice`]: the file mapped whole, and the two ways to make stores durable. Locking,
//! creating and the checks of the file are those of [`FileDevice`].
//!
//! | The file is on | Stores become durable by |
//! |---|---|
//! | persistent memory, mounted with DAX (`MAP_SYNC` is granted) | flushing cache lines, and a fence |
//! | anything else: tmpfs, hugetlbfs, a disk | `msync` |
//!
//! The file gets all of its storage when it is opened for writing: a store into a hole of a full file
//! system would be a signal, not an error. A file that somebody cuts meanwhile is one too; the lock
//! keeps out everybody who asks for it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::lines;
use super::{DaxDevice, DaxMemory};
use crate::device::immediate::{Front, ImmediateDevice};
use crate::device::{
    Backend, BioOp, BlockDevice, DirectMode, FileDevice, Limits, OpenError, OpenOptions, Segment,
};
use crate::error::{DeviceError, DeviceOp, Errno};
use crate::sync::atomic::{AtomicI32, Ordering};
use crate::units::DevAddr;

/// A regular file or a block device, mapped whole.
pub struct FileDaxDevice {
    file: FileDevice,
    memory: DaxMemory,
    front: Front,
    /// The errno of the first `msync` that failed, or zero: what it should have written may be
    /// gone, and the kernel says so once. Stored `Release`, loaded `Acquire` by every later one.
    lost: AtomicI32,
}

impl FileDaxDevice {
    /// Opens, locks and maps `path`. Of `options` counts whether it is read-only, and the size to
    /// create: transfers are copies, nothing goes around the kernel's page cache.
    ///
    /// # Errors
    ///
    /// Those of [`FileDevice::open`]; the file cannot be mapped, or its storage cannot be had.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let options = OpenOptions {
            direct: DirectMode::Never,
            backend: Backend::Syscalls,
            ..options.clone()
        };
        let file = FileDevice::open(path, &options)?;
        let failed = |what| {
            move |errno| OpenError::Os {
                path: path.to_owned(),
                what,
                errno,
            }
        };
        if !options.read_only {
            give_storage(&file).map_err(failed("give the file its storage"))?;
        }
        let memory = DaxMemory::map(file.as_fd(), file.size(), !options.read_only);
        let memory = memory.map_err(failed("map the file"))?;
        let limits = Limits {
            block_size: file.limits().block_size,
            fua: true,
            volatile_cache: true,
            write_zeroes: true,
            ..Limits::PLAIN
        };
        Ok(Self {
            front: Front::new(memory.len(), limits),
            file,
            memory,
            lost: AtomicI32::new(0),
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn flushes_lines(&self) -> bool {
        self.memory.is_synchronous() && lines::can_flush()
    }

    /// What a request has written becomes durable at once where that is cheap or asked for.
    fn after_write(&self, addr: DevAddr, len: u64, durable: bool) -> Result<(), Errno> {
        if durable || self.flushes_lines() {
            self.make_durable(addr, len)
        } else {
            Ok(())
        }
    }

    fn make_durable(&self, addr: DevAddr, len: u64) -> Result<(), Errno> {
        if self.flushes_lines() {
            let start = self.memory.at(addr, len)?;
            // SAFETY: `at` has checked that the bytes lie in the mapping. `len` fits, for they do.
            unsafe { lines::flush(start, len as usize) };
            return Ok(());
        }
        let lost = self.lost.load(Ordering::Acquire);
        if lost != 0 {
            return Err(Errno::from_raw_os_error(lost));
        }
        self.memory
            .sync_pages(addr, len)
            .inspect_err(|errno| self.lost.store(errno.raw_os_error(), Ordering::Release))
    }
}

/// Allocates every block of a regular file; block devices have theirs.
fn give_storage(file: &FileDevice) -> Result<(), Errno> {
    let fd = file.as_fd();
    let stat = rustix::fs::fstat(fd)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(());
    }
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, file.size()) {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

impl DaxDevice for FileDaxDevice {
    fn memory(&self) -> &DaxMemory {
        &self.memory
    }

    fn persist(&self, addr: DevAddr, len: u64) -> Result<(), DeviceError> {
        self.make_durable(addr, len)
            .map_err(|errno| DeviceError::new(DeviceOp::Flush, addr, len, errno))
    }

    fn persists_cheaply(&self) -> bool {
        self.flushes_lines()
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

impl ImmediateDevice for FileDaxDevice {
    fn front(&self) -> &Front {
        &self.front
    }

    fn run(&self, op: BioOp, addr: DevAddr, len: u64, segments: &[Segment]) -> Result<(), Errno> {
        match op {
            BioOp::Read => self.memory.read_segments(addr, segments),
            BioOp::Write { fua, .. } => {
                self.memory.write_segments(addr, segments)?;
                self.after_write(addr, len, fua)
            }
            BioOp::WriteZeroes => {
                self.memory.zero(addr, len)?;
                self.after_write(addr, len, false)
            }
            // Lines were flushed as they were written.
            BioOp::Flush if self.flushes_lines() || !self.memory.is_writable() => Ok(()),
            BioOp::Flush => self.file.flush().map_err(|error| error.errno),
            BioOp::Discard => Err(Errno::OPNOTSUPP),
        }
    }
}

impl fmt::Debug for FileDaxDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDaxDevice")
            .field("path", &self.path())
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::{Bio, DeviceBuf};

    fn options(read_only: bool) -> OpenOptions {
        OpenOptions {
            create_size: (!read_only).then_some(1 << 20),
            read_only,
            ..OpenOptions::default()
        }
    }

    fn fua() -> BioOp {
        BioOp::Write {
            fua: true,
            atomic: false,
        }
    }

    #[test]
    fn requests_and_stores_reach_the_same_bytes_and_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let device = FileDaxDevice::open(&path, &options(false)).unwrap();
        device.write_at(DevAddr::new(4096), &[7; 512]).unwrap();
        device.store(DevAddr::new(4100), b"hello").unwrap();
        device.persist(DevAddr::new(4100), 5).unwrap();
        let mut back = [0; 512];
        device.read_at(DevAddr::new(4096), &mut back).unwrap();
        assert_eq!(&back[3..10], b"\x07hello\x07");
        device.flush().unwrap();
        let buf = DeviceBuf::from_slice(&[1; 512], 1);
        device.submit(Bio::owned(fua(), DevAddr::new(0), buf, |result, _| {
            result.unwrap();
        }));
        drop(device);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes[0], &bytes[4099..4106]), (1, &b"\x07hello\x07"[..]));
    }

    #[test]
    fn every_byte_of_a_new_file_has_storage() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let _device = FileDaxDevice::open(&path, &options(false)).unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() >= (1 << 20) / 512);
    }

    #[test]
    fn a_read_only_device_refuses_changes_and_a_second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let device = FileDaxDevice::open(&path, &options(false)).unwrap();
        let second = FileDaxDevice::open(&path, &options(false));
        assert!(matches!(second, Err(OpenError::Locked(_))));
        drop(device);
        let device = FileDaxDevice::open(&path, &options(true)).unwrap();
        let error = device.store(DevAddr::new(0), &[1]).unwrap_err();
        assert_eq!(error.errno, Errno::ROFS);
        let error = device.write_at(DevAddr::new(0), &[1; 512]).unwrap_err();
        assert_eq!(error.errno, Errno::ROFS);
        device.flush().unwrap();
    }
}
