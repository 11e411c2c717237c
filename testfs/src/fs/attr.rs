//! Attributes of a regular file that the tree does not have yet.
//!
//! Owns the times a write sets, and the record of inline data that changed: both are kept in memory
//! so that a write into the cache needs no transaction, and go into the tree with a sync, a commit
//! of everything, or when the inode leaves memory. Everything else about an inode is in the tree.
//!
//! Reading does not change the access time by itself: who serves readers says when it is due.

use iomap_core::error::{FsError, Result};
use iomap_core::iomap::InlineBuffer;
use iomap_core::mutation::{self, Rule};

use super::TestFs;
use super::inode::TestInode;
use crate::format::Ino;
use crate::format::item::{Body, Inode, Time};
use crate::meta::{Purpose, Txn};

/// Set-user-id and set-group-id, and the bit that makes the latter one.
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// What the tree does not have yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// A write set the time.
    pub(super) modified: Option<Time>,
    /// The inline data, or the size of a file with inline data, changed.
    pub(super) inline: bool,
    /// A write has set-id bits to drop.
    pub(super) has_set_id: bool,
    /// The generation of the tree that has the newest extents and the newest size.
    generation: u64,
}

/// What a transaction has taken out of [`Pending`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) modified: Option<Time>,
    pub(super) inline: bool,
}

impl Pending {
    /// Takes out everything for the tree.
    fn take(&mut self) -> Taken {
        Taken {
            modified: self.modified.take(),
            inline: std::mem::take(&mut self.inline),
        }
    }

    /// The transaction failed: what it took is pending again, unless something newer is.
    pub(super) fn put_back(&mut self, taken: Taken) {
        self.modified = self.modified.or(taken.modified);
        self.inline |= taken.inline;
    }

    /// Nothing pending for `item`, which is durable when `generation` is.
    pub(super) const fn new(item: &Inode, generation: u64) -> Self {
        Self {
            modified: None,
            inline: false,
            has_set_id: has_set_id(item.mode),
            generation,
        }
    }

    /// Notes that extents or size changed in this generation.
    pub(super) fn note(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// The generation that has the newest extents and size.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

/// Whether a write by somebody without privileges drops bits of this mode.
pub(super) const fn has_set_id(mode: u32) -> bool {
    mode & S_ISUID != 0 || mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP
}

/// The mode without the bits a write drops.
pub(super) const fn without_set_id(mode: u32) -> u32 {
    let group = if mode & S_IXGRP != 0 { S_ISGID } else { 0 };
    mode & !(S_ISUID | group)
}

/// Notes a change of content at `time`. Attributes may have changed later than that.
fn modify(inode: &mut Inode, time: Time) {
    inode.mtime = time;
    inode.ctime = inode.ctime.max(time);
}

impl TestFs {
    /// Sets the access time of an inode in the tree, and no other. Durable with the next commit.
    pub(super) fn set_access_time(&self, ino: Ino, at: Time) -> Result<()> {
        self.volume().update(Purpose::Normal, |txn| {
            txn.update_inode(ino, |inode| {
                inode.atime = at;
                Ok(())
            })
        })?;
        Ok(())
    }
}

impl TestInode {
    /// Notes that the content changes now. Set-id bits are dropped in the tree, at once.
    pub(super) fn touch(&self) -> Result<()> {
        self.volume.check_writable()?;
        let mut pending = self.pending.lock();
        pending.modified = Some(Time::now());
        if !std::mem::take(&mut pending.has_set_id) {
            return Ok(());
        }
        drop(pending);
        self.volume.update(Purpose::Must, |txn| {
            txn.update_inode(self.ino, |inode| {
                inode.mode = without_set_id(inode.mode);
                Ok(())
            })
        })?;
        Ok(())
    }

    /// What a look at the attributes adds to what the tree says.
    pub(super) fn overlay(&self, inode: &mut Inode) {
        if let Some(time) = self.pending.lock().modified {
            modify(inode, time);
        }
        inode.size = self.core.size().bytes();
        let promised = self.mapping.read().promised_blocks();
        inode.blocks = inode.blocks.saturating_add(promised);
    }

    /// Whether the tree has everything.
    pub(super) fn has_no_pending(&self) -> bool {
        let pending = self.pending.lock();
        pending.modified.is_none() && !pending.inline && !self.has_pending_size()
    }

    /// Brings the tree up to date. Holds no lock that a transaction may not be opened under.
    pub(super) fn flush_attributes(&self) -> Result<()> {
        if self.has_no_pending() {
            return Ok(());
        }
        self.flush_size()?;
        if self.pending.lock().inline {
            // The node it was kept for is taken now.
            let room = self.mapping.write().take_inline_room();
            drop(room);
        }
        // Taken in the transaction: times that were set on purpose come before it or after it.
        let mut taken = Taken::default();
        let result = self.volume.update(Purpose::Must, |txn| {
            taken = self.pending.lock().take();
            let size = self.write_attributes(txn, taken)?;
            Ok((txn.generation(), size))
        });
        match result {
            Ok((generation, Some(size))) => {
                self.set_disk_size(size);
                self.pending.lock().note(generation);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.pending.lock().put_back(taken);
                Err(error)
            }
        }
    }

    /// The transaction. Returns the size in the tree if it went there with inline data.
    fn write_attributes(&self, txn: &mut Txn<'_>, taken: Taken) -> Result<Option<u64>> {
        let mut inline_size = None;
        txn.update_inode(self.ino, |item| {
            if let Some(time) = taken.modified {
                modify(item, time);
            }
            // The file may have left its inode meanwhile.
            if let Body::Inline(data) = &mut item.body
                && taken.inline
            {
                let capacity = self.inline.capacity() as u64;
                let size = self.core.size().bytes().min(capacity);
                // At most a few KiB: fits.
                *data = self.inline.prefix(size as usize);
                item.size = size;
                inline_size = Some(size);
            }
            Ok(())
        })?;
        Ok(inline_size)
    }

    /// Makes durable what is needed to read the data (`data_only`; rules C11, C12), or everything.
    pub(super) fn sync_attributes(&self, data_only: bool) -> Result<()> {
        self.settle_cut()?;
        if data_only && mutation::off(Rule::C11) {
            return self.volume.device.flush().map_err(FsError::from);
        }
        let inline = self.pending.lock().inline && !mutation::off(Rule::C12);
        if !data_only || inline {
            self.flush_attributes()?;
        } else {
            self.flush_size()?;
        }
        let generation = if data_only {
            self.pending.lock().generation()
        } else {
            self.volume.meta().newest_generation()
        };
        self.volume.make_durable(generation)
    }
}
