//! Renaming.
//!
//! Owns rename in its three modes, and the check that a directory does not become its own
//! descendant. One transaction: there is no moment, and no crash, at which both names or neither
//! exist.

use std::collections::BTreeSet;

use iomap_core::error::{Corrupt, Errno, Result};

use super::super::view::os;
use super::super::{Txn, View};
use super::{Removed, check_name};
use crate::format::Ino;
use crate::format::item::{FileType, Time};

/// What happens to a name that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// The rename fails with `EEXIST`.
    NoReplace,
    /// The two swap places. Both must exist.
    Exchange,
}

/// What a rename did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// What was moved.
    pub ino: Ino,
    /// What lost its name to it.
    pub replaced: Option<Removed>,
}

/// A name in a directory and what it points to.
#[derive(Clone, Copy)]
struct Place<'n> {
    dir: Ino,
    name: &'n [u8],
    ino: Ino,
    file_type: FileType,
}

impl View<'_> {
    /// Whether `dir` is `ancestor` or lies below it.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn is_below(&self, dir: Ino, ancestor: Ino) -> Result<bool> {
        let mut at = dir;
        let mut seen = BTreeSet::new();
        while seen.insert(at) {
            if at == ancestor {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.directory(at)?.parent;
        }
        Err(Corrupt::new(format!("directory {dir}: its parents never reach the root")).into())
    }
}

impl Txn<'_> {
    /// Renames `from` in `from_dir` to `to` in `to_dir`. Two names of one inode: nothing happens.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EEXIST`, `ENOTEMPTY`, `ENOTDIR`, `EISDIR`, `EMLINK`; `EINVAL` if a directory would
    /// come to lie below itself.
    pub fn rename(
        &mut self,
        (from_dir, from): (Ino, &[u8]),
        (to_dir, to): (Ino, &[u8]),
        mode: RenameMode,
        now: Time,
    ) -> Result<Renamed> {
        if matches!(to, b"." | b"..") {
            return Err(os(Errno::BUSY));
        }
        check_name(to)?;
        self.live_directory(to_dir)?;
        let (ino, file_type) = self.named(from_dir, from)?;
        let source = Place {
            dir: from_dir,
            name: from,
            ino,
            file_type,
        };
        let target = self.view().entry(to_dir, to)?.map(|(_, entry)| Place {
            dir: to_dir,
            name: to,
            ino: entry.ino,
            file_type: entry.file_type,
        });
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(os(Errno::EXIST)),
            (RenameMode::Exchange, None) => return Err(os(Errno::NOENT)),
            _ => {}
        }
        if file_type == FileType::Directory && self.view().is_below(to_dir, ino)? {
            return Err(os(Errno::INVAL));
        }
        let replaced = match target {
            Some(target) if target.ino == ino => None,
            Some(target) if mode == RenameMode::Exchange => {
                self.exchange(source, target, now)?;
                None
            }
            Some(target) => {
                let removed = self.replace(source, target, now)?;
                self.move_to(source, to_dir, to, now)?;
                Some(removed)
            }
            None => {
                self.move_to(source, to_dir, to, now)?;
                None
            }
        };
        Ok(Renamed { ino, replaced })
    }

    /// Removes the entry a rename replaces.
    fn replace(&mut self, source: Place<'_>, target: Place<'_>, now: Time) -> Result<Removed> {
        let is_dir = |place: Place<'_>| place.file_type == FileType::Directory;
        match (is_dir(source), is_dir(target)) {
            (true, false) => return Err(os(Errno::NOTDIR)),
            (false, true) => return Err(os(Errno::ISDIR)),
            _ => {}
        }
        self.remove_entry(target.dir, target.name, now)?;
        if is_dir(target) {
            self.lose_directory(target.ino, now)
        } else {
            self.lose_name(target.ino, now)
        }
    }

    /// Moves an entry to a name that is free.
    fn move_to(&mut self, source: Place<'_>, dir: Ino, name: &[u8], now: Time) -> Result<()> {
        self.remove_entry(source.dir, source.name, now)?;
        self.add_entry(dir, name, source.ino, source.file_type, now)?;
        self.moved(source, dir, now)
    }

    /// Swaps two entries.
    fn exchange(&mut self, a: Place<'_>, b: Place<'_>, now: Time) -> Result<()> {
        if b.file_type == FileType::Directory && self.view().is_below(a.dir, b.ino)? {
            return Err(os(Errno::INVAL));
        }
        self.remove_entry(a.dir, a.name, now)?;
        self.remove_entry(b.dir, b.name, now)?;
        self.add_entry(b.dir, b.name, a.ino, a.file_type, now)?;
        self.add_entry(a.dir, a.name, b.ino, b.file_type, now)?;
        self.moved(a, b.dir, now)?;
        self.moved(b, a.dir, now)
    }

    /// Tells a moved inode when, and a directory where it is now.
    fn moved(&mut self, what: Place<'_>, dir: Ino, now: Time) -> Result<()> {
        self.update_inode(what.ino, |inode| {
            inode.ctime = now;
            if what.file_type == FileType::Directory {
                inode.parent = dir;
            }
            Ok(())
        })?;
        Ok(())
    }
}
