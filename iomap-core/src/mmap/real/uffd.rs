//! `userfaultfd`: the system calls, and nothing that decides.
//!
//! Owns the descriptor, the layout of its messages and requests, and the retries the kernel asks
//! for. Who resolves which fault is [`engine`](mod@super::engine).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::mm::{UserfaultfdFlags, userfaultfd};

use super::Span;

const API: u64 = 0xaa;
const PAGEFAULT: u8 = 0x12;
const IOC_API: u64 = 0xc018_aa3f;
const IOC_NEW: u64 = 0xaa00;
const IOC_REGISTER: u64 = 0xc020_aa00;
const IOC_WAKE: u64 = 0x8010_aa02;
const IOC_WRITEPROTECT: u64 = 0xc018_aa06;
const IOC_CONTINUE: u64 = 0xc020_aa07;
const IOC_POISON: u64 = 0xc020_aa08;
/// Missing pages, write-protected pages, pages that are there and not mapped.
const REGISTER_ALL: u64 = 1 | 2 | 4;
const WRITEPROTECT: u64 = 1;
const CONTINUE_PROTECTED: u64 = 2;
/// Write-protect flag in messages, missing and minor faults of shared memory, write protection of
/// shared memory, poison.
const FEATURES: u64 = 1 << 0 | 1 << 5 | 1 << 10 | 1 << 12 | 1 << 14;
const USER_MODE_ONLY: u32 = 1;
/// What a message says of its fault.
const WRITE: u64 = 1;
const PROTECTED: u64 = 2;

#[repr(C)]
struct ApiRequest {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeRequest {
    start: u64,
    len: u64,
}

#[repr(C)]
struct ModeRequest {
    range: RangeRequest,
    mode: u64,
}

#[repr(C)]
struct CountRequest {
    range: RangeRequest,
    mode: u64,
    /// Registering: what can be done. Otherwise bytes done, or a negative errno.
    out: i64,
}

#[repr(C)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    rest: u64,
}

/// A fault of a thread that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) address: usize,
    pub(super) store: bool,
    /// The page is mapped, and write-protected.
    pub(super) protected: bool,
}

/// A descriptor of faults.
#[derive(Debug)]
pub(super) struct Uffd {
    fd: OwnedFd,
    /// Faults of the kernel on behalf of the program (in `read`, `write`, direct I/O) are not
    /// reported: such a system call gets `EFAULT`.
    user_only: bool,
}

impl Uffd {
    /// A descriptor, with the rights this process has.
    ///
    /// # Errors
    ///
    /// `EPERM` if the process may not have one, `ENOSYS` or `EINVAL` if the kernel lacks something.
    pub(super) fn new() -> Result<Self, Errno> {
        let mut last = Errno::NOSYS;
        for (open, user_only) in [
            (open_call as fn(u32) -> Result<OwnedFd, Errno>, false),
            (open_device, false),
            (open_call, true),
        ] {
            let flags = if user_only { USER_MODE_ONLY } else { 0 };
            match open(flags) {
                Ok(fd) => {
                    let uffd = Self { fd, user_only };
                    uffd.agree()?;
                    return Ok(uffd);
                }
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    /// Whether system calls on memory that is not there fail.
    pub(super) const fn is_user_only(&self) -> bool {
        self.user_only
    }

    fn agree(&self) -> Result<(), Errno> {
        let mut request = ApiRequest {
            api: API,
            features: FEATURES,
            ioctls: 0,
        };
        ioctl(self.fd.as_raw_fd(), IOC_API, &raw mut request)
    }

    /// Reports the faults of `span` from here on.
    pub(super) fn register(&self, span: &Span) -> Result<(), Errno> {
        let mut request = CountRequest {
            range: range(span),
            mode: REGISTER_ALL,
            out: 0,
        };
        ioctl(self.fd.as_raw_fd(), IOC_REGISTER, &raw mut request)
    }

    /// The next fault. Waits for one; one thread at a time does, for each fault wakes all.
    pub(super) fn next(&self) -> Result<Option<Fault>, Errno> {
        let mut bytes = [0_u8; size_of::<Message>()];
        let read = rustix::io::read(&self.fd, &mut bytes)?;
        if read < bytes.len() {
            return Ok(None);
        }
        // SAFETY: as long as a message, every bit pattern of which is one; read without alignment.
        let message = unsafe { bytes.as_ptr().cast::<Message>().read_unaligned() };
        let _ = (message.reserved, message.rest);
        let address = usize::try_from(message.address).map_err(|_| Errno::OVERFLOW)?;
        Ok((message.event == PAGEFAULT).then_some(Fault {
            address,
            // A store to a page that is not there, or that is write-protected.
            store: message.flags & (WRITE | PROTECTED) != 0,
            protected: message.flags & PROTECTED != 0,
        }))
    }

    /// Lets the threads that wait in `span` try again.
    pub(super) fn wake(&self, span: &Span) {
        let mut request = range(span);
        let _nobody_there = ioctl(self.fd.as_raw_fd(), IOC_WAKE, &raw mut request);
    }

    /// Write-protects what is mapped of `span`, or takes that back.
    pub(super) fn write_protect(&self, span: &Span, protect: bool) -> Result<(), Errno> {
        let mut request = ModeRequest {
            range: range(span),
            mode: if protect { WRITEPROTECT } else { 0 },
        };
        loop {
            match ioctl(self.fd.as_raw_fd(), IOC_WRITEPROTECT, &raw mut request) {
                Err(Errno::AGAIN) => std::hint::spin_loop(),
                result => return result,
            }
        }
    }

    /// Maps the pages of `span`, which are in the memory file. Pages that are mapped already stay
    /// as they are; returns whether there were any.
    pub(super) fn show(&self, span: &Span, writable: bool, page: usize) -> Result<bool, Errno> {
        let (mut at, mut met) = (span.start, false);
        while at < span.end {
            let mut request = CountRequest {
                range: range(&(at..span.end)),
                mode: if writable { 0 } else { CONTINUE_PROTECTED },
                out: 0,
            };
            let result = ioctl(self.fd.as_raw_fd(), IOC_CONTINUE, &raw mut request);
            // Bytes that were mapped before it stopped.
            at += usize::try_from(request.out).unwrap_or(0);
            match result {
                Ok(()) | Err(Errno::AGAIN) => {}
                Err(Errno::EXIST) => {
                    met = true;
                    if request.out <= 0 {
                        at += page;
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(met)
    }

    /// Has every access to `span`, none of which is mapped, raise `SIGBUS`.
    pub(super) fn poison(&self, span: &Span) -> Result<(), Errno> {
        let mut request = CountRequest {
            range: range(span),
            mode: 0,
            out: 0,
        };
        loop {
            match ioctl(self.fd.as_raw_fd(), IOC_POISON, &raw mut request) {
                Err(Errno::AGAIN) => std::hint::spin_loop(),
                result => return result,
            }
        }
    }
}

const fn range(span: &Span) -> RangeRequest {
    RangeRequest {
        start: span.start as u64,
        len: (span.end - span.start) as u64,
    }
}

fn open_call(flags: u32) -> Result<OwnedFd, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(flags);
    // SAFETY: the descriptor is used on our own mappings only.
    unsafe { userfaultfd(flags) }
}

fn open_device(_flags: u32) -> Result<OwnedFd, Errno> {
    let device = std::fs::File::open("/dev/userfaultfd")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // SAFETY: the request takes flags, no pointer.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW as _, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ioctl<T>(fd: RawFd, request: u64, argument: *mut T) -> Result<(), Errno> {
    // SAFETY: every caller passes the structure its request takes, alive for the call; addresses in
    // it are those of our own mappings.
    let result = unsafe { libc::ioctl(fd, request as _, argument) };
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
