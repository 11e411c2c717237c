//! Buffered read: bytes out of the page cache, fetched where they are missing.
//!
//! Owns the cached path, which takes no lock, allocates nothing and makes no system call; the
//! filling of folios in [`fill`]; and what readahead asks for. Does not own how a folio is found
//! ([`page_cache`](crate::page_cache)) nor the guess of what comes next
//! ([`readahead`](crate::readahead)).
//!
//! # Locking
//!
//! ```text
//! nothing                                  what is cached
//! Invalidate (shared) -> Folio, ascending  what is missing
//! ```
//!
//! Kernel counterpart: `filemap_read`, `iomap_read_folio`, `iomap_readahead`.

mod fill;

pub use fill::Filling;

use crate::error::{DeviceError, DeviceOp, Errno, FsError, Result};
use crate::folio::{FolioRef, LockedFolio};
use crate::inode::Inode;
use crate::ops::{MapFlags, MapOps};
use crate::readahead::{Readahead, WINDOW_MAX, Window};
use crate::stats::Event;
use crate::units::{DevAddr, FilePos, FileRange, PAGE_SIZE, PageIndex};

/// How a buffered read is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions<'a> {
    /// Answer `WouldBlock` instead of waiting for a lock or the device.
    pub nowait: bool,
    /// Keep no folio in the cache that was not there before.
    pub dontcache: bool,
    /// What the open file has been reading; without it, only what is asked for is read.
    pub readahead: Option<&'a Readahead>,
}

/// How often a folio that was just filled may be gone again before the read gives up. Each time
/// reclaim or a truncate took it, so somebody moves.
const REFILLS_MAX: u32 = 1000;

/// Reads bytes from `pos` on into `to`, up to the end of the file. Returns how many: less than
/// asked for at the end of the file, where `nowait` met something missing, or where an error came
/// after the first byte.
///
/// # Errors
///
/// Only if nothing was read: what mapping or the device answer, `NoMemory`, `WouldBlock` with
/// `nowait`.
pub fn buffered_read<B: MapOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    to: &mut [u8],
    options: ReadOptions<'_>,
) -> Result<usize> {
    let inode = backend.inode();
    let range = FileRange::at_most(pos, to.len() as u64);
    let mut done = 0;
    let mut refills = 0;
    let result = loop {
        let rest = range.skip(done as u64);
        if rest.is_empty() {
            break Ok(());
        }
        match read_cached(inode, rest, &mut to[done..], options) {
            Cached::Bytes(n) => {
                done += n;
                refills = 0;
            }
            Cached::End => break Ok(()),
            Cached::Marker(index) => start_readahead(backend, index, options),
            Cached::Missing if options.nowait => break Err(FsError::WouldBlock),
            Cached::Missing if refills < REFILLS_MAX => {
                refills += 1;
                // The rest is asked for when the first byte has been taken.
                let needed = rest.intersect(inode.bytes()).take(1);
                if let Err(error) = fill_first(backend, rest, needed, options) {
                    break Err(error);
                }
            }
            Cached::Missing => break Err(FsError::NoMemory),
        }
    };
    inode
        .counters()
        .add(Event::buffered_read_bytes, done as u64);
    if options.dontcache {
        drop_behind(inode, range.take(done as u64));
    }
    match result {
        Err(error) if done == 0 => Err(error),
        _ => {
            if let Some(readahead) = options.readahead
                && done > PAGE_SIZE
            {
                readahead.on_hit(range.take(done as u64).end().page());
            }
            Ok(done)
        }
    }
}

/// Drops the folios of `range` that were brought in only to be read once.
fn drop_behind(inode: &Inode, range: FileRange) {
    let (mut at, end) = range.pages();
    while let Some(folio) = inode.cache().next(at, end) {
        at = folio.end_index();
        let (whole, dropbehind) = (folio.range(), folio.is_dropbehind());
        // Our own reference would keep it.
        drop(folio);
        if dropbehind {
            inode.cache().drop_clean(whole);
        }
    }
}

/// What the cache has at a position.
enum Cached {
    /// This many bytes were copied.
    Bytes(usize),
    /// The position is at or past the end of the file.
    End,
    /// The folio asks for the next window to be read; it was not copied from yet.
    Marker(PageIndex),
    /// The bytes have to be fetched.
    Missing,
}

/// Copies what one folio holds of `range`. No lock, no allocation, no system call.
#[inline]
fn read_cached(inode: &Inode, range: FileRange, to: &mut [u8], options: ReadOptions<'_>) -> Cached {
    let index = range.start().page();
    let Some(folio) = inode.cache().find(index) else {
        return if range.start() >= inode.size() {
            Cached::End
        } else {
            Cached::Missing
        };
    };
    if !folio.is_uptodate() {
        return partly_uptodate(inode, &folio, range, to, options);
    }
    if options.readahead.is_some() && !options.nowait && folio.take_readahead() {
        return Cached::Marker(folio.index());
    }
    inode.counters().count(Event::cache_hits);
    copy(inode, &folio, range, to, options)
}

/// Copies from an uptodate folio up to the end of the file.
///
/// The size is read after the folio was seen to be up to date: whoever sees the larger size sees
/// the bytes.
#[inline]
fn copy(
    inode: &Inode,
    folio: &FolioRef,
    range: FileRange,
    to: &mut [u8],
    options: ReadOptions<'_>,
) -> Cached {
    let wanted = range.intersect(folio.range()).intersect(inode.bytes());
    if wanted.is_empty() {
        return Cached::End;
    }
    if folio.is_dropbehind() && !options.dontcache {
        // Somebody wants it after all.
        folio.clear_dropbehind();
    }
    folio.mark_accessed();
    let offset = wanted.start().since(folio.range().start()) as usize;
    let len = wanted.len() as usize;
    folio.copy_out(offset, &mut to[..len]);
    Cached::Bytes(len)
}

/// A folio of which only some blocks are up to date: enough if they are the ones wanted.
fn partly_uptodate(
    inode: &Inode,
    folio: &FolioRef,
    range: FileRange,
    to: &mut [u8],
    options: ReadOptions<'_>,
) -> Cached {
    if range.start() >= inode.size() {
        return Cached::End;
    }
    if options.nowait && folio.is_locked() {
        return Cached::Missing;
    }
    let Some(locked) = inode.cache().try_lock(folio) else {
        return Cached::Missing;
    };
    let wanted = range.intersect(folio.range()).intersect(inode.bytes());
    let offset = wanted.start().since(folio.range().start()) as usize;
    let missing = locked.first_not_uptodate(offset..offset + wanted.len() as usize);
    // What comes before the first block that is missing.
    let ready = missing.map_or(wanted, |bytes| {
        wanted.take(bytes.start.saturating_sub(offset) as u64)
    });
    if ready.is_empty() {
        return Cached::Missing;
    }
    inode.counters().count(Event::cache_hits);
    copy(inode, &locked, ready, to, options)
}

/// Brings in the folio at the start of `range`, and what readahead wants behind it; returns when
/// its read has ended. Its `needed` bytes decide whether that was an error: what cannot be mapped
/// or read behind them is told to whoever needs it.
fn fill_first<B: MapOps + ?Sized>(
    backend: &B,
    range: FileRange,
    needed: FileRange,
    options: ReadOptions<'_>,
) -> Result<()> {
    let inode = backend.inode();
    let index = range.start().page();
    let in_file = range.intersect(inode.bytes());
    let wanted = in_file.pages().1.since(index).max(1);
    let invalidate = inode.invalidate_lock().read();
    if let Some(folio) = inode.cache().find(index) {
        drop(invalidate);
        return wait_or_reread(backend, &folio, needed);
    }
    inode.counters().count(Event::cache_misses);
    let window = window_on_miss(index, wanted, options);
    let brought = fill::bring_in(
        backend,
        &window,
        (options.dontcache, true),
        MapFlags::empty(),
        &Filling::new(),
    )?;
    drop(invalidate);
    if brought > wanted {
        inode
            .counters()
            .add(Event::readahead_pages, brought - wanted);
    }
    match inode.cache().find(index) {
        Some(folio) => wait_or_reread(backend, &folio, needed),
        // Truncated or reclaimed meanwhile; the caller looks again.
        None => Ok(()),
    }
}

/// Brings `page` into the cache, up to date as far as the file reaches; it may be gone again when
/// this returns. For faults; no locks held.
///
/// # Errors
///
/// As [`buffered_read`].
pub(crate) fn fetch_page<B: MapOps + ?Sized>(backend: &B, page: PageIndex) -> Result<()> {
    let range = FileRange::at_most(page.pos(), PAGE_SIZE as u64);
    let needed = range.intersect(backend.inode().bytes());
    fill_first(backend, range, needed, ReadOptions::default())
}

/// What to read where a page is missing.
fn window_on_miss(index: PageIndex, wanted: u64, options: ReadOptions<'_>) -> Window {
    match options.readahead {
        Some(readahead) => readahead.on_miss(index, wanted),
        None => Window {
            start: index,
            size: wanted.min(WINDOW_MAX),
            marker: None,
            order: 4,
        },
    }
}

/// Starts fetching the bytes missing at the start of `range`, without waiting for a lock, for
/// metadata or for the device; only for memory, when the budget is used up.
///
/// `None`: they are being fetched by somebody else already, or are there.
///
/// # Errors
///
/// `WouldBlock` where it would have to wait; what mapping or the device answer.
pub fn start_fill<B: MapOps + ?Sized>(
    backend: &B,
    range: FileRange,
    options: ReadOptions<'_>,
) -> Result<Option<Filling>> {
    let inode = backend.inode();
    let index = range.start().page();
    let _invalidate = inode
        .invalidate_lock()
        .try_read()
        .ok_or(FsError::WouldBlock)?;
    if inode.cache().find(index).is_some() {
        return Ok(None);
    }
    inode.counters().count(Event::cache_misses);
    let wanted = range.intersect(inode.bytes()).pages().1.since(index).max(1);
    let window = window_on_miss(index, wanted, options);
    let filling = Filling::new();
    fill::bring_in(
        backend,
        &window,
        (options.dontcache, false),
        MapFlags::NOWAIT,
        &filling,
    )?;
    Ok(Some(filling))
}

/// The next window, because a marked folio was met. Errors are left to the read that needs the
/// bytes.
fn start_readahead<B: MapOps + ?Sized>(backend: &B, index: PageIndex, options: ReadOptions<'_>) {
    let inode = backend.inode();
    let Some(readahead) = options.readahead else {
        return;
    };
    let Some(_invalidate) = inode.invalidate_lock().try_read() else {
        return;
    };
    let window = readahead.on_marker(index);
    let mut at = window;
    // Pages that are there already are skipped, once: the rest of the window follows them.
    while at.size > 0 && inode.cache().find(at.start).is_some() {
        at.start = at.start.plus(1);
        at.size -= 1;
    }
    if let Ok(pages) = fill::bring_in(
        backend,
        &at,
        (options.dontcache, false),
        MapFlags::empty(),
        &Filling::new(),
    ) {
        inode.counters().add(Event::readahead_pages, pages);
    }
}

/// Waits for the read of a folio in flight; if some of its `needed` bytes are still missing
/// afterwards, reads what is missing again, alone, so that the caller gets the device's own error.
fn wait_or_reread<B: MapOps + ?Sized>(
    backend: &B,
    folio: &FolioRef,
    needed: FileRange,
) -> Result<()> {
    let inode = backend.inode();
    if folio.is_locked() {
        inode.counters().count(Event::folio_waits);
    }
    folio.wait_unlocked(&**inode.device());
    if folio.is_uptodate() {
        return Ok(());
    }
    let _invalidate = inode.invalidate_lock().read();
    let Some(locked) = inode.cache().lock(folio) else {
        return Ok(());
    };
    let needed = needed.intersect(locked.range());
    let start = needed.start().since(locked.range().start()) as usize;
    if locked.is_range_uptodate(start..start + needed.len() as usize) {
        return Ok(());
    }
    let filling = fill::read_locked(backend, locked, needed)?;
    folio.wait_unlocked(&**inode.device());
    match filling.error() {
        Some(error) => Err(FsError::Device(error)),
        None => Ok(()),
    }
}

/// Reads the missing blocks of a locked folio and waits for them; the folio stays locked for
/// nobody else meanwhile. For callers outside of the read path.
///
/// Holding: the invalidate lock, shared or exclusive; the folio lock.
///
/// # Errors
///
/// What mapping or the device answer; `EIO` if the folio left the cache.
pub fn read_folio<B: MapOps + ?Sized>(backend: &B, folio: LockedFolio) -> Result<LockedFolio> {
    let inode = backend.inode();
    let reference = FolioRef::clone(&folio);
    let needed = folio.range();
    let filling = fill::read_locked(backend, folio, needed)?;
    reference.wait_unlocked(&**inode.device());
    if let Some(error) = filling.error() {
        return Err(FsError::Device(error));
    }
    let gone = || DeviceError::new(DeviceOp::Read, DevAddr::default(), 0, Errno::IO);
    inode
        .cache()
        .lock(&reference)
        .ok_or_else(|| FsError::Device(gone()))
}
