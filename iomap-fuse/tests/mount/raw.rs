//! What a test needs of raw memory and raw system calls: mappings, aligned buffers, file handles.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// A memory mapping of the start of a file.
pub(crate) struct Map {
    at: *mut std::ffi::c_void,
    len: usize,
}

impl Map {
    pub(crate) fn shared(file: &File, len: usize) -> Self {
        Self::new(file, len, MapFlags::SHARED)
    }

    pub(crate) fn private(file: &File, len: usize) -> Self {
        Self::new(file, len, MapFlags::PRIVATE)
    }

    fn new(file: &File, len: usize, flags: MapFlags) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }.unwrap();
        Self { at, len }
    }

    pub(crate) fn get(&self, index: usize) -> u8 {
        assert!(index < self.len);
        // SAFETY: inside the mapping, which lives as long as `self`; volatile, for others change it.
        unsafe { self.at.cast::<u8>().add(index).read_volatile() }
    }

    pub(crate) fn set(&self, index: usize, byte: u8) {
        assert!(index < self.len);
        // SAFETY: as in `get`.
        unsafe { self.at.cast::<u8>().add(index).write_volatile(byte) }
    }

    pub(crate) fn sync(&self) {
        // SAFETY: the mapping of `self`.
        unsafe { msync(self.at, self.len, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Written back here, where nothing is locked: this process is the server too.
        self.sync();
        // SAFETY: the mapping of `self`, which nobody uses any more.
        unsafe { munmap(self.at, self.len) }.unwrap();
    }
}

/// Bytes aligned to 4 KiB.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize, fill: u8) -> Self {
        let bytes = vec![fill; len + 4096];
        let skip = bytes.as_ptr().align_offset(4096);
        Self { bytes, skip, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.skip..self.skip + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + self.len]
    }
}

/// Takes the handle of `path`, lets `between` run, and reads the file the handle finds. `None` if
/// this user may not open by handle.
pub(crate) fn read_by_handle(mount: &Path, path: &Path, between: impl FnOnce()) -> Option<Vec<u8>> {
    const ROOM: usize = 128;
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut handle = [0_u64; ROOM / 8 + 1];
    let start = handle.as_mut_ptr().cast::<libc::file_handle>();
    let mut id = 0;
    // SAFETY: the buffer has room for the header and ROOM bytes, and is aligned for it.
    let got = unsafe {
        (*start).handle_bytes = ROOM as u32;
        libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), start, &raw mut id, 0)
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    between();
    let mount = File::open(mount).unwrap();
    // SAFETY: the handle was filled in above.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), start, libc::O_RDONLY) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        return None;
    }
    // SAFETY: a new descriptor that nobody else has.
    let mut file = unsafe { File::from_raw_fd(fd) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

/// `struct iocb` of `linux/aio_abi.h`, little endian.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// Submits a write with `io_submit` and waits for its end with `io_getevents`. Returns what it
/// answered.
pub(crate) fn write_queued(file: &File, bytes: &[u8], at: u64) -> i64 {
    const PWRITE: u16 = 1;
    let mut request = Iocb {
        opcode: PWRITE,
        fd: file.as_raw_fd() as u32,
        buf: bytes.as_ptr() as u64,
        nbytes: bytes.len() as u64,
        offset: at as i64,
        ..Iocb::default()
    };
    let mut list = [&raw mut request];
    let (mut context, mut event) = (0_u64, [0_i64; 4]);
    // SAFETY: each call gets pointers to values of this frame of the layout it wants, which stay
    // until the request has ended; the bytes are borrowed as long.
    unsafe {
        let made = libc::syscall(libc::SYS_io_setup, 1, &raw mut context);
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        let sent = libc::syscall(libc::SYS_io_submit, context, 1_i64, list.as_mut_ptr());
        assert_eq!(sent, 1, "{}", std::io::Error::last_os_error());
        let null = std::ptr::null::<libc::timespec>();
        let args = (event.as_mut_ptr(), null);
        while libc::syscall(
            libc::SYS_io_getevents,
            context,
            1_i64,
            1_i64,
            args.0,
            args.1,
        ) != 1
        {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EINTR), "{error}");
        }
        libc::syscall(libc::SYS_io_destroy, context);
    }
    // data, obj, res, res2
    event[2]
}

/// `FS_IOC_GETFLAGS`.
pub(crate) fn inode_flags(file: &File) -> std::io::Result<u32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the request writes an integer, no longer than this one.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), 0x8008_6601, &raw mut flags) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(flags as u32)
}

/// `FS_IOC_SETFLAGS`.
pub(crate) fn set_inode_flags(file: &File, flags: u32) -> std::io::Result<()> {
    let flags = libc::c_long::from(flags);
    // SAFETY: the request reads an integer, no longer than this one.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), 0x4008_6602, &raw const flags) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Locks the first byte for the open file, and waits for it.
pub(crate) fn wait_for_record_lock(file: &File) -> rustix::io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the structure lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &raw const lock) } {
        -1 => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        _ => Ok(()),
    }
}

/// What a call returns on a thread that gets a signal again and again until it does.
pub(crate) fn interrupted<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: a zeroed `sigaction` is one without flags, so that calls are not begun again; the
    // handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(
            libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()),
            0
        );
    }
    let (tell, thread) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let called = scope.spawn(move || {
            // SAFETY: always allowed.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            call()
        });
        let thread = thread.recv().unwrap();
        while !called.is_finished() {
            // SAFETY: the thread was not joined yet, so its name is its own.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
            std::thread::yield_now();
        }
        called.join().unwrap()
    })
}
