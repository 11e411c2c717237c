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

use io_uring::opcode::UringCmd80;
use io_uring::squeue::Entry128;
use io_uring::types::Fixed;
use io_uring::{EnterFlags, cqueue};
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::processors::{Queues, stay_on};
use super::{Aligned, Device, answer, serve};
use crate::server::Server;
use crate::wire::{InHeader, Opcode, OutHeader, Request};

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

/// Threads that wait to be let go. If they are dropped instead, they end before the drop does, and with
/// them their memory and descriptors.
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
        let mut rings = Self {
            threads: Vec::new(),
        };
        let (made, told) = channel();
        for qid in Queues::of_this_machine()?.threads() {
            let (start, started) = channel();
            let (server, made) = (Arc::clone(server), made.clone());
            let thread = std::thread::Builder::new()
                .name(format!("fuse-ring-{qid}"))
                .spawn(move || live(&server, qid, max_data, made, &started))?;
            rings.threads.push((start, thread));
        }
        drop(made);
        for _ in &rings.threads {
            // A thread that ends without a word has panicked; all others let go of their end once they
            // have told.
            told.recv().map_err(io::Error::other)??;
        }
        Ok(rings)
    }

    /// Lets the threads serve what comes over `device`, which has agreed to it. Returns them.
    pub(crate) fn start(mut self, device: &Device) -> Vec<JoinHandle<io::Result<()>>> {
        let start = |(start, thread): (Sender<Device>, _)| {
            // It waits: it has told that it does.
            let _ = start.send(device.clone());
            thread
        };
        std::mem::take(&mut self.threads)
            .into_iter()
            .map(start)
            .collect()
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        for (start, thread) in self.threads.drain(..) {
            drop(start);
            let _ = thread.join();
        }
    }
}

/// The life of a thread: makes its ring, says so, waits to be let go and serves.
fn live(
    server: &Server,
    qid: u16,
    max_data: usize,
    made: Sender<io::Result<()>>,
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
    drop(made);
    match started.recv() {
        Ok(device) => entry.serve(server, &device).inspect_err(|error| {
            tracing::warn!(target: "iomap_fuse", qid, %error, "a ring ended early");
        }),
        // Never let go: another one could not be made.
        Err(_) => Ok(()),
    }
}

impl Entry {
    fn new(qid: u16, max_data: usize) -> io::Result<Self> {
        let ring = io_uring::IoUring::<Entry128, cqueue::Entry>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(1)?;
        // The place of the device, made now so that nothing is left to fail later.
        ring.submitter().register_files_sparse(1)?;
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
        self.ring
            .submitter()
            .register_files_update(0, &[descriptor])?;
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
                error if [libc::ENOTCONN, libc::ECONNABORTED].contains(&-error) => return Ok(()),
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
        let Some(data) = room.get_mut(..told.payload_len as usize) else {
            return self.leave(&answer(&Request::new(header, &[], &[]), -libc::EIO, 0));
        };
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
        self.leave(&answer)
    }

    /// Leaves the header of an answer in the memory; what it says is there already. Returns what the
    /// kernel calls the request.
    fn leave(&mut self, answer: &OutHeader) -> io::Result<u64> {
        let broken = |_| io::Error::from(io::ErrorKind::InvalidData);
        let (told, _) = Header::mut_from_prefix(self.header.as_mut()).map_err(broken)?;
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
        let mut how = EnterFlags::GETEVENTS;
        if self.ring.params().is_feature_no_iowait() {
            // Who has nothing to do does not wait for a device.
            how |= EnterFlags::NO_IOWAIT;
        }
        loop {
            let pushed = self.ring.submission().len() as u32;
            let submitter = self.ring.submitter();
            // SAFETY: no argument comes with the call. For the memory that what was pushed names, see
            // `push`.
            let entered = unsafe { submitter.enter::<()>(pushed, 1, how.bits(), None) };
            if let Err(error) = entered {
                match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // The kernel is short of memory now; a ring that ends would take its queue along.
                    Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => std::thread::yield_now(),
                    _ => return Err(error),
                }
            }
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result());
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;

    use rustix::process::{Resource, Rlimit, setrlimit};
    use testfs::model::MemFs;

    use super::*;
    use crate::options::MountOptions;
    use crate::server::Shared;

    /// In the environment of a process that runs one test alone: it changes the limits of all.
    const ALONE: &str = "IOMAP_FUSE_TEST_ALONE";

    fn prepare() -> io::Result<Rings> {
        let shared = Shared::new(MemFs::new(), &MountOptions::default());
        Rings::prepare(&Arc::new(Server::new(Arc::new(shared))), 1 << 20)
    }

    /// Opens files until there are no more descriptors.
    fn open_all() -> Vec<File> {
        std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
    }

    #[test]
    fn rings_that_cannot_all_be_made_leave_nothing_behind() {
        let name = "transport::ring::tests::rings_that_cannot_all_be_made_leave_nothing_behind";
        if std::env::var_os(ALONE).is_none() {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let child = child.args([name, "--exact", "--nocapture"]).env(ALONE, "1");
            let ended = child.output().unwrap();
            assert!(ended.status.success(), "{ended:?}");
            return;
        }
        let limit = Some(4096);
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut files = open_all();
        let free = files.len();
        files.clear();
        drop(prepare().unwrap());
        files = open_all();
        assert_eq!(files.len(), free);
        // For less than the threads of one processor.
        files.truncate(files.len() - 3);
        let refused = prepare().err().unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
        assert_eq!(open_all().len(), 3);
    }

    #[test]
    fn the_memory_of_an_entry_is_laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of::<Command>(), 24);
        assert_eq!(size_of::<Header>(), 288);
        assert_eq!(std::mem::offset_of!(Header, payload_len), 272);
    }
}
