//! io_uring with nothing around it: the floor of direct I/O at a depth.
//!
//! Owns one ring and its buffers. Reads or writes one file by `O_DIRECT` descriptors; no layer of
//! this project is used, so that what the layers cost can be seen.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, opcode, types};
use iomap_core::device::DeviceBuf;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A ring for one file, and a buffer for each request in flight.
pub struct RawRing {
    ring: IoUring,
    /// Sleeps here for completions, if not in the ring.
    epoll: Option<OwnedFd>,
    file: File,
    bufs: Vec<DeviceBuf>,
    /// Requests whose completion has not been seen.
    flying: usize,
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
        Ok(Self::with(ring, None, file, depth, size))
    }

    /// As [`RawRing::new`], but any thread may use it, and it sleeps in no epoll of its own.
    ///
    /// # Errors
    ///
    /// The kernel refuses io_uring.
    pub fn plain(file: File, depth: u32, size: usize) -> io::Result<Self> {
        Ok(Self::with(IoUring::new(depth)?, None, file, depth, size))
    }

    /// As [`RawRing::plain`], but it sleeps in epoll, as a runtime that has other things to wait for
    /// does.
    ///
    /// # Errors
    ///
    /// The kernel refuses io_uring or epoll.
    pub fn polled(file: File, depth: u32, size: usize) -> io::Result<Self> {
        let ring = IoUring::new(depth)?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        // SAFETY: the ring's descriptor is open while `ring` lives, which is longer than this call.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        epoll::add(
            &poll,
            fd,
            data,
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Self::with(ring, Some(poll), file, depth, size))
    }

    fn with(ring: IoUring, epoll: Option<OwnedFd>, file: File, depth: u32, size: usize) -> Self {
        let bufs = (0..depth).map(|_| DeviceBuf::from_slice(&crate::noise(size), 4096));
        Self {
            ring,
            epoll,
            file,
            bufs: bufs.collect(),
            flying: 0,
        }
    }

    /// Starts what was pushed, and sleeps until something has completed.
    fn enter(&mut self) -> io::Result<()> {
        let Some(poll) = &self.epoll else {
            return self.ring.submit_and_wait(1).map(drop);
        };
        self.ring.submit()?;
        let mut events = Vec::with_capacity(1);
        while self.ring.completion().is_empty() {
            match epoll::wait(poll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => events.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads one buffer at each of `count` positions, one after the other, by a task of the current
    /// runtime that sleeps for the ring's descriptor: the least a read through tokio can cost.
    ///
    /// # Errors
    ///
    /// As [`RawRing::run`], and if the descriptor cannot be registered.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without I/O.
    pub async fn run_in_task(
        &mut self,
        count: u64,
        mut next: impl FnMut() -> u64,
    ) -> io::Result<()> {
        // SAFETY: the ring's descriptor is open while `ring` lives, which is longer than this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }.try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` is open, and the same descriptor, as long as it lives; the `AsyncFd`
        // owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        let mut outcome = Ok(());
        for _ in 0..count {
            self.push(0, false, next())?;
            self.ring.submit()?;
            while self.ring.completion().is_empty() {
                fd.readable().await?.clear_ready();
            }
            for cqe in self.ring.completion() {
                self.flying -= 1;
                outcome = outcome.and(whole(cqe.result(), self.bufs[0].len()));
            }
        }
        outcome
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
            self.enter()?;
            for cqe in self.ring.completion() {
                let slot = cqe.user_data() as usize;
                self.flying -= 1;
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
        // SAFETY: the buffer belongs to `self` and is given to no other request before this one has
        // been seen to complete; whoever returns earlier leaves it counted in `flying`, and `Drop`
        // waits for it.
        unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }
            .map_err(io::Error::other)?;
        self.flying += 1;
        Ok(())
    }
}

impl Drop for RawRing {
    fn drop(&mut self) {
        while self.flying > 0 {
            if self.ring.submit_and_wait(1).is_err() {
                // The kernel may still write to it.
                return std::mem::forget(std::mem::take(&mut self.bufs));
            }
            self.flying -= self.ring.completion().count().min(self.flying);
        }
    }
}

fn whole(result: i32, len: usize) -> io::Result<()> {
    match usize::try_from(result) {
        Ok(done) if done == len => Ok(()),
        Ok(done) => Err(io::Error::other(format!("{done} of {len} bytes"))),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn every_way_reads_all_positions_and_a_dropped_task_leaves_its_memory() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        file.write_all_at(&crate::noise(1 << 16), 0)?;
        let Ok(mut polled) = RawRing::polled(file.try_clone()?, 4, 4096) else {
            return Ok(()); // no io_uring here
        };
        let mut at = (0..16).map(|n| n * 4096).cycle();
        polled.run(16, false, || at.next().expect("a cycle"))?;
        let mut plain = RawRing::plain(file, 1, 4096)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(plain.run_in_task(16, || at.next().expect("a cycle")))?;
        assert_eq!((polled.flying, plain.flying), (0, 0));
        runtime.block_on(async {
            let mut reads = std::pin::pin!(plain.run_in_task(1, || 0));
            let waker = std::task::Waker::noop();
            let _ = reads
                .as_mut()
                .poll(&mut std::task::Context::from_waker(waker));
        });
        assert!(plain.flying <= 1);
        drop(plain);
        // Beyond the end nothing is read: an error, and nothing is left in flight.
        assert!(polled.run(4, false, || 1 << 20).is_err());
        assert_eq!(polled.flying, 0);
        Ok(())
    }
}
