//! io_uring with nothing around it: the floor of direct I/O at a depth.
//!
//! Owns one ring and its buffers. Reads or writes one file by `O_DIRECT` descriptors; no layer of
//! this project is used, so that what the layers cost can be seen.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};
use iomap_core::device::DeviceBuf;

/// A ring for one file, and a buffer for each request in flight.
pub struct RawRing {
    ring: IoUring,
    file: File,
    bufs: Vec<DeviceBuf>,
}

impl std::fmt::Debug for RawRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawRing")
            .field("depth", &self.bufs.len())
            .finish_non_exhaustive()
    }
}

impl RawRing {
    /// A ring that keeps `depth` requests of `size` bytes in flight.
    ///
    /// # Errors
    ///
    /// The kernel refuses io_uring.
    pub fn new(file: File, depth: u32, size: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(depth)?;
        let bufs = (0..depth).map(|_| DeviceBuf::from_slice(&crate::noise(size), 4096));
        Ok(Self {
            ring,
            file,
            bufs: bufs.collect(),
        })
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Reads (or with `write` writes) one buffer at each of `count` positions, the depth in flight.
    ///
    /// # Errors
    ///
    /// The first request that failed or was short; everything in flight has ended then.
    pub fn run(
        &mut self,
        count: u64,
        write: bool,
        mut next: impl FnMut() -> u64,
    ) -> io::Result<()> {
        let mut free: Vec<usize> = (0..self.bufs.len()).collect();
        let (mut sent, mut ended, mut outcome) = (0, 0, Ok(()));
        while ended < sent || (sent < count && outcome.is_ok()) {
            while let Some(slot) = free.pop_if(|_| sent < count && outcome.is_ok()) {
                self.push(slot, write, next())?;
                sent += 1;
            }
            self.ring.submit_and_wait(1)?;
            for cqe in self.ring.completion() {
                let slot = cqe.user_data() as usize;
                ended += 1;
                free.push(slot);
                if let Err(error) = whole(cqe.result(), self.bufs[slot].len()) {
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }

    fn push(&mut self, slot: usize, write: bool, at: u64) -> io::Result<()> {
        let fd = types::Fd(self.file.as_raw_fd());
        let buf = &mut self.bufs[slot];
        let len = u32::try_from(buf.len()).map_err(io::Error::other)?;
        let entry = if write {
            opcode::Write::new(fd, buf.as_ptr(), len).offset(at).build()
        } else {
            opcode::Read::new(fd, buf.as_mut_ptr(), len)
                .offset(at)
                .build()
        };
        // SAFETY: the buffer belongs to `self` and is given to no other request until `run` has
        // seen the completion of this one, and `run` does not return before.
        unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }
            .map_err(io::Error::other)
    }
}

fn whole(result: i32, len: usize) -> io::Result<()> {
    match usize::try_from(result) {
        Ok(done) if done == len => Ok(()),
        Ok(done) => Err(io::Error::other(format!("{done} of {len} bytes"))),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}
