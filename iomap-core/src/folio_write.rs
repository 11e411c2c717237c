//! Changing one folio: the passage through the four folio points that write, zero and unshare
//! share.
//!
//! Owns the order *before lock, lock, check the mapping, prepare, fill partial blocks, change, size,
//! done, unlock, after unlock* (rules F1-F4, F6, V1), and what a partly written block is filled
//! with. Does not own the loops above it: [`write`](crate::write), [`zero`](crate::zero),
//! [`unshare`](crate::unshare).
//!
//! # Locking
//!
//! ```text
//! Inode (exclusive, by the caller) -> [TransactionBeforeFolio] -> Folio -> [TransactionInFolio]
//! ```

use std::ops::Range;

use crate::device::BioOp;
use crate::error::{FsError, ProtocolError, Result};
use crate::folio::{FolioRef, LockedFolio};
use crate::inode::Inode;
use crate::iomap::{FsFlags, InlineBuffer, Iomap, MapKind};
use crate::mutation::{self, Rule};
use crate::ops::{FolioOp, FolioOps, FolioRequest, Prepared};
use crate::page_cache::GetFolio;
use crate::resize;
use crate::units::{FilePos, FileRange, PAGE_SHIFT};
use crate::user::UserSource;

/// What to do with the bytes.
pub(crate) enum Change<'a, S: UserSource> {
    /// Copy them from the caller; the file may grow.
    Copy(&'a mut S),
    /// Make them zero.
    Zero,
    /// Keep them, but make them dirty.
    Keep,
}

impl<S: UserSource> Change<'_, S> {
    #[inline]
    const fn op(&self) -> FolioOp {
        match self {
            Self::Copy(_) => FolioOp::Write,
            Self::Zero => FolioOp::Zero,
            Self::Keep => FolioOp::Unshare,
        }
    }

    /// Whether every touched block is read first, even one that is wholly covered.
    #[inline]
    const fn keeps_content(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// How the folio is to be had, and how the mapping reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'a> {
    /// Where the bytes will go.
    pub(crate) iomap: &'a Iomap,
    /// Where the content of partly written blocks is.
    pub(crate) source: &'a Iomap,
    /// Do not wait.
    pub(crate) nowait: bool,
    /// Keep nothing new in the cache.
    pub(crate) dontcache: bool,
}

/// What became of a folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// This many bytes were accepted, from the start of the range on; the file grew or not.
    Bytes { done: u64, grew: bool },
    /// The mapping is not valid any more; nothing was changed (rule V2).
    Stale,
}

/// How often in a row a backend may put a folio off ([`Prepared::Again`]).
const AGAIN_MAX: u32 = 4096;

/// Changes as much of `range` as lies in the folio at its start. `range` lies in the mapping.
#[inline]
pub(crate) fn change_folio<B: FolioOps + ?Sized, S: UserSource>(
    backend: &B,
    range: FileRange,
    how: &How<'_>,
    change: &mut Change<'_, S>,
) -> Result<Changed> {
    for _ in 0..AGAIN_MAX {
        if let Some(changed) = pass_points(backend, range, how, change)? {
            return Ok(changed);
        }
        crate::sync::thread::yield_now();
    }
    Err(ProtocolError::NoProgress {
        pos: range.start(),
        retries: AGAIN_MAX,
    }
    .into())
}

/// Passes the four points once. `None`: the backend put the folio off.
#[inline]
fn pass_points<B: FolioOps + ?Sized, S: UserSource>(
    backend: &B,
    range: FileRange,
    how: &How<'_>,
    change: &mut Change<'_, S>,
) -> Result<Option<Changed>> {
    let req = FolioRequest {
        op: change.op(),
        range,
        nowait: how.nowait,
    };
    let mut guard = backend.before_lock(&req)?;
    let changed = locked_part(backend, &mut guard, &req, how, change);
    if changed.is_err() && mutation::off(Rule::F4) {
        // What `before_lock` opened stays open.
        std::mem::forget(guard);
        return changed;
    }
    match (changed, backend.after_unlock(guard, &req)) {
        (Ok(Some(Changed::Bytes { done, grew })), Err(error)) if done > 0 => {
            backend.inode().cache().record_error(error.errno());
            Ok(Some(Changed::Bytes { done, grew }))
        }
        (Ok(_), Err(error)) => Err(error),
        (changed, _) => changed,
    }
}

/// From the folio lock to its unlock.
#[inline]
fn locked_part<B: FolioOps + ?Sized, S: UserSource>(
    backend: &B,
    guard: &mut B::Guard,
    req: &FolioRequest,
    how: &How<'_>,
    change: &mut Change<'_, S>,
) -> Result<Option<Changed>> {
    let inode = backend.inode();
    let get = GetFolio {
        order_hint: order_of(req.range),
        nowait: how.nowait,
        dontcache: how.dontcache,
        wait_stable: inode.needs_stable_writes()
            && !(mutation::off(Rule::B10) && req.op == FolioOp::Zero),
    };
    let mut folio = inode.cache().get_or_create(req.range.start().page(), get)?;
    if !mutation::off(Rule::V1) && !backend.is_valid(how.iomap) {
        return Ok(Some(Changed::Stale));
    }
    let range = req.range.intersect(folio.range());
    let req = FolioRequest { range, ..*req };
    if backend.folio_prepare(guard, &mut folio, &req)? == Prepared::Again {
        return Ok(None);
    }
    let result = change_locked(inode, &mut folio, range, how, change);
    let done = match result {
        Ok(Changed::Bytes { .. }) if mutation::off(Rule::F3) => range.len(),
        Ok(Changed::Bytes { done, .. }) => done,
        _ => 0,
    };
    if mutation::off(Rule::F2) && done < range.len() {
        return result.map(Some);
    }
    if mutation::off(Rule::F1) {
        folio = unlock_and_lock(folio);
    }
    backend.folio_done(guard, &mut folio, &req, done);
    result.map(Some)
}

/// Used with rule F1 off: a moment in which the folio is not locked, and may leave the cache.
fn unlock_and_lock(folio: LockedFolio) -> LockedFolio {
    let mut reference = FolioRef::clone(&folio);
    drop(folio);
    tracing::trace!(target: "iomap::folio", "unlocked");
    loop {
        crate::sync::thread::yield_now();
        match LockedFolio::try_lock(reference) {
            Ok(locked) => return locked,
            Err(back) => reference = back,
        }
    }
}

/// The order of the folio a write of this length is happy with.
#[inline]
fn order_of(range: FileRange) -> u32 {
    let pages = range.pages();
    pages.1.since(pages.0).max(1).ilog2()
}

/// `write_begin`, the change, `write_end`, and the size, for one locked folio.
#[inline]
fn change_locked<S: UserSource>(
    inode: &Inode,
    folio: &mut LockedFolio,
    range: FileRange,
    how: &How<'_>,
    change: &mut Change<'_, S>,
) -> Result<Changed> {
    let bytes = offsets(folio, range);
    if let MapKind::Inline { data } = &how.iomap.kind {
        check_inline(range, &**data)?;
    }
    let was_uptodate = folio.is_range_uptodate(bytes.clone());
    if !was_uptodate {
        write_begin(inode, folio, &bytes, how, change.keeps_content())?;
    }
    let done = match change {
        Change::Copy(source) => source.copy_to(folio, bytes.start, bytes.len()),
        Change::Zero => {
            folio.zero(bytes.clone());
            bytes.len()
        }
        Change::Keep => bytes.len(),
    };
    if done < bytes.len() && !was_uptodate && !mutation::off(Rule::B37) {
        // Bytes that were neither read nor copied must not become visible (rule B37).
        return Ok(Changed::Bytes {
            done: 0,
            grew: false,
        });
    }
    if done == 0 {
        return Ok(Changed::Bytes {
            done: 0,
            grew: false,
        });
    }
    folio.set_range_uptodate(bytes.clone());
    let written = bytes.start..bytes.start + done;
    match &how.iomap.kind {
        MapKind::Inline { data } => store_inline(folio, range.start(), written, &**data),
        _ => folio.set_range_dirty(written),
    }
    folio.mark_accessed();
    let end = range.take(done as u64).end();
    let old_size = inode.size();
    let grew = matches!(change, Change::Copy(_))
        && end > old_size
        && !how.iomap.flags.contains(FsFlags::BEYOND_EOF);
    if grew && !mutation::off(Rule::F6) {
        // Under the folio lock: writeback of this folio sees the size that covers it (rule F6).
        inode.set_size(end);
    }
    if grew && mutation::off(Rule::F5) && range.start() > old_size {
        resize::isize_extended(inode, old_size, range.start());
    }
    Ok(Changed::Bytes {
        done: done as u64,
        grew,
    })
}

/// The bytes of `range` as offsets into the folio.
#[inline]
fn offsets(folio: &LockedFolio, range: FileRange) -> Range<usize> {
    // A folio is at most 2 MiB: the differences fit.
    let start = range.start().since(folio.range().start()) as usize;
    start..start + range.len() as usize
}

/// Fills the blocks that `bytes` touches and will not wholly overwrite, where they are not up to
/// date.
fn write_begin(
    inode: &Inode,
    folio: &mut LockedFolio,
    bytes: &Range<usize>,
    how: &How<'_>,
    keeps_content: bool,
) -> Result<()> {
    let block = (inode.block_bits().size() as usize).min(folio.len());
    let first = bytes.start / block * block;
    let end = bytes.end.div_ceil(block) * block;
    let mut at = first;
    while let Some(missing) = folio.first_not_uptodate(at..end.min(folio.len())) {
        let missing = missing.start / block * block..missing.start / block * block + block;
        at = missing.end;
        let covered = bytes.start <= missing.start && missing.end <= bytes.end;
        if covered && !keeps_content {
            continue;
        }
        fill_block(inode, folio, missing, how)?;
    }
    Ok(())
}

/// Gives one block of a locked folio the content it has on storage. It is not marked up to date:
/// the caller does that with the bytes it changes.
fn fill_block(
    inode: &Inode,
    folio: &mut LockedFolio,
    block: Range<usize>,
    how: &How<'_>,
) -> Result<()> {
    let start = folio.range().start().saturating_add(block.start as u64);
    let source = if matches!(how.source.kind, MapKind::Hole) {
        how.iomap
    } else {
        how.source
    };
    if start >= inode.size() && !source.flags.contains(FsFlags::BEYOND_EOF) {
        folio.zero(block);
        return Ok(());
    }
    match &source.kind {
        MapKind::Inline { data } => {
            fill_inline(folio, start, block, &**data);
            Ok(())
        }
        MapKind::Mapped { .. } if source.is_read_from_device() => {
            read_block(inode, folio, start, block, source, how.nowait)
        }
        _ => {
            folio.zero(block);
            Ok(())
        }
    }
}

/// Reads one block from the device and waits for it.
fn read_block(
    inode: &Inode,
    folio: &mut LockedFolio,
    start: FilePos,
    block: Range<usize>,
    source: &Iomap,
    nowait: bool,
) -> Result<()> {
    if nowait {
        return Err(FsError::WouldBlock);
    }
    if !source
        .range
        .covers(FileRange::at_most(start, block.len() as u64))
    {
        return Err(ProtocolError::BadKind {
            what: "a mapping that ends inside a block",
            pos: start,
        }
        .into());
    }
    let Some(addr) = source.addr_at(start) else {
        return Err(ProtocolError::BadKind {
            what: "no address to read from",
            pos: start,
        }
        .into());
    };
    let segment = folio.segment(block.start, block.len());
    inode
        .device()
        .transfer(BioOp::Read, addr, block.len() as u64, &[segment])?;
    Ok(())
}

/// Copies inline data into a block of the folio; what lies past it reads as zeroes.
pub(crate) fn fill_inline(
    folio: &mut LockedFolio,
    start: FilePos,
    block: Range<usize>,
    data: &dyn InlineBuffer,
) {
    let mut bytes = vec![0; block.len()];
    // Inline data starts at position 0 and is smaller than a folio: the position fits.
    data.read_at(start.bytes() as usize, &mut bytes);
    folio.copy_in(block.start, &bytes);
}

/// Copies what was written to the folio into the inode, which is where inline data lives.
fn store_inline(
    folio: &LockedFolio,
    start: FilePos,
    written: Range<usize>,
    data: &dyn InlineBuffer,
) {
    let mut bytes = vec![0; written.len()];
    folio.copy_out(written.start, &mut bytes);
    data.write_at(start.bytes() as usize, &bytes);
}

/// Inline data must have room for what is written.
fn check_inline(range: FileRange, data: &dyn InlineBuffer) -> Result<()> {
    if range.end().bytes() > data.capacity() as u64 {
        let what = "inline data without room for the write";
        return Err(ProtocolError::BadKind {
            what,
            pos: range.start(),
        }
        .into());
    }
    Ok(())
}

/// The largest piece one folio may take, bytes.
pub(crate) const CHUNK_MAX: u64 = 1 << (PAGE_SHIFT + 9);
