//! Making and removing names.
//!
//! Owns create, link, unlink, rmdir and the link counts that go with them: a directory has two links
//! of its own (its name and `.`), and one for the `..` of each directory in it.

use iomap_core::error::{Errno, FsError, Result};

use super::super::Txn;
use super::super::inode::NewInode;
use super::super::view::os;
use super::check_name;
use crate::format::item::{Dirent, FileType, Inode, Time};
use crate::format::{Ino, Key, Kind, SYMLINK_MAX};

/// An inode that has lost a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Which.
    pub ino: Ino,
    /// Its attributes now. With no link left it is an orphan: to be evicted
    /// ([`Meta::evict`](super::super::Meta::evict)) when nobody has it open.
    pub inode: Inode,
}

impl Txn<'_> {
    /// A new inode with the name `name` in `dir`; symbolic links are made by [`Txn::symlink`].
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOTDIR`, `ENAMETOOLONG`; `ENOENT` if the directory is removed.
    pub fn create(&mut self, dir: Ino, name: &[u8], new: &NewInode) -> Result<(Ino, Inode)> {
        let parent = self.live_directory(dir)?;
        let is_dir = FileType::of_mode(new.mode) == Some(FileType::Directory);
        let nlink = if is_dir { 2 } else { 1 };
        let (ino, inode) = self.make_inode((dir, &parent), new, nlink)?;
        self.add_entry(dir, name, ino, inode.file_type(), new.now)?;
        Ok((ino, inode))
    }

    /// A new symbolic link.
    ///
    /// # Errors
    ///
    /// As [`Txn::create`]; `ENAMETOOLONG` for a target of more than 4095 bytes, `ENOENT` for an empty
    /// one.
    pub fn symlink(
        &mut self,
        dir: Ino,
        name: &[u8],
        target: &[u8],
        new: &NewInode,
    ) -> Result<(Ino, Inode)> {
        if target.is_empty() {
            return Err(os(Errno::NOENT));
        }
        if target.len() > SYMLINK_MAX || target.contains(&0) {
            return Err(os(Errno::NAMETOOLONG));
        }
        let new = NewInode {
            mode: FileType::Symlink.mode_bits() | 0o777,
            ..*new
        };
        let (ino, mut inode) = self.create(dir, name, &new)?;
        inode.size = target.len() as u64;
        self.put_inode(ino, &inode)?;
        let chunk = self.geometry().chunk_bytes();
        for (n, piece) in target.chunks(chunk).enumerate() {
            self.insert(Key::new(ino, Kind::Symlink, n as u64), piece)?;
        }
        Ok((ino, inode))
    }

    /// A new inode without a name (`O_TMPFILE`): an orphan until [`Txn::link`] names it.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`; `ENOENT` if the directory is removed.
    pub fn create_unnamed(&mut self, dir: Ino, new: &NewInode) -> Result<(Ino, Inode)> {
        let parent = self.live_directory(dir)?;
        if FileType::of_mode(new.mode) == Some(FileType::Directory) {
            return Err(FsError::Invalid("a directory needs a name"));
        }
        let made = self.make_inode((dir, &parent), new, 0)?;
        self.make_orphan(made.0)?;
        Ok(made)
    }

    /// One more name for an inode that is no directory.
    ///
    /// # Errors
    ///
    /// `EPERM` for a directory, `EEXIST`, `EMLINK`, and as [`Txn::create`].
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        self.live_directory(dir)?;
        let mut inode = self.view().inode(ino)?;
        if inode.is_dir() {
            return Err(os(Errno::PERM));
        }
        if inode.nlink == 0 {
            self.adopt(ino)?;
        }
        inode.nlink = inode.nlink.checked_add(1).ok_or(os(Errno::MLINK))?;
        inode.ctime = now;
        self.put_inode(ino, &inode)?;
        self.add_entry(dir, name, ino, inode.file_type(), now)?;
        Ok(inode)
    }

    /// Removes a name that does not point to a directory.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EISDIR`, `ENOTDIR`.
    pub fn unlink(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Removed> {
        let (ino, file_type) = self.named(dir, name)?;
        if file_type == FileType::Directory {
            return Err(os(Errno::ISDIR));
        }
        self.remove_entry(dir, name, now)?;
        self.lose_name(ino, now)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`; `EBUSY` for the root.
    pub fn rmdir(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Removed> {
        match name {
            b"." => return Err(os(Errno::INVAL)),
            b".." => return Err(os(Errno::NOTEMPTY)),
            _ => {}
        }
        let (ino, file_type) = self.named(dir, name)?;
        if file_type != FileType::Directory {
            return Err(os(Errno::NOTDIR));
        }
        self.remove_entry(dir, name, now)?;
        self.lose_directory(ino, now)
    }

    /// What a name that may be changed points to.
    pub(super) fn named(&self, dir: Ino, name: &[u8]) -> Result<(Ino, FileType)> {
        let found = self.view().lookup(dir, name)?;
        if name == b"." || name == b".." {
            return Err(os(Errno::BUSY));
        }
        Ok(found)
    }

    /// Takes a name from an inode that is no directory; the entry is gone already.
    pub(super) fn lose_name(&mut self, ino: Ino, now: Time) -> Result<Removed> {
        let inode = self.update_inode(ino, |inode| {
            inode.nlink = inode.nlink.saturating_sub(1);
            inode.ctime = now;
            Ok(())
        })?;
        if inode.nlink == 0 {
            self.make_orphan(ino)?;
        }
        Ok(Removed { ino, inode })
    }

    /// Takes the name from a directory that must be empty; the entry is gone already.
    pub(super) fn lose_directory(&mut self, ino: Ino, now: Time) -> Result<Removed> {
        let inode = self.update_inode(ino, |inode| {
            if inode.entries > 0 {
                return Err(os(Errno::NOTEMPTY));
            }
            inode.nlink = 0;
            inode.ctime = now;
            Ok(())
        })?;
        self.make_orphan(ino)?;
        Ok(Removed { ino, inode })
    }

    /// The attributes of a directory that has not been removed.
    pub(super) fn live_directory(&self, dir: Ino) -> Result<Inode> {
        let inode = self.view().directory(dir)?;
        if inode.nlink == 0 {
            return Err(os(Errno::NOENT));
        }
        Ok(inode)
    }

    /// Adds an entry, and the link a directory's `..` is to its parent.
    pub(super) fn add_entry(
        &mut self,
        dir: Ino,
        name: &[u8],
        ino: Ino,
        file_type: FileType,
        now: Time,
    ) -> Result<()> {
        check_name(name)?;
        if self.view().entry(dir, name)?.is_some() {
            return Err(os(Errno::EXIST));
        }
        let key = self.view().free_key(dir, name)?;
        let entry = Dirent {
            ino,
            file_type,
            name: name.to_vec(),
        };
        self.insert(key, &entry.encode())?;
        self.update_inode(dir, |inode| {
            inode.entries = inode.entries.saturating_add(1);
            if file_type == FileType::Directory {
                inode.nlink = inode.nlink.checked_add(1).ok_or(os(Errno::MLINK))?;
            }
            (inode.mtime, inode.ctime) = (now, now);
            Ok(())
        })?;
        Ok(())
    }

    /// Removes an entry, and the link a directory's `..` is to its parent.
    pub(super) fn remove_entry(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<()> {
        let (key, entry) = self.view().entry(dir, name)?.ok_or(os(Errno::NOENT))?;
        self.remove_known(&key)?;
        self.update_inode(dir, |inode| {
            inode.entries = inode.entries.saturating_sub(1);
            if entry.file_type == FileType::Directory {
                inode.nlink = inode.nlink.saturating_sub(1);
            }
            (inode.mtime, inode.ctime) = (now, now);
            Ok(())
        })?;
        Ok(())
    }
}
