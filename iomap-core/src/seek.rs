//! Finding data and holes.
//!
//! Owns `SEEK_DATA` and `SEEK_HOLE`: their vocabulary and the loop over mappings. Does not own
//! where data is: that is asked of the backend, and for unwritten extents of the page cache, which
//! may hold data that has not been written yet.
//!
//! Kernel counterpart: `fs/iomap/seek.c`.

use crate::error::SeekError;
use crate::iomap::MapKind;
use crate::iter::{Flow, Step, for_each_mapping};
use crate::ops::{Intent, MapFlags, MapOps};
use crate::page_cache::PageCache;
use crate::units::{FilePos, FileRange};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The first byte at or after the position that may hold data (`SEEK_DATA`).
    Data,
    /// The first byte at or after the position that lies in a hole; the end of the file counts as
    /// one (`SEEK_HOLE`).
    Hole,
}

/// The first byte at or after `pos` of the kind asked for.
///
/// Reserved space that is not allocated yet is data. Lock: the inode lock, shared.
///
/// # Errors
///
/// [`SeekError::NoSuchRegion`] at or past the end of the file, and if no data follows; what the
/// backend answers.
pub fn seek<B: MapOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    whence: Whence,
) -> Result<FilePos, SeekError> {
    let inode = backend.inode();
    let range = FileRange::between(pos, inode.size());
    if range.is_empty() {
        return Err(SeekError::NoSuchRegion);
    }
    let mut found = None;
    for_each_mapping(backend, range, Intent::Report, MapFlags::empty(), |step| {
        found = find(inode.cache(), step, whence);
        if found.is_some() {
            return Ok(Flow::Stop);
        }
        step.advance(step.rest().len())?;
        Ok(Flow::Continue)
    })
    .all_or_error()?;
    match (found, whence) {
        (Some(pos), _) => Ok(pos),
        (None, Whence::Hole) => Ok(range.end()),
        (None, Whence::Data) => Err(SeekError::NoSuchRegion),
    }
}

/// The first byte of the kind asked for in one mapping.
fn find(cache: &PageCache, step: &Step<'_>, whence: Whence) -> Option<FilePos> {
    let range = step.rest();
    let (data, hole) = match step.iomap().kind {
        MapKind::Hole => (None, Some(range.start())),
        MapKind::Unwritten { .. } => {
            let hole = cache.seek_hole(range);
            (cache.seek_data(range), (hole < range.end()).then_some(hole))
        }
        MapKind::Mapped { .. } | MapKind::Delalloc | MapKind::Inline { .. } => {
            (Some(range.start()), None)
        }
    };
    match whence {
        Whence::Data => data,
        Whence::Hole => hole,
    }
}
