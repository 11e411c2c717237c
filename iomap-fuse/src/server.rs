//! The requests of the kernel, one method each.
//!
//! Owns the list: which request goes to which body, and how its answer becomes a reply. The bodies
//! stand in `server/`. Does not own what the kernel may cache: that is told in
//! [`options`](crate::options) and by the times to live here.
//!
//! Nothing but this mount changes the file system, so what the kernel was told stays true until it
//! changes it itself, and may be kept for long.
//!
//! `INTERRUPT` is not served: every request ends by itself, none waits for another. Locks, the one
//! thing that may be waited for without end, are the kernel's.

mod access;
mod acl;
mod attr;
mod data;
mod dir;
mod init;
mod ioctl;
mod names;
mod shared;
mod xattr;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use iomap_core::error::Errno;
use iomap_core::vfs::SetAttr;

use crate::acl::is_acl;
use crate::convert;
use crate::options::MountOptions;

pub(crate) use acl::are_kept as acl_are_kept;
pub(crate) use shared::Shared;
use shared::{TTL, fail, new_inode, reply_attr, reply_empty, reply_entry};

/// The request handlers.
pub(crate) struct Server {
    shared: Arc<Shared>,
    options: MountOptions,
}

impl Server {
    pub(crate) const fn new(shared: Arc<Shared>, options: MountOptions) -> Self {
        Self { shared, options }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::agree(&self.options, &self.shared, config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let shared = &*self.shared;
        match shared.lookup(shared.ino(parent), name.as_bytes()) {
            // An answer too: the kernel may keep it.
            Err(error) if error.errno() == Errno::NOENT => {
                reply.entry(&TTL, &convert::nobody(), Generation(0));
            }
            result => reply_entry(shared, result, reply),
        }
    }

    fn forget(&self, _req: &Request, node: INodeNo, count: u64) {
        self.shared.nodes.forget(self.shared.ino(node), count);
    }

    fn getattr(&self, _req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(
            &self.shared,
            self.shared.getattr(self.shared.ino(node)),
            reply,
        );
    }

    fn setattr(
        &self,
        _req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(convert::permissions),
            uid,
            gid,
            size,
            atime: atime.map(convert::time_or_now),
            mtime: mtime.map(convert::time_or_now),
            ctime: ctime.map(convert::timestamp),
        };
        let result = self.shared.setattr(self.shared.ino(node), &set);
        reply_attr(&self.shared, result, reply);
    }

    fn readlink(&self, _req: &Request, node: INodeNo, reply: ReplyData) {
        match self.shared.fs().readlink(self.shared.ino(node)) {
            Ok(target) => {
                self.shared.accessed(self.shared.ino(node));
                reply.data(&target);
            }
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let shared = &*self.shared;
        let dir = shared.ino(parent);
        let fresh = shared.fresh(req, dir, mode, umask);
        let made = fresh.and_then(|fresh| shared.mknod(dir, name.as_bytes(), (mode, rdev), &fresh));
        reply_entry(shared, made, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let shared = &*self.shared;
        let dir = shared.ino(parent);
        let fresh = shared.fresh(req, dir, mode, umask);
        let made = fresh.and_then(|fresh| shared.mkdir(dir, name.as_bytes(), &fresh));
        reply_entry(shared, made, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.shared.ino(parent);
        reply_empty(self.shared.fs().unlink(dir, name.as_bytes()), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.shared.ino(parent);
        reply_empty(self.shared.fs().rmdir(dir, name.as_bytes()), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let shared = &*self.shared;
        let (dir, target) = (shared.ino(parent), target.as_os_str().as_bytes());
        let new = new_inode(req, 0o777);
        let made = shared.fs().symlink(dir, name.as_bytes(), target, &new);
        reply_entry(shared, made, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let shared = &*self.shared;
        let from = (shared.ino(parent), name.as_bytes());
        let to = (shared.ino(newparent), newname.as_bytes());
        reply_empty(shared.rename(from, to, flags), reply);
    }

    fn link(
        &self,
        _req: &Request,
        node: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let shared = &*self.shared;
        let dir = shared.ino(newparent);
        let made = shared.fs().link(shared.ino(node), dir, newname.as_bytes());
        reply_entry(shared, made, reply);
    }

    fn open(&self, _req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let shared = &*self.shared;
        match shared.open(shared.ino(node), flags.0) {
            Ok(handle) => {
                shared.opened(shared.ino(node), flags.0);
                reply.opened(handle, shared.open_flags(handle));
            }
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let shared = &*self.shared;
        let dir = shared.ino(parent);
        let fresh = shared.fresh(req, dir, mode, umask);
        let made = fresh.and_then(|fresh| shared.create(dir, name.as_bytes(), &fresh, flags));
        match made {
            Ok((attr, generation, handle)) => {
                reply.created(&TTL, &attr, generation, handle, shared.cache.open_flags());
            }
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.shared
            .read(fh, offset, size, flags.0, |result| match result {
                Ok(data) => reply.data(data),
                Err(error) => reply.error(fail(&error)),
            });
    }

    fn write(
        &self,
        _req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.shared.write(fh, offset, data, write_flags, flags.0) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // A close promises nothing; errors of writeback are kept for fsync. Told so once, the kernel
        // does not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        drop(self.shared.handles.remove(fh));
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let file = self.shared.handles.get(fh);
        reply_empty(file.and_then(|file| file.fsync(datasync)), reply);
    }

    fn readdir(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self
            .shared
            .readdir(self.shared.ino(node), offset, &mut reply)
        {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self
            .shared
            .readdirplus(self.shared.ino(node), offset, &mut reply)
        {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let dir = self.shared.ino(node);
        reply_empty(self.shared.fs().fsync_inode(dir, datasync), reply);
    }

    fn opendir(&self, _req: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // A position in a directory is a cookie that stays good, so there is nothing to remember.
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn statfs(&self, _req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.shared.fs().statfs() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.files,
                s.files_free,
                s.block_size,
                s.name_max,
                s.block_size,
            ),
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (ino, name) = (self.shared.ino(node), name.as_bytes());
        let set = if is_acl(name) {
            self.shared.set_acl(req, ino, name, value)
        } else {
            self.shared.setxattr(ino, name, value, flags)
        };
        reply_empty(set, reply);
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let ino = self.shared.ino(node);
        xattr::reply(self.shared.getxattr(ino, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        xattr::reply(self.shared.listxattr(self.shared.ino(node)), size, reply);
    }

    fn removexattr(&self, _req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let ino = self.shared.ino(node);
        reply_empty(self.shared.removexattr(ino, name.as_bytes()), reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (range, caller) = ((offset, length), (req.uid(), req.gid()));
        reply_empty(self.shared.fallocate(fh, range, mode, caller), reply);
    }

    fn ioctl(
        &self,
        _req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        match self.shared.ioctl(self.shared.ino(node), cmd, in_data) {
            Ok(answer) => reply.ioctl(0, &answer),
            Err(error) => reply.error(fail(&error)),
        }
    }

    fn lseek(
        &self,
        _req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.shared.lseek(fh, offset, whence) {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _node_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _node_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        match self
            .shared
            .copy_range((fh_in, offset_in), (fh_out, offset_out), len)
        {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(fail(&error)),
        }
    }
}
