//! The system calls that move segments, and the block device requests `rustix` does not have.
//!
//! Owns nothing but these calls: each is one call, answers what the kernel answered, and retries
//! only an interruption.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::bio::Segment;
use crate::error::Errno;

/// The most segments one call takes (`UIO_MAXIOV`).
pub(super) const MAX_SEGMENTS: usize = 1024;
/// Durable when the call returns.
pub(super) const DSYNC: i32 = libc::RWF_DSYNC;
/// All or nothing.
pub(super) const ATOMIC: i32 = libc::RWF_ATOMIC;

/// Block device requests `_IO(0x12, n)` that take a range `[start, length]` in bytes.
const BLKDISCARD: Opcode = opcode::none(0x12, 119);
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);

/// Reads into at most [`MAX_SEGMENTS`] segments. Returns the bytes read.
pub(super) fn read(fd: BorrowedFd<'_>, segments: &[Segment], at: u64) -> Result<usize, Errno> {
    let (iov, count, offset) = arguments(segments, at)?;
    // SAFETY: `Segment` is laid out like `iovec`, and its maker vouches that the memory may be
    // written until the request has completed, which is after this call.
    checked(|| unsafe { libc::preadv2(fd.as_raw_fd(), iov, count, offset, 0) })
}

/// Writes from at most [`MAX_SEGMENTS`] segments. Returns the bytes written.
pub(super) fn write(
    fd: BorrowedFd<'_>,
    segments: &[Segment],
    at: u64,
    flags: i32,
) -> Result<usize, Errno> {
    let (iov, count, offset) = arguments(segments, at)?;
    // SAFETY: `Segment` is laid out like `iovec`, and its maker vouches that the memory may be
    // read until the request has completed, which is after this call.
    checked(|| unsafe { libc::pwritev2(fd.as_raw_fd(), iov, count, offset, flags) })
}

/// Tells a block device that the bytes are not needed.
pub(super) fn discard(fd: BorrowedFd<'_>, at: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: BLKDISCARD reads two u64, which the setter passes by address.
    retry(|| unsafe { ioctl(fd, Setter::<BLKDISCARD, [u64; 2]>::new([at, len])) })
}

/// Makes bytes of a block device zero.
pub(super) fn zero_out(fd: BorrowedFd<'_>, at: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: BLKZEROOUT reads two u64, which the setter passes by address.
    retry(|| unsafe { ioctl(fd, Setter::<BLKZEROOUT, [u64; 2]>::new([at, len])) })
}

/// Repeats a call as long as it is interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

type Arguments = (*const libc::iovec, libc::c_int, libc::off_t);

fn arguments(segments: &[Segment], at: u64) -> Result<Arguments, Errno> {
    let count = libc::c_int::try_from(segments.len()).map_err(|_| Errno::INVAL)?;
    let offset = libc::off_t::try_from(at).map_err(|_| Errno::FBIG)?;
    Ok((segments.as_ptr().cast(), count, offset))
}

fn checked(mut call: impl FnMut() -> libc::ssize_t) -> Result<usize, Errno> {
    retry(|| {
        usize::try_from(call()).map_err(|_| {
            let error = std::io::Error::last_os_error();
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })
    })
}
