//! Reclaim: which clean folios leave when memory runs short, and how an allocation waits.
//!
//! Owns the two lists of a pool and the allocation slow path. A new folio goes to the *probation*
//! list; used again while it is there, it moves to the *main* list instead of being dropped. So a
//! scan of a large file, which visits each folio once, passes through probation and leaves the main
//! list alone. On the main list a use buys another round, up to three; what has not been used for
//! long leaves it however much probation holds.
//!
//! A visit may be many small reads. To tell it from a use later on, time is counted in *epochs*: a
//! new one begins when a sixteenth of the memory has come in, and a use counts if it comes two
//! epochs after the last that did. Hits read the epoch and the folio's flags, seldom change these,
//! and take no lock.
//!
//! Reclaim runs in the thread that allocates, which may hold folio locks and a transaction: it
//! never writes, never waits for a lock or for I/O. It drops folios that are clean, not under
//! writeback, unlocked, referenced by their cache alone, and that the owner of the cache lets go.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::folio_ref::FolioRef;
use super::header::flag;
use super::locked::LockedFolio;
use super::owner::CacheOwner;
use super::pool::Pool;
use crate::device::BlockDevice;
use crate::error::{FsError, Result};
use crate::sync::atomic::Ordering;

/// Folios looked at with the list lock held once.
const BATCH: usize = 32;
/// Pages reclaimed at a time.
const CHUNK: u64 = 64;
/// Epochs in which as much comes in as the memory holds.
const EPOCHS: u64 = 16;
/// Epochs after which a folio of the main list that was not used is stale: as much has come in
/// meanwhile as the memory holds twice.
const STALE: u32 = 32;
/// One look of this many is for stale folios of the main list, whatever its size.
const AGING: u32 = 4;
/// Probation may hold this part of the pages of the main list before its folios go first.
const PROBATION: u64 = 4;
/// How often an allocation waits a few milliseconds in which nothing is freed or written before it
/// gives up.
const PATIENCE: u32 = 400;
/// How long it waits while others do get on, before their progress counts as nothing.
const OTHERS: Duration = Duration::from_secs(30);

/// One list: linked through the folios, newest first.
#[derive(Debug, Default)]
struct List {
    head: u32,
    tail: u32,
    folios: u64,
    pages: u64,
}

/// The reclaim lists of a pool.
#[derive(Debug, Default)]
pub(super) struct Lists {
    probation: List,
    main: List,
    /// Pages that came in during this epoch.
    added: u64,
    /// Folios looked at.
    looks: u32,
}

impl List {
    fn push(&mut self, pool: &Pool, id: u32) {
        let folio = pool.folio(id);
        folio.prev.store(0, Ordering::Relaxed);
        folio.next.store(self.head, Ordering::Relaxed);
        match self.head {
            0 => self.tail = id,
            head => pool.folio(head).prev.store(id, Ordering::Relaxed),
        }
        self.head = id;
        self.folios += 1;
        self.pages += 1 << folio.order();
    }

    fn unlink(&mut self, pool: &Pool, id: u32) {
        let folio = pool.folio(id);
        let prev = folio.prev.load(Ordering::Relaxed);
        let next = folio.next.load(Ordering::Relaxed);
        match prev {
            0 => self.head = next,
            prev => pool.folio(prev).next.store(next, Ordering::Relaxed),
        }
        match next {
            0 => self.tail = prev,
            next => pool.folio(next).prev.store(prev, Ordering::Relaxed),
        }
        self.folios -= 1;
        self.pages -= 1 << folio.order();
    }
}

impl Lists {
    /// Puts a new folio on probation.
    pub(super) fn add(&mut self, pool: &Pool, id: u32) {
        pool.folio(id).header.set(flag::ON_LIST);
        self.probation.push(pool, id);
    }

    /// Counts what has come in.
    fn advance(&mut self, pool: &Pool, pages: u64) {
        self.added += pages;
        if self.added * EPOCHS >= pool.budget_pages() {
            self.added = 0;
            pool.next_epoch();
        }
    }

    /// Takes a folio that is being freed off its list.
    pub(super) fn remove(&mut self, pool: &Pool, id: u32) {
        let flags = pool.folio(id).header.clear(flag::ON_LIST | flag::MAIN);
        if flags & flag::MAIN != 0 {
            self.main.unlink(pool, id);
        } else {
            self.probation.unlink(pool, id);
        }
    }

    /// The next folio to try, moved to the young end of its list so that it is not seen again
    /// soon. `None` for one that has earned its stay, is being freed, or cannot be dropped now.
    fn next(&mut self, pool: &'static Pool) -> Option<FolioRef> {
        self.looks = self.looks.wrapping_add(1);
        let id = if self.main.tail != 0 && self.looks.is_multiple_of(AGING) {
            self.next_main(pool, true)
        } else if self.probation.tail != 0
            && (self.main.tail == 0 || self.probation.pages * PROBATION > self.main.pages)
        {
            self.next_on_probation(pool)
        } else {
            self.next_main(pool, false)
        }?;
        let header = &pool.folio(id).header;
        let busy = flag::LOCKED | flag::DIRTY | flag::WRITEBACK;
        if header.flags() & busy != 0 || header.refs() != 1 || !header.try_get() {
            return None;
        }
        Some(FolioRef::from_counted(pool, id))
    }

    /// The oldest folio on probation, unless it has been used since: then it moves to the main
    /// list.
    fn next_on_probation(&mut self, pool: &Pool) -> Option<u32> {
        let id = self.probation.tail;
        let header = &pool.folio(id).header;
        self.probation.unlink(pool, id);
        if header.flags() & flag::USED != 0 {
            header.clear(flag::USED);
            header.set(flag::MAIN);
            self.main.push(pool, id);
            return None;
        }
        self.probation.push(pool, id);
        Some(id)
    }

    /// The oldest folio of the main list, unless it has uses left, or only what is stale is wanted
    /// and it is not.
    fn next_main(&mut self, pool: &Pool, only_stale: bool) -> Option<u32> {
        let id = self.main.tail;
        let header = &pool.folio(id).header;
        self.main.unlink(pool, id);
        self.main.push(pool, id);
        if header.unused_for(pool.epoch()) >= STALE {
            return Some(id);
        }
        if only_stale || header.flags() & flag::USED != 0 {
            if !only_stale {
                header.unmark_used();
            }
            return None;
        }
        Some(id)
    }
}

impl Pool {
    /// Puts a folio that has just joined a cache on probation.
    pub(crate) fn list_folio(&'static self, folio: &FolioRef) {
        folio.meta().header.set_epoch(self.epoch());
        let mut lists = self.lists();
        lists.add(self, folio.id());
        lists.advance(self, folio.pages());
    }

    /// Drops clean folios until `pages` pages are reclaimed or all have been looked at. Returns the
    /// pages reclaimed.
    pub(super) fn reclaim(&'static self, pages: u64) -> u64 {
        let mut done = 0;
        // Every folio once for each use it may have, and once more.
        let mut budget = self.lists().len() * 4 + BATCH as u64;
        while done < pages && budget > 0 {
            let mut batch: SmallVec<[FolioRef; BATCH]> = SmallVec::new();
            {
                let mut lists = self.lists();
                for _ in 0..BATCH {
                    if lists.is_empty() {
                        budget = 1;
                        break;
                    }
                    if let Some(folio) = lists.next(self) {
                        batch.push(folio);
                    }
                }
            }
            budget = budget.saturating_sub(BATCH as u64);
            self.counters()
                .scanned
                .fetch_add(BATCH as u64, Ordering::Relaxed);
            for folio in batch {
                done += self.reclaim_folio(folio);
            }
        }
        self.counters().reclaimed.fetch_add(done, Ordering::Relaxed);
        done
    }

    /// Drops one folio if it may be. Returns its pages if it was.
    fn reclaim_folio(&'static self, folio: FolioRef) -> u64 {
        let Ok(mut locked) = LockedFolio::try_lock(folio) else {
            return 0;
        };
        if !locked.is_cached() || locked.is_dirty() || locked.is_writeback() {
            return 0;
        }
        // Kept until the folio is unlocked: it may be the last reference to the owner.
        let owner = self.owner_of(&locked);
        if !may_go(owner.as_deref(), &mut locked) {
            self.counters().refused.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        let pages = locked.pages();
        let mut dropped = false;
        self.with_cache_of(&locked, |core, index| {
            dropped = core.remove_frozen(self, index, &locked);
        });
        drop(locked);
        if dropped { pages } else { 0 }
    }

    /// Drops a folio that was to be dropped behind its writeback, if nobody wants it. Runs in
    /// completions.
    pub(super) fn drop_behind(&'static self, folio: &FolioRef) {
        let Ok(locked) = LockedFolio::try_lock(folio.clone()) else {
            return;
        };
        if locked.is_dirty() || locked.is_writeback() || locked.is_mapped() || locked.has_private()
        {
            return;
        }
        self.with_cache_of(&locked, |core, index| {
            core.remove(self, index, &locked);
        });
    }

    /// A folio for a page cache of order `order`, or of a smaller one not below `min_order` if
    /// memory is short. Born locked; its bytes are anything.
    ///
    /// # Errors
    ///
    /// [`FsError::WouldBlock`] if `nowait` and nothing is free or clean, [`FsError::NoMemory`] if
    /// waiting did not help.
    pub(crate) fn alloc(
        &'static self,
        order: u32,
        min_order: u32,
        nowait: bool,
        device: &dyn BlockDevice,
    ) -> Result<LockedFolio> {
        if self.refuses() {
            return Err(if nowait {
                FsError::WouldBlock
            } else {
                FsError::NoMemory
            });
        }
        if let Some(folio) = self.take_from_budget(order) {
            return Ok(folio);
        }
        // Enough is free, but in pieces: a smaller folio is better than dropping others.
        if u64::from(self.free_pages()) < self.budget_pages() / 32 {
            self.reclaim(CHUNK.max(1 << order));
        }
        if let Some(folio) = self.take_down(order, min_order) {
            return Ok(folio);
        }
        if nowait {
            return Err(FsError::WouldBlock);
        }
        self.counters().waits.fetch_add(1, Ordering::Relaxed);
        let (mut patience, begin) = (PATIENCE, Instant::now());
        while patience > 0 {
            let progress = self.wait_for_memory(device);
            self.reclaim(CHUNK.max(1 << min_order));
            if let Some(folio) = self.take_down(order, min_order) {
                return Ok(folio);
            }
            // What came went to others, or is still held by who wrote it: more will come.
            if progress && begin.elapsed() < OTHERS {
                continue;
            }
            // Nothing to wait for but locks and references: they go soon or not at all.
            let hope = self.nr_dirty() + self.nr_writeback() > 0;
            patience = patience.saturating_sub(if hope { 1 } else { 20 });
        }
        Err(FsError::NoMemory)
    }

    /// Asks for clean folios, and waits a moment for something to become free or clean. Returns
    /// whether something did.
    fn wait_for_memory(&self, device: &dyn BlockDevice) -> bool {
        if let Some(pressure) = self.pressure() {
            pressure.relieve(CHUNK);
        }
        if device.in_flight() > 0 {
            wait_for_one(device);
            !cfg!(any(iomap_shuttle, iomap_loom))
        } else {
            self.wait_freeable()
        }
    }

    fn take_down(&'static self, order: u32, min_order: u32) -> Option<LockedFolio> {
        (min_order..=order)
            .rev()
            .find_map(|order| self.take_from_budget(order))
    }
}

/// Takes the folio out of the memory mappings and asks the owner of the cache to let it go. Without
/// an owner a folio with private state stays.
pub(crate) fn may_go(owner: Option<&dyn CacheOwner>, folio: &mut LockedFolio) -> bool {
    folio.unmap();
    match owner {
        Some(owner) => owner.release_folio(folio),
        None => !folio.has_private(),
    }
}

/// Waits for a request of the device to complete, if there is one.
fn wait_for_one(device: &dyn BlockDevice) {
    let mut asked = 0;
    device.wait(&mut || {
        asked += 1;
        asked > 1 || device.in_flight() == 0
    });
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.probation.tail == 0 && self.main.tail == 0
    }

    fn len(&self) -> u64 {
        self.probation.folios + self.main.folios
    }
}
