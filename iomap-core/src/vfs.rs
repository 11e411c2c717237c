//! The namespace contract: what a mount or a command line tool asks of a file system.
//!
//! Owns the traits [`Vfs`] and [`OpenFile`] and their values. Speaks in inode numbers and byte
//! names, as FUSE does; path walking belongs to the caller. Does not own data paths: a backend's
//! [`OpenFile`] is usually a thin wrapper of [`File`](crate::file::File).
//!
//! Both traits are object safe, so that a mount or a tool is compiled once for every backend. All
//! methods may be called from many threads at once and may block. Permission checks against the
//! caller are the caller's; a file system checks what its own invariants need.

mod flags;
mod modes;
mod time;

use std::any::Any;
use std::sync::Arc;

use crate::error::{FsError, Result, SeekError};
use crate::fiemap::Extent;
use crate::mmap::real::Mapping;
use crate::mmap::{FaultHandler, MapOptions, Prot};
use crate::seek::Whence;
use crate::stats::Snapshot;
use crate::units::{FilePos, FileRange};

pub use self::flags::{InodeFlags, IoFlags, OpenFlags};
pub use self::modes::{RenameMode, XattrMode};
pub use self::time::Timestamp;

/// An inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: Ino,
    /// Changes when a number is used again for another file.
    pub generation: u64,
    /// The type.
    pub kind: FileType,
    /// The permission bits and set-id bits, `0o7777` at most.
    pub mode: u16,
    /// The number of names.
    pub nlink: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The device number of a device node, as `makedev` makes it.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Storage used, in units of 512 bytes, delayed allocation included.
    pub blocks: u64,
    /// Bytes of a good transfer.
    pub block_size: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
}

/// What `chmod`, `chown`, `truncate` and `utimensat` change. `None`: leave alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission and set-id bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size, bytes: shrinks or grows the file.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<Timestamp>,
    /// Last change of content.
    pub mtime: Option<Timestamp>,
    /// Last change of attributes; the current time if `None` and anything else is set.
    pub ctime: Option<Timestamp>,
}

/// Who creates an inode, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewInode {
    /// Permission and set-id bits, after the caller's umask.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory's set-group-id bit passes its own on.
    pub gid: u32,
}

/// A special inode to create with [`Vfs::mknod`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// An empty regular file.
    Regular,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device with this number.
    CharDevice(u64),
    /// A block device with this number.
    BlockDevice(u64),
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub kind: FileType,
    /// The name: any bytes but `/` and NUL, 255 at most.
    pub name: Vec<u8>,
    /// Continue after this entry with this cookie. Stays good while other entries come and go.
    pub cookie: u64,
}

/// What `statfs` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks not used.
    pub blocks_free: u64,
    /// Blocks an ordinary user can still get.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes not used.
    pub files_free: u64,
    /// Bytes of the longest name.
    pub name_max: u32,
}

/// What `fallocate` does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Allocate storage; the file grows to the end of the range.
    Allocate,
    /// Allocate storage; the size stays.
    AllocateKeepSize,
    /// Give storage back; the bytes read as zeroes, the size stays.
    PunchHole,
    /// Make the bytes zero, keeping or allocating storage; the file grows to the end of the range.
    ZeroRange,
    /// The same; the size stays.
    ZeroRangeKeepSize,
    /// Take the range out of the file; what follows moves down. Block aligned, inside the file.
    CollapseRange,
    /// Put a hole in; what follows moves up. Block aligned, inside the file.
    InsertRange,
    /// Give the range storage of its own.
    UnshareRange,
}

/// What keeps an inode alive until it is dropped.
pub type Held = Box<dyn Any + Send + Sync>;

/// A mounted file system.
pub trait Vfs: Send + Sync {
    /// The root directory.
    fn root(&self) -> Ino;

    /// The inode `name` of `dir`; `.` and `..` included.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, or what reading the directory gives.
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr>;

    /// The attributes of an inode.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such inode (any more).
    fn getattr(&self, ino: Ino) -> Result<Attr>;

    /// Keeps an inode of any type alive, also without a name, until the answer is dropped: somebody
    /// knows it by its number. What it can do until then is what its type can do; its number names
    /// no other inode.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such inode (any more).
    fn hold(&self, ino: Ino) -> Result<Held>;

    /// Changes attributes, and tells what they are then.
    ///
    /// # Errors
    ///
    /// `EFBIG`, `EISDIR`, `EINVAL` for a size that cannot be, `ENOSPC`, `EROFS`.
    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr>;

    /// Creates a regular file or a special inode.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOSPC`, `EROFS`, and those of [`Vfs::lookup`].
    fn mknod(&self, dir: Ino, name: &[u8], special: Special, new: &NewInode) -> Result<Attr>;

    /// Creates a directory.
    ///
    /// # Errors
    ///
    /// As [`Vfs::mknod`], and `EMLINK`.
    fn mkdir(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr>;

    /// Creates a symbolic link to `target`, 4095 bytes at most.
    ///
    /// # Errors
    ///
    /// As [`Vfs::mknod`].
    fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr>;

    /// What a symbolic link points to.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is none.
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>>;

    /// Gives an inode another name.
    ///
    /// # Errors
    ///
    /// `EPERM` for a directory, `EMLINK`, and those of [`Vfs::mknod`].
    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr>;

    /// Removes a name of something that is no directory. The inode lives on while it has names or
    /// is open.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EISDIR`.
    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()>;

    /// Renames, as `renameat2`.
    ///
    /// # Errors
    ///
    /// Those of `renameat2`.
    fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        to_dir: Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()>;

    /// Tells the entries after `cookie` (zero: from the start), `.` and `..` included, until
    /// `emit` answers `false`; that entry is told again next time.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`, or what reading the directory gives.
    fn readdir(&self, dir: Ino, cookie: u64, emit: &mut dyn FnMut(&DirEntry) -> bool)
    -> Result<()>;

    /// Opens a regular file. The inode stays alive while it is open, also without a name.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `EINVAL` for anything without data, `EROFS`.
    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Arc<dyn OpenFile>>;

    /// The value of an extended attribute; the name with its namespace (`user.` and so on).
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none.
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>>;

    /// Sets an extended attribute.
    ///
    /// # Errors
    ///
    /// `EEXIST` or `ENODATA` as `mode` asks, `E2BIG`, `ENOSPC`, `EOPNOTSUPP`.
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;

    /// The names of the extended attributes.
    ///
    /// # Errors
    ///
    /// What reading them gives.
    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>>;

    /// Removes an extended attribute.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none.
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()>;

    /// Notes that an inode was read at `at`: its access time becomes that, no other time changes. The
    /// caller knows when this is due; a file system without access times does nothing.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EROFS`, `ENOSPC`: the access time stays.
    fn note_access(&self, ino: Ino, at: Timestamp) -> Result<()> {
        let _ = (ino, at);
        Ok(())
    }

    /// The flags of an inode of any type.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EOPNOTSUPP` where inodes have none.
    fn flags(&self, ino: Ino) -> Result<InodeFlags> {
        let _ = ino;
        Err(FsError::Unsupported("flags of inodes"))
    }

    /// Sets all flags of an inode: those not in `flags` are cleared.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a change of a flag that the file system does not act on; `ENOENT`, `EROFS`.
    fn set_flags(&self, ino: Ino, flags: InodeFlags) -> Result<()> {
        let _ = (ino, flags);
        Err(FsError::Unsupported("flags of inodes"))
    }

    /// Space and limits.
    ///
    /// # Errors
    ///
    /// What reading them gives.
    fn statfs(&self) -> Result<StatFs>;

    /// Writes everything dirty and makes it durable.
    ///
    /// # Errors
    ///
    /// The first failure; the rest is tried all the same. Among the failures is any loss of data by
    /// writeback since the last call.
    fn sync(&self) -> Result<()>;

    /// Makes one inode of any type durable: a directory's entries, a link, a device node, a file as
    /// if it were opened for it.
    ///
    /// # Errors
    ///
    /// What writing it gives; for a file also an error of an earlier writeback nobody was told of.
    fn fsync_inode(&self, ino: Ino, data_only: bool) -> Result<()>;

    /// What happened since the mount.
    fn counters(&self) -> Snapshot;
}

/// An open regular file.
pub trait OpenFile: Send + Sync {
    /// The inode.
    fn ino(&self) -> Ino;

    /// Reads from `pos` on; the number of bytes is short only at the end of the file or, with
    /// `NOWAIT`, where it would have to wait.
    ///
    /// # Errors
    ///
    /// An error only if nothing was read.
    fn read_at(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize>;

    /// Writes at `pos` (with `APPEND`: at the end).
    ///
    /// # Errors
    ///
    /// An error only if nothing was written.
    fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize>;

    /// Makes the file durable; `data_only` leaves out metadata that is not needed to read it.
    ///
    /// # Errors
    ///
    /// Also an error of an earlier writeback, once for each open file.
    fn fsync(&self, data_only: bool) -> Result<()>;

    /// Starts or awaits writeback of a range, without metadata (`sync_file_range`).
    ///
    /// # Errors
    ///
    /// As [`OpenFile::fsync`].
    fn sync_range(&self, range: FileRange, wait: bool) -> Result<()>;

    /// Changes the storage of a range.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range the mode does not allow, `EOPNOTSUPP`, `ENOSPC`, `EFBIG`.
    fn fallocate(&self, mode: Fallocate, range: FileRange) -> Result<()>;

    /// The next data or hole at or after `pos`.
    ///
    /// # Errors
    ///
    /// [`SeekError::NoSuchRegion`] if there is none.
    fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError>;

    /// The extents of a range; `sync` writes dirty data first.
    ///
    /// # Errors
    ///
    /// What reading them gives.
    fn fiemap(&self, range: FileRange, sync: bool) -> Result<Vec<Extent>>;

    /// Makes `range` of this file share its storage with `to` from `at` on (reflink). Block
    /// aligned, except at the end of the file.
    ///
    /// # Errors
    ///
    /// `EINVAL` for misaligned or overlapping ranges, `EXDEV` for another file system,
    /// `EOPNOTSUPP`.
    fn clone_range(&self, range: FileRange, to: &dyn OpenFile, at: FilePos) -> Result<()> {
        let _ = (range, to, at);
        Err(FsError::Unsupported("reflink"))
    }

    /// Maps the pages that `range` touches into the program. See
    /// [`File::mmap`](crate::file::File::mmap).
    ///
    /// # Errors
    ///
    /// `EACCES`, `EINVAL`, `EOPNOTSUPP`.
    fn mmap(&self, range: FileRange, prot: Prot, shared: bool) -> Result<Mapping> {
        self.mmap_as(range, prot, shared, MapOptions::empty())
    }

    /// The same with [`MapOptions`].
    ///
    /// # Errors
    ///
    /// `EACCES`, `EINVAL`, `EOPNOTSUPP`.
    fn mmap_as(
        &self,
        range: FileRange,
        prot: Prot,
        shared: bool,
        options: MapOptions,
    ) -> Result<Mapping> {
        let _ = (range, prot, shared, options);
        Err(FsError::Unsupported("memory mappings"))
    }

    /// Whether its bytes change without being written: then no mount caches them.
    fn is_volatile(&self) -> bool {
        false
    }

    /// Who resolves the faults of memory mappings of the file; it lives as long as they do. What a
    /// mapping may do follows from how the file was opened: the caller checks.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where there are no memory mappings; what getting the file ready answers.
    fn fault_handler(self: Arc<Self>) -> Result<Arc<dyn FaultHandler>> {
        Err(FsError::Unsupported("memory mappings"))
    }

    /// For [`OpenFile::clone_range`]: the concrete file.
    fn as_any(&self) -> &dyn Any;
}
