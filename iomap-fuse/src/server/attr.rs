//! Attributes of inodes.

use iomap_core::error::Result;
use iomap_core::vfs::{Attr, Ino, SetAttr};

use super::Shared;

impl Shared {
    pub(super) fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.fs().getattr(ino)
    }

    pub(super) fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let attr = self.fs().setattr(ino, set)?;
        if let Some(mode) = set.mode {
            self.follow_mode(ino, mode)?;
        }
        Ok(attr)
    }
}
