//! The values of the namespace contract in FUSE's words, and back.
//!
//! Owns types, times, device numbers, errors and flags of calls. Pure functions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, INodeNo, TimeOrNow};
use iomap_core::error::Errno;
use iomap_core::vfs::{Attr, Fallocate, FileType, Ino, IoFlags, OpenFlags, Special, Timestamp};

/// An errno for the wire.
pub(crate) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub(crate) const fn file_type(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

/// What `stat` tells of the inode the kernel calls `node`.
pub(crate) fn attr(node: INodeNo, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: node,
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: attr.block_size,
        flags: 0,
    }
}

/// A reply that says that a name does not exist.
pub(crate) fn nobody() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// What a directory tells of `.` and `..`.
pub(crate) fn bare(ino: Ino, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        kind: file_type(kind),
        ..nobody()
    }
}

fn system_time(at: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(at.secs.unsigned_abs());
    let time = if at.secs < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    time.and_then(|time| time.checked_add(Duration::from_nanos(at.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// A time that came with a request.
///
/// fuser takes seconds and nanoseconds of a time before 1970 as if both counted backwards
/// (`time.rs`, `system_time_from_time`), so they are taken apart the same way here.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Timestamp {
                secs: 0_i64.saturating_sub_unsigned(before.as_secs()),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

/// A time of `utimensat`.
pub(crate) fn time_or_now(at: TimeOrNow) -> Timestamp {
    match at {
        TimeOrNow::SpecificTime(at) => timestamp(at),
        TimeOrNow::Now => Timestamp::now(),
    }
}

/// A device number as the kernel encodes it for user space in 32 bits.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

fn decode_device(device: u32) -> u64 {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & !0xff),
    );
    rustix::fs::makedev(major, minor)
}

/// What `mknod` makes; `None` for a type that cannot be made so.
pub(crate) fn special(mode: u32, device: u32) -> Option<Special> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Special::Regular),
        libc::S_IFIFO => Some(Special::Fifo),
        libc::S_IFSOCK => Some(Special::Socket),
        libc::S_IFCHR => Some(Special::CharDevice(decode_device(device))),
        libc::S_IFBLK => Some(Special::BlockDevice(decode_device(device))),
        _ => None,
    }
}

/// Permission and set-id bits of a mode.
pub(crate) const fn permissions(mode: u32) -> u16 {
    // Masked: fits.
    (mode & 0o7777) as u16
}

/// How a file is opened. Who may write may read too: the kernel reads what it writes back in parts,
/// and checks the caller's own mode itself. Where a write goes and what it promises is told with
/// each write.
pub(crate) const fn open_flags(flags: i32) -> OpenFlags {
    let mut open = OpenFlags::READ;
    if flags & libc::O_ACCMODE != libc::O_RDONLY {
        open = open.union(OpenFlags::WRITE);
    }
    if flags & libc::O_TRUNC != 0 {
        open = open.union(OpenFlags::WRITE).union(OpenFlags::TRUNCATE);
    }
    open
}

/// What one read or write promises, by the flags of the open file at the time of the call.
pub(crate) const fn io_flags(flags: i32) -> IoFlags {
    let mut io = IoFlags::empty();
    if flags & libc::O_DIRECT != 0 {
        io = io.union(IoFlags::DIRECT);
    }
    if flags & libc::O_SYNC == libc::O_SYNC {
        io = io.union(IoFlags::SYNC);
    } else if flags & libc::O_DSYNC != 0 {
        io = io.union(IoFlags::DSYNC);
    }
    io
}

/// The mode of `fallocate`; `None` if there is no such mode.
pub(crate) const fn fallocate_mode(mode: i32) -> Option<Fallocate> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    const UNSHARE: i32 = libc::FALLOC_FL_UNSHARE_RANGE;
    const UNSHARE_KEEP: i32 = UNSHARE | KEEP;
    Some(match mode {
        0 => Fallocate::Allocate,
        KEEP => Fallocate::AllocateKeepSize,
        PUNCH => Fallocate::PunchHole,
        ZERO => Fallocate::ZeroRange,
        ZERO_KEEP => Fallocate::ZeroRangeKeepSize,
        libc::FALLOC_FL_COLLAPSE_RANGE => Fallocate::CollapseRange,
        libc::FALLOC_FL_INSERT_RANGE => Fallocate::InsertRange,
        UNSHARE | UNSHARE_KEEP => Fallocate::UnshareRange,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (8, 1), (253, 255), (253, 256), (4095, 1_048_575)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn times_keep_their_nanoseconds_on_both_sides_of_1970() {
        for secs in [i64::MIN, -1, 0, 1, 1 << 40] {
            for nanos in [0, 1, 999_999_999] {
                let at = Timestamp { secs, nanos };
                let since = system_time(at);
                let (whole, rest) = match since.duration_since(UNIX_EPOCH) {
                    Ok(d) => (i128::from(d.as_secs()), i128::from(d.subsec_nanos())),
                    Err(e) => (
                        -i128::from(e.duration().as_secs()),
                        -i128::from(e.duration().subsec_nanos()),
                    ),
                };
                let total = whole * 1_000_000_000 + rest;
                assert_eq!(total, i128::from(secs) * 1_000_000_000 + i128::from(nanos));
            }
        }
    }

    #[test]
    fn open_flags_of_a_writer_allow_reading() {
        assert_eq!(open_flags(libc::O_RDONLY), OpenFlags::READ);
        let rw = OpenFlags::READ | OpenFlags::WRITE;
        assert_eq!(open_flags(libc::O_WRONLY), rw);
        assert_eq!(open_flags(libc::O_RDWR | libc::O_APPEND), rw);
        assert_eq!(
            open_flags(libc::O_RDWR | libc::O_TRUNC),
            rw | OpenFlags::TRUNCATE
        );
    }

    #[test]
    fn o_sync_is_more_than_o_dsync() {
        assert_eq!(io_flags(libc::O_DSYNC), IoFlags::DSYNC);
        assert_eq!(io_flags(libc::O_SYNC), IoFlags::SYNC);
        assert_eq!(io_flags(libc::O_DIRECT), IoFlags::DIRECT);
    }
}
