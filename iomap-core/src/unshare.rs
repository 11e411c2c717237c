//! Giving shared storage a private copy, without changing a byte.
//!
//! Owns the choice of what is touched: shared and written extents inside the request and the file,
//! nothing else (rule B18). The copy is made by writeback of the folios dirtied here.
//!
//! # Locking
//!
//! The caller holds the inode lock and the invalidate lock exclusively.

use crate::dax_io;
use crate::error::Result;
use crate::flusher;
use crate::folio_write::{CHUNK_MAX, Change, Changed, How, change_folio};
use crate::iomap::{FsFlags, MapKind};
use crate::iter::{Flow, Step, for_each_mapping};
use crate::ops::{FolioOps, Intent, MapFlags};
use crate::units::FileRange;
use crate::user::SliceSource;

/// Reads and dirties every shared, written block of `range` inside the file; a DAX file has its
/// copies when this returns.
///
/// # Errors
///
/// What the backend's hooks, the device or the memory budget answer; part of the range may be
/// dirty then.
pub fn unshare_range<B: FolioOps + ?Sized>(backend: &B, range: FileRange) -> Result<()> {
    if backend.inode().dax().is_some() {
        return dax_io::unshare_range(backend, range);
    }
    let range = range.intersect(backend.inode().bytes());
    for_each_mapping(backend, range, Intent::Unshare, MapFlags::empty(), |step| {
        unshare_mapping(backend, step)
    })
    .all_or_error()
}

/// The body for one mapping.
fn unshare_mapping<B: FolioOps + ?Sized>(backend: &B, step: &mut Step<'_>) -> Result<Flow> {
    let shared = step.iomap().flags.contains(FsFlags::SHARED);
    if !shared
        || matches!(
            step.source().kind,
            MapKind::Hole | MapKind::Unwritten { .. }
        )
    {
        step.advance(step.rest().len())?;
        return Ok(Flow::Continue);
    }
    while !step.rest().is_empty() {
        flusher::balance_dirty_pages(backend.inode(), false)?;
        let how = How {
            iomap: step.iomap(),
            source: step.source(),
            nowait: false,
            dontcache: false,
        };
        let range = step.rest().take(CHUNK_MAX);
        match change_folio(backend, range, &how, &mut Change::<SliceSource<'_>>::Keep)? {
            Changed::Bytes { done, .. } => step.advance(done)?,
            Changed::Stale => {
                step.set_stale();
                return Ok(Flow::Continue);
            }
        }
    }
    Ok(Flow::Continue)
}
