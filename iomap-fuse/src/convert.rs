//! The values of the namespace contract in FUSE's words, and back.
//!
//! Owns types, attributes, times, device numbers and flags of calls. Pure functions.

use iomap_core::vfs::{Attr, Fallocate, FileType, IoFlags, OpenFlags, SetAttr, Special, Timestamp};

use crate::wire::{self, NodeId, SetAttrFlags, SetattrIn, SxTime};

/// The bits of a mode that say what an inode is.
pub(crate) const fn type_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Regular => libc::S_IFREG,
        FileType::Directory => libc::S_IFDIR,
        FileType::Symlink => libc::S_IFLNK,
        FileType::Fifo => libc::S_IFIFO,
        FileType::Socket => libc::S_IFSOCK,
        FileType::CharDevice => libc::S_IFCHR,
        FileType::BlockDevice => libc::S_IFBLK,
    }
}

/// What `stat` tells of the inode the kernel calls `node`.
pub(crate) fn attr(node: NodeId, attr: &Attr) -> wire::Attr {
    wire::Attr {
        ino: node.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.secs.cast_unsigned(),
        mtime: attr.mtime.secs.cast_unsigned(),
        ctime: attr.ctime.secs.cast_unsigned(),
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: type_bits(attr.kind) | u32::from(attr.mode & 0o7777),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: attr.block_size,
        flags: 0,
    }
}

/// What `statx` tells of the inode the kernel calls `node`: all of `stat`, and when it was made.
pub(crate) fn statx(node: NodeId, attr: &Attr) -> wire::Statx {
    let time = |at: Timestamp| SxTime {
        tv_sec: at.secs,
        tv_nsec: at.nanos,
        reserved: 0,
    };
    wire::Statx {
        mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
        blksize: attr.block_size,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The types have no bits beyond the sixteenth.
        mode: type_bits(attr.kind) as u16 | attr.mode & 0o7777,
        ino: node.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: rustix::fs::major(attr.rdev),
        rdev_minor: rustix::fs::minor(attr.rdev),
        ..wire::Statx::default()
    }
}

/// What a `SETATTR` sets.
pub(crate) fn set_attr(head: &SetattrIn) -> SetAttr {
    let valid = SetAttrFlags::from_bits_retain(head.valid);
    // Of a time that the clock sets both flags are there, and no value that counts.
    let time = |given, now, secs: u64, nanos| {
        if valid.contains(now) {
            return Some(Timestamp::now());
        }
        let secs = secs.cast_signed();
        valid.contains(given).then_some(Timestamp { secs, nanos })
    };
    SetAttr {
        mode: valid
            .contains(SetAttrFlags::MODE)
            .then_some(permissions(head.mode)),
        uid: valid.contains(SetAttrFlags::UID).then_some(head.uid),
        gid: valid.contains(SetAttrFlags::GID).then_some(head.gid),
        size: valid.contains(SetAttrFlags::SIZE).then_some(head.size),
        atime: time(
            SetAttrFlags::ATIME,
            SetAttrFlags::ATIME_NOW,
            head.atime,
            head.atimensec,
        ),
        mtime: time(
            SetAttrFlags::MTIME,
            SetAttrFlags::MTIME_NOW,
            head.mtime,
            head.mtimensec,
        ),
        ctime: valid.contains(SetAttrFlags::CTIME).then_some(Timestamp {
            secs: head.ctime.cast_signed(),
            nanos: head.ctimensec,
        }),
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

    fn set(valid: SetAttrFlags) -> SetAttr {
        set_attr(&SetattrIn {
            valid: valid.bits(),
            padding: 0,
            fh: 0,
            size: 4,
            lock_owner: 0,
            atime: (-1_i64).cast_unsigned(),
            mtime: 2,
            ctime: 3,
            atimensec: 999_999_999,
            mtimensec: 6,
            ctimensec: 7,
            mode: libc::S_IFREG | 0o4755,
            unused4: 0,
            uid: 8,
            gid: 9,
            unused5: 0,
        })
    }

    #[test]
    fn only_what_is_valid_is_set() {
        assert_eq!(set(SetAttrFlags::empty()), SetAttr::default());
        let all = set(SetAttrFlags::all() - SetAttrFlags::ATIME_NOW - SetAttrFlags::MTIME_NOW);
        assert_eq!((all.mode, all.size), (Some(0o4755), Some(4)));
        assert_eq!((all.uid, all.gid), (Some(8), Some(9)));
        // Before 1970 nanoseconds still count forward.
        let before = Timestamp {
            secs: -1,
            nanos: 999_999_999,
        };
        assert_eq!(all.atime, Some(before));
        assert_eq!(all.mtime, Some(Timestamp { secs: 2, nanos: 6 }));
        assert_eq!(all.ctime, Some(Timestamp { secs: 3, nanos: 7 }));
    }

    #[test]
    fn the_clock_sets_a_time_whatever_else_is_said() {
        let start = Timestamp::now().secs;
        let touched = set(SetAttrFlags::MTIME | SetAttrFlags::MTIME_NOW);
        assert!(touched.mtime.is_some_and(|at| at.secs >= start));
        assert_eq!(touched.atime, None);
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
