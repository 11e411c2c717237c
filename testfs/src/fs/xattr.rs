//! Extended attributes: which names a file system keeps.
//!
//! Owns the rule of the namespaces; who may use which is the caller's. Storing them is [`meta::xattr`](crate::meta::xattr)'s.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::vfs::XattrMode;

use super::TestFs;
use crate::format::Ino;
use crate::format::item::Time;
use crate::meta::Purpose;
use crate::meta::xattr::SetMode;

/// The namespaces that are kept as they are.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Access control lists, whose meaning is who serves them's.
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Whether an attribute of this name is kept.
fn check_name(name: &[u8]) -> Result<()> {
    let known = NAMESPACES
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    if known || LISTS.contains(&name) {
        return Ok(());
    }
    Err(FsError::Unsupported("namespace of the extended attribute"))
}

impl TestFs {
    pub(super) fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_name(name)?;
        self.meta().read(|view| {
            view.inode(ino)?;
            view.xattr(ino, name)?.ok_or(Errno::NODATA.into())
        })
    }

    pub(super) fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let mode = match mode {
            XattrMode::Any => SetMode::Any,
            XattrMode::Create => SetMode::Create,
            XattrMode::Replace => SetMode::Replace,
        };
        check_name(name)?;
        self.volume().update(Purpose::Normal, |txn| {
            txn.set_xattr(ino, name, value, mode, Time::now())
        })
    }

    pub(super) fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.meta().read(|view| {
            view.inode(ino)?;
            view.xattr_names(ino)
        })
    }

    pub(super) fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.volume().update(Purpose::Must, |txn| {
            txn.remove_xattr(ino, name, Time::now())
        })
    }
}
