//! Opening a file or block device: options, checks, lock, limits.
//!
//! Owns [`OpenOptions`], [`OpenError`] and the questions put to the kernel once, when the device is
//! opened. What is done with the device then is [`file`](super::file).
//!
//! # One opener that writes
//!
//! Whoever opens for writing holds an exclusive `flock` of the file, readers a shared one, from
//! before anything is looked at until the device is dropped. Block devices opened for writing are
//! opened with `O_EXCL` as well, which a mounted file system refuses.
//!
//! # Direct or buffered, not both
//!
//! A device uses either `O_DIRECT` for all transfers or the kernel's page cache for all of them.
//! Mixed use of one file is not coherent at sub-page granularity: a buffered write next to a direct
//! one can write the neighbour's old bytes back. Transfers whose memory is not aligned go through
//! an aligned copy instead.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SeekFrom, Statx, StatxFlags};

use super::Limits;
use super::handle::{DirectAlign, Handle};
use crate::error::Errno;

/// Whether transfers bypass the kernel's page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectMode {
    /// If the file supports it with blocks no larger than [`OpenOptions::block_size`].
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always: opening fails where it is not possible. The device's blocks are as large as the
    /// file needs.
    Always,
}

/// How requests reach the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring for direct I/O where the kernel lets us have it, else plain system calls.
    #[default]
    Auto,
    /// io_uring: opening fails where the kernel refuses it.
    Uring,
    /// Plain system calls: every request completes in the call that submits it.
    Syscalls,
}

/// How to open a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// No change is possible: writes fail with `EROFS`. Several readers may open one image.
    pub read_only: bool,
    /// If there is no such file, or it is an empty regular file, it becomes one of this many bytes,
    /// all zero. A file that has bytes keeps its size.
    pub create_size: Option<u64>,
    /// Whether to bypass the kernel's page cache.
    pub direct: DirectMode,
    /// How requests reach the kernel.
    pub backend: Backend,
    /// The smallest unit of transfers, bytes, a power of two from 512 on. The device's blocks may
    /// be larger if the hardware's are.
    pub block_size: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            create_size: None,
            direct: DirectMode::Auto,
            backend: Backend::Auto,
            block_size: 512,
        }
    }
}

/// A device could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    #[error("{path}: no such file or device", path = .0.display())]
    Missing(PathBuf),
    /// It is a directory, a socket or the like.
    #[error("{path}: neither a regular file nor a block device", path = .0.display())]
    NotADevice(PathBuf),
    /// Somebody else has it open: for writing, or for reading while we want to write.
    #[error("{path}: in use by another program", path = .0.display())]
    Locked(PathBuf),
    /// The size is no multiple of the block size.
    #[error("{path}: {size} bytes are no multiple of the block size {block}", path = .path.display())]
    BadSize {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
        /// The block size, bytes.
        block: u64,
    },
    /// The options contradict themselves or the hardware.
    #[error("{path}: {why}", path = .path.display())]
    Options {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Direct I/O was asked for and is not possible.
    #[error("{path}: direct I/O is not supported there", path = .0.display())]
    NoDirect(PathBuf),
    /// io_uring was asked for and is refused.
    #[error("{path}: io_uring is not available: {errno}", path = .path.display())]
    NoRing {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// Anything else the kernel has to say.
    #[error("{path}: cannot {what}: {errno}", path = .path.display())]
    Os {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl OpenError {
    /// The errno a system call would return.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Missing(_) => Errno::NOENT,
            Self::NotADevice(_) => Errno::NOTBLK,
            Self::Locked(_) => Errno::BUSY,
            Self::BadSize { .. } | Self::Options { .. } | Self::NoDirect(_) => Errno::INVAL,
            Self::NoRing { errno, .. } | Self::Os { errno, .. } => *errno,
        }
    }
}

/// Opens, locks and probes.
pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Handle, OpenError> {
    let wrong = |why| OpenError::Options {
        path: path.to_owned(),
        why,
    };
    if !options.block_size.is_power_of_two() || options.block_size < 512 {
        return Err(wrong("the block size must be a power of two from 512 on"));
    }
    if options.read_only && options.create_size.is_some() {
        return Err(wrong("a device opened read-only cannot be created"));
    }
    let file = open_file(path, options)?;
    let kind = file_type(&file, path)?;
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NotADevice(path.to_owned()));
    }
    lock(&file, path, options.read_only, kind.is_block_device())?;
    if let Some(size) = options.create_size
        && kind.is_file()
        && os(path, "ask for the size", || {
            rustix::fs::seek(&file, SeekFrom::End(0))
        })? == 0
    {
        os(path, "set the size", || rustix::fs::ftruncate(&file, size))?;
    }
    probe(file, path, options, kind.is_block_device())
}

fn file_type(file: &File, path: &Path) -> Result<std::fs::FileType, OpenError> {
    let meta = file.metadata().map_err(|error| OpenError::Os {
        path: path.to_owned(),
        what: "stat",
        errno: errno_of(&error),
    })?;
    Ok(meta.file_type())
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<File, OpenError> {
    // The type decides about O_EXCL, and opening a FIFO must not hang: look first. The answer is
    // checked again on the open file.
    let kind = std::fs::metadata(path).map(|meta| meta.file_type());
    let block = kind.as_ref().is_ok_and(FileTypeExt::is_block_device);
    if let Ok(kind) = &kind
        && !kind.is_file()
        && !block
    {
        return Err(OpenError::NotADevice(path.to_owned()));
    }
    let mut flags = OFlags::NOCTTY;
    if block && !options.read_only {
        flags |= OFlags::EXCL;
    }
    let opened = File::options()
        .read(true)
        .write(!options.read_only)
        .create(options.create_size.is_some() && !block)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    opened.map_err(|error| match errno_of(&error) {
        Errno::NOENT => OpenError::Missing(path.to_owned()),
        Errno::BUSY => OpenError::Locked(path.to_owned()),
        errno => OpenError::Os {
            path: path.to_owned(),
            what: "open",
            errno,
        },
    })
}

/// How often a block device is tried: udev locks a device for a moment after a writer closed it.
const LOCK_TRIES: u32 = 20;

fn lock(file: &File, path: &Path, shared: bool, block: bool) -> Result<(), OpenError> {
    let mut tries = if block { LOCK_TRIES } else { 1 };
    loop {
        let answer = if shared {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        tries -= 1;
        match answer {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if tries > 0 => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::Locked(path.to_owned()));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(OpenError::Os {
                    path: path.to_owned(),
                    what: "lock",
                    errno: errno_of(&error),
                });
            }
        }
    }
}

fn probe(
    file: File,
    path: &Path,
    options: &OpenOptions,
    block_device: bool,
) -> Result<Handle, OpenError> {
    let answers = ask(&file);
    let sector = match block_device {
        true => u64::from(os(path, "ask for the block size", || {
            rustix::fs::ioctl_blksszget(&file)
        })?),
        false => 1,
    };
    let least = options.block_size.max(sector);
    let direct = direct_align(&file, path, options.direct, least, answers.direct)?;
    let block = direct.map_or(least, |align| least.max(align.offset as u64));
    let size = os(path, "ask for the size", || {
        rustix::fs::seek(&file, SeekFrom::End(0))
    })?;
    if size % block != 0 {
        return Err(OpenError::BadSize {
            path: path.to_owned(),
            size,
            block,
        });
    }
    let writable = !options.read_only;
    let punch = writable && !block_device && punches(&file, size);
    let limits = Limits {
        block_size: block,
        memory_align: direct.map_or(1, |align| align.memory),
        max_transfer: 1 << 30,
        atomic_write: match direct {
            Some(_) if writable => answers.atomic,
            _ => (0, 0),
        },
        fua: writable,
        volatile_cache: writable,
        discard: punch || (writable && block_device && discards(&file)),
        write_zeroes: punch || (writable && block_device),
    };
    let mut handle = Handle::new(file, path.to_owned(), size, limits);
    handle.read_only = options.read_only;
    handle.block_device = block_device;
    handle.direct = direct;
    handle.atomic_segments = answers.atomic_segments;
    Ok(handle)
}

/// Sets `O_DIRECT` where the options and the file allow it.
fn direct_align(
    file: &File,
    path: &Path,
    mode: DirectMode,
    block: u64,
    found: Option<DirectAlign>,
) -> Result<Option<DirectAlign>, OpenError> {
    let fits = |align: &DirectAlign| mode == DirectMode::Always || align.offset as u64 <= block;
    let usable = match mode {
        DirectMode::Never => None,
        _ => found.filter(fits).filter(|_| set_direct(file).is_ok()),
    };
    if mode == DirectMode::Always && usable.is_none() {
        return Err(OpenError::NoDirect(path.to_owned()));
    }
    Ok(usable)
}

fn set_direct(file: &File) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT)
}

/// What `statx` says about direct I/O.
struct Answers {
    direct: Option<DirectAlign>,
    atomic: (u64, u64),
    atomic_segments: usize,
}

/// `STATX_WRITE_ATOMIC` (since Linux 6.11).
const WRITE_ATOMIC: StatxFlags = StatxFlags::from_bits_retain(0x1_0000);

fn ask(file: &File) -> Answers {
    let wanted = StatxFlags::DIOALIGN | WRITE_ATOMIC;
    let none = Answers {
        direct: None,
        atomic: (0, 0),
        atomic_segments: 1,
    };
    match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted) {
        Ok(answer) => interpret(&answer),
        Err(_) => none,
    }
}

fn interpret(answer: &Statx) -> Answers {
    let mask = StatxFlags::from_bits_retain(answer.stx_mask);
    let direct = DirectAlign {
        memory: answer.stx_dio_mem_align as usize,
        offset: answer.stx_dio_offset_align as usize,
    };
    let told = mask.contains(StatxFlags::DIOALIGN)
        && direct.memory.is_power_of_two()
        && direct.offset.is_power_of_two();
    let atomic = mask.contains(WRITE_ATOMIC) && told;
    Answers {
        direct: told.then_some(direct),
        atomic: match atomic {
            true => (
                u64::from(answer.stx_atomic_write_unit_min),
                u64::from(answer.stx_atomic_write_unit_max),
            ),
            false => (0, 0),
        },
        atomic_segments: (answer.stx_atomic_write_segments_max as usize).max(1),
    }
}

/// Whether holes can be punched, tried where there is nothing: past the end of the file.
fn punches(file: &File, size: u64) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let past = size.next_multiple_of(1 << 16);
    rustix::fs::fallocate(file, flags, past, 1 << 16).is_ok()
}

/// Whether the block device says it can discard.
fn discards(file: &File) -> bool {
    let Ok(meta) = file.metadata() else {
        return false;
    };
    let (major, minor) = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    // A partition has its queue in the directory of its disk.
    ["queue", "../queue"].iter().any(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/discard_max_bytes");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
    })
}

fn os<T>(
    path: &Path,
    what: &'static str,
    call: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, OpenError> {
    call().map_err(|errno| OpenError::Os {
        path: path.to_owned(),
        what,
        errno,
    })
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
