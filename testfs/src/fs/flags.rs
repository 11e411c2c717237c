//! Flags of inodes, as `lsattr` shows and `chattr` changes them.
//!
//! Owns which can be changed: those that testfs acts on, or that ask nothing of it. A flag that
//! would be a promise nobody keeps is refused. What is in the tree is shown as it is.

use iomap_core::error::{FsError, Result};
use iomap_core::vfs::InodeFlags;

use super::TestFs;
use crate::format::Ino;
use crate::format::item::{FileType, Time};
use crate::meta::Purpose;

/// What may change: a wish to backups; that reading leaves the access time alone, which who serves
/// readers heeds.
const SETTABLE: InodeFlags = InodeFlags::NODUMP.union(InodeFlags::NOATIME);

impl TestFs {
    pub(super) fn inode_flags(&self, ino: Ino) -> Result<InodeFlags> {
        let inode = self.item(ino)?;
        Ok(InodeFlags::from_bits_retain(inode.flags))
    }

    pub(super) fn set_inode_flags(&self, ino: Ino, flags: InodeFlags) -> Result<()> {
        self.item(ino)?;
        self.volume().update(Purpose::Must, |txn| {
            txn.update_inode(ino, |inode| {
                let mut settable = SETTABLE;
                // From the next time the file comes into memory.
                settable.set(InodeFlags::DAX, inode.file_type() == FileType::Regular);
                let before = InodeFlags::from_bits_retain(inode.flags);
                if !settable.contains(before.symmetric_difference(flags)) {
                    return Err(FsError::Unsupported("flag of the inode"));
                }
                inode.flags = flags.bits();
                inode.ctime = Time::now();
                Ok(())
            })
        })?;
        Ok(())
    }
}
