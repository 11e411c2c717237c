//! Reading directories. A position is a cookie of the file system and stays good while entries come
//! and go, so no directory is remembered between requests.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use iomap_core::error::Result;
use iomap_core::vfs::{DirEntry, Ino};

use super::Shared;
use super::shared::TTL;
use crate::convert;

impl Shared {
    pub(super) fn readdir(&self, dir: Ino, from: u64, reply: &mut ReplyDirectory) -> Result<()> {
        self.fs().readdir(dir, from, &mut |entry| {
            let name = OsStr::from_bytes(&entry.name);
            let kind = convert::file_type(entry.kind);
            !reply.add(INodeNo(entry.ino.0), entry.cookie, kind, name)
        })?;
        self.dir_accessed(dir);
        Ok(())
    }

    /// As [`Shared::readdir`], with a lookup of every entry but `.` and `..`.
    pub(super) fn readdirplus(
        &self,
        dir: Ino,
        from: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<()> {
        self.fs().readdir(dir, from, &mut |entry| {
            if entry.name == b"." || entry.name == b".." {
                let attr = convert::bare(entry.ino, entry.kind);
                let name = OsStr::from_bytes(&entry.name);
                return !reply.add(attr.ino, entry.cookie, name, &TTL, &attr, Generation(0));
            }
            self.add_entry(entry, reply)
        })?;
        self.dir_accessed(dir);
        Ok(())
    }

    /// Adds an entry. Returns whether there was room.
    fn add_entry(&self, entry: &DirEntry, reply: &mut ReplyDirectoryPlus) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        let told = self
            .fs()
            .getattr(entry.ino)
            .and_then(|attr| self.entry(&attr));
        let Ok((attr, generation)) = told else {
            // It is gone, or cannot be read: its name alone, and whoever looks it up is told why.
            let attr = convert::bare(entry.ino, entry.kind);
            return !reply.add(INodeNo(0), entry.cookie, name, &TTL, &attr, Generation(0));
        };
        let full = reply.add(attr.ino, entry.cookie, name, &TTL, &attr, generation);
        if full {
            // Not told after all.
            self.nodes.forget(entry.ino, 1);
        }
        !full
    }
}
