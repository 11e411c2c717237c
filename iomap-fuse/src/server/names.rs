//! Names: looking them up, making, moving and opening what they name.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::vfs::{Attr, Ino, RenameMode};

use super::Shared;
use super::acl::Fresh;
use crate::convert;
use crate::wire::{EntryOut, FileHandle};

impl Shared {
    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        if name == b"." {
            // Of any type: this is how a file handle of NFS or `open_by_handle_at` is looked up.
            return self.fs().getattr(dir);
        }
        self.fs().lookup(dir, name)
    }

    pub(super) fn mknod(
        &self,
        dir: Ino,
        name: &[u8],
        (mode, device): (u32, u32),
        fresh: &Fresh,
    ) -> Result<Attr> {
        let special = convert::special(mode, device).ok_or(Errno::INVAL)?;
        let made = self.fs().mknod(dir, name, special, &fresh.new)?;
        self.settle(made, fresh, || self.fs().unlink(dir, name))
    }

    pub(super) fn mkdir(&self, dir: Ino, name: &[u8], fresh: &Fresh) -> Result<Attr> {
        let made = self.fs().mkdir(dir, name, &fresh.new)?;
        self.settle(made, fresh, || self.fs().rmdir(dir, name))
    }

    /// Gives what was made its lists, or has it undone.
    fn settle(&self, made: Attr, fresh: &Fresh, undo: impl FnOnce() -> Result<()>) -> Result<Attr> {
        match self.inherit(&made, fresh) {
            Ok(()) => Ok(made),
            Err(error) => {
                undo()?;
                Err(error)
            }
        }
    }

    pub(super) fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), flags: u32) -> Result<()> {
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(FsError::Invalid("flags of rename")),
        };
        self.fs().rename(from.0, from.1, to.0, to.1, mode)
    }

    pub(super) fn open(&self, ino: Ino, flags: i32) -> Result<FileHandle> {
        let file = self.fs().open(ino, convert::open_flags(flags))?;
        Ok(self.handles.insert(file))
    }

    /// Makes a regular file and opens it, or opens the one that is there.
    pub(super) fn create(
        &self,
        dir: Ino,
        name: &[u8],
        fresh: &Fresh,
        flags: i32,
    ) -> Result<(EntryOut, FileHandle)> {
        let exclusive = flags & libc::O_EXCL != 0;
        let attr = match self.mknod(dir, name, (libc::S_IFREG, 0), fresh) {
            Err(error) if error.errno() == Errno::EXIST && !exclusive => {
                self.fs().lookup(dir, name)?
            }
            made => made?,
        };
        let handle = self.open(attr.ino, flags)?;
        match self.entry(&attr) {
            Ok(entry) => Ok((entry, handle)),
            Err(error) => {
                self.handles.remove(handle);
                Err(error)
            }
        }
    }
}
