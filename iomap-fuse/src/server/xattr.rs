//! Extended attributes: the size probe, and what a list looks like.

use iomap_core::error::{Errno, Result};
use iomap_core::vfs::{Ino, XattrMode};

use super::Shared;
use crate::wire::{GetxattrOut, Reply};

/// Answers with `value`, or with its length if the caller asks how much room it takes (`room` is zero).
///
/// # Errors
///
/// `ERANGE` if the room is too small.
pub(super) fn put(value: &[u8], room: u32, reply: &mut Reply<'_>) -> Result<()> {
    match u32::try_from(value.len()) {
        Ok(size) if room == 0 => reply.put(&GetxattrOut { size, padding: 0 }),
        Ok(len) if len <= room => reply.put(value),
        _ => Err(Errno::RANGE.into()),
    }
}

impl Shared {
    pub(super) fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::INVAL.into()),
        };
        self.fs().setxattr(ino, name, value, mode)
    }

    pub(super) fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.check_acl(name)?;
        self.fs().getxattr(ino, name)
    }

    pub(super) fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.check_acl(name)?;
        self.fs().removexattr(ino, name)
    }

    /// The names, each followed by a NUL.
    pub(super) fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let names = self.fs().listxattr(ino)?;
        Ok(names
            .into_iter()
            .filter(|name| self.check_acl(name).is_ok())
            .flat_map(|name| name.into_iter().chain([0]))
            .collect())
    }
}
