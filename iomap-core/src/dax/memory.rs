//! The bytes of a byte-addressable device, as memory of this process.
//!
//! Owns the mapping of a whole device ([`DaxMemory`]), its bounds, and the copies into and out of
//! it. Does not own durability: a store is in the memory, not on the medium, until the device says
//! so ([`DaxDevice::persist`](super::DaxDevice::persist)). Memory mappings of files are others
//! ([`mmap`](crate::mmap)); they show the same pages.
//!
//! The bytes are shared with those mappings: they are copied, never lent as a slice.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::device::Segment;
use crate::error::Errno;
use crate::folio::bytes::{copy_from_shared, copy_to_shared, zero_shared};
use crate::units::{DevAddr, PAGE_SIZE};

/// A device mapped shared, whole.
pub struct DaxMemory {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    /// The host promised that the metadata of its own file is durable (`MAP_SYNC`): flushing cache
    /// lines is enough.
    synchronous: bool,
}

// SAFETY: the memory belongs to the process and stays mapped while the value lives; every access
// goes through the copies of `folio/bytes.rs`, which allow others at the same time.
unsafe impl Send for DaxMemory {}
// SAFETY: as above: no method hands out a reference to the bytes.
unsafe impl Sync for DaxMemory {}

impl DaxMemory {
    /// Maps the first `len` bytes of a file or block device; `len` is not zero.
    ///
    /// # Errors
    ///
    /// What `mmap` answers; `EFBIG` if the address space is too small.
    pub fn map(fd: BorrowedFd<'_>, len: u64, writable: bool) -> Result<Self, Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::FBIG)?;
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let sync = MapFlags::SHARED_VALIDATE | MapFlags::SYNC;
        let (ptr, synchronous) = match map_at_any(fd, len, prot, sync) {
            Ok(ptr) => (ptr, true),
            Err(_) => (map_at_any(fd, len, prot, MapFlags::SHARED)?, false),
        };
        Ok(Self {
            start: ptr,
            len,
            writable,
            synchronous,
        })
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether there are no bytes: never, a mapping has some.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether bytes may be changed.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether flushing cache lines makes stores durable (`MAP_SYNC` was granted).
    #[must_use]
    pub const fn is_synchronous(&self) -> bool {
        self.synchronous
    }

    /// Copies the bytes at `addr` out.
    ///
    /// # Errors
    ///
    /// `ENXIO` if they do not all lie on the device; nothing is copied.
    pub fn read(&self, addr: DevAddr, to: &mut [u8]) -> Result<(), Errno> {
        let from = self.at(addr, to.len() as u64)?;
        // SAFETY: `at` has checked the source, which is mapped; `to` is an exclusive reference, and
        // none exists to the memory, so they do not overlap.
        unsafe { copy_from_shared(to.as_mut_ptr(), from, to.len()) };
        Ok(())
    }

    /// Copies bytes in at `addr`.
    ///
    /// # Errors
    ///
    /// `EROFS` if the device is read-only, `ENXIO` if they do not all fit; nothing is copied.
    pub fn write(&self, addr: DevAddr, from: &[u8]) -> Result<(), Errno> {
        let to = self.at_to_write(addr, from.len() as u64)?;
        // SAFETY: as for `read`, with the two sides swapped; the memory is mapped writable.
        unsafe { copy_to_shared(to, from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Makes `len` bytes at `addr` zero.
    ///
    /// # Errors
    ///
    /// As [`DaxMemory::write`].
    pub fn zero(&self, addr: DevAddr, len: u64) -> Result<(), Errno> {
        let to = self.at_to_write(addr, len)?;
        // SAFETY: checked just now, and mapped writable. `len` fits: it lies inside the mapping.
        unsafe { zero_shared(to, len as usize) };
        Ok(())
    }

    /// Copies `len` bytes from one place of the device to another that does not overlap it.
    ///
    /// # Errors
    ///
    /// As [`DaxMemory::write`]; `EINVAL` if the places overlap.
    pub fn copy(&self, to: DevAddr, from: DevAddr, len: u64) -> Result<(), Errno> {
        if to.bytes().abs_diff(from.bytes()) < len {
            return Err(Errno::INVAL);
        }
        let (source, target) = (self.at(from, len)?, self.at_to_write(to, len)?);
        // SAFETY: both checked just now and mapped; seen above not to overlap.
        unsafe { copy_to_shared(target, source, len as usize) };
        Ok(())
    }

    /// Copies bytes into the segments of a device request, from the first byte of them on.
    ///
    /// # Errors
    ///
    /// As [`DaxMemory::read`].
    pub fn read_segments(&self, addr: DevAddr, segments: &[Segment]) -> Result<(), Errno> {
        let len = segments.iter().map(|s| s.len() as u64).sum();
        let mut from = self.at(addr, len)?;
        for segment in segments {
            // SAFETY: the source is checked as a whole; the segment's maker vouches that its memory
            // is mapped and unused until the request has completed. Memory of this very mapping
            // would be a segment of a device's, which nobody makes.
            unsafe {
                copy_from_shared(segment.as_ptr(), from, segment.len());
                from = from.add(segment.len());
            }
        }
        Ok(())
    }

    /// Copies the bytes of the segments of a device request in.
    ///
    /// # Errors
    ///
    /// As [`DaxMemory::write`].
    pub fn write_segments(&self, addr: DevAddr, segments: &[Segment]) -> Result<(), Errno> {
        let len = segments.iter().map(|s| s.len() as u64).sum();
        let mut to = self.at_to_write(addr, len)?;
        for segment in segments {
            // SAFETY: as for `read_segments`, with the two sides swapped.
            unsafe {
                copy_to_shared(to, segment.as_ptr(), segment.len());
                to = to.add(segment.len());
            }
        }
        Ok(())
    }

    /// Writes the pages of the range to the file below, and waits for them.
    ///
    /// # Errors
    ///
    /// What `msync` answers; `ENXIO` past the end.
    pub fn sync_pages(&self, addr: DevAddr, len: u64) -> Result<(), Errno> {
        let start = addr.bytes() & !(PAGE_SIZE as u64 - 1);
        let len = addr.bytes().saturating_add(len) - start;
        let ptr = self.at(DevAddr::new(start), len)?;
        // SAFETY: the pages lie in the mapping, which stays while `self` lives. msync changes no
        // byte.
        unsafe { msync(ptr.cast(), len as usize, MsyncFlags::SYNC) }
    }

    /// The address of `len` bytes at `addr`, if all of them lie on the device.
    pub(super) fn at(&self, addr: DevAddr, len: u64) -> Result<*mut u8, Errno> {
        match addr.checked_add(len) {
            Some(end) if end.bytes() <= self.len as u64 => {
                // SAFETY: at most `len` bytes from the start, so inside the mapping or one past it.
                Ok(unsafe { self.start.as_ptr().add(addr.bytes() as usize) })
            }
            _ => Err(Errno::NXIO),
        }
    }

    fn at_to_write(&self, addr: DevAddr, len: u64) -> Result<*mut u8, Errno> {
        if !self.writable {
            return Err(Errno::ROFS);
        }
        self.at(addr, len)
    }
}

fn map_at_any(
    fd: BorrowedFd<'_>,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> Result<NonNull<u8>, Errno> {
    // SAFETY: a new mapping at a place the kernel chooses: no memory in use is replaced.
    let ptr = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, fd, 0)? };
    NonNull::new(ptr.cast()).ok_or(Errno::NOMEM)
}

impl Drop for DaxMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, once; nobody can use it any more, for every user borrows `self`.
        // It cannot fail for such a range.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for DaxMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaxMemory")
            .field("len", &self.len)
            .field("writable", &self.writable)
            .field("synchronous", &self.synchronous)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn memory(len: u64, writable: bool) -> DaxMemory {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        DaxMemory::map(file.as_fd(), len, writable).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_copied() {
        let memory = memory(16384, true);
        memory.write(DevAddr::new(100), b"hello").unwrap();
        memory
            .copy(DevAddr::new(5000), DevAddr::new(98), 9)
            .unwrap();
        memory.zero(DevAddr::new(5003), 1).unwrap();
        let mut back = [1; 9];
        memory.read(DevAddr::new(5000), &mut back).unwrap();
        assert_eq!(&back, b"\0\0h\0llo\0\0");
    }

    #[test]
    fn nothing_outside_of_the_device_is_touched() {
        let memory = memory(4096, true);
        let mut byte = [0];
        for addr in [4096, u64::MAX] {
            let addr = DevAddr::new(addr);
            assert_eq!(memory.read(addr, &mut byte), Err(Errno::NXIO));
            assert_eq!(memory.write(addr, &byte), Err(Errno::NXIO));
            assert_eq!(memory.zero(addr, 1), Err(Errno::NXIO));
            assert_eq!(memory.copy(DevAddr::new(0), addr, 1), Err(Errno::NXIO));
        }
        assert_eq!(memory.write(DevAddr::new(4090), &[1; 7]), Err(Errno::NXIO));
        let error = memory.copy(DevAddr::new(0), DevAddr::new(10), 11);
        assert_eq!(error, Err(Errno::INVAL));
    }

    #[test]
    fn a_read_only_device_is_not_changed() {
        let memory = memory(4096, false);
        assert_eq!(memory.write(DevAddr::new(0), &[1]), Err(Errno::ROFS));
        assert_eq!(memory.zero(DevAddr::new(0), 1), Err(Errno::ROFS));
    }
}
