//! Requests and answers through rings of `io_uring`.
//!
//! Owns the threads, each with a ring of its own and one entry: the memory a request comes to and its
//! answer goes from. The kernel has a queue for every processor and puts a request into that of the
//! processor its caller runs on; the threads of a queue are held on that processor, so that a request
//! wakes nobody elsewhere. One call of the system gives an answer and waits for the next request.
//!
//! What has no answer (`FORGET`, `INTERRUPT`), notifications, and everything until all queues have an
//! entry, go through `/dev/fuse` still.
//!
//! From the moment the kernel has agreed to rings no request is let go before all queues have an entry,
//! so every ring is made before that ([`Rings::prepare`]). If registering one fails all the same, the
//! kernel goes back to `/dev/fuse`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use io_uring::cqueue;
use io_uring::opcode::UringCmd80;
use io_uring::squeue::Entry128;
use io_uring::types::Fixed;
use rustix::thread::{CpuSet, sched_setaffinity};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Aligned, Device, serve};
use crate::server::Server;
use crate::wire::{InHeader, Opcode, OutHeader, Request};

/// Threads of each queue: so many requests from one processor may wait for the device before the next
/// waits for them.
const DEPTH: usize = 4;

/// The commands of the interface.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// What a command carries, in the 80 bytes of its submission.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Command {
    flags: u64,
    commit_id: u64,
    qid: u16,
    padding: [u8; 6],
}

/// The first of the two parts of an entry's memory; the second has names, data and answers.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    /// The header of the request, then that of the answer.
    in_out: [u8; 128],
    /// The structure the request begins with.
    op_in: [u8; 128],
    flags: u64,
    commit_id: u64,
    payload_len: u32,
    padding: u32,
    reserved: u64,
}

/// An entry of a queue, and the ring of the thread that serves it.
struct Entry {
    ring: io_uring::IoUring<Entry128, cqueue::Entry>,
    qid: u16,
    header: Aligned,
    payload: Aligned,
    /// Where the answer to a request with data is put, until the data is not needed any more.
    answer: Box<[u8; 256]>,
    /// Names and small data of a request whose answer takes their place.
    names: Vec<u8>,
    /// Where the two parts of the memory are, as the kernel reads it with [`REGISTER`].
    parts: Box<[libc::iovec; 2]>,
}

/// Threads that wait to be let go.
#[derive(Debug)]
pub(crate) struct Rings {
    threads: Vec<(Sender<Device>, JoinHandle<io::Result<()>>)>,
}

impl Rings {
    /// Makes the rings of all queues, and threads that wait for [`Rings::start`]. `max_data`: bytes of the
    /// longest data of a request or answer.
    ///
    /// # Errors
    ///
    /// What keeps one of them from being made: there is no `io_uring` here, or no thread or memory.
    pub(crate) fn prepare(server: &Arc<Server>, max_data: usize) -> io::Result<Self> {
        let queues = u16::try_from(possible_processors()?).map_err(io::Error::other)?;
        let (made, told) = channel();
        let mut threads = Vec::new();
        for qid in 0..queues {
            for _ in 0..DEPTH {
                let (start, started) = channel();
                let (server, made) = (Arc::clone(server), made.clone());
                let thread = std::thread::Builder::new()
                    .name(format!("fuse-ring-{qid}"))
                    .spawn(move || live(&server, qid, max_data, &made, &started))?;
                threads.push((start, thread));
            }
        }
        drop(made);
        for _ in &threads {
            // A thread that ends without a word has panicked.
            told.recv().map_err(io::Error::other)??;
        }
        Ok(Self { threads })
    }

    /// Lets the threads serve what comes over `device`, which has agreed to it. Returns them.
    pub(crate) fn start(self, device: &Device) -> Vec<JoinHandle<io::Result<()>>> {
        let start = |(start, thread): (Sender<Device>, _)| {
            // It waits: it has told that it does.
            let _ = start.send(device.clone());
            thread
        };
        self.threads.into_iter().map(start).collect()
    }
}

/// The life of a thread: makes its ring, says so, waits to be let go and serves.
fn live(
    server: &Server,
    qid: u16,
    max_data: usize,
    made: &Sender<io::Result<()>>,
    started: &Receiver<Device>,
) -> io::Result<()> {
    stay_on(qid);
    let mut entry = match Entry::new(qid, max_data) {
        Ok(entry) => entry,
        Err(error) => {
            let _ = made.send(Err(error));
            return Ok(());
        }
    };
    let _ = made.send(Ok(()));
    match started.recv() {
        Ok(device) => entry.serve(server, &device),
        // Never let go: another one could not be made.
        Err(_) => Ok(()),
    }
}

/// Holds this thread on a processor. Where that is not allowed it serves from elsewhere.
fn stay_on(processor: u16) {
    let mut one = CpuSet::new();
    if usize::from(processor) < CpuSet::MAX_CPU {
        one.set(processor.into());
        if let Err(error) = sched_setaffinity(None, &one) {
            tracing::debug!(target: "iomap_fuse", processor, %error, "a ring is served from elsewhere");
        }
    }
}

/// How many processors there could be, which is how many queues the kernel has.
fn possible_processors() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count(&list).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// How many numbers a list such as `0-3,8` has; `None` if it has none or is no list.
fn count(list: &str) -> Option<usize> {
    let mut all = 0_usize;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        all = all.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(all)
}

impl Entry {
    fn new(qid: u16, max_data: usize) -> io::Result<Self> {
        let ring = io_uring::IoUring::<Entry128, cqueue::Entry>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(1)?;
        let mut header = Aligned::new(size_of::<Header>());
        let mut payload = Aligned::new(max_data);
        let part = |memory: &mut Aligned| libc::iovec {
            iov_base: memory.as_mut().as_mut_ptr().cast(),
            iov_len: memory.as_mut().len(),
        };
        let parts = Box::new([part(&mut header), part(&mut payload)]);
        Ok(Self {
            ring,
            qid,
            header,
            payload,
            answer: Box::new([0; 256]),
            names: Vec::new(),
            parts,
        })
    }

    /// Serves until the connection ends.
    fn serve(&mut self, server: &Server, device: &Device) -> io::Result<()> {
        let descriptor = device.as_fd().as_raw_fd();
        self.ring.submitter().register_files(&[descriptor])?;
        self.register()?;
        let mut registering = true;
        loop {
            match self.wait()? {
                0 => {
                    let commit_id = self.serve_one(server)?;
                    self.commit(commit_id)?;
                    registering = false;
                }
                // The mount is gone, or its connection was taken away: reading the device tells which.
                error if error == -libc::ENOTCONN => return Ok(()),
                error if registering => return Err(io::Error::from_raw_os_error(-error)),
                error => {
                    let error = io::Error::from_raw_os_error(-error);
                    tracing::warn!(target: "iomap_fuse", qid = self.qid, %error, "an answer was refused");
                    self.register()?;
                    registering = true;
                }
            }
        }
    }

    /// Serves the request in the memory and leaves the answer there. Returns what the kernel calls it.
    fn serve_one(&mut self, server: &Server) -> io::Result<u64> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let (told, _) = Header::read_from_prefix(self.header.as_ref()).map_err(|_| broken())?;
        let (header, _) = InHeader::read_from_prefix(&told.in_out).map_err(|_| broken())?;
        let room = self.payload.as_mut();
        let data = room
            .get_mut(..told.payload_len as usize)
            .ok_or_else(broken)?;
        let answer = if header.opcode == Opcode::Write as u32 {
            // It has much data and a short answer; all others have it the other way round.
            let request = Request::new(header, &told.op_in, data);
            let answer = serve(server, &request, &mut self.answer[..]);
            let len = answer.len as usize - size_of::<OutHeader>();
            room[..len].copy_from_slice(&self.answer[..len]);
            answer
        } else {
            self.names.clear();
            self.names.extend_from_slice(data);
            let request = Request::new(header, &told.op_in, &self.names);
            serve(server, &request, room)
        };
        let (told, _) = Header::mut_from_prefix(self.header.as_mut()).map_err(|_| broken())?;
        told.in_out[..size_of::<OutHeader>()].copy_from_slice(answer.as_bytes());
        told.payload_len = answer.len - size_of::<OutHeader>() as u32;
        Ok(told.commit_id)
    }

    /// Offers the entry to the kernel. The first request comes with the completion.
    fn register(&mut self) -> io::Result<()> {
        /// Where a submission has the number of parts, which the library has no name for.
        const LEN_AT: usize = 24;
        const { assert!(size_of::<Entry128>() == 128) };
        let parts = self.parts.as_ptr() as u64;
        let mut entry = self.command(REGISTER, 0).addr(Some(parts)).build();
        // SAFETY: an `Entry128` is the submission as the kernel reads it, 128 bytes of plain numbers, and
        // the four bytes at 24 are its `len`, aligned to four.
        unsafe {
            (&raw mut entry)
                .cast::<u8>()
                .add(LEN_AT)
                .cast::<u32>()
                .write(self.parts.len() as u32);
        }
        // SAFETY: the entry names `parts` and through them `header` and `payload`. All three are on the
        // heap, owned by `self`, never moved or grown, and freed after the ring, which is dropped first
        // as the first field; with it the kernel lets go of them. The kernel writes to them only while
        // this thread is in `wait`, where no reference to them lives.
        unsafe { self.push(&entry) }
    }

    /// Gives the answer that is in the memory, and offers the entry again.
    fn commit(&mut self, commit_id: u64) -> io::Result<()> {
        let entry = self.command(COMMIT_AND_FETCH, commit_id).build();
        // SAFETY: it names no memory; the kernel uses that of `register`, for which see there.
        unsafe { self.push(&entry) }
    }

    fn command(&self, number: u32, commit_id: u64) -> UringCmd80 {
        let command = Command {
            flags: 0,
            commit_id,
            qid: self.qid,
            padding: [0; 6],
        };
        let mut bytes = [0; 80];
        bytes[..size_of::<Command>()].copy_from_slice(command.as_bytes());
        // The only descriptor that is registered.
        UringCmd80::new(Fixed(0), number).cmd(bytes)
    }

    /// # Safety
    ///
    /// Memory that `entry` names stays valid, and is looked at by nobody while the kernel has it.
    unsafe fn push(&mut self, entry: &Entry128) -> io::Result<()> {
        // SAFETY: the caller vouches for the memory.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Submits what was pushed and waits for the completion. Returns 0 or an error below it.
    fn wait(&mut self) -> io::Result<i32> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_lists_of_all_kinds() {
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("0-3\n"), Some(4));
        assert_eq!(count("0-1,8-11,16"), Some(7));
        for wrong in ["", "a", "3-1", "0-", "0-18446744073709551615"] {
            assert_eq!(count(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_memory_of_an_entry_is_laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<Command>(), 24);
        assert_eq!(size_of::<Header>(), 288);
        assert_eq!(std::mem::offset_of!(Header, payload_len), 272);
    }
}
