//! How requests come and answers go.
//!
//! Owns the two ways there are: reading and writing `/dev/fuse` ([`device`]), which every kernel has,
//! and rings of `io_uring` ([`ring`]), which some have and use beside it. Does not own what the bytes
//! mean ([`wire`](crate::wire)).

mod device;
mod ring;

use iomap_core::error::FsError;

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

/// Has `request` served, with its answer in `room`. Returns the header that goes before the answer.
fn serve(server: &Server, request: &Request<'_>, room: &mut [u8]) -> OutHeader {
    let mut reply = Reply::new(room);
    let (error, len) = match server.answer(request, &mut reply) {
        Ok(()) => (0, reply.len()),
        Err(error) => (-errno(&error), 0),
    };
    OutHeader {
        // No longer than the room, which the kernel was told of in 32 bits.
        len: (size_of::<OutHeader>() + len) as u32,
        error,
        unique: request.header.unique,
    }
}

/// The number of an error, greater than 0.
fn errno(error: &FsError) -> i32 {
    error.errno().raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

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
