//! What stands between pinned pages and whoever frees or moves their blocks.
//!
//! Owns [`unmap_and_wait_for_pins`], which does what it is called and no more: it revokes nothing,
//! tells nobody, and breaks no lease. A holder of a pin who knows where bytes of the file were may
//! find them elsewhere afterwards, just as with a page cache; what it never finds is another file's
//! data under its pin.
//!
//! Every operation of a backend that frees or moves blocks calls it first (rule D6): truncate, punch,
//! collapse, insert, reflink over a file, exchange of extents.
//!
//! # The order
//!
//! ```text
//! inode lock held → invalidate lock taken → pages taken out of every mapping (rule D2)
//!   → no pin in the range: go on, with both locks
//!   → a pin: invalidate lock dropped, the inode lock kept (rules D3, D4); wait; from the start
//! ```
//!
//! The invalidate lock is dropped, for the holder of the pin may need it for a fault before it can
//! let go. The inode lock is kept: whoever pins again and again through calls on the file cannot, and
//! what the caller has checked of the size stays true.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use smallvec::SmallVec;

use super::{drop_entries, flush_range, table_of};
use crate::dax::PinWaitError;
use crate::error::{Errno, FsError, Result};
use crate::inode::{ExclusiveGuard, Inode};
use crate::iomap::MapKind;
use crate::iter::{Flow, for_each_mapping};
use crate::mutation::{Rule, off};
use crate::ops::{Intent, MapFlags, MapOps};
use crate::stats::Event;
use crate::sync::RwLockWriteGuard;
use crate::units::{DevAddr, FileRange, PageIndex};

/// How long a move of blocks waits for pins; `None`: as long as it takes.
pub type PinTimeout = Option<Duration>;

/// What becomes of the bytes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// They go: truncate, punch. Whole pages inside the range are not made durable first.
    Dropped,
    /// They stay, elsewhere: everything is made durable first.
    Kept,
}

/// A range of a file whose blocks are going to be freed or moved.
#[derive(Debug)]
pub struct Blocks<'a, B: ?Sized> {
    /// The file.
    pub backend: &'a B,
    /// The bytes.
    pub range: FileRange,
    /// What becomes of them.
    pub content: Content,
}

impl<B: ?Sized> Clone for Blocks<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: ?Sized> Copy for Blocks<'_, B> {}

type InodeGuards<'a> = SmallVec<[ExclusiveGuard<'a>; 2]>;
type InvalidateGuards<'a> = SmallVec<[RwLockWriteGuard<'a, ()>; 2]>;

/// The locks under which blocks may be freed and moved: of each file the inode lock and the
/// invalidate lock, exclusively.
#[must_use = "faults go on when the locks are dropped"]
pub struct LayoutLocks<'a> {
    _invalidate: InvalidateGuards<'a>,
    inodes: InodeGuards<'a>,
}

impl<'a> LayoutLocks<'a> {
    /// The inode lock of the first file.
    pub fn inode(&self) -> &ExclusiveGuard<'a> {
        &self.inodes[0]
    }
}

impl fmt::Debug for LayoutLocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayoutLocks")
            .field("files", &self.inodes.len())
            .finish_non_exhaustive()
    }
}

/// Takes the pages of `parts` out of every memory mapping and waits until none of their blocks is
/// pinned. On return no page of them appears anywhere, and none can before the locks are dropped.
///
/// `inodes` are the inode locks of the files of `parts`, at least one, in the order of their
/// numbers; they are given back inside the answer, and were held all the time. Files that are no
/// DAX files only have their invalidate locks taken.
///
/// # Errors
///
/// `Interrupted` ([`Pins::interrupt`](crate::dax::Pins::interrupt)); `ETIMEDOUT` after `timeout`;
/// what the backend answers when asked for its blocks, or the device for bytes that stay. Nothing
/// was freed or moved, and no lock is held (rule D5).
///
/// # Panics
///
/// If `inodes` is empty.
pub fn unmap_and_wait_for_pins<'a, B: MapOps + ?Sized>(
    parts: &[Blocks<'a, B>],
    inodes: impl IntoIterator<Item = ExclusiveGuard<'a>>,
    timeout: PinTimeout,
) -> Result<LayoutLocks<'a>> {
    let mut inodes: InodeGuards<'a> = inodes.into_iter().collect();
    assert!(!inodes.is_empty(), "a move of blocks without its locks");
    let volume = parts.iter().find_map(|part| part.backend.inode().dax());
    let Some(volume) = volume.map(|table| table.volume()) else {
        let _invalidate = take_invalidate(parts);
        return Ok(LayoutLocks {
            _invalidate,
            inodes,
        });
    };
    let wait = volume.pins().start_waiting(timeout);
    loop {
        let invalidate = take_invalidate(parts);
        if !off(Rule::D2) {
            unmap(parts);
        }
        let pinned = first_pinned(parts)?;
        if off(Rule::D2) {
            unmap(parts);
        }
        let Some(pinned) = pinned.filter(|_| !off(Rule::D1)) else {
            settle(parts)?;
            return Ok(LayoutLocks {
                _invalidate: invalidate,
                inodes,
            });
        };
        parts[0].backend.inode().counters().count(Event::pin_waits);
        let kept = off(Rule::D3).then_some(invalidate);
        if off(Rule::D4) {
            inodes.clear();
        }
        let waited = volume.pins().wait_for(pinned, &wait);
        if off(Rule::D4) {
            inodes = distinct(parts).map(Inode::lock_exclusive).collect();
        }
        drop(kept);
        if let Err(error) = waited
            && !off(Rule::D5)
        {
            return Err(wait_error(error));
        }
        if waited.is_err() {
            let _invalidate = take_invalidate(parts);
            return Ok(LayoutLocks {
                _invalidate,
                inodes,
            });
        }
    }
}

/// Moves the bytes of `range` to other blocks by `mover`, safely beside memory mappings: faults are
/// blocked, the bytes made durable, every mapping taken down (rule S6), the blocks moved, faults let
/// go on. For defragmentation, a break of sharing, an exchange of extents.
///
/// `mover` copies the bytes and changes the mapping; memory mappings find the new blocks by their
/// next fault. A synchronous mapping makes it durable by itself then.
///
/// # Errors
///
/// Those of [`unmap_and_wait_for_pins`], then nothing has happened; whatever `mover` answers.
pub fn move_blocks<'a, B: MapOps + ?Sized, T>(
    backend: &'a B,
    range: FileRange,
    inode: ExclusiveGuard<'a>,
    timeout: PinTimeout,
    mover: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let part = Blocks {
        backend,
        range,
        content: Content::Kept,
    };
    let _locks = unmap_and_wait_for_pins(&[part], [inode], timeout)?;
    mover()
}

/// The files of `parts`, each once, in the order of their numbers.
fn distinct<'a, B: MapOps + ?Sized>(
    parts: &[Blocks<'a, B>],
) -> impl Iterator<Item = &'a Inode> + use<'a, B> {
    let mut inodes: SmallVec<[&'a Inode; 2]> = parts.iter().map(|p| p.backend.inode()).collect();
    inodes.sort_by_key(|inode| inode.ino());
    inodes.dedup_by_key(|inode| inode.ino());
    inodes.into_iter()
}

fn take_invalidate<'a, B: MapOps + ?Sized>(parts: &[Blocks<'a, B>]) -> InvalidateGuards<'a> {
    distinct(parts)
        .map(|inode| inode.invalidate_lock().write())
        .collect()
}

/// Takes the pages out of every mapping.
fn unmap<B: MapOps + ?Sized>(parts: &[Blocks<'_, B>]) {
    for part in parts {
        if off(Rule::S6) && part.content == Content::Kept {
            continue;
        }
        let mappings = part.backend.inode().cache().mappings();
        mappings.unmap(&pages_of(part));
    }
}

/// The first pinned page among the blocks. What a file has under a page may have been pinned through
/// another one: blocks are asked for, not entries.
fn first_pinned<B: MapOps + ?Sized>(parts: &[Blocks<'_, B>]) -> Result<Option<DevAddr>> {
    for part in parts {
        let inode = part.backend.inode();
        let Some(table) = inode.dax() else { continue };
        let pins = table.volume().pins();
        if pins.is_empty() {
            continue;
        }
        let range = part.range.round_out(inode.block_bits());
        let mut found = None;
        for_each_mapping(part.backend, range, Intent::Report, MapFlags::DAX, |step| {
            let here = step.rest();
            if let MapKind::Mapped { .. } | MapKind::Unwritten { .. } = step.iomap().kind
                && let Some(addr) = step.iomap().addr_at(here.start())
            {
                found = pins.first_in(addr, here.len());
            }
            step.advance(here.len())?;
            Ok(if found.is_some() {
                Flow::Stop
            } else {
                Flow::Continue
            })
        })
        .all_or_error()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Takes the entries away: the next fault asks for the blocks anew.
fn settle<B: MapOps + ?Sized>(parts: &[Blocks<'_, B>]) -> Result<()> {
    for part in parts {
        let inode = part.backend.inode();
        if inode.dax().is_none() {
            continue;
        }
        if part.content == Content::Kept {
            flush_range(inode, part.range)?;
        }
        if off(Rule::S6) && part.content == Content::Kept {
            forget_entries(inode, &pages_of(part))?;
            continue;
        }
        drop_entries(inode, &pages_of(part), &discarded(part))?;
    }
    Ok(())
}

/// The pages whose bytes nobody will see again: those wholly inside the range, and the one the file
/// ends in.
fn discarded<B: MapOps + ?Sized>(part: &Blocks<'_, B>) -> Range<PageIndex> {
    let start = part.range.start().page_up();
    let size = part.backend.inode().size();
    let end = if part.range.end() >= size {
        PageIndex::END
    } else {
        part.range.end().page()
    };
    match part.content {
        Content::Dropped => start..end.max(start),
        Content::Kept => start..start,
    }
}

fn pages_of<B: ?Sized>(part: &Blocks<'_, B>) -> Range<PageIndex> {
    let (start, end) = part.range.pages();
    start..end
}

/// Takes entries away and leaves mappings alone: only with rule S6 off.
fn forget_entries(inode: &Inode, pages: &Range<PageIndex>) -> Result<()> {
    let table = table_of(inode)?;
    while let Some(entry) = table.entries().lock_next(pages) {
        entry.delete();
    }
    Ok(())
}

fn wait_error(error: PinWaitError) -> FsError {
    match error {
        PinWaitError::Interrupted => FsError::Interrupted,
        PinWaitError::TimedOut => FsError::Os {
            errno: Errno::TIMEDOUT,
        },
    }
}
