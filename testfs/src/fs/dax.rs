//! DAX files: storage at once, zeroed before anything finds it, and the steps before it moves.
//!
//! Owns the answers to changes in place, what "durably mapped" means here, and the locks under which
//! blocks are freed and moved. Which files are DAX files: all of them where the mount says so, else
//! those with the attribute flag [`DAX_FLAG`], from the next time they come into memory.
//!
//! | At the position | Write, store through a mapping | Zero, unshare |
//! |---|---|---|
//! | hole | allocate, zero, written | hole |
//! | unwritten | zero, written | unwritten |
//! | beyond the last block of the file | allocate; written with the size, in `end` | - |
//! | written | as it is | as it is |
//! | shared | blocks for a copy, from the shared ones; the file's own in `end` | the same |
//! | inline | move it out first | move it out first |
//!
//! A write that grows the file inside its last block opens no transaction: the size in the tree
//! follows with the next sync. So what lies beyond the size in the tree is not durably mapped (rule
//! S4). Blocks beyond the last one are never written in the tree: nothing old would be seen in them
//! when the file grows another way.

use std::sync::Arc;

use iomap_core::dax::DaxVolume;
use iomap_core::dax_io::{Blocks, Content, LayoutLocks, PinTimeout, unmap_and_wait_for_pins};
use iomap_core::error::{FsError, Result};
use iomap_core::inode::ExclusiveGuard;
use iomap_core::iomap::FsFlags;
use iomap_core::mutation::{Rule, off};
use iomap_core::ops::{Finished, Intent, MapError, MapRequest, Mapped};
use iomap_core::units::FileRange;

use super::inode::{Spot, TestInode};
use super::mapping::{Copy, Place};
use crate::format::BlockRange;
use crate::meta::Purpose;
use crate::meta::extents::ExtentState;

/// The attribute flag of a DAX file (`FS_DAX_FL`).
pub const DAX_FLAG: u32 = 0x0200_0000;

/// Of a mapping: unwritten blocks beyond the file, which become written with its new size.
const GROWS: FsFlags = FsFlags::PRIVATE;

/// The most that is zeroed in one transaction, bytes.
const ZEROED_AT_ONCE: u64 = 2 << 20;

/// What a mount knows of DAX.
#[derive(Debug)]
pub(super) struct DaxMount {
    pub(super) volume: Arc<DaxVolume>,
    /// Every file is a DAX file.
    pub(super) all: bool,
    /// How long to wait for pins before blocks move.
    pub(super) pin_timeout: PinTimeout,
}

impl TestInode {
    /// Where a change in place goes. The file is not inline.
    pub(super) fn map_dax(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let wanted = self.blocks_of(req.range);
        let in_file = self.blocks_of(self.core.bytes());
        // No fault reaches blocks beyond the file, so nobody else stores to them.
        let grows = req.intent == Intent::Write && wanted.start() >= in_file.end();
        let wanted = if grows {
            wanted
        } else {
            wanted.intersect(in_file)
        };
        let allocates = !matches!(req.intent, Intent::Zero | Intent::Unshare);
        let mut new = FsFlags::empty();
        loop {
            let spot = self.spot(wanted.start(), req.nowait())?;
            let place = spot.place();
            let copy = spot.map.copy_at(wanted.start());
            match (place, copy) {
                (Place::Mapped { shared: true, .. }, Some(Copy::Granted(to, disk))) => {
                    let iomap = self.iomap(to, self.allocated(disk, false));
                    return Ok(Mapped {
                        iomap: iomap.with_flags(FsFlags::SHARED | FsFlags::DIRTY),
                        source: Some(self.iomap_of(place)),
                        lease: (),
                    });
                }
                (Place::Mapped { shared: true, .. }, _) => {}
                (
                    Place::Mapped {
                        unwritten: false, ..
                    },
                    _,
                ) => return Ok(self.in_place(&spot, req.range, new)),
                (
                    Place::Mapped {
                        range,
                        start,
                        unwritten: true,
                        ..
                    },
                    _,
                ) if grows => {
                    let flags = FsFlags::NEW | FsFlags::DIRTY | GROWS;
                    let iomap = self.iomap(range, self.allocated(start, false));
                    return Ok(Mapped::new(iomap.with_flags(flags), ()));
                }
                _ if !allocates => return Ok(Mapped::new(self.iomap_of(place), ())),
                _ => {}
            }
            drop(spot);
            if req.nowait() {
                return Err(FsError::WouldBlock.into());
            }
            self.prepare_dax(place, copy, wanted)?;
            if !matches!(place, Place::Mapped { shared: true, .. }) {
                new = FsFlags::NEW;
            }
        }
    }

    /// Written blocks of the file's own. The mapping lock is held.
    fn in_place(&self, spot: &Spot<'_>, range: FileRange, new: FsFlags) -> Mapped<()> {
        let mut iomap = self.iomap_of(spot.place());
        iomap.flags |= new | self.durability_of(range);
        Mapped::new(iomap, ())
    }

    /// One step towards blocks that can be changed in place.
    fn prepare_dax(&self, place: Place, copy: Option<Copy>, wanted: BlockRange) -> Result<()> {
        let limit = (ZEROED_AT_ONCE / self.volume.bits.size()).max(1);
        let wanted = BlockRange::at(wanted.start(), wanted.len().min(limit));
        match place {
            Place::Hole(range) => {
                let range = range.intersect(wanted);
                let room = self.volume.reserve_some(range.len())?;
                self.allocate(range, Some(&room)).map(|_| ())
            }
            Place::Delalloc(range) => self.allocate(range.intersect(wanted), None).map(|_| ()),
            Place::Mapped {
                range,
                shared: true,
                ..
            } => {
                let range = range.intersect(wanted);
                match copy {
                    Some(copy) => self.grant(copy.range().intersect(range), None),
                    None => {
                        let room = self.volume.reserve_some(range.len())?;
                        self.grant(range, Some(&room))
                    }
                }
            }
            Place::Mapped { range, .. } => self.write_zeroes(range.intersect(wanted)),
        }
    }

    /// Makes the start of `range`, which is unwritten, written: durable zeroes first, in the
    /// transaction, so that nobody stores to the blocks before they are zeroed.
    fn write_zeroes(&self, range: BlockRange) -> Result<()> {
        let Some(dax) = &self.volume.dax else {
            return Err(FsError::Unsupported("DAX on this device"));
        };
        let device = dax.volume.device();
        self.change(
            Purpose::Must,
            |txn, _| {
                let extent = txn.view().extent_at(self.ino, range)?;
                let ExtentState::Mapped {
                    start,
                    unwritten: true,
                    shared: false,
                } = extent.state
                else {
                    return Ok(());
                };
                let part = extent.range.intersect(range);
                let start = start.plus(part.start().since(extent.range.start()));
                let addr = self.volume.meta().block_addr(start);
                let len = part.len().saturating_mul(self.volume.bits.size());
                device.store_zeroes(addr, len)?;
                device.persist(addr, len)?;
                txn.convert_unwritten(self.ino, part)
            },
            |_, ()| {},
        )
    }

    /// The end of a change in place: copies become the file's own, and blocks beyond it, with the
    /// size.
    pub(super) fn end_dax(&self, finished: &Finished<'_>) -> Result<()> {
        if !finished.intent.is_write() || finished.done == 0 {
            return Ok(());
        }
        let done = finished.range.take(finished.done);
        if finished.iomap.flags.contains(FsFlags::SHARED) {
            return self.written(done, done.start(), false, true);
        }
        if finished.iomap.flags.contains(GROWS) {
            self.settle_new_blocks(finished, done)?;
            return self.written(done, done.end(), true, false);
        }
        Ok(())
    }

    /// Zeroes what is around `done` in its blocks, and makes all of them durable: whoever finds them
    /// after a crash must not find what was in them before.
    fn settle_new_blocks(&self, finished: &Finished<'_>, done: FileRange) -> Result<()> {
        let Some(dax) = &self.volume.dax else {
            return Err(FsError::Unsupported("DAX on this device"));
        };
        let device = dax.volume.device();
        let blocks = done.round_out(self.volume.bits);
        let blocks = blocks.intersect(finished.iomap.range);
        let edges = [
            FileRange::between(blocks.start(), done.start()),
            FileRange::between(done.end(), blocks.end()),
        ];
        for edge in edges.into_iter().filter(|edge| !edge.is_empty()) {
            if let Some(addr) = finished.iomap.addr_at(edge.start()) {
                device.store_zeroes(addr, edge.len())?;
            }
        }
        if let Some(addr) = finished.iomap.addr_at(blocks.start()) {
            device.persist(addr, blocks.len())?;
        }
        Ok(())
    }

    /// [`FsFlags::DIRTY`] if the data of `range` could not be found after a crash: what finds it is
    /// not durable (rule C13), or the size in the tree is still to follow (rule S4).
    pub(super) fn durability_of(&self, range: FileRange) -> FsFlags {
        let end = range.end().min(self.core.size()).bytes();
        let beyond = end > self.disk_size() && !off(Rule::S4);
        let newest = self.pending.lock().generation();
        let durable = self.volume.meta().durable_generation();
        if beyond || (newest > durable && !off(Rule::C13)) {
            FsFlags::DIRTY
        } else {
            FsFlags::empty()
        }
    }

    /// Whether the size in memory is to follow into the tree with the next sync.
    pub(super) fn has_pending_size(&self) -> bool {
        self.core.dax().is_some()
            && !self.inline.is_used()
            && self.core.size().bytes() > self.disk_size()
    }

    /// Brings the size in the tree up to date.
    pub(super) fn flush_size(&self) -> Result<()> {
        if !self.has_pending_size() {
            return Ok(());
        }
        self.change(
            Purpose::Must,
            // In the transaction: a truncate has stored its size before its own.
            |txn, _| self.raise_size(txn, self.core.size().bytes()),
            |_, size| self.set_disk_size(*size),
        )?;
        Ok(())
    }

    /// A range of the file whose blocks are to be freed or moved.
    pub(super) const fn part(&self, range: FileRange, content: Content) -> Blocks<'_, Self> {
        Blocks {
            backend: self,
            range,
            content,
        }
    }

    /// The locks for freeing or moving blocks of one range: mappings of it are down, nothing of it
    /// is pinned. For a file with a cache these are just the two locks.
    pub(super) fn lock_layout<'a>(
        &'a self,
        inode: ExclusiveGuard<'a>,
        range: FileRange,
        content: Content,
    ) -> Result<LayoutLocks<'a>> {
        let part = self.part(range, content);
        unmap_and_wait_for_pins(&[part], [inode], self.volume.pin_timeout())
    }

    /// The locks for a change that neither frees nor moves a block.
    pub(super) fn lock_still<'a>(&'a self, inode: ExclusiveGuard<'a>) -> Result<LayoutLocks<'a>> {
        self.lock_layout(inode, FileRange::default(), Content::Dropped)
    }
}
