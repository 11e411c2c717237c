//! An open file or block device, and every request done to it by plain system calls.
//!
//! Owns [`Handle`]: what was found out at open, and the blocking form of each operation, which both
//! back ends use: the one without a ring for everything, the ring for what it cannot do better.
//! Opening and probing is [`open`](super::open); queues and completions are not known here.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use smallvec::SmallVec;

use super::Limits;
use super::bio::{self, BioOp, Segment};
use super::buffer::DeviceBuf;
use super::raw;
use crate::error::Errno;
use crate::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::DevAddr;

/// The most memory a bounce copy takes at once, bytes.
pub(super) const BOUNCE: usize = 256 << 10;

/// What the kernel asks of direct transfers (`STATX_DIOALIGN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectAlign {
    /// Of memory addresses, bytes.
    pub(super) memory: usize,
    /// Of addresses on the device and of lengths, also of each segment, bytes.
    pub(super) offset: usize,
}

/// An open, locked file or block device.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) limits: Limits,
    pub(super) read_only: bool,
    pub(super) block_device: bool,
    /// Set when the descriptor has `O_DIRECT`.
    pub(super) direct: Option<DirectAlign>,
    /// Segments one untorn write may have.
    pub(super) atomic_segments: usize,
    /// Cleared when the file system turns out not to have `FALLOC_FL_ZERO_RANGE`. Relaxed: a late
    /// reader only asks once more.
    pub(super) zero_range: AtomicBool,
    /// The errno of the first flush that failed, or zero. The kernel tells a lost write once; the
    /// device goes on telling it (see [`Handle::flush`]). Stored with `Release` before the failing
    /// flush returns, loaded with `Acquire` by every later one.
    pub(super) lost: AtomicI32,
    /// One flush at a time where the kernel tells a lost write to one caller only: buffered files.
    pub(super) flushing: Mutex<()>,
}

impl Handle {
    /// A handle with nothing found out yet beyond these.
    pub(super) fn new(file: File, path: PathBuf, size: u64, limits: Limits) -> Self {
        Self {
            file,
            path,
            size,
            limits,
            read_only: false,
            block_device: false,
            direct: None,
            atomic_segments: 1,
            zero_range: AtomicBool::new(true),
            lost: AtomicI32::new(0),
            flushing: Mutex::new(Rank::DeviceQueue, ()),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// All checks of a request: those of [`bio::admit`], and `EROFS` for a change to a device
    /// that was opened read-only.
    pub(super) fn admit(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), Errno> {
        if self.read_only && !matches!(op, BioOp::Read | BioOp::Flush) {
            return Err(Errno::ROFS);
        }
        bio::admit(&self.limits, self.size, op, addr, len, segments)
    }

    /// Does a request that was admitted, and waits for it.
    pub(super) fn run(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), Errno> {
        let addr = addr.bytes();
        match op {
            BioOp::Read | BioOp::Write { .. } if self.must_bounce(op, segments) => {
                self.bounced(op, addr, len, segments)
            }
            BioOp::Read | BioOp::Write { .. } => self.whole(op, addr, len, segments),
            BioOp::Flush => self.flush(),
            BioOp::Discard => self.discard(addr, len),
            BioOp::WriteZeroes => self.write_zeroes(addr, len),
        }
    }

    /// Whether the memory is not such that the kernel takes it: misaligned for `O_DIRECT`, or in
    /// too many pieces for one untorn write.
    pub(super) fn must_bounce(&self, op: BioOp, segments: &[Segment]) -> bool {
        let torn = matches!(op, BioOp::Write { atomic: true, .. })
            && segments.len() > self.atomic_segments.min(raw::MAX_SEGMENTS);
        torn || self.direct.is_some_and(|align| {
            segments.iter().any(|s| {
                !s.as_ptr().addr().is_multiple_of(align.memory)
                    || !s.len().is_multiple_of(align.offset)
            })
        })
    }

    /// The alignment of memory that never needs a bounce copy.
    pub(super) fn memory_align(&self) -> usize {
        self.direct.map_or(1, |align| align.memory)
    }

    /// The transfer through an aligned copy, piece by piece. Untorn writes are one piece.
    fn bounced(&self, op: BioOp, addr: u64, len: u64, segments: &[Segment]) -> Result<(), Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let piece = match op {
            BioOp::Write { atomic: true, .. } => len,
            _ => len.min(BOUNCE),
        };
        let mut buf = DeviceBuf::zeroed(piece, self.memory_align());
        let whole = Segment::of_mut(&mut buf);
        let mut at = 0;
        while at < len {
            let part = whole.part(0, piece.min(len - at));
            if matches!(op, BioOp::Write { .. }) {
                bio::fetch(segments, at, &mut buf[..part.len()]);
            }
            self.whole(op, addr + at as u64, part.len() as u64, &[part])?;
            if op == BioOp::Read {
                bio::store(segments, at, &buf[..part.len()]);
            }
            at += part.len();
        }
        Ok(())
    }

    /// The transfer by as many calls as it takes, and what makes it durable.
    fn whole(&self, op: BioOp, addr: u64, len: u64, segments: &[Segment]) -> Result<(), Errno> {
        let count = segments.len().min(raw::MAX_SEGMENTS);
        let mut moved = self.once(op, &segments[..count], addr)?;
        if moved as u64 != len {
            let mut rest = Cursor::new(segments, addr, len);
            while rest.advance(op, moved)? {
                moved = self.once(op, rest.segments(), rest.addr())?;
            }
        }
        match op {
            BioOp::Write { fua: true, .. } if self.dsync() => self.not_lost(),
            BioOp::Write { fua: true, .. } => self.flush(),
            _ => Ok(()),
        }
    }

    fn once(&self, op: BioOp, segments: &[Segment], addr: u64) -> Result<usize, Errno> {
        match op {
            BioOp::Write { .. } => raw::write(self.fd(), segments, addr, self.write_flags(op)),
            _ => raw::read(self.fd(), segments, addr),
        }
    }

    /// Whether a write can be made durable by a flag. Not in a buffered file, where the flag may
    /// swallow the error of another write.
    pub(super) fn dsync(&self) -> bool {
        self.direct.is_some()
    }

    /// The flags of `pwritev2` for this write.
    pub(super) fn write_flags(&self, op: BioOp) -> i32 {
        match op {
            BioOp::Write { fua, atomic } => {
                let dsync = if fua && self.dsync() { raw::DSYNC } else { 0 };
                dsync | if atomic { raw::ATOMIC } else { 0 }
            }
            _ => 0,
        }
    }

    /// Makes every completed write durable.
    ///
    /// Once a flush has failed, data that was reported as written may be lost, and the kernel does
    /// not say so twice. From then on every flush fails with the same errno, until the device is
    /// opened again.
    pub(super) fn flush(&self) -> Result<(), Errno> {
        if self.read_only {
            return Ok(());
        }
        let _one = self.direct.is_none().then(|| self.flushing.lock());
        self.not_lost()?;
        raw::retry(|| fdatasync(self.fd())).inspect_err(|&errno| self.lose(errno))?;
        self.not_lost()
    }

    /// Fails if a flush has failed.
    pub(super) fn not_lost(&self) -> Result<(), Errno> {
        match self.lost.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Errno::from_raw_os_error(code)),
        }
    }

    /// Remembers that a flush has failed.
    pub(super) fn lose(&self, errno: Errno) {
        self.lost.store(errno.raw_os_error(), Ordering::Release);
    }

    fn discard(&self, addr: u64, len: u64) -> Result<(), Errno> {
        if self.block_device {
            raw::discard(self.fd(), addr, len)
        } else {
            self.punch(addr, len)
        }
    }

    fn write_zeroes(&self, addr: u64, len: u64) -> Result<(), Errno> {
        if self.block_device {
            return raw::zero_out(self.fd(), addr, len);
        }
        if self.zero_range.load(Ordering::Relaxed) {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            match raw::retry(|| fallocate(self.fd(), flags, addr, len)) {
                Err(Errno::OPNOTSUPP) => self.zero_range.store(false, Ordering::Relaxed),
                answer => return answer,
            }
        }
        self.punch(addr, len)
    }

    fn punch(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        raw::retry(|| fallocate(self.fd(), flags, addr, len))
    }
}

/// What is left of a transfer.
#[derive(Debug)]
pub(super) struct Cursor {
    segments: SmallVec<[Segment; 4]>,
    first: usize,
    addr: u64,
    left: u64,
}

impl Cursor {
    /// All of it is left.
    pub(super) fn new(segments: &[Segment], addr: u64, len: u64) -> Self {
        Self {
            segments: SmallVec::from_slice(segments),
            first: 0,
            addr,
            left: len,
        }
    }

    /// The memory of the next call.
    pub(super) fn segments(&self) -> &[Segment] {
        let rest = &self.segments[self.first..];
        &rest[..rest.len().min(raw::MAX_SEGMENTS)]
    }

    /// Where the next call starts, bytes.
    pub(super) const fn addr(&self) -> u64 {
        self.addr
    }

    /// Takes note that `moved` bytes are done. Returns whether any are left.
    ///
    /// # Errors
    ///
    /// `EIO` if nothing moved although something was left: the file has become shorter than the
    /// device it was opened as. Also for part of an untorn write.
    pub(super) fn advance(&mut self, op: BioOp, moved: usize) -> Result<bool, Errno> {
        let torn = matches!(op, BioOp::Write { atomic: true, .. }) && (moved as u64) < self.left;
        if (moved == 0 && self.left > 0) || torn || moved as u64 > self.left {
            return Err(Errno::IO);
        }
        self.addr += moved as u64;
        self.left -= moved as u64;
        let mut moved = moved;
        while let Some(segment) = self.segments.get_mut(self.first)
            && moved >= segment.len()
        {
            moved -= segment.len();
            self.first += 1;
        }
        if moved > 0 {
            let segment = &mut self.segments[self.first];
            *segment = segment.part(moved, segment.len() - moved);
        }
        Ok(self.left > 0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_visits_every_byte_once(
            sizes in prop::collection::vec(1..50usize, 1..8),
            steps in prop::collection::vec(1..60usize, 1..80),
        ) {
            let total: usize = sizes.iter().sum();
            let mut buf = DeviceBuf::zeroed(total, 1);
            let whole = Segment::of_mut(&mut buf);
            let base = whole.as_ptr().addr();
            let mut at = 0;
            let segments: Vec<_> = sizes.iter().map(|&n| { at += n; whole.part(at - n, n) }).collect();
            let mut cursor = Cursor::new(&segments, 1000, total as u64);
            let mut seen = 0;
            for step in steps.into_iter().cycle() {
                prop_assert_eq!(cursor.addr(), 1000 + seen as u64);
                prop_assert_eq!(cursor.segments()[0].as_ptr().addr(), base + seen);
                let n = step.min(total - seen);
                seen += n;
                if !cursor.advance(BioOp::Read, n).unwrap() {
                    break;
                }
            }
            prop_assert_eq!(seen, total);
        }
    }

    #[test]
    fn no_progress_is_an_error_not_a_loop() {
        let mut buf = DeviceBuf::zeroed(512, 1);
        let mut cursor = Cursor::new(&[Segment::of_mut(&mut buf)], 0, 512);
        assert_eq!(cursor.advance(BioOp::Read, 0), Err(Errno::IO));
    }

    #[test]
    fn a_torn_atomic_write_is_an_error() {
        let mut buf = DeviceBuf::zeroed(512, 1);
        let mut cursor = Cursor::new(&[Segment::of_mut(&mut buf)], 0, 512);
        let op = BioOp::Write {
            fua: false,
            atomic: true,
        };
        assert_eq!(cursor.advance(op, 100), Err(Errno::IO));
        assert_eq!(cursor.advance(op, 512), Ok(false));
    }
}
