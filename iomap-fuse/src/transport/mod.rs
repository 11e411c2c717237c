//! How requests come and answers go.
//!
//! Owns the two ways there are: reading and writing `/dev/fuse` ([`device`]), which every kernel has,
//! and rings of `io_uring` ([`ring`]), which some have and use beside it. Does not own what the bytes
//! mean ([`wire`](crate::wire)).

mod device;
mod processors;
mod ring;

use std::panic::{AssertUnwindSafe, catch_unwind};

use iomap_core::error::{Errno, FsError, Result};

use crate::server::Server;
use crate::wire::{OutHeader, Reply, Request};

pub(crate) use device::{Device, Notifier};
pub(crate) use ring::Rings;

/// Memory for direct I/O, and the data of every request that has much of it, begins at a multiple of
/// this.
const ALIGN: usize = 4096;

/// Bytes of memory that begin at a multiple of [`ALIGN`] and stay where they are.
#[derive(Debug)]
struct Aligned {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Aligned {
    /// Zeroes, which take memory only when they are touched.
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGN];
        let skip = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, skip, len }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + self.len]
    }

    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.skip..self.skip + self.len]
    }
}

/// The largest error an answer may carry: the kernel takes no answer with a larger one, and its caller
/// would wait for ever.
const MAX_ERROR: i32 = 511;

/// Has `request` served, with its answer in `room`. Returns the header that goes before the answer.
fn serve(server: &Server, request: &Request<'_>, room: &mut [u8]) -> OutHeader {
    serve_with(request, room, |reply| server.answer(request, reply))
}

/// As [`serve`], by `body`.
///
/// A panic is the end of that request (`EIO`) and not of the thread, with which its caller, and later
/// all others, would be left without an answer.
fn serve_with(
    request: &Request<'_>,
    room: &mut [u8],
    body: impl FnOnce(&mut Reply<'_>) -> Result<()>,
) -> OutHeader {
    // What a panic leaves half done is behind locks that are free again; nothing else is shared.
    let served = catch_unwind(AssertUnwindSafe(|| {
        let mut reply = Reply::new(room);
        body(&mut reply).map(|()| reply.len())
    }));
    let answered = served.unwrap_or_else(|_| {
        let opcode = request.header.opcode;
        tracing::error!(target: "iomap_fuse", opcode, "a request panicked");
        Err(Errno::IO.into())
    });
    match answered {
        Ok(len) => answer(request, 0, len),
        Err(error) => answer(request, -errno(&error), 0),
    }
}

/// The header of an answer to `request` with `len` bytes: no more than the room, which the kernel was
/// told of in 32 bits.
const fn answer(request: &Request<'_>, error: i32, len: usize) -> OutHeader {
    OutHeader {
        len: (size_of::<OutHeader>() + len) as u32,
        error,
        unique: request.header.unique,
    }
}

/// The number of an error, greater than 0 and no greater than [`MAX_ERROR`].
fn errno(error: &FsError) -> i32 {
    match error.errno().raw_os_error() {
        number @ 1..=MAX_ERROR => number,
        // Of the kernel's own, which a device should not have let out.
        _ => Errno::IO.raw_os_error(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::wire::InHeader;

    /// What `body` is answered with: the error, and how many bytes follow the header.
    fn answered(body: impl FnOnce(&mut Reply<'_>) -> Result<()>) -> (i32, usize) {
        let header = InHeader::of(3, 7);
        let answer = serve_with(&Request::new(header, &[], &[]), &mut [0; 16], body);
        assert_eq!(answer.unique, 7);
        (answer.error, answer.len as usize - size_of::<OutHeader>())
    }

    #[test]
    fn a_panic_is_an_error_of_its_request() {
        let panicked = answered(|reply| {
            reply.put(&[1_u8; 9]).unwrap();
            panic!("on purpose")
        });
        assert_eq!(panicked, (-libc::EIO, 0));
        assert_eq!(answered(|reply| reply.put(&[1_u8; 9])), (0, 9));
    }

    #[test]
    fn no_error_is_told_that_the_kernel_does_not_take() {
        for (told, error) in [(1, 1), (511, 511), (512, libc::EIO), (524, libc::EIO)] {
            let errno = Errno::from_raw_os_error(told);
            assert_eq!(answered(|_| Err(errno.into())), (-error, 0));
        }
    }

    #[test]
    fn memory_is_aligned_and_as_long_as_asked_for() {
        for len in [1, 4096, 5000, 1 << 20] {
            let mut memory = Aligned::new(len);
            let at = memory.as_ref().as_ptr();
            assert_eq!(at.align_offset(ALIGN), 0);
            assert_eq!(memory.as_mut().len(), len);
            assert_eq!(memory.as_mut().as_ptr(), at);
        }
    }
}
