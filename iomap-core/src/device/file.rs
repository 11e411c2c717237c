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
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use super::bio::{Bio, BioOp, Segment};
use super::handle::Handle;
use super::open::{Backend, OpenError, OpenOptions, open};
use super::parking::Parking;
use super::request::Request;
use super::ring::Ring;
use super::{BlockDevice, Limits, assert_may_complete};
use crate::error::{DeviceError, Errno};
use crate::units::DevAddr;

/// A regular file or a block device.
pub struct FileDevice {
    engine: Engine,
    handle: Arc<Handle>,
}

enum Engine {
    /// Requests complete in the call that submits them.
    Syscalls(Parking),
    Ring(Box<Ring>),
}

impl FileDevice {
    /// Opens the file or block device `path`, and locks it.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; every variant names the path.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, OpenError> {
        let handle = Arc::new(open(path.as_ref(), options)?);
        let ring = match options.backend {
            Backend::Uring => Some(Ring::new(Arc::clone(&handle))),
            // The kernel's page cache, and files in memory, would send requests to its workers:
            // slower than a plain call.
            Backend::Auto if handle.direct.is_some() => Some(Ring::new(Arc::clone(&handle))),
            Backend::Auto | Backend::Syscalls => None,
        };
        let engine = match ring {
            Some(Ok(ring)) => Engine::Ring(Box::new(ring)),
            Some(Err(errno)) if options.backend == Backend::Uring => {
                return Err(OpenError::NoRing {
                    path: handle.path.clone(),
                    errno,
                });
            }
            Some(Err(_)) | None => Engine::Syscalls(Parking::new()),
        };
        Ok(Self { engine, handle })
    }

    /// Runs a request in this call: for all of them without a ring, for some with one.
    fn run(&self, bio: Bio, admitted: Result<(), Errno>) {
        let result =
            admitted.and_then(|()| self.handle.run(bio.op, bio.addr, bio.len, &bio.segments));
        bio.complete(result);
        self.wake();
    }

    /// Whether requests go through io_uring.
    #[must_use]
    pub const fn uses_ring(&self) -> bool {
        matches!(self.engine, Engine::Ring(_))
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.handle.path
    }

    /// Whether transfers bypass the kernel's page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.handle.direct.is_some()
    }

    /// Whether changes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.handle.read_only
    }
}

impl AsFd for FileDevice {
    /// The file. What is done to it there, the device does not see.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.fd()
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
        assert_may_complete("submitting to a device");
        let admitted = self.handle.admit(bio.op, bio.addr, bio.len, &bio.segments);
        match &self.engine {
            Engine::Ring(ring) if admitted.is_ok() && !Request::is_inline(&self.handle, &bio) => {
                ring.submit(bio);
            }
            _ => self.run(bio, admitted),
        }
    }

    fn poll(&self) {
        assert_may_complete("polling a device");
        if let Engine::Ring(ring) = &self.engine {
            ring.poll();
        }
    }

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        assert_may_complete("waiting for a device");
        match &self.engine {
            Engine::Syscalls(parking) => parking.wait(done),
            Engine::Ring(ring) => ring.wait(done),
        }
    }

    fn wake(&self) {
        match &self.engine {
            Engine::Syscalls(parking) => parking.notify(),
            Engine::Ring(ring) => ring.wake(),
        }
    }

    fn in_flight(&self) -> usize {
        match &self.engine {
            Engine::Syscalls(_) => 0,
            Engine::Ring(ring) => ring.in_flight(),
        }
    }

    fn plug(&self) {
        if let Engine::Ring(ring) = &self.engine {
            ring.plug();
        }
    }

    fn unplug(&self) {
        if let Engine::Ring(ring) = &self.engine {
            ring.unplug();
        }
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.engine {
            Engine::Syscalls(_) => None,
            Engine::Ring(ring) => Some(ring.fd()),
        }
    }

    /// A plain system call: at a queue depth of one no ring is faster.
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
        if let Engine::Ring(ring) = &self.engine {
            ring.drain();
        }
        // The kernel gives up a ring's references to the file later: they must not keep the image
        // locked.
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
