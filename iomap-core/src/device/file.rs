//! A file or block device of the host.
//!
//! Owns [`FileDevice`] and the choice between its back ends. How it is opened, locked and probed is
//! [`open`](super::open), the system calls are `handle`, the ring is `ring`.
//!
//! # What the caller can rely on
//!
//! - A request is checked before the kernel sees it: bounds, alignment, length, `EROFS`.
//! - Short transfers are continued; a file that was cut behind our back gives `EIO` for reads past
//!   its end.
//! - Memory that is not aligned for `O_DIRECT` is copied through an aligned buffer. Memory aligned
//!   to [`Limits::memory_align`], in segments that are multiples of the block size, is not.
//! - A flush or a FUA write that completes without error has reached the device. After a flush has
//!   failed, all later ones fail too (see `Handle::flush`): what was written before may be gone.

use std::fmt;
use std::path::Path;

use super::bio::{Bio, BioOp, Segment};
use super::handle::Handle;
use super::open::{OpenError, OpenOptions, open};
use super::parking::Parking;
use super::{BlockDevice, Limits};
use crate::error::DeviceError;
use crate::units::DevAddr;

/// A regular file or a block device.
pub struct FileDevice {
    handle: Handle,
    parking: Parking,
}

impl FileDevice {
    /// Opens the file or block device `path`, and locks it.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; every variant names the path.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, OpenError> {
        let handle = open(path.as_ref(), options)?;
        Ok(Self {
            handle,
            parking: Parking::new(),
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.handle.path
    }

    /// Whether transfers bypass the kernel's page cache.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.handle.direct.is_some()
    }

    /// Whether changes are refused.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.handle.read_only
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.handle.size
    }

    fn limits(&self) -> &Limits {
        &self.handle.limits
    }

    fn submit(&self, bio: Bio) {
        let handle = &self.handle;
        let result = handle
            .admit(bio.op, bio.addr, bio.len, &bio.segments)
            .and_then(|()| handle.run(bio.op, bio.addr, bio.len, &bio.segments));
        bio.complete(result);
        self.parking.notify();
    }

    fn poll(&self) {}

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        self.parking.wait(done);
    }

    fn wake(&self) {
        self.parking.notify();
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn transfer(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), DeviceError> {
        self.handle
            .admit(op, addr, len, segments)
            .and_then(|()| self.handle.run(op, addr, len, segments))
            .map_err(|errno| DeviceError::new(op.device_op(), addr, len, errno))
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        // A request the kernel still holds on to must not keep the image locked.
        let _ = self.handle.file.unlock();
    }
}

impl fmt::Debug for FileDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDevice")
            .field("path", &self.handle.path)
            .field("size", &self.handle.size)
            .field("direct", &self.handle.direct)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests;
