//! Access control lists: what the kernel leaves to a server that keeps them.
//!
//! Owns that a list and the mode of its file agree, and that what is made in a directory with a
//! default list inherits it. The kernel enforces them. Without the option `acl` none is kept, told of
//! or enforced.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::vfs::{Attr, FileType, Ino, NewInode, SetAttr, Vfs, XattrMode};

use super::Shared;
use super::shared::new_inode;
use crate::acl::{ACCESS, Acl, DEFAULT, is_acl};
use crate::wire::Caller;

/// Set-group-id.
const S_ISGID: u16 = 0o2000;
const PERMISSIONS: u16 = 0o777;

/// What an inode that is about to be made begins with.
pub(super) struct Fresh {
    pub(super) new: NewInode,
    /// The list it gets, if its mode does not say all of it.
    access: Option<Acl>,
    /// The default list of the directory, which a new directory gets too.
    default: Option<Vec<u8>>,
}

/// Whether the file system keeps the attributes.
pub(crate) fn are_kept(fs: &dyn Vfs) -> bool {
    let found = fs.getxattr(fs.root(), ACCESS);
    found.map_or_else(|error| error.errno() == Errno::NODATA, |_| true)
}

impl Shared {
    /// The list an inode has.
    fn list(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.fs().getxattr(ino, name) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.errno() == Errno::NODATA => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Refuses lists where they are not kept.
    pub(super) fn check_acl(&self, name: &[u8]) -> Result<()> {
        if is_acl(name) && !self.acl() {
            return Err(FsError::Unsupported("access control lists"));
        }
        Ok(())
    }

    /// What is made in `dir`. With lists the kernel leaves the umask to us, since a default list takes
    /// its place; without, it has applied it.
    pub(super) fn fresh(&self, caller: Caller, dir: Ino, mode: u32, umask: u32) -> Result<Fresh> {
        if !self.acl() {
            return Ok(Fresh {
                new: new_inode(caller, mode),
                access: None,
                default: None,
            });
        }
        let Some(default) = self.list(dir, DEFAULT)? else {
            return Ok(Fresh {
                new: new_inode(caller, mode & !umask),
                access: None,
                default: None,
            });
        };
        let mut access = Acl::read(&default)?;
        let mut new = new_inode(caller, mode);
        access.restrict(new.mode);
        new.mode = (new.mode & !PERMISSIONS) | access.mode();
        Ok(Fresh {
            new,
            access: (!access.is_mode()).then_some(access),
            default: Some(default),
        })
    }

    /// Gives a new inode the lists it begins with.
    pub(super) fn inherit(&self, attr: &Attr, fresh: &Fresh) -> Result<()> {
        if let Some(access) = &fresh.access {
            let value = access.bytes();
            self.fs()
                .setxattr(attr.ino, ACCESS, &value, XattrMode::Any)?;
        }
        match &fresh.default {
            Some(default) if attr.kind == FileType::Directory => {
                self.fs()
                    .setxattr(attr.ino, DEFAULT, default, XattrMode::Any)
            }
            _ => Ok(()),
        }
    }

    /// Sets a list, and the mode to what it says.
    pub(super) fn set_acl(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.check_acl(name)?;
        let acl = Acl::read(value)?;
        if name == DEFAULT {
            if self.fs().getattr(ino)?.kind != FileType::Directory {
                return Err(Errno::ACCESS.into());
            }
            return self.fs().setxattr(ino, name, value, XattrMode::Any);
        }
        let before = self.fs().getattr(ino)?;
        let mut mode = (before.mode & !PERMISSIONS) | acl.mode();
        if caller.uid != 0 && caller.gid != before.gid {
            // As after chmod. Further groups of the caller are not known here.
            mode &= !S_ISGID;
        }
        if !acl.is_mode() {
            self.fs().setxattr(ino, name, value, XattrMode::Any)?;
        } else if self.list(ino, name)?.is_some() {
            self.fs().removexattr(ino, name)?;
        }
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.fs().setattr(ino, &set).map(drop)
    }

    /// Has the list of an inode say what its mode says now.
    pub(super) fn follow_mode(&self, ino: Ino, mode: u16) -> Result<()> {
        if !self.acl() {
            return Ok(());
        }
        let Some(value) = self.list(ino, ACCESS)? else {
            return Ok(());
        };
        let mut acl = Acl::read(&value)?;
        acl.set_mode(mode);
        let now = acl.bytes();
        if now == value {
            return Ok(());
        }
        self.fs().setxattr(ino, ACCESS, &now, XattrMode::Replace)
    }
}
