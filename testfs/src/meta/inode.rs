//! Inodes: making, changing and forgetting them.
//!
//! Owns the inode item. Names are [`dir`](super::dir), blocks [`extents`](super::extents), deletion
//! [`orphan`](super::orphan). The policy of permissions is the caller's.

use iomap_core::error::{FsError, Result};

use super::Txn;
use crate::format::item::{Body, FileType, Inode, Time};
use crate::format::{Ino, Key};

/// The set-group-id bit of a mode.
const S_ISGID: u32 = 0o2000;

/// What a new inode is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// Type and permission bits, as in `stat`; the umask has been applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory says otherwise.
    pub gid: u32,
    /// Device number of a device inode.
    pub rdev: u64,
    /// When.
    pub now: Time,
    /// Whether a regular file may begin with its data in the inode.
    pub inline: bool,
}

impl NewInode {
    /// The attributes of the inode in directory `parent`, which says what is inherited: a set-group-id
    /// directory gives its group, and to directories the bit as well.
    fn attributes(&self, parent: &Inode, generation: u64) -> Result<Inode> {
        let file_type =
            FileType::of_mode(self.mode).ok_or(FsError::Invalid("mode: unknown file type"))?;
        if self.mode > 0xffff {
            return Err(FsError::Invalid("mode: unknown bits"));
        }
        let inherits = parent.mode & S_ISGID != 0;
        let is_dir = file_type == FileType::Directory;
        let inline = self.inline && file_type == FileType::Regular;
        Ok(Inode {
            mode: self.mode | if inherits && is_dir { S_ISGID } else { 0 },
            uid: self.uid,
            gid: if inherits { parent.gid } else { self.gid },
            nlink: 0,
            size: 0,
            blocks: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
            flags: 0,
            rdev: match file_type {
                FileType::BlockDevice | FileType::CharDevice => self.rdev,
                _ => 0,
            },
            generation,
            parent: Ino::GLOBAL,
            entries: 0,
            body: if inline {
                Body::Inline(Vec::new())
            } else {
                Body::Extents
            },
        })
    }
}

impl Txn<'_> {
    /// Sets the attributes of an inode.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] for inline data that does not match the size or does not fit.
    pub fn put_inode(&mut self, ino: Ino, inode: &Inode) -> Result<()> {
        if let Body::Inline(data) = &inode.body
            && (data.len() as u64 != inode.size || data.len() > self.geometry().inline_max())
        {
            return Err(FsError::Invalid("inline data: not as long as the file"));
        }
        self.insert(Key::inode(ino), &inode.encode())
    }

    /// Changes the attributes of an inode by `f`, and gives them back.
    ///
    /// # Errors
    ///
    /// `ENOENT`; whatever `f` returns.
    pub fn update_inode(
        &mut self,
        ino: Ino,
        f: impl FnOnce(&mut Inode) -> Result<()>,
    ) -> Result<Inode> {
        let mut inode = self.view().inode(ino)?;
        f(&mut inode)?;
        self.put_inode(ino, &inode)?;
        Ok(inode)
    }

    /// A new inode with `nlink` names, which the caller gives it, below `parent`.
    pub(super) fn make_inode(
        &mut self,
        parent: (Ino, &Inode),
        new: &NewInode,
        nlink: u32,
    ) -> Result<(Ino, Inode)> {
        let mut inode = new.attributes(parent.1, self.generation())?;
        inode.nlink = nlink;
        if inode.is_dir() {
            inode.parent = parent.0;
        }
        let ino = self.new_ino()?;
        self.put_inode(ino, &inode)?;
        Ok((ino, inode))
    }

    /// Adds to the number of blocks an inode occupies. Refuses more for what is no file with extents.
    pub(super) fn add_blocks(&mut self, ino: Ino, more: u64, less: u64) -> Result<()> {
        if more == less {
            return Ok(());
        }
        self.update_inode(ino, |inode| {
            let has_extents = inode.body == Body::Extents;
            if more > 0 && (inode.file_type() != FileType::Regular || !has_extents) {
                return Err(FsError::Invalid("blocks for what has no extents"));
            }
            inode.blocks = inode.blocks.saturating_add(more).saturating_sub(less);
            Ok(())
        })?;
        Ok(())
    }
}
