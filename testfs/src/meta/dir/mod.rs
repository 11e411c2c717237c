//! Directories: names and what they point to.
//!
//! Owns lookup and listing; changing single names is [`change`], renaming [`rename`]. An entry is
//! found by the hash of its name; names of one hash take the next of 256 keys. The key is also the
//! entry's cookie: it stays the same as long as the entry exists, whatever happens to others, so a
//! listing that goes on after a cookie misses nothing that was there all the time and repeats nothing.
//!
//! Times and permissions: the caller says "now", and has checked that the operation is allowed.

pub mod change;
pub mod rename;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use iomap_core::error::{Corrupt, Errno, FsError, Result};

pub use change::Removed;
pub use rename::{RenameMode, Renamed};

use super::View;
use super::tree::Walk;
use super::view::os;
use crate::format::hash::{PROBES, dirent_offset};
use crate::format::item::{Dirent, FileType, Inode, is_valid_name};
use crate::format::{Ino, Key, Kind, NAME_MAX};

/// An entry, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it points to.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
    /// Where a listing goes on after this entry.
    pub cookie: u64,
}

/// The cookies of `.` and `..`. A listing begins after 0.
const COOKIES: [u64; 2] = [1, 2];

impl View<'_> {
    /// What `name` points to in directory `dir`; knows `.` and `..`.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<(Ino, FileType)> {
        let inode = self.directory(dir)?;
        match name {
            b"." => return Ok((dir, FileType::Directory)),
            b".." => return Ok((inode.parent, FileType::Directory)),
            _ => {}
        }
        let (_, entry) = self.entry(dir, name)?.ok_or(os(Errno::NOENT))?;
        Ok((entry.ino, entry.file_type))
    }

    /// Visits the entries of a directory after `cookie`, `.` and `..` first, until `visit` returns
    /// false.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`.
    pub fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        mut visit: impl FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        let inode = self.directory(dir)?;
        let dots = [(&b"."[..], dir), (&b".."[..], inode.parent)];
        for ((name, ino), at) in dots.into_iter().zip(COOKIES) {
            let entry = DirEntry {
                name: name.to_vec(),
                ino,
                file_type: FileType::Directory,
                cookie: at,
            };
            if cookie < at && !visit(entry) {
                return Ok(());
            }
        }
        let from = Key::new(dir, Kind::Dirent, cookie.saturating_add(1).max(PROBES));
        let to = Key::new(dir, Kind::Dirent, u64::MAX);
        self.walk(from, to, Dirent::decode, |key, entry| {
            let goes_on = visit(DirEntry {
                name: entry.name,
                ino: entry.ino,
                file_type: entry.file_type,
                cookie: key.offset,
            });
            Ok(if goes_on { Walk::On } else { Walk::Stop })
        })
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is none.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.file_type() != FileType::Symlink {
            return Err(os(Errno::INVAL));
        }
        let mut target = Vec::new();
        let (from, to) = (
            Key::new(ino, Kind::Symlink, 0),
            Key::new(ino, Kind::Symlink, u64::MAX),
        );
        let bytes = |piece: &[u8]| Ok(piece.to_vec());
        self.walk(from, to, bytes, |_, piece| {
            target.extend_from_slice(&piece);
            let longer = target.len() as u64 > inode.size;
            Ok(if longer { Walk::Stop } else { Walk::On })
        })?;
        if target.len() as u64 != inode.size {
            let what = format!("symbolic link {ino}: target is not as long as its size says");
            return Err(Corrupt::new(what).into());
        }
        Ok(target)
    }

    /// The attributes of a directory.
    pub(super) fn directory(&self, dir: Ino) -> Result<Inode> {
        let inode = self.inode(dir)?;
        if inode.is_dir() {
            Ok(inode)
        } else {
            Err(os(Errno::NOTDIR))
        }
    }

    /// The entry of this name, and its key.
    pub(crate) fn entry(&self, dir: Ino, name: &[u8]) -> Result<Option<(Key, Dirent)>> {
        if name.len() > NAME_MAX {
            return Err(os(Errno::NAMETOOLONG));
        }
        let (from, to) = probe_keys(self, dir, name);
        let mut found = None;
        self.walk(from, to, Dirent::decode, |key, entry| {
            if entry.name != name {
                return Ok(Walk::On);
            }
            found = Some((key, entry));
            Ok(Walk::Stop)
        })?;
        Ok(found)
    }

    /// The first free key for an entry of this name.
    pub(crate) fn free_key(&self, dir: Ino, name: &[u8]) -> Result<Key> {
        let (from, to) = probe_keys(self, dir, name);
        let mut free = from;
        self.walk(from, to, Dirent::decode, |key, _| {
            if key.offset != free.offset {
                return Ok(Walk::Stop);
            }
            free.offset += 1;
            Ok(Walk::On)
        })?;
        if free.offset <= to.offset {
            Ok(free)
        } else {
            // 256 names of one seeded 55-bit hash.
            Err(FsError::NoSpace)
        }
    }
}

/// The first and the last key an entry of this name may have.
fn probe_keys(view: &View<'_>, dir: Ino, name: &[u8]) -> (Key, Key) {
    let offset = dirent_offset(view.seed(), name);
    (
        Key::new(dir, Kind::Dirent, offset),
        Key::new(dir, Kind::Dirent, offset + PROBES - 1),
    )
}

/// Refuses names no entry may have.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(os(Errno::NAMETOOLONG));
    }
    match name {
        b"." | b".." => Err(os(Errno::EXIST)),
        _ if is_valid_name(name) => Ok(()),
        _ => Err(os(Errno::INVAL)),
    }
}
