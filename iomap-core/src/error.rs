//! The errors of the core, one type per family of operations, each with its errno.
//!
//! Owns the types and the table to [`Errno`]. What happened to data that could not be written is
//! kept by the page cache (`page_cache/errseq.rs`), not here. Outcomes that steer an operation
//! (fall back to buffered, map again, would block) are variants or enums of their own, never a
//! magic errno.

use std::sync::Arc;

pub use rustix::io::Errno;

use crate::units::{DevAddr, FilePos, FileRange, PageIndex};

/// What a device was asked to do when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOp {
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Making completed writes durable.
    Flush,
    /// Giving bytes back to the device.
    Discard,
    /// Writing zeroes without a buffer.
    WriteZeroes,
    /// Opening, locking or asking for limits.
    Open,
}

impl std::fmt::Display for DeviceOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write-zeroes",
            Self::Open => "open",
        })
    }
}

/// A device did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {op} of {len} bytes at {addr} failed: {errno}")]
pub struct DeviceError {
    /// What was asked.
    pub op: DeviceOp,
    /// Where, bytes from the start of the device.
    pub addr: DevAddr,
    /// How much, bytes; zero for a flush.
    pub len: u64,
    /// Why.
    pub errno: Errno,
}

impl DeviceError {
    /// A failed `op` on `len` bytes at `addr`.
    #[must_use]
    pub const fn new(op: DeviceOp, addr: DevAddr, len: u64, errno: Errno) -> Self {
        Self {
            op,
            addr,
            len,
            errno,
        }
    }
}

/// The answer of a backend broke its contract. Always a bug in the backend; the operation that met
/// it stops with `EIO` and changes nothing further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `begin` returned a mapping that does not contain the position asked for, or is empty.
    #[error("backend mapped {got} when asked for position {asked}")]
    NotCovering {
        /// The position asked for.
        asked: FilePos,
        /// The range of the answer.
        got: FileRange,
    },
    /// A mapping of this kind may not appear in this operation.
    #[error("backend answered {what} at {pos}")]
    BadKind {
        /// What was wrong with it, in words.
        what: &'static str,
        /// The position asked for.
        pos: FilePos,
    },
    /// A mapping went stale again and again without any progress.
    #[error("mapping at {pos} went stale {retries} times in a row")]
    NoProgress {
        /// Where the operation stood.
        pos: FilePos,
        /// How often it mapped again.
        retries: u32,
    },
    /// An operation advanced past the mapping it was given.
    #[error("advanced {by} bytes past the end of the mapping at {pos}")]
    Overrun {
        /// The end of the mapping.
        pos: FilePos,
        /// How far beyond.
        by: u64,
    },
}

/// Damage found in an image: what and where, in words a person can act on. Opaque: not for
/// matching.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt {what}")]
pub struct Corrupt {
    what: Arc<str>,
}

impl Corrupt {
    /// Describes the damage: structure, place (block, inode, offset) and what is wrong with it.
    #[must_use]
    pub fn new(what: impl Into<Arc<str>>) -> Self {
        Self { what: what.into() }
    }
}

/// What a backend's hooks answer when they cannot do what was asked, and what every data operation
/// of the core can fail with.
///
/// The operation families below wrap it where they have outcomes of their own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// The operation was asked not to wait and would have had to (`EAGAIN`).
    #[error("the operation would block")]
    WouldBlock,
    /// No space left (`ENOSPC`).
    #[error("no space left on the device")]
    NoSpace,
    /// A quota is exhausted (`EDQUOT`).
    #[error("quota exceeded")]
    Quota,
    /// The write would end past the largest file the file system can hold (`EFBIG`).
    #[error("the file would grow past the largest size supported")]
    TooBig,
    /// The file system is mounted, or was forced, read-only (`EROFS`).
    #[error("the file system is read-only")]
    ReadOnly,
    /// No memory for the page cache (`ENOMEM`): everything in the budget is dirty, locked, pinned
    /// or refused, and stayed so.
    #[error("no page cache memory: all of the budget is in use")]
    NoMemory,
    /// The caller's buffer could not be read or written (`EFAULT`).
    #[error("the caller's memory could not be accessed")]
    Fault,
    /// Waiting was interrupted (`EINTR`).
    #[error("interrupted")]
    Interrupted,
    /// The arguments do not fit the operation (`EINVAL`).
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The file system does not support the operation (`EOPNOTSUPP`).
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The image is damaged (`EUCLEAN`).
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The backend broke its contract (`EIO`).
    #[error("protocol violation: {0}")]
    Protocol(#[from] ProtocolError),
    /// An earlier writeback of this file failed; the data is lost (`EIO`, or what the device said).
    #[error("an earlier write of this file failed: {0}")]
    Writeback(Errno),
    /// Anything else a backend has to say.
    #[error("{errno}")]
    Os {
        /// The errno.
        errno: Errno,
    },
}

impl FsError {
    /// The errno a system call would return.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::WouldBlock => Errno::AGAIN,
            Self::NoSpace => Errno::NOSPC,
            Self::Quota => Errno::DQUOT,
            Self::TooBig => Errno::FBIG,
            Self::ReadOnly => Errno::ROFS,
            Self::NoMemory => Errno::NOMEM,
            Self::Fault => Errno::FAULT,
            Self::Interrupted => Errno::INTR,
            Self::Invalid(_) => Errno::INVAL,
            Self::Unsupported(_) => Errno::OPNOTSUPP,
            Self::Device(error) => error.errno,
            Self::Corrupt(_) => Errno::UCLEAN,
            Self::Protocol(_) => Errno::IO,
            Self::Writeback(errno) | Self::Os { errno } => *errno,
        }
    }

    /// Whether this is [`FsError::WouldBlock`].
    #[must_use]
    pub const fn is_would_block(&self) -> bool {
        matches!(self, Self::WouldBlock)
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::WouldBlock,
            Errno::NOSPC => Self::NoSpace,
            Errno::DQUOT => Self::Quota,
            Errno::FBIG => Self::TooBig,
            Errno::ROFS => Self::ReadOnly,
            Errno::NOMEM => Self::NoMemory,
            Errno::FAULT => Self::Fault,
            Errno::INTR => Self::Interrupted,
            errno => Self::Os { errno },
        }
    }
}

impl From<FsError> for std::io::Error {
    fn from(error: FsError) -> Self {
        Self::from_raw_os_error(error.errno().raw_os_error())
    }
}

/// The result of an operation of the core.
pub type Result<T, E = FsError> = std::result::Result<T, E>;

/// An access through a memory mapping could not be made possible: what the program is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Nothing is mapped there (`SIGSEGV`).
    #[error("page {page} is not mapped")]
    NotMapped {
        /// The page of the file.
        page: PageIndex,
    },
    /// The mapping does not permit it (`SIGSEGV`).
    #[error("the mapping of page {page} does not permit the access")]
    Denied {
        /// The page of the file.
        page: PageIndex,
    },
    /// The page lies wholly past the end of the file (`SIGBUS`).
    #[error("page {page} lies past the end of the file")]
    BeyondEnd {
        /// The page of the file.
        page: PageIndex,
    },
    /// The file system or the device failed, or there is no room for the page (`SIGBUS`).
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// The signal a program gets for a failed access through a memory mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultSignal {
    /// There is no such mapping, or not with this permission.
    Segv,
    /// There is no such page, or it cannot be had.
    Bus,
}

impl FaultError {
    /// The signal.
    #[must_use]
    pub const fn signal(&self) -> FaultSignal {
        match self {
            Self::NotMapped { .. } | Self::Denied { .. } => FaultSignal::Segv,
            Self::BeyondEnd { .. } | Self::Fs(_) => FaultSignal::Bus,
        }
    }

    /// The errno of a system call that was given the memory: `EFAULT`, unless the file system had
    /// a reason of its own.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Fs(error) => error.errno(),
            _ => Errno::FAULT,
        }
    }
}

/// A seek found nothing of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeekError {
    /// The position lies at or past the end of the file, or only holes follow (`ENXIO`).
    #[error("no such region at or after the position")]
    NoSuchRegion,
    /// Looking failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl SeekError {
    /// The errno a system call would return.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSuchRegion => Errno::NXIO,
            Self::Fs(error) => error.errno(),
        }
    }
}
