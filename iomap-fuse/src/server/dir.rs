//! Reading directories. A position is a cookie of the file system and stays good while entries come
//! and go, so no directory is remembered between requests.

use iomap_core::error::Result;
use iomap_core::vfs::{DirEntry, Ino};

use super::Shared;
use crate::convert;
use crate::wire::{Directory, EntryOut};

impl Shared {
    pub(super) fn readdir(&self, dir: Ino, from: u64, to: &mut Directory<'_>) -> Result<()> {
        self.fs()
            .readdir(dir, from, &mut |entry| self.add(None, entry, to))?;
        self.dir_accessed(dir);
        Ok(())
    }

    /// As [`Shared::readdir`], with a lookup of every entry but `.` and `..`.
    pub(super) fn readdirplus(&self, dir: Ino, from: u64, to: &mut Directory<'_>) -> Result<()> {
        self.fs().readdir(dir, from, &mut |entry| {
            if entry.name == b"." || entry.name == b".." {
                return self.add(Some(&EntryOut::default()), entry, to);
            }
            self.add_told(entry, to)
        })?;
        self.dir_accessed(dir);
        Ok(())
    }

    /// Adds an entry with what tells the kernel of its inode. Returns whether there was room.
    fn add_told(&self, entry: &DirEntry, to: &mut Directory<'_>) -> bool {
        let told = self
            .fs()
            .getattr(entry.ino)
            .and_then(|attr| self.entry(&attr));
        let Ok(told) = told else {
            // It is gone, or cannot be read: its name alone, and whoever looks it up is told why.
            return self.add(Some(&EntryOut::default()), entry, to);
        };
        let added = self.add(Some(&told), entry, to);
        if !added {
            // Not told after all.
            self.nodes.forget(entry.ino, 1);
        }
        added
    }

    fn add(&self, told: Option<&EntryOut>, entry: &DirEntry, to: &mut Directory<'_>) -> bool {
        let node = self.nodes.node(entry.ino);
        let kind = convert::type_bits(entry.kind) >> 12;
        to.add(told, (node.0, entry.cookie, kind), &entry.name)
    }
}
