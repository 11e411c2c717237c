//! Direct I/O: storage at once, and what makes it findable when it is written.
//!
//! Owns the answers to direct writes, and the decision whether one is a pure overwrite. New storage
//! is unwritten, or a private copy no file has yet, until [`DirectOps::direct_done`].

use iomap_core::error::{FsError, Result};
use iomap_core::iomap::FsFlags;
use iomap_core::ops::{
    DirectDone, DirectKinds, DirectOps, MapError, MapFlags, MapRequest, Mapped, Overwrite,
};
use iomap_core::units::FileRange;

use super::inode::TestInode;
use super::mapping::{Copy, Place};
use crate::format::BlockRange;

impl TestInode {
    /// Where a direct write goes. The file is not inline.
    pub(super) fn map_direct(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let wanted = self.blocks_of(req.range);
        let must_not_allocate = req
            .flags
            .intersects(MapFlags::NOWAIT | MapFlags::OVERWRITE_ONLY);
        loop {
            let spot = self.spot(wanted.start(), req.nowait())?;
            let place = spot.place();
            let copy = spot.map.copy_at(wanted.start());
            match (place, copy) {
                (Place::Mapped { shared: false, .. }, _) => {
                    let mut iomap = self.iomap_of(place);
                    drop(spot);
                    iomap.flags |= self.durability_of(req.range);
                    return Ok(Mapped::new(iomap, ()));
                }
                (Place::Mapped { range, .. }, Some(Copy::Granted(to, disk))) => {
                    let to = to.intersect(range);
                    let flags = FsFlags::SHARED | FsFlags::DIRTY;
                    let iomap = self.iomap(to, self.allocated(disk, false));
                    return Ok(Mapped::new(iomap.with_flags(flags), ()));
                }
                _ if must_not_allocate => return Err(FsError::WouldBlock.into()),
                _ => {}
            }
            drop(spot);
            self.allocate_direct(place, copy, req, wanted)?;
        }
    }

    /// Gives storage to the start of what a direct write asks for.
    fn allocate_direct(
        &self,
        place: Place,
        copy: Option<Copy>,
        req: &MapRequest,
        wanted: BlockRange,
    ) -> Result<(), MapError> {
        match place {
            Place::Delalloc(range) => {
                self.allocate(range.intersect(wanted), None)?;
            }
            Place::Hole(range) => {
                let range = range.intersect(wanted);
                let room = self.volume.reserve_some(range.len())?;
                self.allocate(range, Some(&room))?;
            }
            Place::Mapped { .. } if self.bytes_of(wanted) != req.range => {
                // What is around the bytes in their blocks has to be copied: the cache does that.
                return Err(MapError::UseBuffered);
            }
            Place::Mapped { range, .. } => {
                let range = range.intersect(wanted);
                match copy {
                    Some(copy) => self.grant(copy.range().intersect(range), None)?,
                    None => {
                        let room = self.volume.reserve_some(range.len())?;
                        self.grant(range, Some(&room))?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl DirectOps for TestInode {
    fn direct_done(&self, done: &DirectDone) -> Result<()> {
        let copied = done.kinds.contains(DirectKinds::COW);
        let unwritten = done.kinds.contains(DirectKinds::UNWRITTEN);
        let written = done.range.take(done.written);
        let result = if written.is_empty() {
            Ok(())
        } else {
            self.direct_written(written, unwritten, copied)
        };
        if copied {
            // What was allocated for a copy and not written.
            self.drop_copies(self.blocks_of(done.range));
        }
        result
    }

    fn direct_needs_work(&self, done: &DirectDone) -> bool {
        let end = done.range.take(done.written).end();
        !done.kinds.is_empty() || end.bytes() > self.disk_size() || end > self.core.size()
    }

    fn is_overwrite(&self, range: FileRange) -> Result<Overwrite> {
        if self.inline.is_used() {
            return Ok(Overwrite::No);
        }
        let mut rest = self.blocks_of(range);
        let mut answer = Overwrite::Written;
        while !rest.is_empty() {
            let here = match self.spot(rest.start(), false)?.place() {
                Place::Mapped {
                    range,
                    unwritten,
                    shared: false,
                    ..
                } => {
                    if unwritten {
                        answer = Overwrite::Allocated;
                    }
                    range
                }
                _ => return Ok(Overwrite::No),
            };
            rest = BlockRange::between(here.end(), rest.end());
        }
        Ok(answer)
    }
}

impl TestInode {
    fn direct_written(&self, written: FileRange, unwritten: bool, copied: bool) -> Result<()> {
        let end = written.end();
        if unwritten || copied || end.bytes() > self.disk_size() {
            self.written(written, end, unwritten, copied)?;
        }
        if end > self.core.size() {
            // The submitter waits, with the inode lock held exclusively.
            self.core.set_size(end);
        }
        Ok(())
    }
}
