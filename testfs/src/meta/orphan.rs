//! Deleting inodes, at once or at the next mount.
//!
//! Owns the orphan items and the loop that deletes an inode piece by piece. An inode becomes an
//! orphan in the transaction that takes its last name; when nobody has it open any more the file
//! system on top calls [`Meta::evict`]. A crash before that leaves the record, and the next mount
//! does it.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::mutation::{self, Rule};

use super::tree::Walk;
use super::view::os;
use super::{Meta, Purpose, Txn};
use crate::format::item::{BadItem, OrphanItem};
use crate::format::{BlockRange, Ino, Key, Kind};

/// Items removed at a time, before looking whether the transaction is full.
const ITEMS_AT_A_TIME: usize = 32;

impl Txn<'_> {
    /// Records that an inode has lost its last name (rule C16).
    pub(super) fn make_orphan(&mut self, ino: Ino) -> Result<()> {
        if mutation::off(Rule::C16) {
            return Ok(());
        }
        self.insert(Key::orphan(ino), &OrphanItem::Unlinked.encode())
    }

    /// Forgets that an inode had no name: it has one again.
    pub(super) fn adopt(&mut self, ino: Ino) -> Result<()> {
        self.remove(&Key::orphan(ino)).map(|_| ())
    }

    /// Deletes some of what an inode without a name has, and at last the inode. Returns whether it
    /// is gone.
    fn evict_step(&mut self, ino: Ino) -> Result<bool> {
        if self.punch_step(ino, BlockRange::ALL)?.is_some() {
            return Ok(false);
        }
        loop {
            let mut keys = Vec::new();
            // Behind the inode item: targets, attributes, and entries of a damaged directory.
            let from = Key::new(ino, Kind::Symlink, 0);
            let to = Key::new(ino, Kind::Dirent, u64::MAX);
            let any = |_: &[u8]| Ok::<(), BadItem>(());
            self.view().walk(from, to, any, |key, ()| {
                keys.push(key);
                let full = keys.len() == ITEMS_AT_A_TIME;
                Ok(if full { Walk::Stop } else { Walk::On })
            })?;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                self.remove_known(&key)?;
            }
            if self.is_full() {
                return Ok(false);
            }
        }
        self.remove_known(&Key::inode(ino))?;
        self.remove_known(&Key::orphan(ino))?;
        self.forget_ino();
        Ok(true)
    }
}

impl Meta {
    /// Deletes an inode that has no name and that nobody has open, in as many transactions as it
    /// takes.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it has a name; what the device says: then the next mount tries again.
    pub fn evict(&self, ino: Ino) -> Result<()> {
        loop {
            let gone = self.update(Purpose::Must, |txn| {
                let key = Key::orphan(ino);
                let orphan = txn.view().get(&key, OrphanItem::decode)?;
                if txn.view().inode(ino)?.nlink > 0 || orphan != Some(OrphanItem::Unlinked) {
                    return Err(os(Errno::BUSY));
                }
                txn.evict_step(ino)
            })?;
            if gone {
                return Ok(());
            }
        }
    }

    /// The inodes to be deleted or cut.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn orphans(&self) -> Result<Vec<(Ino, OrphanItem)>> {
        let (from, to) = (Key::orphan(Ino::GLOBAL), Key::orphan(Ino::new(u64::MAX)));
        self.read(|view| {
            let mut found = Vec::new();
            view.walk(from, to, OrphanItem::decode, |key, item| {
                found.push((Ino::new(key.offset), item));
                Ok(Walk::On)
            })?;
            Ok(found)
        })
    }

    /// Finishes what was being deleted or cut when the file system was last used.
    pub(super) fn process_orphans(&self) -> Result<()> {
        for (ino, reason) in self.orphans()? {
            let inode = match self.read(|view| view.inode(ino)) {
                Ok(inode) => Some(inode),
                Err(FsError::Os { errno }) if errno == Errno::NOENT => None,
                Err(error) => return Err(error),
            };
            match (inode, reason) {
                (Some(inode), OrphanItem::Unlinked) if inode.nlink == 0 => self.evict(ino)?,
                (Some(_), OrphanItem::Truncate) => self.finish_truncate(ino)?,
                // A record of an inode that is alive, or gone: drop the record.
                (Some(_), OrphanItem::Unlinked) | (None, _) => {
                    self.update(Purpose::Must, |txn| txn.adopt(ino))?;
                }
            }
        }
        Ok(())
    }
}
