//! Which blocks of a locked folio are up to date and dirty.
//!
//! Owns the rules: when the flags of the folio answer for all blocks, and how flags and bitmaps
//! stay in step with the marks of the page cache index. The bitmaps themselves are
//! [`state`](crate::folio::state).
//!
//! # Invariants
//!
//! - `UPTODATE` is set exactly if every block is up to date.
//! - Without bitmaps the flags answer for every block: `UPTODATE`, and `BLOCKS_DIRTY` for dirty.
//! - `DIRTY` set implies the `Dirty` mark. The mark outlives the flag until the writeback mark is
//!   set ([`LockedFolio::start_writeback`]) or the dirt is dropped: at no moment does a folio on
//!   its way to storage have neither, so a direct read cannot slip through (rules O1 to O3).
//! - Ranges are byte ranges inside the folio. Setting rounds out to blocks, clearing rounds in.

use std::ops::Range;

use smallvec::SmallVec;

use super::LockedFolio;
use crate::folio::header::flag;
use crate::folio::index::Mark;
use crate::folio::state::Blocks;
use crate::mutation::{self, Rule};

impl LockedFolio {
    /// log2 of the unit the state is kept in: a block.
    #[inline]
    fn block_bits(&self) -> u32 {
        self.meta().block_bits()
    }

    #[inline]
    fn blocks_len(&self) -> usize {
        (self.len() >> self.block_bits()).max(1)
    }

    /// The blocks that `range` touches. Panics if it does not lie in the folio.
    #[inline]
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

    #[inline]
    fn bytes_of(&self, blocks: &Range<usize>) -> Range<usize> {
        let bits = self.block_bits();
        blocks.start << bits..blocks.end << bits
    }

    #[inline]
    pub(in crate::folio) fn blocks(&self) -> Option<&Blocks> {
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
    pub(in crate::folio) fn settle(&mut self) {
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
    #[inline]
    pub fn is_range_uptodate(&self, range: Range<usize>) -> bool {
        self.first_not_uptodate(range).is_none()
    }

    /// The first run of blocks touched by `range` that are not up to date, as bytes.
    #[must_use]
    #[inline]
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
    #[inline]
    pub fn set_range_uptodate(&mut self, range: Range<usize>) {
        let nothing = range.is_empty() && !mutation::off(Rule::B22);
        if nothing || self.is_uptodate() {
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

    #[inline]
    fn all_dirty(&self) -> bool {
        self.meta().header.flags() & flag::BLOCKS_DIRTY != 0
    }

    /// Says that the blocks `range` touches differ from storage (rule B19), and the folio with
    /// them: flag, index mark and accounting. Nothing for an empty range (rule B22).
    #[inline]
    pub fn set_range_dirty(&mut self, range: Range<usize>) {
        if range.is_empty() && !mutation::off(Rule::B22) {
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

    #[inline]
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
        self.write_protect();
        self.clear_dirty_flag()
    }

    /// The same for a folio that was write-protected since it was locked.
    pub(crate) fn clear_dirty_protected(&mut self) -> bool {
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
            // Published in one step: a reader without a lock finds the old mark or the new one.
            index.set_mark(at, order, Mark::Writeback);
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
