//! Sessions with a kernel that is played here, at the other end of a pair of sockets.
#![expect(clippy::unwrap_used, reason = "tests")]

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use testfs::model::MemFs;

use super::*;
use crate::wire::{AttrOut, Opcode};

/// What the kernel of these tests calls its first request.
const FIRST: u64 = 77;
/// Bytes of the answers, with their headers.
const INIT_ANSWER: usize = size_of::<OutHeader>() + size_of::<InitOut>();
const ATTR_ANSWER: usize = size_of::<OutHeader>() + size_of::<AttrOut>();

/// The other end of a session.
struct Kernel(OwnedFd);

impl Kernel {
    /// One, and the device of the session with it.
    fn new() -> (Self, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (kernel, device) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Self(kernel), device)
    }

    fn ask(&self, opcode: u32, unique: u64, body: &[u8]) {
        let header = InHeader {
            len: (size_of::<InHeader>() + body.len()) as u32,
            ..InHeader::of(opcode, unique)
        };
        let request = [header.as_bytes(), body].concat();
        rustix::io::write(&self.0, &request).unwrap();
    }

    /// Sends the first request.
    fn offer(&self, (major, minor): (u32, u32), flags: InitFlags) {
        let (low, high) = flags.words();
        let init = InitIn {
            major,
            minor,
            max_readahead: 128 << 10,
            flags: low,
        };
        let rest = [high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        self.ask(INIT, FIRST, &[init.as_bytes(), rest.as_bytes()].concat());
    }

    /// The next answer: its header and what follows.
    fn hear(&self) -> (OutHeader, Vec<u8>) {
        let mut room = [0; 4096];
        let len = rustix::io::read(&self.0, &mut room).unwrap();
        let (header, rest) = OutHeader::read_from_prefix(&room[..len]).unwrap();
        assert_eq!(header.len as usize, len);
        (header, rest.to_vec())
    }

    fn hear_init(&self) -> (InitOut, InitFlags) {
        let (header, rest) = self.hear();
        assert_eq!((header.error, header.unique), (0, FIRST));
        assert_eq!(header.len as usize, INIT_ANSWER);
        let init = InitOut::read_from_bytes(&rest).unwrap();
        (init, InitFlags::from_words(init.flags, init.flags2))
    }
}

fn begin(device: OwnedFd, options: &MountOptions) -> io::Result<Session> {
    let shared = Arc::new(Shared::new(MemFs::new(), options));
    Session::begin(&shared, device, options)
}

/// One thread: another needs a real device.
fn alone() -> MountOptions {
    MountOptions {
        threads: 1,
        io_uring: false,
        ..MountOptions::default()
    }
}

fn run(session: Session) -> Thread {
    std::thread::spawn(move || session.run())
}

#[test]
fn what_is_wanted_and_offered_is_agreed_on_and_nothing_else() {
    let (kernel, device) = Kernel::new();
    let everything = InitFlags::from_bits_retain(u64::MAX);
    kernel.offer((7, 45), everything);
    let session = begin(device, &alone()).unwrap();
    let (init, flags) = kernel.hear_init();
    assert_eq!((init.major, init.minor), (7, 45));
    assert_eq!((init.max_write, init.max_pages), (1 << 20, 256));
    assert_eq!(init.max_readahead, 128 << 10);
    assert_eq!((init.time_gran, init.max_background), (1, 64));
    assert_eq!(flags, alone().capabilities());
    assert!(!session.has_rings());
    let (kernel, device) = Kernel::new();
    let some = InitFlags::INIT_EXT | InitFlags::MAX_PAGES | InitFlags::POSIX_ACL;
    kernel.offer((7, 45), some);
    begin(device, &alone()).unwrap();
    assert_eq!(kernel.hear_init().1, some - InitFlags::POSIX_ACL);
}

#[test]
fn an_older_kernel_is_told_nothing_it_does_not_know() {
    let (kernel, device) = Kernel::new();
    // Without `INIT_EXT` what stands where the second word would be is none.
    let flags = InitFlags::from_bits_retain(!InitFlags::INIT_EXT.bits());
    kernel.offer((7, 31), flags);
    begin(device, &alone()).unwrap();
    let (init, flags) = kernel.hear_init();
    assert_eq!(init.flags2, 0);
    assert!(flags.contains(InitFlags::MAX_PAGES));
    assert!(!flags.contains(InitFlags::INIT_EXT));
}

#[test]
fn a_kernel_that_is_too_old_is_told_so() {
    for version in [(7, 30), (6, 99)] {
        let (kernel, device) = Kernel::new();
        kernel.offer(version, InitFlags::all());
        let refused = begin(device, &alone()).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        let (header, rest) = kernel.hear();
        assert_eq!((header.error, header.unique), (-libc::EPROTO, FIRST));
        assert!(rest.is_empty());
    }
}

#[test]
fn a_kernel_of_a_later_version_is_told_ours_and_asks_again() {
    let (kernel, device) = Kernel::new();
    kernel.offer((8, 0), InitFlags::all());
    kernel.offer((7, 45), InitFlags::INIT_EXT);
    begin(device, &alone()).unwrap();
    let (first, flags) = kernel.hear_init();
    assert_eq!((first.major, first.minor, flags.bits()), (7, 45, 0));
    assert_eq!(kernel.hear_init().1, InitFlags::INIT_EXT);
}

#[test]
fn a_session_begins_with_a_whole_init_and_nothing_else() {
    let init = InitIn {
        major: 7,
        minor: 45,
        max_readahead: 0,
        flags: 0,
    };
    let whole = init.as_bytes();
    for (opcode, body) in [(INIT, &whole[..15]), (INIT, &[]), (1, whole)] {
        let (kernel, device) = Kernel::new();
        kernel.ask(opcode, FIRST, body);
        let refused = begin(device, &alone()).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
    let (kernel, device) = Kernel::new();
    kernel.ask(INIT, FIRST, whole);
    begin(device, &alone()).unwrap();
    assert_eq!(kernel.hear_init().1.bits(), 0);
}

#[test]
fn destroy_is_answered_and_ends_the_session() {
    let (kernel, device) = Kernel::new();
    kernel.offer((7, 45), InitFlags::all());
    let running = run(begin(device, &alone()).unwrap());
    kernel.hear_init();
    kernel.ask(Opcode::Getattr as u32, 5, &[0; 16]);
    let (header, _) = kernel.hear();
    assert_eq!((header.len as usize, header.unique), (ATTR_ANSWER, 5));
    kernel.ask(Opcode::Destroy as u32, 6, &[]);
    let (header, rest) = kernel.hear();
    assert_eq!((header.error, header.unique, rest.len()), (0, 6, 0));
    running.join().unwrap().unwrap();
}

#[test]
fn it_is_served_with_fewer_threads_where_there_are_no_more() {
    let (kernel, device) = Kernel::new();
    kernel.offer((7, 45), InitFlags::all());
    let options = MountOptions {
        threads: 3,
        ..alone()
    };
    let running = run(begin(device, &options).unwrap());
    kernel.hear_init();
    kernel.ask(Opcode::Getattr as u32, 5, &[0; 16]);
    assert_eq!(kernel.hear().0.error, 0);
    kernel.ask(Opcode::Destroy as u32, 6, &[]);
    running.join().unwrap().unwrap();
}

#[test]
fn what_cannot_be_understood_is_an_error_of_its_request_alone() {
    let (kernel, device) = Kernel::new();
    kernel.offer((7, 45), InitFlags::all());
    let running = run(begin(device, &alone()).unwrap());
    kernel.hear_init();
    let read = Opcode::Read as u32;
    // Cut short; no such request; the first one once more.
    for (opcode, error) in [
        (read, libc::EINVAL),
        (99, libc::ENOSYS),
        (INIT, libc::ENOSYS),
    ] {
        kernel.ask(opcode, 9, &[0; 7]);
        let (header, rest) = kernel.hear();
        assert_eq!(
            (header.error, header.unique, rest.len()),
            (-error, 9, 0),
            "{opcode}"
        );
    }
    // Not answered, whatever they say.
    kernel.ask(Opcode::Forget as u32, 10, &[0; 7]);
    let count = u64::from(u32::MAX).to_ne_bytes();
    kernel.ask(Opcode::BatchForget as u32, 11, &count);
    kernel.ask(Opcode::Getattr as u32, 12, &[]);
    assert_eq!(kernel.hear().0.unique, 12);
    drop(kernel);
    // Less than a header: nobody knows what to answer to.
    let ended = running.join().unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::InvalidData);
}

/// Whether rings are agreed on with a kernel that offers `flags`.
fn rings_with(flags: InitFlags, options: &MountOptions) -> bool {
    let (kernel, device) = Kernel::new();
    kernel.offer((7, 45), flags);
    let session = begin(device, options).unwrap();
    let agreed = kernel.hear_init().1.contains(InitFlags::OVER_IO_URING);
    assert_eq!(session.has_rings(), agreed);
    agreed
}

#[test]
fn there_are_rings_where_both_sides_want_them_and_requests_are_large_enough() {
    let wanted = MountOptions {
        threads: 1,
        ..MountOptions::default()
    };
    let offered = InitFlags::all();
    assert!(rings_with(offered, &wanted));
    assert!(!rings_with(offered - InitFlags::OVER_IO_URING, &wanted));
    assert!(!rings_with(offered - InitFlags::INIT_EXT, &wanted));
    assert!(!rings_with(offered, &alone()));
    // The longest value of an attribute with its name does not fit.
    let small = MountOptions {
        max_request: 64 << 10,
        ..wanted
    };
    assert!(!rings_with(offered, &small));
}

#[test]
fn a_kernel_that_refuses_rings_after_all_is_served_by_the_device() {
    let (kernel, device) = Kernel::new();
    kernel.offer((7, 45), InitFlags::all());
    let options = MountOptions {
        threads: 1,
        ..MountOptions::default()
    };
    // A socket takes no such command.
    let running = run(begin(device, &options).unwrap());
    assert!(kernel.hear_init().1.contains(InitFlags::OVER_IO_URING));
    kernel.ask(Opcode::Getattr as u32, 5, &[0; 16]);
    assert_eq!(kernel.hear().0.len as usize, ATTR_ANSWER);
    kernel.ask(Opcode::Destroy as u32, 6, &[]);
    running.join().unwrap().unwrap();
}
