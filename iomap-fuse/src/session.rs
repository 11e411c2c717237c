//! A session with the kernel: its beginning, and the threads that serve it.
//!
//! Owns the first request, `INIT`, in which the two sides agree. Does not own how later ones come
//! ([`transport`](crate::transport)), nor the mount point.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use zerocopy::{FromBytes, IntoBytes};

use crate::options::{CachePolicy, MountOptions};
use crate::server::{Server, Shared};
use crate::transport::{Device, Notifier, Rings};
use crate::wire::{
    INIT, InHeader, InitFlags, InitIn, InitOut, LONGEST_ATTRIBUTE, MAJOR, MIN_READ_BUFFER, MINOR,
    OLDEST_MINOR, OutHeader,
};

/// Requests that nobody waits for, such as reading ahead, that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

type Thread = JoinHandle<io::Result<()>>;

/// A connection on which the two sides have agreed.
pub(crate) struct Session {
    server: Arc<Server>,
    device: Device,
    /// Bytes of the longest data of a request or answer.
    max_data: usize,
    threads: usize,
    /// The threads that serve rings, if the kernel offers them.
    rings: Vec<Thread>,
}

impl Session {
    /// Answers the first request that comes over `device`.
    ///
    /// # Errors
    ///
    /// What reading or writing the device gives; `Unsupported` if the kernel is too old;
    /// `NotConnected` if the mount is gone already.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        device: OwnedFd,
        options: &MountOptions,
    ) -> io::Result<Self> {
        let device = Device::new(device);
        let server = Arc::new(Server::new(Arc::clone(shared)));
        let (unique, offer) = first_request(&device)?;
        let mut answer = agree(&offer, options, shared);
        let agreed = (usize::from(answer.max_pages) * page_size())
            .max(answer.max_write as usize)
            .max(MIN_READ_BUFFER);
        let max_data = agreed.max(LONGEST_ATTRIBUTE);
        // Through a ring comes no more than was agreed on, but an attribute comes in one piece.
        let can_have_rings = offer.flags.contains(InitFlags::OVER_IO_URING) && agreed == max_data;
        let prepared = if can_have_rings && options.io_uring {
            prepare_rings(&server, max_data)
        } else {
            None
        };
        let mut flags = InitFlags::from_words(answer.flags, answer.flags2);
        flags.set(InitFlags::OVER_IO_URING, prepared.is_some());
        (answer.flags, answer.flags2) = flags.words();
        send_init(&device, unique, 0, answer.as_bytes())?;
        Ok(Self {
            rings: prepared.map_or_else(Vec::new, |rings| rings.start(&device)),
            server,
            device,
            max_data,
            threads: options.threads.max(1),
        })
    }

    /// What tells the kernel of changes.
    pub(crate) fn notifier(&self) -> Notifier {
        Notifier::new(self.device.clone())
    }

    /// Whether the kernel has agreed to rings.
    pub(crate) fn has_rings(&self) -> bool {
        !self.rings.is_empty()
    }

    /// Serves until the mount is gone, in this thread too. With fewer threads than asked for where no
    /// more can be had.
    ///
    /// # Errors
    ///
    /// `ECONNABORTED` if the connection was taken away; why it could not be served.
    pub(crate) fn run(self) -> io::Result<()> {
        let mut threads = Vec::with_capacity(self.threads);
        for index in 1..self.threads {
            match self.spawn(index) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::warn!(target: "iomap_fuse", index, %error, "no further thread to serve");
                    break;
                }
            }
        }
        let mut ended = self.device.serve(&self.server, self.max_data);
        drop(self.device);
        for thread in threads {
            ended = ended.and(join(thread));
        }
        for ring in self.rings {
            // It has told of its error, and what it did not serve came by the device.
            let _ = join(ring);
        }
        ended
    }

    /// A thread with a descriptor of its own.
    fn spawn(&self, index: usize) -> io::Result<Thread> {
        let device = self.device.another()?;
        let (server, max_data) = (Arc::clone(&self.server), self.max_data);
        std::thread::Builder::new()
            .name(format!("fuse-{index}"))
            .spawn(move || device.serve(&server, max_data))
    }
}

fn join(thread: Thread) -> io::Result<()> {
    let ended = thread.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("a serving thread panicked")))
}

fn page_size() -> usize {
    rustix::param::page_size()
}

/// What the kernel offers.
struct Offer {
    max_readahead: u32,
    flags: InitFlags,
}

/// The number of the first request and what it offers.
fn first_request(device: &Device) -> io::Result<(u64, Offer)> {
    let mut room = vec![0; MIN_READ_BUFFER];
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the first request is not INIT");
    loop {
        let len = device.receive(&mut room)?.ok_or_else(gone)?;
        let (header, rest) = InHeader::read_from_prefix(&room[..len]).map_err(|_| broken())?;
        if header.opcode != INIT {
            return Err(broken());
        }
        let (init, rest) = InitIn::read_from_prefix(rest).map_err(|_| broken())?;
        if init.major > MAJOR {
            // Told ours, it asks again in its words.
            let ours = InitOut {
                major: MAJOR,
                minor: MINOR,
                ..InitOut::default()
            };
            send_init(device, header.unique, 0, ours.as_bytes())?;
            continue;
        }
        if init.major < MAJOR || init.minor < OLDEST_MINOR {
            send_init(device, header.unique, -libc::EPROTO, &[])?;
            let why = format!(
                "the kernel speaks version {}.{} of FUSE; {MAJOR}.{OLDEST_MINOR} is needed",
                init.major, init.minor
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let high = u32::read_from_prefix(rest).map_or(0, |(high, _)| high);
        let offer = Offer {
            max_readahead: init.max_readahead,
            flags: InitFlags::from_words(init.flags, high),
        };
        return Ok((header.unique, offer));
    }
}

/// Answers a first request.
fn send_init(device: &Device, unique: u64, error: i32, answer: &[u8]) -> io::Result<()> {
    let header = OutHeader {
        len: (size_of::<OutHeader>() + answer.len()) as u32,
        error,
        unique,
    };
    device.send(&header, &[answer])
}

/// What is answered: all that the options need of what is offered. What this kernel does not know is
/// done without.
fn agree(offer: &Offer, options: &MountOptions, shared: &Shared) -> InitOut {
    let mut flags = options.capabilities() & offer.flags;
    if options.cache == CachePolicy::Kernel && !offer.flags.contains(InitFlags::WRITEBACK_CACHE) {
        tracing::warn!(target: "iomap_fuse", "this kernel has no write-back cache for FUSE");
    }
    if options.acl {
        let needed = InitFlags::POSIX_ACL | InitFlags::DONT_MASK;
        if offer.flags.contains(needed) {
            flags |= needed;
            shared.keep_acl();
        } else {
            tracing::warn!(target: "iomap_fuse", "this kernel has no access control lists for FUSE");
        }
    }
    let max_write = options.max_request.clamp(4096, 16 << 20);
    let (low, high) = flags.words();
    InitOut {
        major: MAJOR,
        minor: MINOR,
        max_readahead: max_write.min(offer.max_readahead),
        flags: low,
        flags2: high,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write,
        // In nanoseconds.
        time_gran: 1,
        // At most 4096 of the smallest.
        max_pages: max_write.div_ceil(page_size() as u32) as u16,
        ..InitOut::default()
    }
}

/// Rings, or `None` where they cannot be made.
fn prepare_rings(server: &Arc<Server>, max_data: usize) -> Option<Rings> {
    match Rings::prepare(server, max_data) {
        Ok(rings) => Some(rings),
        Err(error) => {
            tracing::warn!(target: "iomap_fuse", %error, "requests come by /dev/fuse, not by rings");
            None
        }
    }
}

#[cfg(test)]
mod tests;
