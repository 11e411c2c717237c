//! Finding, locking and creating folios, and walking over them.
//!
//! Owns the one getter ([`PageCache::get_or_create`]), so that every path waits for stable
//! writeback where it has to (rule B74), and the recheck after locking: a reference says nothing
//! about the place of a folio, its lock does.

use std::ops::Deref;

use smallvec::SmallVec;

use super::PageCache;
use crate::error::{FsError, Result};
use crate::folio::header::flag;
use crate::folio::{FolioRef, InsertError, LockedFolio, Mark};
use crate::sync::{Rank, rank};
use crate::units::{FileRange, PageIndex};

/// Folios a batch holds at most.
const BATCH: usize = 32;

/// How [`PageCache::get_or_create`] gets a folio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetFolio {
    /// The order wanted for a folio that is created; a smaller one is taken where neighbours or
    /// memory demand it.
    pub order_hint: u32,
    /// Fail with [`FsError::WouldBlock`] rather than wait.
    pub nowait: bool,
    /// A folio created now is dropped as soon as it has been written; one found stays as it is.
    pub dontcache: bool,
    /// Wait for a writeback that is under way to end: the contents must not change under it.
    pub wait_stable: bool,
}

/// Some folios of a cache in ascending order, each with a reference.
#[derive(Clone, Debug, Default)]
pub struct FolioBatch(SmallVec<[FolioRef; 16]>);

impl Deref for FolioBatch {
    type Target = [FolioRef];

    fn deref(&self) -> &[FolioRef] {
        &self.0
    }
}

impl IntoIterator for FolioBatch {
    type Item = FolioRef;
    type IntoIter = smallvec::IntoIter<[FolioRef; 16]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a FolioBatch {
    type Item = &'a FolioRef;
    type IntoIter = std::slice::Iter<'a, FolioRef>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FolioRef {
    /// Whether it is in this page cache. Can change at any time unless the folio is locked.
    #[must_use]
    #[inline]
    pub fn is_mapped_in(&self, cache: &PageCache) -> bool {
        self.meta().cache() == cache.id() && std::ptr::eq(self.pool(), cache.pool())
    }
}

impl PageCache {
    /// The folio that holds page `index`. Takes no lock unless there seems to be none.
    #[must_use]
    #[inline]
    pub fn find(&self, index: PageIndex) -> Option<FolioRef> {
        let (pool, at) = (self.pool.get(), index.get());
        if let Some(id) = self.core.index().lookup(pool, at)
            && let Some(folio) = FolioRef::try_get(pool, id, self.id, at)
        {
            return Some(folio);
        }
        if self.is_empty() {
            return None;
        }
        self.find_locked(at)
    }

    /// As [`PageCache::find`], where the look without the lock came too early or too late.
    #[cold]
    fn find_locked(&self, at: u64) -> Option<FolioRef> {
        let pool = self.pool.get();
        let guard = self.core.lock(pool);
        // With the lock held the folio cannot leave, so it is neither free nor frozen.
        FolioRef::try_get(pool, guard.get(at)?, self.id, at)
    }

    /// Waits for the lock of a folio. `None` if it has left this cache: look it up again.
    ///
    /// # Panics
    ///
    /// With the rank checker on, if the thread holds the lock of a folio of the same or a larger
    /// index, or a lock further in.
    #[must_use]
    pub fn lock(&self, folio: &FolioRef) -> Option<LockedFolio> {
        self.lock_owned(folio.clone())
    }

    fn lock_owned(&self, mut folio: FolioRef) -> Option<LockedFolio> {
        let mut held = rank::acquire(Rank::Folio, folio.index().get());
        loop {
            match LockedFolio::try_lock_held(folio, held) {
                Ok(locked) => return self.still_here(locked),
                Err(back) => (folio, held) = back,
            }
            folio.wait_unlocked(&*self.device);
        }
    }

    /// Takes the lock of a folio if it is free. `None` if it is not, or if the folio has left.
    #[must_use]
    pub fn try_lock(&self, folio: &FolioRef) -> Option<LockedFolio> {
        let locked = LockedFolio::try_lock(folio.clone()).ok()?;
        self.still_here(locked)
    }

    #[inline]
    fn still_here(&self, locked: LockedFolio) -> Option<LockedFolio> {
        locked.is_mapped_in(self).then_some(locked)
    }

    /// The folio that holds page `index`, locked. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`FsError::WouldBlock`] if `nowait` and the lock is taken.
    pub fn find_lock(&self, index: PageIndex, nowait: bool) -> Result<Option<LockedFolio>> {
        while let Some(folio) = self.find(index) {
            // `None`: it has left. The next look finds another, or none.
            let locked = if nowait {
                match LockedFolio::try_lock(folio) {
                    Ok(locked) => self.still_here(locked),
                    Err(folio) if folio.is_mapped_in(self) => return Err(FsError::WouldBlock),
                    Err(_) => None,
                }
            } else {
                self.lock_owned(folio)
            };
            if locked.is_some() {
                return Ok(locked);
            }
        }
        Ok(None)
    }

    /// The folio that holds page `index`, locked; a new one if there is none. A new folio is not up
    /// to date, and its bytes are anything.
    ///
    /// # Errors
    ///
    /// [`FsError::WouldBlock`] with `nowait`, where it would have to wait for a lock, for
    /// writeback or for memory; [`FsError::NoMemory`].
    ///
    /// # Panics
    ///
    /// As [`PageCache::lock`].
    #[inline]
    pub fn get_or_create(&self, index: PageIndex, how: GetFolio) -> Result<LockedFolio> {
        if !how.wait_stable
            && let Some(folio) = self.find(index)
            && let Some(locked) = self.lock_now(folio)
        {
            if !how.dontcache {
                locked.clear_dropbehind();
            }
            return Ok(locked);
        }
        self.get_or_create_slowly(index, how)
    }

    /// The lock of a folio that is free and here.
    #[inline]
    fn lock_now(&self, folio: FolioRef) -> Option<LockedFolio> {
        let held = rank::acquire(Rank::Folio, folio.index().get());
        let locked = LockedFolio::try_lock_held(folio, held).ok()?;
        self.still_here(locked)
    }

    /// As [`PageCache::get_or_create`], with everything that may be in the way.
    fn get_or_create_slowly(&self, index: PageIndex, how: GetFolio) -> Result<LockedFolio> {
        loop {
            if let Some(locked) = self.find_lock(index, how.nowait)? {
                return self.meet(locked, how);
            }
            let order = how.order_hint.max(self.min_order());
            if let Some(locked) = self.create(index, order, how.nowait)? {
                if how.dontcache {
                    locked.meta().header.set(flag::DROPBEHIND);
                }
                return Ok(locked);
            }
        }
    }

    /// What the getter does with a folio that was there.
    fn meet(&self, locked: LockedFolio, how: GetFolio) -> Result<LockedFolio> {
        if !how.dontcache {
            locked.clear_dropbehind();
        }
        if how.wait_stable && locked.is_writeback() {
            if how.nowait {
                return Err(FsError::WouldBlock);
            }
            locked.wait_writeback(&*self.device);
        }
        Ok(locked)
    }

    /// A new folio around page `index`, of `order` or, where neighbours or memory demand it, a
    /// smaller one; locked. `None` if the page is in the cache already: for filling and readahead,
    /// which leave what is there alone.
    ///
    /// # Errors
    ///
    /// [`FsError::WouldBlock`] with `nowait`, if there is no free or clean memory: readahead does
    /// not wait for it. [`FsError::NoMemory`] without, if waiting did not help.
    pub fn create_for_read(
        &self,
        index: PageIndex,
        order: u32,
        nowait: bool,
    ) -> Result<Option<LockedFolio>> {
        self.create(index, order.max(self.min_order()), nowait)
    }

    /// As [`PageCache::create_for_read`]; waits for memory unless `nowait`.
    fn create(&self, index: PageIndex, order: u32, nowait: bool) -> Result<Option<LockedFolio>> {
        let (pool, min) = (self.pool.get(), self.min_order());
        let order = order.min(pool.max_order()).max(min);
        loop {
            let fit = self.core.lock(pool).fit(index.get(), order);
            // Folios are at least of order `min`: one that is in the way of that holds the page.
            let Some(order) = fit.filter(|order| *order >= min) else {
                return Ok(None);
            };
            let folio = pool.alloc(order, min, nowait, &*self.device)?;
            match self.insert(folio, index) {
                Ok(folio) => return Ok(Some(folio)),
                Err(InsertError::NoMemory) => return Err(FsError::NoMemory),
                // Somebody was faster: look again.
                Err(InsertError::Occupied) => {}
            }
        }
    }

    /// Puts a new folio around page `index`.
    fn insert(&self, mut folio: LockedFolio, index: PageIndex) -> Result<LockedFolio, InsertError> {
        let pool = self.pool.get();
        let first = index.align_down(folio.order());
        folio.set_held(rank::acquire(Rank::Folio, first.get()));
        let mut guard = self.core.lock(pool);
        let what = (&*folio, first.get(), self.blocks);
        self.core.insert(pool, &mut guard, self.id, what)?;
        drop(guard);
        pool.list_folio(&folio);
        if let Some(memory) = self.memory.get() {
            // Where that is not possible now, a fault does it.
            let _moved = folio.move_to(memory);
        }
        Ok(folio)
    }

    // ---- walks

    /// The first folio that holds a page from `from` on, before `end`.
    #[must_use]
    pub fn next(&self, from: PageIndex, end: PageIndex) -> Option<FolioRef> {
        self.batch(from, end, None, 1).into_iter().next()
    }

    /// As [`PageCache::next`], among the folios with a mark.
    #[must_use]
    pub fn next_marked(&self, mark: Mark, from: PageIndex, end: PageIndex) -> Option<FolioRef> {
        self.batch(from, end, Some(mark), 1).into_iter().next()
    }

    /// The first folios that hold pages from `from` on, before `end`, in ascending order; with a
    /// mark, if given. At most `max`, and at most 32.
    #[must_use]
    pub fn batch(
        &self,
        from: PageIndex,
        end: PageIndex,
        mark: Option<Mark>,
        max: usize,
    ) -> FolioBatch {
        let mut batch = FolioBatch::default();
        if self.is_empty() {
            return batch;
        }
        let (pool, mut at) = (self.pool.get(), from.get());
        let guard = self.core.lock(pool);
        while batch.0.len() < max.min(BATCH) {
            let Some((found, id)) = guard.next(at, end.get(), mark) else {
                break;
            };
            // With the lock held the folio cannot leave, so it is neither free nor frozen.
            let Some(folio) = FolioRef::try_get(pool, id, self.id, found) else {
                debug_assert!(false, "a folio in the index that is not in the cache");
                break;
            };
            at = folio.end_index().get();
            batch.0.push(folio);
        }
        batch
    }

    // ---- marks

    /// Marks what is dirty in `range` as to be written: a writeback that walks the `ToWrite` marks
    /// ends, however fast others dirty folios behind it.
    pub fn tag_for_writeback(&self, range: FileRange) {
        let (first, end) = range.pages();
        let pool = self.pool.get();
        let mut guard = self.core.lock(pool);
        self.core
            .tag_for_writeback(&mut guard, pool, (first.get(), end.get()));
    }

    /// Takes the `ToWrite` mark of a folio that needs no writing away. The folio is locked.
    pub fn clear_towrite(&self, folio: &LockedFolio) {
        self.with_index_of(folio, |core, index| {
            index.clear_mark(folio.index().get(), folio.order(), Mark::ToWrite);
            core.publish_marks(index);
        });
    }

    /// Whether some folio of `range` has one of the marks. Reads two words if none in the cache
    /// has.
    fn has_marks(&self, range: FileRange, marks: &[Mark]) -> bool {
        let wanted = marks.iter().fold(0, |bits, mark| bits | mark.bit());
        if self.core.marks() & wanted == 0 || range.is_empty() {
            return false;
        }
        let (first, end) = range.pages();
        let guard = self.core.lock(self.pool.get());
        marks
            .iter()
            .any(|mark| guard.next(first.get(), end.get(), Some(*mark)).is_some())
    }

    /// Whether a folio of `range` is dirty, or taken for writing and not under writeback yet.
    ///
    /// Without a lock if nothing in the cache is. For direct I/O (rules O1 to O3): a folio is put
    /// into the index and marked before its writer passes the writer's fence, and this is asked
    /// after the asker's own, so either this sees the mark or the writer sees the direct I/O.
    #[must_use]
    pub fn has_dirty(&self, range: FileRange) -> bool {
        self.has_marks(range, &[Mark::Dirty])
    }

    /// Whether a folio of `range` is under writeback. As [`PageCache::has_dirty`].
    #[must_use]
    pub fn has_writeback(&self, range: FileRange) -> bool {
        self.has_marks(range, &[Mark::Writeback])
    }

    /// Whether a folio of `range` is dirty or under writeback: on its way to storage, at any stage.
    /// As [`PageCache::has_dirty`].
    #[must_use]
    pub fn has_dirty_or_writeback(&self, range: FileRange) -> bool {
        self.has_marks(range, &[Mark::Dirty, Mark::Writeback])
    }

    /// Whether a page of `range` is in the cache. Without a lock if none is. As
    /// [`PageCache::has_dirty`].
    #[must_use]
    pub fn has_pages(&self, range: FileRange) -> bool {
        if self.is_empty() || range.is_empty() {
            return false;
        }
        let (first, end) = range.pages();
        let guard = self.core.lock(self.pool.get());
        guard.next(first.get(), end.get(), None).is_some()
    }

    /// Waits until every writeback of `range` that runs now has ended, driving the device.
    pub fn wait_writeback(&self, range: FileRange) {
        let (mut at, end) = range.pages();
        while self.core.marks() & Mark::Writeback.bit() != 0 {
            let batch = self.batch(at, end, Some(Mark::Writeback), BATCH);
            let Some(last) = batch.last() else {
                return;
            };
            at = last.end_index();
            for folio in batch {
                folio.wait_writeback(&*self.device);
            }
        }
    }
}
