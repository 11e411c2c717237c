//! Where a range of a file lives: the one thing a file system must tell the framework.
//!
//! Owns the answers to [`Intent`] after intent, and the promises a buffered write gets for them.
//! Storage is chosen in [`writeback`](super::writeback), or at once for direct I/O in
//! [`direct`](super::direct) and for DAX files in [`dax`](super::dax).
//!
//! | At the position | Read, report | Write, write fault | Zero |
//! |---|---|---|---|
//! | hole | hole | promise blocks: delalloc | hole |
//! | promised | delalloc | delalloc | delalloc |
//! | unwritten | unwritten | unwritten | unwritten |
//! | written | mapped | mapped | mapped |
//! | shared | mapped | promise a copy: delalloc, from the shared blocks | as write |
//! | inline | inline | inline while it fits, otherwise move it out first | as write |

use iomap_core::error::{FsError, Result};
use iomap_core::inode::Inode;
use iomap_core::iomap::{FsFlags, InlineBuffer, Iomap, MapKind};
use iomap_core::ops::{
    Finished, Intent, MapError, MapFlags, MapOps, MapRequest, Mapped, TransactionOrder,
};
use iomap_core::sync::atomic::Ordering;
use iomap_core::units::{FilePos, FileRange};

use super::inode::{Spot, TestInode};
use super::mapping::{Copy, Place};
use crate::format::BlockRange;
use crate::meta::Reservation;

impl MapOps for TestInode {
    type Lease = ();

    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.core
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        if req.flags.contains(MapFlags::XATTR) {
            return Err(FsError::Unsupported("mapping of extended attributes").into());
        }
        if req.intent.is_write() {
            self.volume.check_writable()?;
            self.check_size(req.range.end())?;
            self.before_growth(req)?;
        }
        if let Some(iomap) = self.map_inline(req)? {
            return Ok(Mapped::new(iomap, ()));
        }
        let mapped = match req.intent {
            Intent::Read | Intent::Report => self.look(req)?,
            _ if req.is_dax() => return self.map_dax(req),
            _ if req.is_direct() => return self.map_direct(req),
            _ => self.map_write(req)?,
        };
        Ok(mapped)
    }

    fn end(&self, (): (), finished: &Finished<'_>) -> Result<()> {
        if finished.flags.contains(MapFlags::DAX) {
            self.end_dax(finished)?;
        }
        let inline = matches!(finished.iomap.kind, MapKind::Inline { .. });
        if inline && finished.intent.is_write() && finished.done > 0 {
            self.pending.lock().inline = true;
        }
        if matches!(finished.intent, Intent::Zero | Intent::Unshare) {
            self.release_unused(finished);
        }
        Ok(())
    }

    fn is_valid(&self, iomap: &Iomap) -> bool {
        iomap.validity == self.validity()
    }

    fn file_modified(&self, nowait: bool) -> Result<()> {
        if nowait && self.pending.lock().has_set_id {
            return Err(FsError::WouldBlock);
        }
        self.touch()
    }

    fn release_delalloc(&self, range: FileRange, _iomap: &Iomap) {
        // A promise is for a hole or for a copy; there are never both at one place.
        let mut map = self.mapping.write();
        map.release(self.blocks_of(range));
        self.invalidate_mappings(&map);
    }
}

impl TestInode {
    /// Takes back what zeroing or unsharing was promised and did not come to. The inode lock is held
    /// exclusively: nobody else makes data dirty there.
    fn release_unused(&self, finished: &Finished<'_>) {
        let (iomap, bits) = (finished.iomap, self.volume.bits);
        let promised =
            matches!(iomap.kind, MapKind::Delalloc) && iomap.flags.contains(FsFlags::NEW);
        if !promised || finished.done == finished.range.len() {
            return;
        }
        let mut rest = self.blocks_of(finished.range.skip(finished.done).round_out(bits));
        while !rest.is_empty() {
            let block = BlockRange::at(rest.start(), 1);
            let bytes = self.bytes_of(block);
            if !self.core.cache().has_dirty(bytes) {
                self.release_delalloc(bytes, iomap);
            }
            rest = BlockRange::between(block.end(), rest.end());
        }
    }

    /// The end of the largest file: every block of it lies below the largest position.
    pub(super) fn check_size(&self, end: FilePos) -> Result<()> {
        if end > FilePos::MAX.round_down(self.volume.bits) {
            return Err(FsError::TooBig);
        }
        Ok(())
    }

    /// What lies past the end of the file must be gone before it grows there.
    fn before_growth(&self, req: &MapRequest) -> Result<()> {
        let grows = req.intent == Intent::Write && req.range.end() > self.core.size();
        if !grows || !self.uncut.load(Ordering::Relaxed) {
            return Ok(());
        }
        if req.nowait() {
            return Err(FsError::WouldBlock);
        }
        // Whoever grows the file has the inode lock exclusively.
        self.finish_cut()
    }

    /// The answer for a file whose data lives in its inode, which it has left if it is to grow past
    /// that.
    fn map_inline(&self, req: &MapRequest) -> Result<Option<Iomap>, MapError> {
        let mut room: Option<Reservation> = None;
        while self.inline.is_used() {
            let mut map = self.mapping.write();
            if !self.inline.is_used() {
                break;
            }
            let capacity = self.inline.capacity() as u64;
            let inside = FileRange::at_most(FilePos::ZERO, capacity);
            if !req.intent.is_write() {
                return Ok(Some(if inside.contains(req.range.start()) {
                    self.inline_iomap(inside)
                } else {
                    Iomap::hole(req.range).with_validity(self.validity())
                }));
            }
            if req.is_direct() {
                return Err(MapError::UseBuffered);
            }
            let cached = req.intent != Intent::WriteFault && !req.is_dax();
            let fits = cached && inside.covers(req.range);
            if fits && map.has_inline_room() {
                return Ok(Some(self.inline_iomap(inside)));
            }
            if fits && let Some(room) = room.take() {
                map.set_inline_room(room);
                return Ok(Some(self.inline_iomap(inside)));
            }
            drop(map);
            if req.nowait() {
                return Err(FsError::WouldBlock.into());
            }
            if fits {
                room = Some(self.volume.reserve(1)?);
            } else {
                self.leave_inline()?;
            }
        }
        Ok(None)
    }

    fn inline_iomap(&self, range: FileRange) -> Iomap {
        let data: std::sync::Arc<dyn InlineBuffer> = self.inline.clone();
        Iomap::new(range, MapKind::Inline { data }).with_validity(self.validity())
    }

    /// What is there.
    fn look(&self, req: &MapRequest) -> Result<Mapped<()>> {
        let spot = self.spot(self.blocks_of(req.range).start(), req.nowait())?;
        Ok(Mapped::new(self.iomap_of(spot.place()), ()))
    }

    /// A place as a mapping. The mapping lock is held.
    pub(super) fn iomap_of(&self, place: Place) -> Iomap {
        match place {
            Place::Hole(range) => self.iomap(range, MapKind::Hole),
            Place::Delalloc(range) => self.iomap(range, MapKind::Delalloc),
            Place::Mapped {
                range,
                start,
                unwritten,
                shared,
            } => {
                let flags = if shared {
                    FsFlags::SHARED
                } else {
                    FsFlags::empty()
                };
                self.iomap(range, self.allocated(start, unwritten))
                    .with_flags(flags)
            }
        }
    }

    /// Where a buffered write, a zeroing, an unsharing or a store through a mapping goes: promises
    /// blocks where there are none of the file's own.
    fn map_write(&self, req: &MapRequest) -> Result<Mapped<()>> {
        let wanted = self.blocks_of(req.range);
        let mut room: Option<Reservation> = None;
        loop {
            let spot = self.spot(wanted.start(), req.nowait())?;
            let blocks = match spot.place() {
                Place::Hole(hole) if matches!(req.intent, Intent::Write | Intent::WriteFault) => {
                    hole
                }
                Place::Mapped {
                    range,
                    shared: true,
                    ..
                } => match spot.map.copy_at(wanted.start()) {
                    Some(copy) => return Ok(self.copy_answer(&spot, copy.range())),
                    None => self.before_next_copy(&spot, range),
                },
                place => return Ok(Mapped::new(self.iomap_of(place), ())),
            };
            let blocks = blocks.intersect(wanted);
            match room.take() {
                Some(room) => return Ok(self.promise(spot, blocks, room)),
                None if req.nowait() => return Err(FsError::WouldBlock),
                None => {
                    drop(spot);
                    room = Some(self.volume.reserve_some(blocks.len())?);
                }
            }
        }
    }

    fn before_next_copy(&self, spot: &Spot<'_>, range: BlockRange) -> BlockRange {
        let end = spot.map.next_copy(range.start());
        BlockRange::between(range.start(), end).intersect(range)
    }

    /// Promises the start of `blocks`, which are a hole or shared, and answers with that.
    fn promise(&self, mut spot: Spot<'_>, blocks: BlockRange, room: Reservation) -> Mapped<()> {
        let shared = matches!(spot.place(), Place::Mapped { .. });
        let range = if shared {
            spot.map.promise_copy(blocks, room)
        } else {
            spot.map.promise(blocks, room)
        };
        self.invalidate_mappings(&spot.map);
        let mut mapped = if shared {
            self.copy_answer(&spot, range)
        } else {
            Mapped::new(self.iomap(range, MapKind::Delalloc), ())
        };
        mapped.iomap.flags |= FsFlags::NEW;
        mapped
    }

    /// A copy of shared blocks in the making, and where the bytes are until then.
    fn copy_answer(&self, spot: &Spot<'_>, range: BlockRange) -> Mapped<()> {
        let source = self.iomap_of(spot.place());
        let iomap = self
            .iomap(range, MapKind::Delalloc)
            .with_flags(FsFlags::SHARED);
        Mapped {
            iomap,
            source: Some(source),
            lease: (),
        }
    }
}

impl Copy {
    /// The blocks of the file.
    pub(super) const fn range(self) -> BlockRange {
        match self {
            Self::Promised(range) | Self::Granted(range, _) => range,
        }
    }
}
