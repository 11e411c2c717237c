//! Removing blocks from files: punch and truncate, in steps.
//!
//! Owns the steps and their order. A step is one transaction of bounded size; the loop around it
//! stands here too. What a crash between the steps of a truncate leaves is finished at the next mount
//! ([`orphan`](super::super::orphan)).

use iomap_core::error::{FsError, Result};

use super::super::{Meta, Purpose, Txn};
use super::piece_range;
use crate::format::item::{Body, FileType, Inode, OrphanItem};
use crate::format::{BlockRange, FileBlock, Ino, Key};

impl Txn<'_> {
    /// Frees the blocks at the front of `range`. Returns what is left of the range: the caller goes
    /// on in another transaction.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn punch_step(&mut self, ino: Ino, range: BlockRange) -> Result<Option<BlockRange>> {
        let mut rest = range;
        let mut freed = 0;
        let more = loop {
            let taken = self.take_out(ino, rest, self.batch())?;
            let Some(last) = taken.last() else {
                break None;
            };
            rest = BlockRange::between(piece_range(*last).end(), rest.end());
            for (_, item) in taken {
                freed += item.run.len;
                self.drop_owner(item.run)?;
            }
            if rest.is_empty() {
                break None;
            }
            if self.is_full() {
                break Some(rest);
            }
        };
        self.add_blocks(ino, 0, freed)?;
        Ok(more)
    }

    /// Sets the size. If that leaves blocks past the end, records that they are to be freed
    /// ([`Meta::finish_truncate`]): returns whether.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] if inline data does not fit the inode any more: it has to be moved out
    /// first ([`Meta::spill_inline`]).
    pub fn set_size(&mut self, ino: Ino, size: u64) -> Result<bool> {
        let inline_max = self.geometry().inline_max() as u64;
        let mut shrinks = false;
        self.update_inode(ino, |inode| {
            if inode.file_type() != FileType::Regular {
                return Err(FsError::Invalid("size of what is no file"));
            }
            shrinks = size < inode.size;
            if let Body::Inline(data) = &mut inode.body {
                if size > inline_max {
                    return Err(FsError::Invalid("size: past what an inode holds inline"));
                }
                data.resize(size as usize, 0);
            }
            inode.size = size;
            Ok(())
        })?;
        let beyond = blocks_past(size, self.geometry().bits());
        if !shrinks || self.view().pieces(ino, beyond, 1)?.is_empty() {
            return Ok(false);
        }
        let key = Key::orphan(ino);
        if self.view().get(&key, OrphanItem::decode)?.is_none() {
            self.insert(key, &OrphanItem::Truncate.encode())?;
        }
        Ok(true)
    }
}

impl Meta {
    /// Frees the blocks of `range`, in as many transactions as it takes.
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`] if the file system is full to the last reserve and the hole needs
    /// more space than it frees; what the device says. Part of the range may be freed.
    pub fn punch(&self, ino: Ino, range: BlockRange) -> Result<()> {
        let mut left = Some(range);
        while let Some(range) = left {
            left = self.update(Purpose::Release, |txn| txn.punch_step(ino, range))?;
        }
        Ok(())
    }

    /// Sets the size, lets `change` set times, and frees what lies past the end.
    ///
    /// Size and times change in one transaction, together with the record that lets the next mount
    /// finish what a crash interrupts.
    ///
    /// # Errors
    ///
    /// As [`Txn::set_size`]; what the device says.
    pub fn truncate(&self, ino: Ino, size: u64, change: impl FnOnce(&mut Inode)) -> Result<()> {
        // What an earlier truncate could not free must not come back with a larger size.
        let key = Key::orphan(ino);
        if self.read(|view| view.get(&key, OrphanItem::decode))? == Some(OrphanItem::Truncate) {
            self.finish_truncate(ino)?;
        }
        let cuts = self.update(Purpose::Must, |txn| {
            let cuts = txn.set_size(ino, size)?;
            txn.update_inode(ino, |inode| {
                change(inode);
                Ok(())
            })?;
            Ok(cuts)
        })?;
        if cuts {
            self.finish_truncate(ino)?;
        }
        Ok(())
    }

    /// Frees the blocks past the end of a file, and the record that they are to be freed.
    ///
    /// # Errors
    ///
    /// What the device says: then the record stays.
    pub fn finish_truncate(&self, ino: Ino) -> Result<()> {
        let size = self.read(|view| view.inode(ino))?.size;
        let mut left = Some(blocks_past(size, self.geometry().bits()));
        while let Some(range) = left {
            left = self.update(Purpose::Must, |txn| {
                let left = txn.punch_step(ino, range)?;
                let key = Key::orphan(ino);
                let orphan = txn.view().get(&key, OrphanItem::decode)?;
                if left.is_none() && orphan == Some(OrphanItem::Truncate) {
                    txn.remove_known(&key)?;
                }
                Ok(left)
            })?;
        }
        Ok(())
    }
}

/// The blocks that hold no byte of a file of `size` bytes.
pub(crate) const fn blocks_past(size: u64, bits: u32) -> BlockRange {
    // Cannot overflow: sizes end at i64::MAX.
    BlockRange::from(FileBlock::new((size + (1 << bits) - 1) >> bits))
}
