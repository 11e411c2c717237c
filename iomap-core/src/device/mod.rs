//! Devices: where the bytes of a file system live.
//!
//! Owns the contract between the core and a device ([`BlockDevice`], [`Limits`]), requests
//! ([`bio`]) and their completion ([`completion`]), and the devices a program uses: a file or block
//! device ([`FileDevice`]), memory ([`MemoryDevice`]). Knows nothing of files of a file system or
//! of folios. Simulated, faulty and recording devices live in `testfs`.
//!
//! A device of one's own implements [`BlockDevice`]. Two kinds are shorter: one that has done every
//! request when `submit` returns is an [`ImmediateDevice`](immediate::ImmediateDevice), and one
//! around another device starts from [`pass_to_device!`](pass_to_device).
//!
//! # Who runs completions
//!
//! There is no reaper thread. A completion runs in whichever thread looks at the device: the
//! submitter inside [`BlockDevice::submit`] (memory devices), or any thread inside
//! [`BlockDevice::poll`] or [`BlockDevice::wait`]. It is like an interrupt handler: it may take
//! locks from [`Rank::IoendQueue`](crate::sync::Rank::IoendQueue) inwards only, must not submit
//! and must not wait. A thread that calls into the device must hold none of those locks.
//! Whoever submits and does not wait must leave something behind that makes a waiter look: a
//! folio handed to an I/O wakes the waiters for its lock, so that one of them drives the device.

pub mod bio;
pub mod buffer;
pub mod bytes;
pub mod completion;
pub mod file;
mod handle;
pub mod immediate;
pub mod memory;
pub mod open;
pub mod parking;
mod raw;
mod request;
mod ring;
#[cfg(feature = "tokio")]
pub mod tokio;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::DeviceError;
use crate::units::DevAddr;

pub use bio::{Bio, BioOp, Segment};
pub use buffer::DeviceBuf;
pub use completion::{Completion, Ticket};
pub use file::FileDevice;
pub use memory::MemoryDevice;
pub use open::{Backend, DirectMode, OpenError, OpenOptions};

/// Asserts that the thread holds no lock a completion may take, in builds with the rank checker.
///
/// # Panics
///
/// If it does: the completion of any other request may run in the call that follows.
fn assert_may_complete(what: &str) {
    crate::sync::rank::assert_none_from(crate::sync::Rank::IoendQueue, what);
}

/// What a device can do. Read once, when the device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Addresses and lengths of transfers are multiples of this, bytes; a power of two.
    pub block_size: u64,
    /// Memory of transfers is aligned to this, bytes; a power of two.
    pub memory_align: usize,
    /// The longest transfer one bio may ask for, bytes.
    pub max_transfer: u64,
    /// The smallest and the largest untorn write, bytes; zero if the device has none.
    pub atomic_write: (u64, u64),
    /// Whether a single write can be made durable on completion.
    pub fua: bool,
    /// Whether completed writes need a flush to be durable.
    pub volatile_cache: bool,
    /// Whether [`BioOp::Discard`] does something.
    pub discard: bool,
    /// Whether [`BioOp::WriteZeroes`] is supported. Where not, write zeroes from a buffer.
    pub write_zeroes: bool,
}

impl Limits {
    /// A device of 512-byte sectors without any further ability.
    pub const PLAIN: Self = Self {
        block_size: 512,
        memory_align: 1,
        max_transfer: 1 << 30,
        atomic_write: (0, 0),
        fua: false,
        volatile_cache: false,
        discard: false,
        write_zeroes: false,
    };
}

/// A device of fixed size that completes every request exactly once.
///
/// Object safe: a call costs an I/O anyway.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Bytes on the device.
    fn size(&self) -> u64;

    /// What the device can do.
    fn limits(&self) -> &Limits;

    /// Starts a request. Its completion runs exactly once, in this call or later (see the module
    /// documentation), also when the request is refused.
    ///
    /// Does not wait for the device to finish; may wait for room in its queue, and runs completions
    /// meanwhile.
    fn submit(&self, bio: Bio);

    /// Runs the completions of what has finished. Never waits.
    fn poll(&self);

    /// Waits until `done` holds, running completions. `done` is asked before the first wait and
    /// after every batch of completions, whoever ran them, with no lock of the device held.
    ///
    /// `done` must become true by a completion of this device, or be followed by
    /// [`BlockDevice::wake`].
    fn wait(&self, done: &mut dyn FnMut() -> bool);

    /// Makes every thread inside [`BlockDevice::wait`] ask again.
    fn wake(&self);

    /// Requests submitted and not completed yet.
    ///
    /// Partner of the check in a folio wait: a waiter that reads zero here parks on the folio, and
    /// is woken when the folio is handed to an I/O.
    fn in_flight(&self) -> usize;

    /// Requests that this thread submits from here on may be kept back until
    /// [`BlockDevice::unplug`], so that many enter the device at once. Plugs nest. A thread that
    /// waits for the device starts them all the same. Use [`Plug`], which cannot be forgotten.
    fn plug(&self) {}

    /// Ends one [`BlockDevice::plug`] of this thread.
    fn unplug(&self) {}

    /// Does one request and waits for it: the shortest way for a caller that would wait anyway.
    ///
    /// `segments` is the memory read into or written from; empty for operations without data.
    /// When it returns the device uses them no more.
    ///
    /// # Errors
    ///
    /// What the device answers.
    fn transfer(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), DeviceError> {
        let (done, ticket) = completion::ticket();
        self.submit(Bio::new(op, addr, len, segments, done));
        ticket.wait(self)
    }

    /// Makes every completed write durable.
    ///
    /// # Errors
    ///
    /// What the device answers: then nothing may be taken for durable.
    fn flush(&self) -> Result<(), DeviceError> {
        self.transfer(BioOp::Flush, DevAddr::default(), 0, &[])
    }

    /// Reads `buf.len()` bytes at `addr`, waiting for them.
    ///
    /// # Errors
    ///
    /// What the device answers.
    fn read_at(&self, addr: DevAddr, buf: &mut [u8]) -> Result<(), DeviceError> {
        let segment = Segment::of_mut(buf);
        self.transfer(BioOp::Read, addr, segment.len() as u64, &[segment])
    }

    /// Writes `buf` at `addr`, waiting for the end. Not durable before the next flush.
    ///
    /// # Errors
    ///
    /// What the device answers.
    fn write_at(&self, addr: DevAddr, buf: &[u8]) -> Result<(), DeviceError> {
        let segment = Segment::of_ref(buf);
        self.transfer(BioOp::WRITE, addr, segment.len() as u64, &[segment])
    }

    /// The descriptor that becomes readable when completions wait to be run, if there is one.
    fn completion_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// The methods of a [`BlockDevice`] that go to a device inside as they are: all but
/// [`submit`](BlockDevice::submit) and [`transfer`](BlockDevice::transfer), by which requests come.
///
/// For the `impl BlockDevice` of a device around another:
///
/// ```
/// use iomap_core::device::{Bio, BlockDevice, MemoryDevice};
///
/// #[derive(Debug)]
/// struct Loud(MemoryDevice);
///
/// impl BlockDevice for Loud {
///     iomap_core::device::pass_to_device!(self => self.0);
///
///     fn submit(&self, bio: Bio) {
///         println!("{:?} {} bytes", bio.op, bio.len);
///         self.0.submit(bio);
///     }
/// }
/// # assert_eq!(Loud(MemoryDevice::new(4096)).size(), 4096);
/// ```
#[macro_export]
macro_rules! pass_to_device {
    ($self:ident => $inner:expr) => {
        fn size(&$self) -> u64 {
            $inner.size()
        }

        fn limits(&$self) -> &$crate::device::Limits {
            $inner.limits()
        }

        fn poll(&$self) {
            $inner.poll();
        }

        fn wait(&$self, done: &mut dyn FnMut() -> bool) {
            $inner.wait(done);
        }

        fn wake(&$self) {
            $inner.wake();
        }

        fn in_flight(&$self) -> usize {
            $inner.in_flight()
        }

        fn plug(&$self) {
            $inner.plug();
        }

        fn unplug(&$self) {
            $inner.unplug();
        }

        fn completion_fd(&$self) -> ::core::option::Option<::std::os::fd::BorrowedFd<'_>> {
            $inner.completion_fd()
        }
    };
}

pub use pass_to_device;

impl<D: BlockDevice + ?Sized> BlockDevice for Arc<D> {
    pass_to_device!(self => (**self));

    fn submit(&self, bio: Bio) {
        (**self).submit(bio);
    }

    fn transfer(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), DeviceError> {
        (**self).transfer(op, addr, len, segments)
    }
}

/// Keeps a device plugged ([`BlockDevice::plug`]) while it lives, in the thread that made it.
///
/// A thread that holds one must not wait for another thread that may wait for its requests.
#[must_use = "the device is unplugged when the guard is dropped"]
#[derive(Debug)]
pub struct Plug<'a> {
    device: &'a dyn BlockDevice,
    _stays_in_thread: PhantomData<*const ()>,
}

impl<'a> Plug<'a> {
    /// Plugs `device`.
    pub fn new(device: &'a dyn BlockDevice) -> Self {
        device.plug();
        Self {
            device,
            _stays_in_thread: PhantomData,
        }
    }
}

impl Drop for Plug<'_> {
    fn drop(&mut self) {
        self.device.unplug();
    }
}
