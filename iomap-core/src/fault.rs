//! Faults of memory mappings on the page cache: a page becomes readable, or writable.
//!
//! Owns what happens between an access that found no permission and the page table that gives it:
//! [`fault`]. Does not own page tables and the walk back to them ([`mmap`](crate::mmap)), nor what
//! takes permission away again: writeback, truncate, reclaim and journal commits do that with the
//! folio locked. The faults of a DAX file go on to [`dax_io::fault`](crate::dax_io::fault()).
//!
//! # A write fault
//!
//! ```text
//! Invalidate (shared) -> before_lock -> Folio
//!     still in the cache? inside the file? up to date? not under stable writeback?
//!     folio_prepare                journal write access, frozen copies (rule J2)
//!     dirty                        visible to direct I/O before the count is read (rule O3)
//!     full fence, in-flight count  with the folio locked (rule O4)
//!     begin(WriteFault) .. end     reserve or allocate; unwritten if direct I/O is in flight
//!     folio_done                   the journal hears of it, mapped block or not (rule J3)
//!     writable in the page table   while the transaction is open: its commit protects it (rule J1)
//! unlock -> after_unlock
//! ```
//!
//! What is writable is one page, as far as the file reaches: blocks of it past the end of the file
//! get no storage. When the file grows over them, [`resize`](crate::resize) takes the permission
//! back, and the next store comes here again.
//!
//! A mapping is asked for with the folio locked and used before it is unlocked, so it needs no
//! second look (rule V1): who frees or moves blocks under a folio holds the invalidate lock
//! exclusively or the folio lock.
//!
//! Kernel counterpart: `filemap_fault`, `iomap_page_mkwrite`.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::dax_io;
use crate::error::{FaultError, FsError, ProtocolError, Result};
use crate::flusher;
use crate::folio::{FolioRef, LockedFolio};
use crate::inode::Inode;
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::iter::{Flow, for_each_mapping};
use crate::mmap::real::about_to_wait;
use crate::mmap::{Access, FaultHandler, Frames, MappedRange};
use crate::mutation::{Rule, off};
use crate::ops::{FolioOp, FolioRequest, Intent, MapFlags, Prepared, WritebackOps};
use crate::page_cache::PageCache;
use crate::read;
use crate::stats::Event;
use crate::units::{FilePos, FileRange, PAGE_SIZE, PageIndex};
use crate::writeback::wait;

/// The faults of one file. See [`FaultHandler`].
#[derive(Debug)]
pub struct PageFaults<B>(Arc<B>);

impl<B> PageFaults<B> {
    /// The faults of `backend`'s file. The file lives as long as its mappings.
    #[must_use]
    pub const fn new(backend: Arc<B>) -> Self {
        Self(backend)
    }
}

impl<B: WritebackOps> FaultHandler for PageFaults<B> {
    fn cache(&self) -> &PageCache {
        self.0.inode().cache()
    }

    fn fault(
        &self,
        range: &Arc<MappedRange>,
        page: PageIndex,
        access: Access,
    ) -> Result<(), FaultError> {
        fault(&*self.0, range, page, access)
    }

    fn reaches(&self, page: PageIndex) -> bool {
        is_in_file(self.0.inode(), page)
    }
}

/// How often a fault starts again before it gives up. Each time somebody else has taken the folio
/// away or holds it: a system in which this happens so often has no memory to work with.
const TRIES: u32 = 4096;

/// How often memory that ran out, after a bounded wait each time, is asked for again.
const HOPE: u32 = 32;

/// What became of one attempt.
enum Attempt {
    /// The page table permits the access.
    Done,
    /// The page is not in the cache, or not up to date.
    Missing,
    /// It is being written, and must not change meanwhile.
    Busy(FolioRef),
    /// Its memory cannot be shown in this mapping yet, because somebody else refers to it.
    Elsewhere(FolioRef),
    /// The backend put the folio off.
    Again,
}

/// Makes `page` accessible in `range`, for loads or also for stores.
///
/// No locks are held. Takes the invalidate lock shared, opens a transaction for a store, locks the
/// folio.
///
/// # Errors
///
/// [`FaultError::BeyondEnd`] past the page with the last byte of the file. Of a store, no space
/// left and its kin: nothing is reserved then, what was dirty before stays dirty. What reading the
/// page answers.
///
/// # Panics
///
/// With the rank checker on, if the thread holds a lock of the core.
pub fn fault<B: WritebackOps + ?Sized>(
    backend: &B,
    range: &Arc<MappedRange>,
    page: PageIndex,
    access: Access,
) -> Result<(), FaultError> {
    let inode = backend.inode();
    if inode.dax().is_some() {
        return dax_io::fault(backend, range, page, access);
    }
    if access.is_store() {
        inode.counters().count(Event::write_faults);
        flusher::balance_dirty_pages(inode, false)?;
        backend.file_modified(false)?;
    } else {
        inode.counters().count(Event::read_faults);
    }
    for tries in 0..TRIES {
        let attempt = {
            let _invalidate = inode.invalidate_lock().read();
            if page.pos() >= inode.size() {
                return Err(FaultError::BeyondEnd { page });
            }
            if access.is_store() {
                page_mkwrite(backend, range, page)?
            } else {
                show_for_reading(inode, range, page)?
            }
        };
        if matches!(attempt, Attempt::Done) {
            return Ok(());
        }
        about_to_wait();
        match attempt {
            Attempt::Done => return Ok(()),
            Attempt::Missing => match read::fetch_page(backend, page) {
                // A program can be told no, but not to try again later.
                Err(FsError::NoMemory) if tries < HOPE => crate::sync::thread::yield_now(),
                result => result?,
            },
            Attempt::Busy(folio) => wait::for_folio(backend, &folio, true),
            Attempt::Elsewhere(folio) => wait_for_others(backend, folio, tries)?,
            Attempt::Again => crate::sync::thread::yield_now(),
        }
    }
    let error = ProtocolError::NoProgress {
        pos: page.pos(),
        retries: TRIES,
    };
    Err(FsError::from(error).into())
}

/// log2 of the pages a read fault shows at most.
const AROUND: u32 = 4;

/// One attempt at a read fault: the page, and where the last read fault of the mapping was beside
/// it, the pages of the folio around it that are up to date. Who jumps about gets no more than it
/// looks at.
fn show_for_reading(
    inode: &Inode,
    range: &Arc<MappedRange>,
    page: PageIndex,
) -> Result<Attempt, FaultError> {
    let Some(mut folio) = inode.cache().find_lock(page, false)? else {
        return Ok(Attempt::Missing);
    };
    if !is_in_file(inode, page) {
        return Err(FaultError::BeyondEnd { page });
    }
    if !make_whole(inode, &mut folio, page) {
        return Ok(Attempt::Missing);
    }
    let around = if folio.is_uptodate() && range.is_near_last(page, AROUND) {
        // Faulting around: what is there and inside the file costs little more.
        let first = page.align_down(AROUND).max(folio.index());
        let end = folio.end_index().min(inode.size().page_up());
        first..page.align_down(AROUND).plus(1 << AROUND).min(end)
    } else {
        page..page.plus(1)
    };
    range.note_shown(around.end);
    show(inode, range, &mut folio, around, false)
}

/// One attempt at a write fault: passes the four folio points.
fn page_mkwrite<B: WritebackOps + ?Sized>(
    backend: &B,
    range: &Arc<MappedRange>,
    page: PageIndex,
) -> Result<Attempt, FaultError> {
    let inode = backend.inode();
    if inode.cache().find(page).is_none() {
        return Ok(Attempt::Missing);
    }
    let req = FolioRequest {
        op: FolioOp::WriteFault,
        range: page_bytes(page),
        nowait: false,
    };
    let early = off(Rule::O4).then(|| inode.direct().is_busy_after_fence());
    let mut guard = backend.before_lock(&req)?;
    let result = with_locked(backend, &mut guard, &req, range, early);
    match (result, backend.after_unlock(guard, &req)) {
        (Ok(Attempt::Done), Err(error)) => {
            // The page is writable already: for `fsync`.
            inode.cache().record_error(error.errno());
            Ok(Attempt::Done)
        }
        (Ok(_), Err(error)) => Err(error.into()),
        (result, _) => result,
    }
}

/// From the folio lock to its unlock.
fn with_locked<B: WritebackOps + ?Sized>(
    backend: &B,
    guard: &mut B::Guard,
    req: &FolioRequest,
    range: &Arc<MappedRange>,
    early: Option<bool>,
) -> Result<Attempt, FaultError> {
    let inode = backend.inode();
    let page = req.range.start().page();
    let Some(mut folio) = inode.cache().find_lock(page, false)? else {
        return Ok(Attempt::Missing);
    };
    // Truncate moves the size before it takes the folio: under the folio lock one of us sees it.
    if !is_in_file(inode, page) {
        return Err(FaultError::BeyondEnd { page });
    }
    if !make_whole(inode, &mut folio, page) {
        return Ok(Attempt::Missing);
    }
    if inode.needs_stable_writes() && folio.is_writeback() {
        return Ok(Attempt::Busy(FolioRef::clone(&folio)));
    }
    let req = FolioRequest {
        range: req.range.intersect(inode.bytes()),
        ..*req
    };
    let untold = off(Rule::J3) && has_storage(backend, req.range);
    if !untold
        && !off(Rule::J2)
        && backend.folio_prepare(guard, &mut folio, &req)? == Prepared::Again
    {
        return Ok(Attempt::Again);
    }
    let result = reserve(backend, &mut folio, req.range, early);
    let done = if result.is_ok() { req.range.len() } else { 0 };
    if !untold {
        backend.folio_done(guard, &mut folio, &req, done);
    }
    result?;
    show(inode, range, &mut folio, page..page.plus(1), true)
}

/// Whether the block at the start of `range` needs no allocation: what a fault that leaves early
/// for such blocks would ask (rule J3 off).
fn has_storage<B: WritebackOps + ?Sized>(backend: &B, range: FileRange) -> bool {
    let mut mapped = false;
    let flags = MapFlags::empty();
    let _looked = for_each_mapping(backend, range, Intent::Report, flags, |step| {
        mapped = matches!(step.iomap().kind, MapKind::Mapped { .. });
        Ok(Flow::Stop)
    });
    mapped
}

/// Dirties the bytes and gets them storage, or a promise of it. On error everything is as it was.
fn reserve<B: WritebackOps + ?Sized>(
    backend: &B,
    folio: &mut LockedFolio,
    bytes: FileRange,
    early: Option<bool>,
) -> Result<()> {
    let inode = backend.inode();
    let offsets = offsets(folio, bytes);
    let block = inode.block_bits().size() as usize;
    let clean = clean_runs(folio, offsets.clone(), block);
    if !off(Rule::O3) {
        folio.set_range_dirty(offsets.clone());
    }
    let in_flight = early.unwrap_or_else(|| inode.direct().is_busy_after_fence());
    let mut flags = MapFlags::empty();
    flags.set(MapFlags::DIRECT_IN_FLIGHT, in_flight);
    let mut reserved: SmallVec<[FileRange; 1]> = SmallVec::new();
    let outcome = for_each_mapping(backend, bytes, Intent::WriteFault, flags, |step| {
        let fresh = matches!(step.iomap().kind, MapKind::Delalloc)
            && step.iomap().flags.contains(FsFlags::NEW);
        if fresh {
            reserved.push(step.rest());
        }
        step.advance(step.rest().len())?;
        Ok(Flow::Continue)
    });
    tracing::trace!(
        target: "iomap::fault", ino = inode.ino(), range = %bytes, in_flight,
        ok = outcome.result.is_ok(), "page_mkwrite"
    );
    if outcome.result.is_ok() {
        folio.set_range_dirty(offsets);
        return Ok(());
    }
    for run in clean {
        folio.clear_range_dirty(run);
    }
    for range in reserved {
        let range = range.round_out(inode.block_bits());
        backend.release_delalloc(range, &Iomap::new(range, MapKind::Delalloc));
    }
    outcome.all_or_error()
}

/// Shows pages of a locked folio in the mapping.
fn show(
    inode: &Inode,
    range: &Arc<MappedRange>,
    folio: &mut LockedFolio,
    pages: Range<PageIndex>,
    writable: bool,
) -> Result<Attempt, FaultError> {
    folio.mark_accessed();
    folio.clear_dropbehind();
    if let Some(memory) = range.memory()
        && !folio.move_to(memory)
    {
        return Ok(Attempt::Elsewhere(FolioRef::clone(folio)));
    }
    folio.set_mapped(true);
    let at = pages.start;
    let frames = Frames::of_folio(folio, pages);
    // Unmapped meanwhile: the access that faulted finds that out by itself.
    let _gone = inode.cache().mappings().map(range, at, &frames, writable)?;
    Ok(Attempt::Done)
}

/// How often a fault looks for the others to be gone before it has the file synced: a journal refers
/// to the folios of a transaction until it is committed.
const PATIENCE: u32 = 64;

/// The folio cannot move: waits for what keeps it where it is.
fn wait_for_others<B: WritebackOps + ?Sized>(
    backend: &B,
    folio: FolioRef,
    tries: u32,
) -> Result<()> {
    wait::for_folio(backend, &folio, true);
    let range = folio.range();
    // Our own reference would keep it, too.
    drop(folio);
    if tries < PATIENCE {
        crate::sync::thread::yield_now();
        return Ok(());
    }
    if tries.is_multiple_of(PATIENCE) {
        crate::fsync::fsync(backend, range, false)?;
    }
    // A folio that is freed tells; other references go silently.
    let _freed = backend.inode().cache().pool().wait_freeable();
    Ok(())
}

/// Whether some byte of the page lies in the file. Asked with the folio locked.
fn is_in_file(inode: &Inode, page: PageIndex) -> bool {
    page.pos() < inode.size()
}

/// Whether the page is up to date as far as the file reaches; then its blocks past the end become
/// zeroes, so that a mapping shows nothing else.
fn make_whole(inode: &Inode, folio: &mut LockedFolio, page: PageIndex) -> bool {
    let whole = offsets(folio, page_bytes(page));
    if folio.is_range_uptodate(whole.clone()) {
        return true;
    }
    let end = inode.size().round_up(inode.block_bits());
    let inside = page_bytes(page).intersect(FileRange::between(FilePos::ZERO, end));
    let inside = offsets(folio, inside);
    if !folio.is_range_uptodate(inside.clone()) {
        return false;
    }
    folio.zero(inside.end..whole.end);
    folio.set_range_uptodate(inside.end..whole.end);
    true
}

/// The bytes of a page.
fn page_bytes(page: PageIndex) -> FileRange {
    FileRange::at_most(page.pos(), PAGE_SIZE as u64)
}

/// The bytes of `range` as offsets into the folio.
fn offsets(folio: &LockedFolio, range: FileRange) -> Range<usize> {
    // A folio is at most 2 MiB: the differences fit.
    let start = range.start().since(folio.range().start()) as usize;
    start..start + range.len() as usize
}

/// The runs of blocks touched by `bytes` that are clean, as bytes.
fn clean_runs(
    folio: &LockedFolio,
    bytes: Range<usize>,
    block: usize,
) -> SmallVec<[Range<usize>; 2]> {
    let (start, end) = (
        bytes.start / block * block,
        bytes.end.next_multiple_of(block),
    );
    let mut runs = SmallVec::new();
    let mut at = start;
    for dirty in folio.dirty_ranges(end) {
        if dirty.start > at {
            runs.push(at..dirty.start);
        }
        at = at.max(dirty.end);
    }
    if at < end {
        runs.push(at..end);
    }
    runs
}
