//! One request to a device and the memory it moves.
//!
//! Owns [`Bio`] and [`Segment`], the two functions that copy between segments and ordinary slices
//! ([`fetch`], [`store`]), and the check of a request against a device ([`admit`]). How the end of a
//! request is told is [`completion`](super::completion).

use std::fmt;
use std::ptr::NonNull;

use smallvec::SmallVec;

use super::Limits;
use super::buffer::DeviceBuf;
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
///
/// Laid out like `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
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
    /// Until every request that carries the segment, a copy or a part of it has completed, the
    /// memory is mapped and no Rust reference to it is used (for a device read: neither shared nor
    /// exclusive; for a device write: no exclusive one).
    #[must_use]
    pub const unsafe fn from_raw(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    /// The bytes of `buf`, for a device to read into.
    ///
    /// The caller keeps `buf` borrowed until the request has completed.
    pub(super) fn of_mut(buf: &mut [u8]) -> Self {
        Self {
            len: buf.len(),
            ptr: NonNull::from(buf).cast(),
        }
    }

    /// The bytes of `buf`, for a device to write from; nobody may write through it.
    ///
    /// The caller keeps `buf` borrowed until the request has completed.
    pub(super) fn of_ref(buf: &[u8]) -> Self {
        Self {
            len: buf.len(),
            ptr: NonNull::from(buf).cast(),
        }
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

    /// A request that owns its memory: `buf` is read into, or written from, and comes back with
    /// the result.
    ///
    /// `f` runs like every completion: see [`Completion::call`].
    pub fn owned(
        op: BioOp,
        addr: DevAddr,
        mut buf: DeviceBuf,
        f: impl FnOnce(Result<(), DeviceError>, DeviceBuf) + Send + 'static,
    ) -> Self {
        // The heap bytes stay where they are when `buf` moves into the completion, which lives
        // until the request has completed.
        let segment = Segment::of_mut(&mut buf);
        let len = buf.len() as u64;
        let done = Completion::call(move |result| f(result, buf));
        Self::new(op, addr, len, &[segment], done)
    }

    /// Checks the request against a device of `size` bytes in blocks of `block_size`: alignment,
    /// bounds and length, and that the segments of a transfer add up.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a misaligned request, `ENXIO` past the end.
    pub fn check(&self, size: u64, block_size: u64) -> Result<(), Errno> {
        check_bounds(self.op, self.addr, self.len, size, block_size)?;
        check_segments(self.op, self.len, &self.segments)
    }
}

/// Copies the bytes of the segments from offset `at` on into `buf`: what a device does to write.
///
/// # Panics
///
/// If `buf` reaches past the end of the segments.
pub fn fetch(segments: &[Segment], at: usize, buf: &mut [u8]) {
    let mut filled = 0;
    each_part(segments, at, buf.len(), |part| {
        let target = &mut buf[filled..filled + part.len];
        // SAFETY: the segment's maker vouches that its bytes are mapped until the request has
        // completed; `target` is ours alone, of the same length, and no segment lies in it.
        unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), target.as_mut_ptr(), part.len) };
        filled += part.len;
    });
}

/// Copies `data` into the segments from offset `at` on: what a device does to read.
///
/// # Panics
///
/// If `data` reaches past the end of the segments.
pub fn store(segments: &[Segment], at: usize, data: &[u8]) {
    let mut used = 0;
    each_part(segments, at, data.len(), |part| {
        let source = &data[used..used + part.len];
        // SAFETY: the segment's maker vouches that its bytes are mapped, and written by nobody
        // through a reference, until the request has completed; `source` is no part of it.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), part.as_ptr(), part.len) };
        used += part.len;
    });
}

/// Calls `f` with the pieces of the `len` bytes from offset `at` of the segments, in order.
fn each_part(segments: &[Segment], mut at: usize, mut len: usize, mut f: impl FnMut(Segment)) {
    for segment in segments {
        if len == 0 {
            return;
        }
        if at >= segment.len {
            at -= segment.len;
            continue;
        }
        let part = segment.part(at, len.min(segment.len - at));
        f(part);
        len -= part.len;
        at = 0;
    }
    assert_eq!(len, 0, "copy past the end of the segments");
}

/// All checks of a request against a device of `size` bytes with these limits: those of
/// [`Bio::check`], the longest transfer, and for an atomic write its size (a power of two within
/// the limits) and natural alignment.
///
/// # Errors
///
/// `EINVAL` for a request the device cannot do, `ENXIO` past the end.
pub fn admit(
    limits: &Limits,
    size: u64,
    op: BioOp,
    addr: DevAddr,
    len: u64,
    segments: &[Segment],
) -> Result<(), Errno> {
    check_bounds(op, addr, len, size, limits.block_size)?;
    check_segments(op, len, segments)?;
    let transfer = matches!(op, BioOp::Read | BioOp::Write { .. });
    if transfer && len > limits.max_transfer {
        return Err(Errno::INVAL);
    }
    if let BioOp::Write { atomic: true, .. } = op {
        let (min, max) = limits.atomic_write;
        if max == 0 || len < min || len > max || !len.is_power_of_two() || !addr.is_aligned(len) {
            return Err(Errno::INVAL);
        }
    }
    Ok(())
}

/// A transfer has memory for exactly its length.
fn check_segments(op: BioOp, len: u64, segments: &[Segment]) -> Result<(), Errno> {
    let transfer = matches!(op, BioOp::Read | BioOp::Write { .. });
    if transfer && segments.iter().map(|s| s.len as u64).sum::<u64>() != len {
        return Err(Errno::INVAL);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::buffer::DeviceBuf;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = BioOp> {
        prop_oneof![
            Just(BioOp::Read),
            (any::<bool>(), any::<bool>()).prop_map(|(fua, atomic)| BioOp::Write { fua, atomic }),
            Just(BioOp::Flush),
            Just(BioOp::Discard),
            Just(BioOp::WriteZeroes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_admitted_lies_on_the_device(
            op in op(), addr in any::<u64>(), len in prop_oneof![any::<u64>(), 0..9000u64],
            blocks in 0..64u64,
        ) {
            let size = blocks * 512;
            if check_bounds(op, DevAddr::new(addr), len, size, 512).is_ok() && op != BioOp::Flush {
                prop_assert!(len > 0 && len % 512 == 0 && addr % 512 == 0);
                prop_assert!(addr <= size && len <= size - addr);
            }
        }

        #[test]
        fn store_then_fetch_gives_the_bytes_back(
            sizes in prop::collection::vec(0..40usize, 0..6), at in 0..100usize, n in 0..100usize,
        ) {
            let total: usize = sizes.iter().sum();
            let (at, n) = (at.min(total), n.min(total - at.min(total)));
            let mut bufs: Vec<_> = sizes.iter().map(|&n| DeviceBuf::zeroed(n, 1)).collect();
            let segments: Vec<_> = bufs.iter_mut().map(|b| Segment::of_mut(b)).collect();
            let data: Vec<u8> = (0..n).map(|i| i as u8 + 1).collect();
            store(&segments, at, &data);
            let mut back = vec![0; total];
            fetch(&segments, 0, &mut back);
            let mut expected = vec![0; total];
            expected[at..at + n].copy_from_slice(&data);
            prop_assert_eq!(back, expected);
        }
    }

    #[test]
    fn atomic_writes_are_powers_of_two_in_their_place() {
        let limits = Limits {
            atomic_write: (512, 4096),
            ..Limits::PLAIN
        };
        let mut buf = DeviceBuf::zeroed(8192, 1);
        let whole = Segment::of_mut(&mut buf);
        let op = BioOp::Write {
            fua: false,
            atomic: true,
        };
        let try_it = |addr: u64, len: usize| {
            admit(
                &limits,
                1 << 20,
                op,
                DevAddr::new(addr),
                len as u64,
                &[whole.part(0, len)],
            )
        };
        assert_eq!(try_it(4096, 4096), Ok(()));
        assert_eq!(try_it(512, 512), Ok(()));
        assert_eq!(try_it(512, 1024), Err(Errno::INVAL));
        assert_eq!(try_it(0, 1536), Err(Errno::INVAL));
        assert_eq!(try_it(0, 8192), Err(Errno::INVAL));
        assert_eq!(
            admit(
                &Limits::PLAIN,
                1 << 20,
                op,
                DevAddr::new(0),
                512,
                &[whole.part(0, 512)]
            ),
            Err(Errno::INVAL)
        );
    }

    #[test]
    fn segments_that_do_not_add_up_are_refused() {
        let mut buf = DeviceBuf::zeroed(1024, 1);
        let segment = Segment::of_mut(&mut buf);
        let (addr, limits) = (DevAddr::new(0), Limits::PLAIN);
        assert_eq!(
            admit(&limits, 4096, BioOp::Read, addr, 512, &[segment]),
            Err(Errno::INVAL)
        );
        assert_eq!(
            admit(&limits, 4096, BioOp::WRITE, addr, 1536, &[segment]),
            Err(Errno::INVAL)
        );
    }
}
