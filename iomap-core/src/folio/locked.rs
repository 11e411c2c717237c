//! A locked folio: the right to change its contents and its state.
//!
//! Owns the rules of the per-block state: which blocks are up to date and dirty, when the flags of
//! the folio say it for all of them, and how both stay in step with the marks of the page cache
//! index. What it does not own: who gets the lock ([`PageCache`](crate::page_cache::PageCache)),
//! and the lock of a folio being read ([`ReadingFolio`](super::ReadingFolio)).
//!
//! # Invariants
//!
//! - `UPTODATE` is set exactly if every block is up to date.
//! - Without bitmaps the flags answer for every block: `UPTODATE`, and `BLOCKS_DIRTY` for dirty.
//! - `DIRTY` set implies the `Dirty` mark. The mark outlives the flag until the writeback mark is
//!   set ([`LockedFolio::start_writeback`]) or the dirt is dropped: at no moment does a folio on
//!   its way to storage have neither, so a direct read cannot slip through (rules O1 to O3).
//! - Ranges are byte ranges inside the folio. Setting rounds out to blocks, clearing rounds in.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use smallvec::SmallVec;

use super::folio_ref::FolioRef;
use super::header::flag;
use super::reading::ReadingFolio;
use super::state::{Blocks, State};
use super::state_ptr::Owned;
use crate::page_cache::Mark;
use crate::sync::{Rank, rank};

/// A locked folio. Dropping it unlocks, wakes waiters and puts the reference.
///
/// It stays with the thread that locked it; [`LockedFolio::into_reading`] hands the lock to an I/O.
#[must_use = "the folio is unlocked when the guard is dropped"]
pub struct LockedFolio {
    owned: Owned,
    _held: Option<rank::Held>,
    _stays_in_thread: PhantomData<*const ()>,
}

impl LockedFolio {
    pub(super) fn new(owned: Owned, held: Option<rank::Held>) -> Self {
        Self {
            owned,
            _held: held,
            _stays_in_thread: PhantomData,
        }
    }

    /// Takes the lock if it is free. Whether the folio is still in the cache it was found in is
    /// for the caller to ask.
    pub(crate) fn try_lock(folio: FolioRef) -> Result<Self, FolioRef> {
        let owned = Owned::try_claim(folio)?;
        let index = owned.folio().meta().index();
        let held = rank::acquired_by_try(Rank::Folio, index);
        Ok(Self::new(owned, Some(held)))
    }

    /// As [`LockedFolio::try_lock`], for a caller that checked the lock order itself.
    pub(crate) fn try_lock_held(
        folio: FolioRef,
        held: rank::Held,
    ) -> Result<Self, (FolioRef, rank::Held)> {
        match Owned::try_claim(folio) {
            Ok(owned) => Ok(Self::new(owned, Some(held))),
            Err(folio) => Err((folio, held)),
        }
    }

    /// Records the place on the lock ladder of a folio that was born locked and has just got one.
    pub(crate) fn set_held(&mut self, held: rank::Held) {
        self._held = Some(held);
    }

    /// Unlocks and keeps the reference.
    #[must_use]
    pub fn unlock_keep(self) -> FolioRef {
        self.owned.release()
    }

    /// Hands the lock to a read in flight. Threads that wait for the lock wake, and one of them
    /// drives the device.
    pub fn into_reading(self) -> ReadingFolio {
        ReadingFolio::new(self.owned)
    }

    pub(super) fn into_owned(self) -> Owned {
        self.owned
    }

    /// log2 of the unit the state is kept in: a block.
    fn block_bits(&self) -> u32 {
        self.meta().block_bits()
    }

    fn blocks_len(&self) -> usize {
        (self.len() >> self.block_bits()).max(1)
    }

    /// The blocks that `range` touches. Panics if it does not lie in the folio.
    fn touched(&self, range: &Range<usize>) -> Range<usize> {
        assert!(range.end <= self.len(), "range past the end of the folio");
        let bits = self.block_bits();
        range.start >> bits..(range.end + (1 << bits) - 1) >> bits
    }

    /// The blocks that lie wholly in `range`.
    fn inside(&self, range: &Range<usize>) -> Range<usize> {
        assert!(range.end <= self.len(), "range past the end of the folio");
        let bits = self.block_bits();
        (range.start + (1 << bits) - 1) >> bits..range.end >> bits
    }

    fn bytes_of(&self, blocks: &Range<usize>) -> Range<usize> {
        let bits = self.block_bits();
        blocks.start << bits..blocks.end << bits
    }

    fn blocks(&self) -> Option<&Blocks> {
        self.owned.state()?.blocks.as_ref()
    }

    /// The bitmaps, made from the flags if there are none.
    fn blocks_mut(&mut self) -> &mut Blocks {
        let flags = self.meta().header.flags();
        let len = self.blocks_len();
        if self.owned.state().is_none() {
            self.owned.replace(Some(Box::default()));
        }
        let state = self.owned.state_mut().expect("installed above");
        state.blocks.get_or_insert_with(|| {
            Blocks::new(
                len,
                flags & flag::UPTODATE != 0,
                flags & flag::BLOCKS_DIRTY != 0,
            )
        })
    }

    /// Brings the flags in step with the bitmaps, and drops bitmaps that say nothing more.
    fn settle(&mut self) {
        let header = &self.meta().header;
        let Some(state) = self.owned.state_mut() else {
            return;
        };
        let Some(blocks) = &state.blocks else {
            return;
        };
        let len = 0..blocks.len();
        if blocks.uptodate.all(len.clone()) {
            header.set(flag::UPTODATE);
        }
        if !blocks.is_uniform() {
            return;
        }
        if blocks.dirty.any(len) {
            header.set(flag::BLOCKS_DIRTY);
        } else {
            header.clear(flag::BLOCKS_DIRTY);
        }
        state.blocks = None;
        if state.private.is_none() {
            self.owned.replace(None);
        }
    }

    // ---- up to date

    /// Whether every block that `range` touches is up to date. An empty range is.
    #[must_use]
    pub fn is_range_uptodate(&self, range: Range<usize>) -> bool {
        self.first_not_uptodate(range).is_none()
    }

    /// The first run of blocks touched by `range` that are not up to date, as bytes.
    #[must_use]
    pub fn first_not_uptodate(&self, range: Range<usize>) -> Option<Range<usize>> {
        if range.is_empty() || self.is_uptodate() {
            return None;
        }
        let touched = self.touched(&range);
        let run = match self.blocks() {
            Some(blocks) => blocks.uptodate.run(touched, false)?,
            None => touched,
        };
        Some(self.bytes_of(&run))
    }

    /// Says that every block `range` touches holds the contents of the file. Nothing for an empty
    /// range (rule B22). The last block sets the flag of the folio.
    pub fn set_range_uptodate(&mut self, range: Range<usize>) {
        if range.is_empty() || self.is_uptodate() {
            return;
        }
        let touched = self.touched(&range);
        if touched.len() == self.blocks_len() && self.blocks().is_none() {
            self.meta().header.set(flag::UPTODATE);
            return;
        }
        self.blocks_mut().uptodate.set(touched, true);
        self.settle();
    }

    /// Says that the whole folio holds the contents of the file.
    pub fn set_uptodate(&mut self) {
        self.set_range_uptodate(0..self.len());
    }

    /// Says that the folio was brought in by somebody who will not want it again: it is dropped
    /// when it has been read or written.
    pub fn set_dropbehind(&mut self) {
        self.meta().header.set(flag::DROPBEHIND);
    }

    // ---- dirty

    /// Whether some block that `range` touches is dirty.
    #[must_use]
    pub fn is_range_dirty(&self, range: Range<usize>) -> bool {
        if range.is_empty() {
            return false;
        }
        match self.blocks() {
            Some(blocks) => blocks.dirty.any(self.touched(&range)),
            None => self.all_dirty(),
        }
    }

    fn all_dirty(&self) -> bool {
        self.meta().header.flags() & flag::BLOCKS_DIRTY != 0
    }

    /// Says that the blocks `range` touches differ from storage (rule B19), and the folio with
    /// them: flag, index mark and accounting. Nothing for an empty range (rule B22).
    pub fn set_range_dirty(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let touched = self.touched(&range);
        if self.blocks().is_some() || touched.len() < self.blocks_len() {
            if !self.range_all_dirty(&touched) {
                self.blocks_mut().dirty.set(touched, true);
                self.settle();
            }
        } else if !self.all_dirty() {
            self.meta().header.set(flag::BLOCKS_DIRTY);
        }
        self.mark_dirty();
    }

    fn range_all_dirty(&self, touched: &Range<usize>) -> bool {
        match self.blocks() {
            Some(blocks) => blocks.dirty.all(touched.clone()),
            None => self.all_dirty(),
        }
    }

    /// Says that the whole folio differs from storage.
    pub fn set_dirty(&mut self) {
        self.set_range_dirty(0..self.len());
    }

    /// Sets the flag and the mark, and counts, if the flag is not set.
    fn mark_dirty(&self) {
        let header = &self.meta().header;
        if header.flags() & flag::DIRTY != 0 {
            return;
        }
        let pool = self.pool();
        let mut first = false;
        pool.with_cache_of(self, |core, index| {
            // Under the index lock, so that a cache that goes away sees flag and count together.
            header.set(flag::DIRTY);
            first = core.nr_dirty() == 0;
            pool.count_dirty(self.pages(), true);
            core.count_dirty(self.pages(), true);
            index.set_mark(self.meta().index(), self.order(), Mark::Dirty);
            core.publish_marks(index);
        });
        if first && let Some(owner) = pool.owner_of(self) {
            owner.became_dirty();
        }
    }

    /// The runs of dirty blocks that start before byte `limit`, in order, as byte ranges; the last
    /// one ends at the end of the block `limit` lies in at most.
    #[must_use]
    pub fn dirty_ranges(&self, limit: usize) -> DirtyRanges {
        let end = self.touched(&(0..limit.min(self.len()))).end;
        let mut ranges = SmallVec::new();
        match self.blocks() {
            Some(blocks) => {
                let mut at = 0;
                while let Some(run) = blocks.dirty.run(at..end, true) {
                    at = run.end;
                    ranges.push(self.bytes_of(&run));
                }
            }
            None if self.all_dirty() && end != 0 => ranges.push(self.bytes_of(&(0..end))),
            None => {}
        }
        DirtyRanges(ranges.into_iter())
    }

    /// Says that the blocks wholly inside `range` need not be written any more. When none is left,
    /// the folio is clean.
    pub fn clear_range_dirty(&mut self, range: Range<usize>) {
        let inside = self.inside(&range);
        if inside.start >= inside.end || !self.is_range_dirty(self.bytes_of(&inside)) {
            return;
        }
        if inside.len() == self.blocks_len() {
            self.cancel_dirty();
            return;
        }
        self.blocks_mut().dirty.set(inside, false);
        self.settle();
        if !self.is_range_dirty(0..self.len()) {
            self.cancel_dirty();
        }
    }

    /// Drops the dirt: block bits, flag, mark and accounting.
    pub fn cancel_dirty(&mut self) {
        self.clear_dirty_flag();
        self.clear_all_dirty_blocks();
    }

    /// Takes the dirty flag for writing the folio. Returns whether it was set. The block bits stay
    /// until [`LockedFolio::clear_all_dirty_blocks`], the mark until
    /// [`LockedFolio::start_writeback`].
    ///
    /// Write-protects the folio in memory mappings first: a store after that faults, and dirties
    /// the folio again.
    pub fn clear_dirty_for_io(&mut self) -> bool {
        if !self.is_dirty() {
            return false;
        }
        if self.is_mapped()
            && let Some(owner) = self.pool().owner_of(self)
        {
            owner.write_protect_folio(self);
        }
        self.clear_dirty_flag()
    }

    fn clear_dirty_flag(&self) -> bool {
        let header = &self.meta().header;
        if header.flags() & flag::DIRTY == 0 {
            return false;
        }
        let mut was = false;
        self.pool().with_cache_of(self, |core, _| {
            was = header.clear(flag::DIRTY) & flag::DIRTY != 0;
            if was {
                self.pool().count_dirty(self.pages(), false);
                core.count_dirty(self.pages(), false);
            }
        });
        was
    }

    /// Forgets which blocks are dirty, after all of them have been handed to writeback or given up:
    /// on every exit, also on failure (rule B21). The folio flag was taken by
    /// [`LockedFolio::clear_dirty_for_io`].
    pub fn clear_all_dirty_blocks(&mut self) {
        debug_assert!(!self.is_dirty(), "the dirty flag is still set");
        if self.blocks().is_some() {
            let len = self.blocks_len();
            self.blocks_mut().dirty.set(0..len, false);
            self.settle();
        } else if self.all_dirty() {
            self.meta().header.clear(flag::BLOCKS_DIRTY);
        }
        if !self.is_writeback() {
            // Nothing of it is on its way to storage: drop the mark that stood for it.
            self.drop_dirty_marks();
        }
    }

    fn drop_dirty_marks(&self) {
        self.pool().with_cache_of(self, |core, index| {
            if !self.is_dirty() {
                index.clear_mark(self.meta().index(), self.order(), Mark::Dirty);
            }
            index.clear_mark(self.meta().index(), self.order(), Mark::ToWrite);
            core.publish_marks(index);
        });
    }

    /// Begins the writeback: flag, mark and accounting. Before anything is submitted (rule B27).
    ///
    /// # Panics
    ///
    /// In debug builds, if the folio is under writeback already.
    pub fn start_writeback(&mut self) {
        let was = self.meta().header.set(flag::WRITEBACK);
        debug_assert!(was & flag::WRITEBACK == 0, "already under writeback");
        self.pool().count_writeback(self.pages(), true);
        self.pool().with_cache_of(self, |core, index| {
            let (at, order) = (self.meta().index(), self.order());
            // The new mark before the old one goes: a reader without a lock finds one of them.
            index.set_mark(at, order, Mark::Writeback);
            core.publish_marks(index);
            if !self.is_dirty() {
                index.clear_mark(at, order, Mark::Dirty);
            }
            index.clear_mark(at, order, Mark::ToWrite);
            core.publish_marks(index);
        });
    }

    // ---- data and holes

    /// The first run of blocks touched by `range` that are up to date or dirty, as bytes.
    #[must_use]
    pub fn first_data(&self, range: Range<usize>) -> Option<Range<usize>> {
        self.first_block(range, true)
    }

    /// The first run of blocks touched by `range` that are neither up to date nor dirty, as bytes.
    #[must_use]
    pub fn first_hole(&self, range: Range<usize>) -> Option<Range<usize>> {
        self.first_block(range, false)
    }

    fn first_block(&self, range: Range<usize>, data: bool) -> Option<Range<usize>> {
        if range.is_empty() {
            return None;
        }
        let touched = self.touched(&range);
        let Some(blocks) = self.blocks() else {
            let uniform = self.is_uptodate() || self.all_dirty();
            return (uniform == data).then(|| self.bytes_of(&touched));
        };
        let is_data = |at: usize| blocks.uptodate.all(at..at + 1) || blocks.dirty.all(at..at + 1);
        let start = touched.clone().find(|at| is_data(*at) == data)?;
        let end = (start..touched.end).find(|at| is_data(*at) != data);
        Some(self.bytes_of(&(start..end.unwrap_or(touched.end))))
    }

    // ---- bytes

    /// Copies `src` into the folio at `offset`.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folio.
    pub fn copy_in(&mut self, offset: usize, src: &[u8]) {
        self.bytes().write(offset, src);
    }

    /// Copies `len` bytes at `from` of another folio into this one at `offset`.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folios.
    pub fn copy_from_folio(&mut self, offset: usize, other: &FolioRef, from: usize, len: usize) {
        self.bytes().copy(offset, &other.bytes(), from, len);
    }

    /// Writes zeroes to `range`.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folio.
    pub fn zero(&mut self, range: Range<usize>) {
        self.bytes().zero(range.start, range.len());
    }

    // ---- private state of the backend

    /// The backend's state, if there is some of type `T`.
    #[must_use]
    pub fn private<T: Any>(&self) -> Option<&T> {
        self.owned.state()?.private.as_ref()?.downcast_ref()
    }

    /// The backend's state, to change it.
    #[must_use]
    pub fn private_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.owned.state_mut()?.private.as_mut()?.downcast_mut()
    }

    /// Whether the backend keeps state with the folio.
    #[must_use]
    pub fn has_private(&self) -> bool {
        self.owned.state().is_some_and(|s| s.private.is_some())
    }

    /// Attaches state of the backend, in place of what was there. A folio with such state is asked
    /// for (`release_folio`) before it may be reclaimed.
    pub fn set_private(&mut self, private: Box<dyn Any + Send>) {
        match self.owned.state_mut() {
            Some(state) => state.private = Some(private),
            None => {
                self.owned.replace(Some(Box::new(State {
                    blocks: None,
                    private: Some(private),
                })));
            }
        }
    }

    /// Takes the backend's state away.
    #[must_use]
    pub fn take_private(&mut self) -> Option<Box<dyn Any + Send>> {
        let state = self.owned.state_mut()?;
        let private = state.private.take();
        if state.blocks.is_none() {
            self.owned.replace(None);
        }
        private
    }

    // ---- memory mappings

    /// Says whether some memory mapping may show the folio. While set, the owner of the cache is
    /// asked to unmap it before it leaves the cache, and to write-protect it before it is written.
    pub fn set_mapped(&mut self, mapped: bool) {
        let header = &self.meta().header;
        if mapped {
            header.set(flag::MAPPED);
        } else {
            header.clear(flag::MAPPED);
        }
    }
}

impl Deref for LockedFolio {
    type Target = FolioRef;

    fn deref(&self) -> &FolioRef {
        self.owned.folio()
    }
}

impl fmt::Debug for LockedFolio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Runs of dirty blocks of a folio, as byte ranges inside it.
#[derive(Debug)]
pub struct DirtyRanges(smallvec::IntoIter<[Range<usize>; 4]>);

impl Iterator for DirtyRanges {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        self.0.next()
    }
}
