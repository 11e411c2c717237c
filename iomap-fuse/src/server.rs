//! The requests of the kernel, one method each.
//!
//! Owns the list: which request goes to which body, and how what it gives becomes an answer. The
//! bodies stand in `server/`. Does not own how requests come and answers go
//! ([`transport`](crate::transport)), nor what the kernel may cache: that is told in
//! [`options`](crate::options) and by the times to live here.
//!
//! Nothing but this mount changes the file system, so what the kernel was told stays true until it
//! changes it itself, and may be kept for long.
//!
//! Every request ends by itself, none waits for another; a long copy ends early where whoever waits
//! for it is interrupted. Locks, the one thing that may be waited for without end, are the kernel's.

mod access;
mod acl;
mod attr;
mod data;
mod dir;
mod interrupt;
mod ioctl;
mod names;
#[cfg(test)]
mod random;
mod shared;
mod xattr;

use std::sync::Arc;

use iomap_core::error::{Errno, Result};
use iomap_core::vfs::{Attr, Ino};
use zerocopy::FromBytes;

use crate::acl::is_acl;
use crate::convert;
use crate::wire::{
    AttrOut, BatchForgetIn, CopyFileRangeIn, CopyFileRangeOut, CreateIn, EntryOut, FSYNC_FDATASYNC,
    FallocateIn, FileHandle, FopenFlags, ForgetIn, ForgetOne, FsyncIn, GetxattrIn, InterruptIn,
    IoctlIn, IoctlOut, LinkIn, LseekIn, LseekOut, MkdirIn, MknodIn, NodeId, Opcode, OpenIn,
    OpenOut, ReadIn, ReleaseIn, Rename2In, RenameIn, Reply, Request, SetattrIn, SetxattrIn,
    StatfsOut, StatxOut, WriteFlags, WriteIn, WriteOut,
};

pub(crate) use acl::are_kept as acl_are_kept;
pub(crate) use shared::Shared;
use shared::{TTL, new_inode};

/// The request handlers.
pub(crate) struct Server {
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Does what `request` asks for, and puts the answer into `reply`. An error is the answer in its
    /// place; `reply` counts for nothing then.
    ///
    /// # Errors
    ///
    /// What the caller is told.
    pub(crate) fn answer(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let Some(opcode) = request.opcode() else {
            return Err(Errno::NOSYS.into());
        };
        match opcode {
            Opcode::Lookup => self.lookup(request, reply),
            Opcode::Forget => self.forget(request),
            Opcode::BatchForget => self.batch_forget(request),
            Opcode::Getattr => self.getattr(request, reply),
            Opcode::Statx => self.statx(request, reply),
            Opcode::Setattr => self.setattr(request, reply),
            Opcode::Readlink => self.readlink(request, reply),
            Opcode::Symlink => self.symlink(request, reply),
            Opcode::Mknod => self.mknod(request, reply),
            Opcode::Mkdir => self.mkdir(request, reply),
            Opcode::Unlink => self.shared.fs().unlink(self.ino(request), request.name()?),
            Opcode::Rmdir => self.shared.fs().rmdir(self.ino(request), request.name()?),
            Opcode::Rename => {
                let head: RenameIn = request.head()?;
                self.rename(request, head.newdir, 0)
            }
            Opcode::Rename2 => {
                let head: Rename2In = request.head()?;
                self.rename(request, head.newdir, head.flags)
            }
            Opcode::Link => self.link(request, reply),
            Opcode::Open => self.open(request, reply),
            Opcode::Create => self.create(request, reply),
            Opcode::Read => self.read(request, reply),
            Opcode::Write => self.write(request, reply),
            Opcode::Statfs => self.statfs(reply),
            Opcode::Release => self.release(request),
            Opcode::Fsync => self.fsync(request),
            Opcode::Fsyncdir => self.fsyncdir(request),
            Opcode::Setxattr => self.setxattr(request),
            Opcode::Getxattr => self.getxattr(request, reply),
            Opcode::Listxattr => self.listxattr(request, reply),
            Opcode::Removexattr => self.shared.removexattr(self.ino(request), request.name()?),
            Opcode::Opendir => opendir(request, reply),
            Opcode::Interrupt => {
                let head: InterruptIn = request.head()?;
                self.shared.interrupts.interrupt(head.unique);
                Ok(())
            }
            Opcode::Releasedir | Opcode::Destroy => Ok(()),
            Opcode::Readdir => self.readdir(request, reply),
            Opcode::Readdirplus => self.readdirplus(request, reply),
            Opcode::Ioctl => self.ioctl(request, reply),
            Opcode::Fallocate => self.fallocate(request),
            Opcode::Lseek => self.lseek(request, reply),
            Opcode::CopyFileRange | Opcode::CopyFileRange64 => {
                self.copy_file_range(opcode, request, reply)
            }
        }
    }

    /// The inode a request is about.
    fn ino(&self, request: &Request<'_>) -> Ino {
        self.shared.ino(request.node())
    }

    fn lookup(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let shared = &*self.shared;
        match shared.lookup(self.ino(request), request.name()?) {
            // An answer too: the kernel may keep it.
            Err(error) if error.errno() == Errno::NOENT => reply.put(&EntryOut {
                entry_valid: TTL,
                ..EntryOut::default()
            }),
            result => self.put_entry(&result?, reply),
        }
    }

    /// Answers with what tells the kernel of an inode.
    fn put_entry(&self, attr: &Attr, reply: &mut Reply<'_>) -> Result<()> {
        reply.put(&self.shared.entry(attr)?)
    }

    fn put_attr(&self, attr: &Attr, reply: &mut Reply<'_>) -> Result<()> {
        reply.put(&AttrOut {
            attr_valid: TTL,
            attr_valid_nsec: 0,
            dummy: 0,
            attr: self.shared.file_attr(attr),
        })
    }

    fn forget(&self, request: &Request<'_>) -> Result<()> {
        let head: ForgetIn = request.head()?;
        self.shared.nodes.forget(self.ino(request), head.nlookup);
        Ok(())
    }

    fn batch_forget(&self, request: &Request<'_>) -> Result<()> {
        let head: BatchForgetIn = request.head()?;
        let mut rest = request.payload();
        for _ in 0..head.count {
            let (one, after) = ForgetOne::read_from_prefix(rest).map_err(|_| Errno::INVAL)?;
            let ino = self.shared.ino(NodeId(one.nodeid));
            self.shared.nodes.forget(ino, one.nlookup);
            rest = after;
        }
        Ok(())
    }

    fn getattr(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        self.put_attr(&self.shared.getattr(self.ino(request))?, reply)
    }

    /// As [`Server::getattr`], with the time of birth.
    fn statx(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let attr = self.shared.getattr(self.ino(request))?;
        reply.put(&StatxOut {
            attr_valid: TTL,
            stat: convert::statx(request.node(), &attr),
            ..StatxOut::default()
        })
    }

    fn setattr(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let set = convert::set_attr(&request.head::<SetattrIn>()?);
        self.put_attr(&self.shared.setattr(self.ino(request), &set)?, reply)
    }

    fn readlink(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let target = self.shared.fs().readlink(self.ino(request))?;
        self.shared.accessed(self.ino(request));
        reply.put(&target[..])
    }

    fn symlink(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let (name, target) = request.names()?;
        let new = new_inode(request.caller(), 0o777);
        let made = self
            .shared
            .fs()
            .symlink(self.ino(request), name, target, &new)?;
        self.put_entry(&made, reply)
    }

    fn mknod(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: MknodIn = request.head()?;
        let (dir, name) = (self.ino(request), request.name()?);
        let fresh = self
            .shared
            .fresh(request.caller(), dir, head.mode, head.umask)?;
        let made = self
            .shared
            .mknod(dir, name, (head.mode, head.rdev), &fresh)?;
        self.put_entry(&made, reply)
    }

    fn mkdir(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: MkdirIn = request.head()?;
        let (dir, name) = (self.ino(request), request.name()?);
        let fresh = self
            .shared
            .fresh(request.caller(), dir, head.mode, head.umask)?;
        self.put_entry(&self.shared.mkdir(dir, name, &fresh)?, reply)
    }

    fn rename(&self, request: &Request<'_>, newdir: u64, flags: u32) -> Result<()> {
        let (name, newname) = request.names()?;
        let from = (self.ino(request), name);
        let to = (self.shared.ino(NodeId(newdir)), newname);
        self.shared.rename(from, to, flags)
    }

    fn link(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: LinkIn = request.head()?;
        let shared = &*self.shared;
        let ino = shared.ino(NodeId(head.oldnodeid));
        let made = shared.fs().link(ino, self.ino(request), request.name()?)?;
        self.put_entry(&made, reply)
    }

    fn open(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: OpenIn = request.head()?;
        let (shared, flags) = (&*self.shared, head.flags.cast_signed());
        let handle = shared.open(self.ino(request), flags)?;
        shared.opened(self.ino(request), flags);
        reply.put(&opened(handle, shared.open_flags(handle)))
    }

    fn create(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: CreateIn = request.head()?;
        let shared = &*self.shared;
        let (dir, name) = (self.ino(request), request.name()?);
        let fresh = shared.fresh(request.caller(), dir, head.mode, head.umask)?;
        let (entry, handle) = shared.create(dir, name, &fresh, head.flags.cast_signed())?;
        reply.put(&entry)?;
        reply.put(&opened(handle, shared.cache.open_flags()))
    }

    fn read(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: ReadIn = request.head()?;
        let (fh, flags) = (FileHandle(head.fh), head.flags.cast_signed());
        reply.fill(head.size, |room| {
            self.shared.read(fh, head.offset, room, flags)
        })
    }

    fn write(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: WriteIn = request.head()?;
        let data = request.data(head.size)?;
        let how = WriteFlags::from_bits_retain(head.write_flags);
        let (fh, flags) = (FileHandle(head.fh), head.flags.cast_signed());
        let size = self.shared.write(fh, head.offset, data, how, flags)?;
        reply.put(&WriteOut { size, padding: 0 })
    }

    fn statfs(&self, reply: &mut Reply<'_>) -> Result<()> {
        let found = self.shared.fs().statfs()?;
        reply.put(&StatfsOut {
            blocks: found.blocks,
            bfree: found.blocks_free,
            bavail: found.blocks_available,
            files: found.files,
            ffree: found.files_free,
            bsize: found.block_size,
            namelen: found.name_max,
            frsize: found.block_size,
            ..StatfsOut::default()
        })
    }

    fn release(&self, request: &Request<'_>) -> Result<()> {
        let head: ReleaseIn = request.head()?;
        drop(self.shared.handles.remove(FileHandle(head.fh)));
        Ok(())
    }

    fn fsync(&self, request: &Request<'_>) -> Result<()> {
        let head: FsyncIn = request.head()?;
        let file = self.shared.handles.get(FileHandle(head.fh))?;
        file.fsync(head.fsync_flags & FSYNC_FDATASYNC != 0)
    }

    fn fsyncdir(&self, request: &Request<'_>) -> Result<()> {
        let head: FsyncIn = request.head()?;
        let data_only = head.fsync_flags & FSYNC_FDATASYNC != 0;
        self.shared.fs().fsync_inode(self.ino(request), data_only)
    }

    fn setxattr(&self, request: &Request<'_>) -> Result<()> {
        let head: SetxattrIn = request.head()?;
        let (name, rest) = request.name_and_rest()?;
        let value = rest.get(..head.size as usize).ok_or(Errno::INVAL)?;
        let ino = self.ino(request);
        if is_acl(name) {
            return self.shared.set_acl(request.caller(), ino, name, value);
        }
        self.shared
            .setxattr(ino, name, value, head.flags.cast_signed())
    }

    fn getxattr(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: GetxattrIn = request.head()?;
        let value = self.shared.getxattr(self.ino(request), request.name()?)?;
        xattr::put(&value, head.size, reply)
    }

    fn listxattr(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: GetxattrIn = request.head()?;
        let names = self.shared.listxattr(self.ino(request))?;
        xattr::put(&names, head.size, reply)
    }

    fn readdir(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: ReadIn = request.head()?;
        let mut entries = reply.directory(head.size);
        self.shared
            .readdir(self.ino(request), head.offset, &mut entries)
    }

    fn readdirplus(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: ReadIn = request.head()?;
        let mut entries = reply.directory(head.size);
        self.shared
            .readdirplus(self.ino(request), head.offset, &mut entries)
    }

    fn ioctl(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: IoctlIn = request.head()?;
        let data = request.data(head.in_size)?;
        let answer = self.shared.ioctl(self.ino(request), head.cmd, data)?;
        reply.put(&IoctlOut::default())?;
        reply.put(&answer[..])
    }

    fn fallocate(&self, request: &Request<'_>) -> Result<()> {
        let head: FallocateIn = request.head()?;
        let range = (head.offset, head.length);
        let (fh, mode) = (FileHandle(head.fh), head.mode.cast_signed());
        self.shared.fallocate(fh, range, mode, request.caller())
    }

    fn lseek(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let head: LseekIn = request.head()?;
        let (fh, whence) = (FileHandle(head.fh), head.whence.cast_signed());
        let offset = self.shared.lseek(fh, head.offset, whence)?;
        reply.put(&LseekOut { offset })
    }

    fn copy_file_range(
        &self,
        opcode: Opcode,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<()> {
        let head: CopyFileRangeIn = request.head()?;
        let from = (FileHandle(head.fh_in), head.off_in);
        let to = (FileHandle(head.fh_out), head.off_out);
        let under_way = self.shared.interrupts.begin(request.header.unique);
        let copied = self.shared.copy_range(from, to, head.len, &under_way)?;
        if opcode == Opcode::CopyFileRange64 {
            return reply.put(&CopyFileRangeOut {
                bytes_copied: copied.into(),
            });
        }
        reply.put(&WriteOut {
            size: copied,
            padding: 0,
        })
    }
}

fn opendir(request: &Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let _: OpenIn = request.head()?;
    // A position in a directory is a cookie that stays good, so there is nothing to remember.
    reply.put(&opened(FileHandle(0), FopenFlags::empty()))
}

const fn opened(handle: FileHandle, flags: FopenFlags) -> OpenOut {
    OpenOut {
        fh: handle.0,
        open_flags: flags.bits(),
        backing_id: 0,
    }
}
