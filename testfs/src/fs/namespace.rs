//! Names and attributes: testfs as the framework's [`Vfs`].
//!
//! Owns the translation between the interface and the metadata, and what the memory of regular files
//! adds to it: newer sizes and times, and the moment a file without a name is deleted. The tree of
//! names changes in transactions, one at a time, so no lock of its own is needed.

use std::sync::Arc;

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::file::File;
use iomap_core::stats::Snapshot;
use iomap_core::units::FilePos;
use iomap_core::vfs;
use iomap_core::vfs::{
    Attr, DirEntry, Held, InodeFlags, NewInode, OpenFile, OpenFlags, RenameMode, SetAttr, Special,
    StatFs, Timestamp, Vfs, XattrMode,
};

use super::TestFs;
use super::attr::{Taken, has_set_id, without_set_id};
use super::open::OpenHandle;
use super::table::InodeRef;
use crate::format::Ino;
use crate::format::item::{FileType, Inode, Time};
use crate::meta::dir::Removed;
use crate::meta::{Purpose, dir, inode};

/// Entries of a directory read at once.
const READDIR_BATCH: usize = 128;
/// Permission and set-id bits of a mode.
const PERMISSIONS: u32 = 0o7777;

const fn ino(ino: vfs::Ino) -> Ino {
    Ino::new(ino.0)
}

const fn time(at: Timestamp) -> Time {
    Time {
        sec: at.secs,
        nsec: at.nanos,
    }
}

const fn timestamp(at: Time) -> Timestamp {
    Timestamp {
        secs: at.sec,
        nanos: at.nsec,
    }
}

const fn kind(file_type: FileType) -> vfs::FileType {
    match file_type {
        FileType::Fifo => vfs::FileType::Fifo,
        FileType::CharDevice => vfs::FileType::CharDevice,
        FileType::Directory => vfs::FileType::Directory,
        FileType::BlockDevice => vfs::FileType::BlockDevice,
        FileType::Regular => vfs::FileType::Regular,
        FileType::Symlink => vfs::FileType::Symlink,
        FileType::Socket => vfs::FileType::Socket,
    }
}

/// What a new inode is to be.
fn new_inode(file_type: FileType, rdev: u64, new: &NewInode) -> inode::NewInode {
    inode::NewInode {
        mode: file_type.mode_bits() | (u32::from(new.mode) & PERMISSIONS),
        uid: new.uid,
        gid: new.gid,
        rdev,
        now: Time::now(),
        inline: true,
    }
}

impl TestFs {
    /// The attributes, as far as the tree has them, with what memory adds.
    fn attr(&self, ino: Ino, mut inode: Inode) -> Attr {
        if inode.file_type() == FileType::Regular
            && let Some(file) = self.table.peek(ino)
        {
            file.overlay(&mut inode);
        }
        let block_size = self.meta().geometry().block_size() as u64;
        Attr {
            ino: vfs::Ino(ino.get()),
            generation: inode.generation,
            kind: kind(inode.file_type()),
            // Masked: fits.
            mode: (inode.mode & PERMISSIONS) as u16,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: inode.size,
            blocks: inode.blocks.saturating_mul(block_size / 512),
            block_size: block_size as u32,
            atime: timestamp(inode.atime),
            mtime: timestamp(inode.mtime),
            ctime: timestamp(inode.ctime),
            btime: timestamp(inode.btime),
        }
    }

    /// The item of an inode that exists for callers: has a name, is in use, or is held.
    pub(super) fn item(&self, ino: Ino) -> Result<Inode> {
        let item = self.meta().read(|view| view.inode(ino))?;
        if item.nlink == 0 && !self.table.is_held(ino) && self.table.peek(ino).is_none() {
            return Err(Errno::NOENT.into());
        }
        Ok(item)
    }

    /// The file, or what it is instead.
    fn regular(&self, ino: Ino) -> Result<Result<InodeRef, FileType>> {
        if let Some(file) = self.table.peek(ino) {
            return Ok(Ok(file));
        }
        match self.item(ino)?.file_type() {
            FileType::Regular => self.table.get(ino).map(Ok),
            other => Ok(Err(other)),
        }
    }

    /// Deletes what has lost its last name, now or when nobody uses it any more.
    fn removed(&self, removed: &Removed) {
        if removed.inode.nlink == 0 {
            self.table.unlinked(removed.ino);
        }
    }

    fn create(&self, dir: Ino, name: &[u8], new: &inode::NewInode) -> Result<Attr> {
        let (ino, inode) = self
            .volume()
            .update(Purpose::Normal, |txn| txn.create(dir, name, new))?;
        Ok(self.attr(ino, inode))
    }

    fn set_attributes(&self, ino: Ino, set: &SetAttr) -> Result<Inode> {
        let now = Time::now();
        let file = self.table.peek(ino);
        let mut taken = Taken::default();
        let result = self.volume().update(Purpose::Must, |txn| {
            // In the transaction, so that a flush of an older time cannot come after it.
            if let Some(file) = &file {
                taken.modified = file.pending.lock().modified.take();
            }
            txn.update_inode(ino, |inode| {
                inode.mtime = taken.modified.unwrap_or(inode.mtime);
                apply(inode, set, now);
                Ok(())
            })
        });
        if let (Err(_), Some(file)) = (&result, &file) {
            file.pending.lock().put_back(taken);
        }
        let inode = result?;
        if let Some(file) = file {
            file.pending.lock().has_set_id = has_set_id(inode.mode);
        }
        Ok(inode)
    }
}

/// Sets the attributes other than the size.
fn apply(inode: &mut Inode, set: &SetAttr, now: Time) {
    if let Some(mode) = set.mode {
        inode.mode = (inode.mode & !PERMISSIONS) | (u32::from(mode) & PERMISSIONS);
    } else if (set.uid.is_some() || set.gid.is_some()) && !inode.is_dir() {
        inode.mode = without_set_id(inode.mode);
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    inode.atime = set.atime.map_or(inode.atime, time);
    inode.mtime = set.mtime.map_or(inode.mtime, time);
    inode.ctime = set.ctime.map_or(now, time);
}

impl Vfs for TestFs {
    fn root(&self) -> vfs::Ino {
        vfs::Ino(Ino::ROOT.get())
    }

    fn lookup(&self, dir: vfs::Ino, name: &[u8]) -> Result<Attr> {
        if name.len() > crate::format::NAME_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let (found, inode) = self.meta().read(|view| {
            let (found, _) = view.lookup(ino(dir), name)?;
            Ok((found, view.inode(found)?))
        })?;
        Ok(self.attr(found, inode))
    }

    fn getattr(&self, at: vfs::Ino) -> Result<Attr> {
        let inode = self.item(ino(at))?;
        Ok(self.attr(ino(at), inode))
    }

    fn hold(&self, at: vfs::Ino) -> Result<Held> {
        Ok(Box::new(self.table.hold(ino(at))?))
    }

    fn setattr(&self, at: vfs::Ino, set: &SetAttr) -> Result<Attr> {
        let at = ino(at);
        self.volume().check_writable()?;
        let file = self.regular(at)?;
        if let Some(size) = set.size {
            let size = FilePos::new(size).ok_or(FsError::TooBig)?;
            match &file {
                Ok(file) => file.truncate(size)?,
                Err(FileType::Directory) => return Err(Errno::ISDIR.into()),
                Err(_) => return Err(FsError::Invalid("size of something without data")),
            }
        }
        let others = SetAttr { size: None, ..*set };
        let inode = if others == SetAttr::default() {
            self.item(at)?
        } else {
            self.set_attributes(at, &others)?
        };
        Ok(self.attr(at, inode))
    }

    fn mknod(&self, dir: vfs::Ino, name: &[u8], special: Special, new: &NewInode) -> Result<Attr> {
        let (file_type, rdev) = match special {
            Special::Regular => (FileType::Regular, 0),
            Special::Fifo => (FileType::Fifo, 0),
            Special::Socket => (FileType::Socket, 0),
            Special::CharDevice(rdev) => (FileType::CharDevice, rdev),
            Special::BlockDevice(rdev) => (FileType::BlockDevice, rdev),
        };
        self.create(ino(dir), name, &new_inode(file_type, rdev, new))
    }

    fn mkdir(&self, dir: vfs::Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        self.create(ino(dir), name, &new_inode(FileType::Directory, 0, new))
    }

    fn symlink(&self, dir: vfs::Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr> {
        let new = new_inode(FileType::Symlink, 0, new);
        let (made, inode) = self.volume().update(Purpose::Normal, |txn| {
            txn.symlink(ino(dir), name, target, &new)
        })?;
        Ok(self.attr(made, inode))
    }

    fn readlink(&self, at: vfs::Ino) -> Result<Vec<u8>> {
        self.meta().read(|view| view.readlink(ino(at)))
    }

    fn link(&self, at: vfs::Ino, dir: vfs::Ino, name: &[u8]) -> Result<Attr> {
        let at = ino(at);
        let inode = self.volume().update(Purpose::Normal, |txn| {
            if txn.view().inode(at)?.nlink == 0 {
                return Err(Errno::NOENT.into());
            }
            txn.link(at, ino(dir), name, Time::now())
        })?;
        Ok(self.attr(at, inode))
    }

    fn unlink(&self, dir: vfs::Ino, name: &[u8]) -> Result<()> {
        let removed = self.volume().update(Purpose::Release, |txn| {
            txn.unlink(ino(dir), name, Time::now())
        })?;
        self.removed(&removed);
        Ok(())
    }

    fn rmdir(&self, dir: vfs::Ino, name: &[u8]) -> Result<()> {
        let removed = self.volume().update(Purpose::Release, |txn| {
            txn.rmdir(ino(dir), name, Time::now())
        })?;
        self.removed(&removed);
        Ok(())
    }

    fn rename(
        &self,
        dir: vfs::Ino,
        name: &[u8],
        to_dir: vfs::Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let mode = match mode {
            RenameMode::Replace => dir::RenameMode::Replace,
            RenameMode::NoReplace => dir::RenameMode::NoReplace,
            RenameMode::Exchange => dir::RenameMode::Exchange,
        };
        let (from, to) = ((ino(dir), name), (ino(to_dir), to_name));
        let renamed = self.volume().update(Purpose::Normal, |txn| {
            txn.rename(from, to, mode, Time::now())
        })?;
        if let Some(replaced) = &renamed.replaced {
            self.removed(replaced);
        }
        Ok(())
    }

    fn readdir(
        &self,
        dir: vfs::Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let mut after = cookie;
        loop {
            let mut batch = Vec::with_capacity(READDIR_BATCH);
            self.meta().read(|view| {
                view.readdir(ino(dir), after, |entry| {
                    batch.push(entry);
                    batch.len() < READDIR_BATCH
                })
            })?;
            let full = batch.len() == READDIR_BATCH;
            // With no lock held: the receiver may ask for more about an entry.
            for entry in batch {
                after = entry.cookie;
                let entry = DirEntry {
                    ino: vfs::Ino(entry.ino.get()),
                    kind: kind(entry.file_type),
                    name: entry.name,
                    cookie: entry.cookie,
                };
                if !emit(&entry) {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn open(&self, at: vfs::Ino, flags: OpenFlags) -> Result<Arc<dyn OpenFile>> {
        let writes = flags.contains(OpenFlags::WRITE);
        if writes {
            self.volume().check_writable()?;
        }
        let file = match self.regular(ino(at))? {
            Ok(file) => file,
            Err(FileType::Directory) => return Err(Errno::ISDIR.into()),
            Err(_) => return Err(FsError::Invalid("open of something without data")),
        };
        if writes && flags.contains(OpenFlags::TRUNCATE) {
            file.truncate(FilePos::ZERO)?;
        }
        Ok(Arc::new(OpenHandle::new(file, flags)))
    }

    fn getxattr(&self, at: vfs::Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr(ino(at), name)
    }

    fn setxattr(&self, at: vfs::Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.set_xattr(ino(at), name, value, mode)
    }

    fn listxattr(&self, at: vfs::Ino) -> Result<Vec<Vec<u8>>> {
        self.xattr_names(ino(at))
    }

    fn removexattr(&self, at: vfs::Ino, name: &[u8]) -> Result<()> {
        self.remove_xattr(ino(at), name)
    }

    fn note_access(&self, at: vfs::Ino, when: Timestamp) -> Result<()> {
        self.set_access_time(ino(at), time(when))
    }

    fn flags(&self, at: vfs::Ino) -> Result<InodeFlags> {
        self.inode_flags(ino(at))
    }

    fn set_flags(&self, at: vfs::Ino, flags: InodeFlags) -> Result<()> {
        self.set_inode_flags(ino(at), flags)
    }

    fn statfs(&self) -> Result<StatFs> {
        let found = self.meta().statfs();
        Ok(StatFs {
            block_size: found.block_size,
            blocks: found.blocks,
            blocks_free: found.free,
            blocks_available: found.available,
            files: found.inodes.saturating_add(found.inodes_free),
            files_free: found.inodes_free,
            name_max: found.name_max,
        })
    }

    fn sync(&self) -> Result<()> {
        self.sync_all()
    }

    fn fsync_inode(&self, at: vfs::Ino, data_only: bool) -> Result<()> {
        match self.regular(ino(at))? {
            Ok(file) => File::new(file.inode().clone(), OpenFlags::READ).fsync(data_only),
            Err(_) => {
                let newest = self.meta().newest_generation();
                self.volume().make_durable(newest)
            }
        }
    }

    fn counters(&self) -> Snapshot {
        self.volume().counters.snapshot()
    }
}
