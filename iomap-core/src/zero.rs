//! Zeroing a range through the cache: `zero_range` and `truncate_page`.
//!
//! Owns which mappings need work. A hole needs none; an unwritten extent only where the cache holds
//! newer data (rule B8): such folios are visited one by one, gaps are skipped (rule B9), and the
//! mapping must still be valid when the walk is over. Never changes the size of the file; never
//! touches a block wholly beyond its end (rule B13).
//!
//! # Locking
//!
//! The caller holds the inode lock exclusively, and the invalidate lock exclusively as well when
//! the zeroing belongs to a truncate or punch. No transaction is open.

use crate::dax_io;
use crate::error::Result;
use crate::flusher;
use crate::folio_write::{CHUNK_MAX, Change, Changed, How, change_folio};
use crate::iomap::MapKind;
use crate::iter::{Flow, Step, for_each_mapping};
use crate::mutation::{self, Rule};
use crate::ops::{FolioOps, Intent, MapFlags};
use crate::units::{FilePos, FileRange};
use crate::user::SliceSource;

/// Makes the bytes of `range` zero, as far as they lie before the end of the file rounded up to a
/// block. Returns whether any folio had to be changed.
///
/// # Errors
///
/// What the backend's hooks, the device or the memory budget answer; part of the range may be zero
/// then.
pub fn zero_range<B: FolioOps + ?Sized>(backend: &B, range: FileRange) -> Result<bool> {
    let inode = backend.inode();
    if inode.dax().is_some() {
        return dax_io::zero_range(backend, range);
    }
    let end = inode.size().round_up(inode.block_bits());
    let range = range.intersect(FileRange::between(FilePos::ZERO, end));
    let mut zeroed = false;
    for_each_mapping(backend, range, Intent::Zero, MapFlags::empty(), |step| {
        zero_mapping(backend, step, &mut zeroed)
    })
    .all_or_error()?;
    Ok(zeroed)
}

/// Makes the bytes from `pos` to the end of its block zero; nothing if `pos` is aligned. Returns
/// whether a folio was changed.
///
/// # Errors
///
/// As [`zero_range`].
pub fn truncate_page<B: FolioOps + ?Sized>(backend: &B, pos: FilePos) -> Result<bool> {
    let bits = backend.inode().block_bits();
    zero_range(backend, FileRange::between(pos, pos.round_up(bits)))
}

/// The body for one mapping.
fn zero_mapping<B: FolioOps + ?Sized>(
    backend: &B,
    step: &mut Step<'_>,
    zeroed: &mut bool,
) -> Result<Flow> {
    tracing::trace!(
        target: "iomap::zero", ino = backend.inode().ino(), range = %step.rest(),
        kind = ?step.iomap().kind, "zero_iter"
    );
    match (&step.iomap().kind, &step.source().kind) {
        (MapKind::Hole, MapKind::Hole) => {
            step.advance(step.rest().len())?;
            Ok(Flow::Continue)
        }
        (MapKind::Hole | MapKind::Unwritten { .. }, MapKind::Hole | MapKind::Unwritten { .. })
            if mutation::off(Rule::B8) =>
        {
            step.advance(step.rest().len())?;
            Ok(Flow::Continue)
        }
        (MapKind::Hole | MapKind::Unwritten { .. }, MapKind::Hole | MapKind::Unwritten { .. }) => {
            zero_cached(backend, step, zeroed)
        }
        _ => {
            while !step.rest().is_empty() {
                if !zero_folio(backend, step, step.rest(), zeroed)? {
                    return Ok(Flow::Continue);
                }
            }
            Ok(Flow::Continue)
        }
    }
}

/// Zeroes what the cache holds over an unwritten extent.
fn zero_cached<B: FolioOps + ?Sized>(
    backend: &B,
    step: &mut Step<'_>,
    zeroed: &mut bool,
) -> Result<Flow> {
    let cache = backend.inode().cache();
    while !step.rest().is_empty() {
        let rest = step.rest();
        let Some(folio) = cache.next(rest.start().page(), rest.end().page_up()) else {
            break;
        };
        let here = folio.range().intersect(rest);
        step.advance(here.start().since(rest.start()))?;
        if folio.is_dirty() || folio.is_writeback() {
            if !zero_folio(backend, step, here, zeroed)? {
                return Ok(Flow::Continue);
            }
        } else {
            step.advance(here.len())?;
        }
    }
    // A folio that was written back and dropped while we walked has converted its blocks: then the
    // mapping is stale, and what was skipped is looked at again. A conversion still under way
    // keeps its folio under writeback, where the walk saw it.
    if backend.is_valid(step.iomap()) {
        step.advance(step.rest().len())?;
    } else {
        step.set_stale();
    }
    Ok(Flow::Continue)
}

/// Zeroes the part of `range` in the folio at its start. `false`: the mapping went stale.
fn zero_folio<B: FolioOps + ?Sized>(
    backend: &B,
    step: &mut Step<'_>,
    range: FileRange,
    zeroed: &mut bool,
) -> Result<bool> {
    flusher::balance_dirty_pages(backend.inode(), false)?;
    let how = How {
        iomap: step.iomap(),
        source: step.source(),
        nowait: false,
        dontcache: false,
    };
    let range = range.take(CHUNK_MAX);
    match change_folio(backend, range, &how, &mut Change::<SliceSource<'_>>::Zero)? {
        Changed::Bytes { done, .. } => {
            *zeroed = true;
            step.advance(done)?;
            Ok(true)
        }
        Changed::Stale => {
            step.set_stale();
            Ok(false)
        }
    }
}
