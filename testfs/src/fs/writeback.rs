//! Where dirty bytes go, and what makes them findable.
//!
//! Owns the choice of storage for promised blocks, and the end of writeback: conversion, the switch
//! to a private copy, the size in the tree.
//!
//! Nothing old is ever exposed, by construction: storage is allocated unwritten, or belongs to no
//! file at all, until its bytes are on the device. So no order between data and commits is needed.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::iomap::{FsFlags, Iomap, MapKind};
use iomap_core::mutation::{self, Rule};
use iomap_core::ops::{FolioOps, IoendRange, WritebackOps, WritebackRequest};
use iomap_core::units::{FilePos, FileRange};

use super::inode::{MapGuard, Spot, TestInode};
use super::mapping::{Copy, Place};
use crate::format::BlockRange;
use crate::meta::extents::{Extent, ExtentState};
use crate::meta::{Grant, Purpose, Reservation, Txn};

/// testfs needs nothing around a locked folio: its transactions live inside `begin` and
/// `map_writeback`.
impl FolioOps for TestInode {
    type Guard = ();
}

impl WritebackOps for TestInode {
    fn map_writeback(
        &self,
        _guard: Option<&mut ()>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        let start = self.blocks_of(req.range).start();
        let end = self.blocks_of(FileRange::between(req.range.start(), req.hint_end));
        let wanted = BlockRange::between(start, end.end());
        let mut room = None;
        loop {
            let spot = self.spot(start, false)?;
            if let Some(iomap) = self.storage(&spot) {
                return Ok(Some(iomap));
            }
            if !req.may_allocate {
                return Ok(None);
            }
            room = self.choose_storage(spot, wanted, room)?;
        }
    }

    fn ioend_needs_work(&self, ioend: &IoendRange) -> bool {
        matches!(ioend.iomap.kind, MapKind::Unwritten { .. })
            || ioend.iomap.flags.contains(FsFlags::SHARED)
            || ioend.range.end().bytes() > self.disk_size()
    }

    fn ioend_done(&self, ioend: &IoendRange) -> Result<()> {
        let copied = ioend.iomap.flags.contains(FsFlags::SHARED);
        let unwritten = matches!(ioend.iomap.kind, MapKind::Unwritten { .. });
        // Looked at once: a truncate may have moved the end of the file and wait for this run to cut
        // the tree. Until then no block may be written past the size the tree has.
        let end = ioend.range.end().min(self.core.size());
        let inside = FileRange::between(ioend.range.start(), end);
        let range = if copied { ioend.range } else { inside };
        if range.is_empty() {
            return Ok(());
        }
        self.written(range, end, unwritten, copied)
    }

    fn ioend_failed(&self, ioend: &IoendRange, _errno: Errno) {
        if ioend.iomap.flags.contains(FsFlags::SHARED) {
            self.drop_copies(self.blocks_of(ioend.range));
        }
    }

    fn sync_metadata(&self, data_only: bool) -> Result<()> {
        self.sync_attributes(data_only)
    }
}

impl TestInode {
    /// The storage at a spot, if it has any of its own.
    fn storage(&self, spot: &Spot<'_>) -> Option<Iomap> {
        match spot.place() {
            Place::Mapped {
                range,
                shared: true,
                ..
            } => match spot.map.copy_at(spot.block) {
                Some(Copy::Granted(copy, disk)) => Some(
                    self.iomap(copy.intersect(range), self.allocated(disk, false))
                        .with_flags(FsFlags::SHARED),
                ),
                _ => None,
            },
            place @ Place::Mapped { .. } => Some(self.iomap_of(place)),
            Place::Hole(_) | Place::Delalloc(_) => None,
        }
    }

    /// Allocates what is promised at a spot. If nothing is (dirty data whose reservation was lost
    /// with an earlier error), asks for `room` first and gives that back for the next attempt.
    fn choose_storage(
        &self,
        spot: Spot<'_>,
        wanted: BlockRange,
        room: Option<Reservation>,
    ) -> Result<Option<Reservation>> {
        let place = spot.place();
        let copy = spot.map.copy_at(spot.block);
        drop(spot);
        match (place, copy, room) {
            (Place::Delalloc(range), ..) => {
                self.allocate(range.intersect(wanted), None)?;
            }
            (Place::Mapped { .. }, Some(copy), _) => {
                self.grant(copy.range().intersect(wanted), None)?;
            }
            (_, _, None) => {
                tracing::debug!(target: "testfs", ino = %self.ino, %wanted, "dirty data unpromised");
                return Ok(Some(self.volume.reserve(1)?));
            }
            (Place::Hole(range), _, Some(room)) => {
                self.allocate(range.intersect(wanted), Some(&room))?;
            }
            (Place::Mapped { range, .. }, None, Some(room)) => {
                self.grant(range.intersect(wanted), Some(&room))?;
            }
        }
        Ok(None)
    }

    /// Allocates the start of `range` unwritten (rule C8), as much of it as is one extent: out of `room`, or
    /// out of what is promised. Nothing if it is not a hole any more.
    pub(super) fn allocate(
        &self,
        range: BlockRange,
        room: Option<&Reservation>,
    ) -> Result<Option<Extent>> {
        self.change(
            Purpose::Must,
            |txn, map| {
                let hole = txn.view().extent_at(self.ino, range)?;
                if hole.state != ExtentState::Hole {
                    return Ok(None);
                }
                let (range, from) = match (room, map.place(hole, range.start())) {
                    (None, Place::Delalloc(range)) => (range, map.reservation()),
                    (Some(room), Place::Hole(range)) => (range, Some(room)),
                    _ => return Ok(None),
                };
                let from = from.ok_or(FsError::NoSpace)?;
                let unwritten = !mutation::off(Rule::C8);
                txn.allocate_extent(self.ino, range, unwritten, None, from)
                    .map(Some)
            },
            |map, extent| {
                if let Some(extent) = extent {
                    map.allocated(extent.range);
                }
            },
        )
    }

    /// Allocates blocks for a private copy of the start of `range`, which is shared: out of `room`,
    /// or out of what is promised. They are the file's when they have been written (rule C9). Nothing
    /// if it is not shared any more and nobody promised a copy: then others store to it in place, and
    /// a copy would lose what they store. No further than to the next copy that is on its way.
    pub(super) fn grant(&self, range: BlockRange, room: Option<&Reservation>) -> Result<()> {
        let granted = self.volume.update(Purpose::Must, |txn| {
            let map = self.mapping.write();
            self.grant_in(txn, map, range, room)
        })?;
        if let Some((mut map, range, grant)) = granted {
            map.granted(range, grant);
            self.invalidate_mappings(&map);
            drop(map);
            if mutation::off(Rule::C9) {
                self.written(self.bytes_of(range), FilePos::ZERO, false, true)?;
            }
        }
        Ok(())
    }

    fn grant_in<'m>(
        &self,
        txn: &mut Txn<'_>,
        map: MapGuard<'m>,
        range: BlockRange,
        room: Option<&Reservation>,
    ) -> Result<Option<(MapGuard<'m>, BlockRange, Grant)>> {
        let (range, from) = match (map.copy_at(range.start()), room) {
            (Some(Copy::Promised(run)), None) => (run.intersect(range), map.reservation()),
            (None, Some(room)) => {
                let extent = txn.view().extent_at(self.ino, range)?;
                let ExtentState::Mapped { shared: true, .. } = extent.state else {
                    return Ok(None);
                };
                // Where others have a copy on its way, that one is made.
                let end = map.next_copy(range.start()).min(extent.range.end());
                (BlockRange::between(range.start(), end), Some(room))
            }
            _ => return Ok(None),
        };
        let from = from.ok_or(FsError::NoSpace)?;
        let grant = txn.allocate(None, range.len(), from)?;
        let range = BlockRange::at(range.start(), grant.run().len);
        Ok(Some((map, range, grant)))
    }

    /// The bytes of `range` are on the device: makes them findable, and moves the size in the tree
    /// up to `end`.
    pub(super) fn written(
        &self,
        range: FileRange,
        end: FilePos,
        unwritten: bool,
        copied: bool,
    ) -> Result<()> {
        let blocks = self.blocks_of(range);
        self.change(
            Purpose::Must,
            |txn, map| {
                if copied {
                    for (at, grant) in map.take_grants(blocks) {
                        txn.remap(self.ino, at, grant)?;
                    }
                }
                if unwritten {
                    txn.convert_unwritten(self.ino, blocks)?;
                }
                self.raise_size(txn, end.bytes())
            },
            |_, size| self.set_disk_size(*size),
        )?;
        Ok(())
    }

    /// Moves the size in the tree up to `end`, never down. Returns what it is now.
    pub(super) fn raise_size(&self, txn: &mut Txn<'_>, end: u64) -> Result<u64> {
        let size = txn.view().inode(self.ino)?.size;
        if size >= end {
            return Ok(size);
        }
        let inode = txn.update_inode(self.ino, |inode| {
            inode.size = end;
            Ok(())
        })?;
        Ok(inode.size)
    }

    /// Frees copies that were not written.
    pub(super) fn drop_copies(&self, blocks: BlockRange) {
        let mut map = self.mapping.write();
        drop(map.take_grants(blocks));
        self.invalidate_mappings(&map);
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use iomap_core::device::MemoryDevice;
    use iomap_core::vfs::{IoFlags, NewInode, OpenFile, OpenFlags, Special, Vfs};

    use super::*;
    use crate::format::{FileBlock, Ino};
    use crate::fs::table::InodeRef;
    use crate::fs::{MkfsOptions, MountOptions, TestFs};

    fn create(fs: &Arc<TestFs>, name: &[u8]) -> Arc<dyn OpenFile> {
        let new = NewInode {
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        let made = fs.mknod(fs.root(), name, Special::Regular, &new).unwrap();
        let both = OpenFlags::READ | OpenFlags::WRITE;
        fs.open(made.ino, both).unwrap()
    }

    type Files = [Arc<dyn OpenFile>; 2];

    /// A file of four blocks that a clone has too.
    fn shared_file() -> (Arc<TestFs>, InodeRef, Files) {
        let device = Arc::new(MemoryDevice::new(16 << 20));
        TestFs::mkfs(device.clone(), &MkfsOptions::default()).unwrap();
        let fs = TestFs::mount(device, MountOptions::default()).unwrap();
        let (file, clone) = (create(&fs, b"file"), create(&fs, b"clone"));
        let start = FilePos::ZERO;
        file.write_at(start, &[1; 16384], IoFlags::empty()).unwrap();
        let all = FileRange::at_most(start, 16384);
        file.clone_range(all, &*clone, start).unwrap();
        let inode = fs.table.peek(Ino::new(file.ino().0)).unwrap();
        (fs, inode, [file, clone])
    }

    /// Two look at a shared block, and each wants a copy of it: a store to a mapping, and a write of
    /// a DAX file. When one is done the block is the file's own, and may be stored to through page
    /// tables: the other must not copy it away from under those stores.
    #[test]
    fn a_copy_is_granted_of_shared_blocks_only() {
        let (_fs, inode, _files) = shared_file();
        let first = BlockRange::at(FileBlock::new(0), 1);
        let granted = || {
            let room = inode.volume.reserve_some(1).unwrap();
            inode.grant(first, Some(&room)).unwrap();
            inode.mapping.read().granted_blocks()
        };
        assert_eq!(granted(), 1);
        assert_eq!(granted(), 1, "one copy is enough");
        let bytes = inode.bytes_of(first);
        inode.written(bytes, FilePos::ZERO, false, true).unwrap();
        assert_eq!(granted(), 0, "a copy of what is nobody else's");
    }

    /// One makes a copy in the middle of what another wants: two for a block, and the second would be
    /// made of the first.
    #[test]
    fn a_block_has_one_copy_on_its_way() {
        let (_fs, inode, _files) = shared_file();
        let grant = |from, blocks| {
            let room = inode.volume.reserve(blocks).unwrap();
            let range = BlockRange::at(FileBlock::new(from), blocks);
            inode.grant(range, Some(&room)).unwrap();
            inode.mapping.read().granted_blocks()
        };
        assert_eq!(grant(1, 1), 1);
        assert_eq!(grant(0, 4), 2);
        assert_eq!(grant(2, 2), 4);
    }
}
