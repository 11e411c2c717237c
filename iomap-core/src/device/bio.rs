//! One request to a device and the memory it moves.
//!
//! Owns [`Bio`] and [`Segment`]. How its end is told is [`completion`](super::completion).

use std::fmt;
use std::ptr::NonNull;

use smallvec::SmallVec;

use super::completion::Completion;
use crate::error::{DeviceError, DeviceOp, Errno};
use crate::units::DevAddr;

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BioOp {
    /// Read into memory.
    Read,
    /// Write from memory.
    Write {
        /// Durable when it completes. Devices without FUA write and flush, or fail.
        fua: bool,
        /// All or nothing, also across a power cut. Devices that cannot, fail with `EINVAL`.
        atomic: bool,
    },
    /// Make every write that has completed durable.
    Flush,
    /// The bytes are not needed any more.
    Discard,
    /// Make the bytes read as zeroes.
    WriteZeroes,
}

impl BioOp {
    /// A write with nothing special about it.
    pub const WRITE: Self = Self::Write {
        fua: false,
        atomic: false,
    };

    /// The word for messages.
    #[must_use]
    pub const fn device_op(self) -> DeviceOp {
        match self {
            Self::Read => DeviceOp::Read,
            Self::Write { .. } => DeviceOp::Write,
            Self::Flush => DeviceOp::Flush,
            Self::Discard => DeviceOp::Discard,
            Self::WriteZeroes => DeviceOp::WriteZeroes,
        }
    }
}

/// A piece of memory a device reads into or writes from.
///
/// A plain address and length: whoever makes one vouches that the memory stays mapped, and its
/// bytes may change meanwhile, until the request has completed. It is shared memory: nobody holds a
/// Rust reference to the bytes while a device moves them.
#[derive(Clone, Copy)]
pub struct Segment {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a segment is an address; the constructor's contract makes the memory usable from any
// thread until the request has completed.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared segment gives no access by itself.
unsafe impl Sync for Segment {}

impl Segment {
    /// The `len` bytes at `ptr`.
    ///
    /// # Safety
    ///
    /// Until the request that carries the segment has completed, the memory is mapped and no Rust
    /// reference to it is used (for a device read: neither shared nor exclusive; for a device
    /// write: no exclusive one).
    #[must_use]
    pub const unsafe fn from_raw(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    /// The address.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from `from` on, `len` of them.
    ///
    /// # Panics
    ///
    /// If they do not all lie in the segment.
    #[must_use]
    pub fn part(&self, from: usize, len: usize) -> Self {
        assert!(
            from.checked_add(len).is_some_and(|end| end <= self.len),
            "part outside segment"
        );
        // SAFETY: `from <= self.len`, so the address stays inside (or one past) the same memory.
        let ptr = unsafe { self.ptr.add(from) };
        Self { ptr, len }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}+{}", self.ptr, self.len)
    }
}

/// A request: what, where, with which memory, and whom to tell.
///
/// A bio that is dropped tells its completion that it failed with `ECANCELED`; in debug builds it
/// panics, for a device lost it.
#[must_use = "a bio does nothing until it is submitted"]
#[derive(Debug)]
pub struct Bio {
    /// What to do.
    pub op: BioOp,
    /// Where on the device, bytes.
    pub addr: DevAddr,
    /// How much, bytes. The sum of the segments for reads and writes.
    pub len: u64,
    /// The memory, in device order.
    pub segments: SmallVec<[Segment; 4]>,
    /// Whom to tell.
    pub done: Completion,
}

impl Bio {
    /// A request.
    ///
    /// # Panics
    ///
    /// In debug builds, if a read or write has segments that do not add up to `len`.
    pub fn new(op: BioOp, addr: DevAddr, len: u64, segments: &[Segment], done: Completion) -> Self {
        let bio = Self {
            op,
            addr,
            len,
            segments: SmallVec::from_slice(segments),
            done,
        };
        debug_assert!(
            !matches!(op, BioOp::Read | BioOp::Write { .. })
                || bio.segments.iter().map(|s| s.len() as u64).sum::<u64>() == len,
            "segments do not add up to the length"
        );
        bio
    }

    /// Ends the request.
    pub fn complete(self, result: Result<(), Errno>) {
        let (op, addr, len) = (self.op.device_op(), self.addr, self.len);
        self.done
            .complete(result.map_err(|errno| DeviceError::new(op, addr, len, errno)));
    }

    /// Checks the request against a device of `size` bytes in blocks of `block_size`: alignment,
    /// bounds and length.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a misaligned request, `ENXIO` past the end.
    pub fn check(&self, size: u64, block_size: u64) -> Result<(), Errno> {
        check_bounds(self.op, self.addr, self.len, size, block_size)
    }
}

/// The checks of [`Bio::check`] for a request that is not a bio.
///
/// # Errors
///
/// `EINVAL` for a misaligned request, `ENXIO` past the end.
pub fn check_bounds(
    op: BioOp,
    addr: DevAddr,
    len: u64,
    size: u64,
    block_size: u64,
) -> Result<(), Errno> {
    if op == BioOp::Flush {
        return Ok(());
    }
    if !addr.is_aligned(block_size) || !len.is_multiple_of(block_size) || len == 0 {
        return Err(Errno::INVAL);
    }
    match addr.checked_add(len) {
        Some(end) if end.bytes() <= size => Ok(()),
        _ => Err(Errno::NXIO),
    }
}
