//! From pages of a file to the memory mappings that show them.
//!
//! Owns the list of ranges of one page cache, and the only ways to change a page table: each runs
//! with the list locked, so that no page appears in a mapping that is being taken down. Kernel
//! counterpart: `i_mmap` and its lock.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{Frames, MappedRange, MappingId, Prot, intersect};
use crate::error::Result;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Rank, RwLock};
use crate::units::PageIndex;

/// The range is not mapped any more: the fault is looked up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The memory mappings of one file.
///
/// Every walk costs as much as the file has mappings.
pub struct ReverseMap {
    ranges: RwLock<Vec<Arc<MappedRange>>>,
    /// How many. Stored with the list locked, `Relaxed`: who has to be certain takes the lock.
    count: AtomicUsize,
}

impl ReverseMap {
    pub(crate) fn new() -> Self {
        Self {
            ranges: RwLock::new(Rank::ReverseMap, 0, Vec::new()),
            count: AtomicUsize::new(0),
        }
    }

    /// Whether no mapping shows anything of the file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    // ---- ranges

    /// Adds a mapping. Its pages come with faults.
    pub fn insert(&self, range: Arc<MappedRange>) {
        let mut ranges = self.ranges.write();
        ranges.push(range);
        self.count.store(ranges.len(), Ordering::Relaxed);
    }

    /// The range that shows `page` in a mapping.
    #[must_use]
    pub fn find(&self, mapping: MappingId, page: PageIndex) -> Option<Arc<MappedRange>> {
        let ranges = self.ranges.read();
        let found = ranges
            .iter()
            .find(|range| range.mapping() == mapping && range.contains(page));
        found.map(Arc::clone)
    }

    /// Takes `pages` out of a mapping: its pages go, and what is left of its ranges stays.
    pub fn remove(&self, mapping: MappingId, pages: &Range<PageIndex>) {
        self.carve(mapping, pages, None);
    }

    /// Gives `pages` of a mapping another permission. What is shown goes: the next access faults
    /// and finds the new permission.
    pub fn protect(&self, mapping: MappingId, pages: &Range<PageIndex>, prot: Prot) {
        self.carve(mapping, pages, Some(prot));
    }

    /// Cuts `pages` out of the ranges of a mapping, and puts them back with `prot`, if given.
    fn carve(&self, mapping: MappingId, pages: &Range<PageIndex>, prot: Option<Prot>) {
        let mut ranges = self.ranges.write();
        let mut kept = Vec::with_capacity(ranges.len() + 2);
        let old = std::mem::take(&mut *ranges);
        for range in &old {
            let cut = intersect(&range.pages(), pages);
            if range.mapping() != mapping || cut.is_empty() {
                kept.push(Arc::clone(range));
                continue;
            }
            range.mmu().unmap(cut.clone());
            let pieces = [
                (range.pages().start..cut.start, Some(range.prot())),
                (cut.clone(), prot),
                (cut.end..range.pages().end, Some(range.prot())),
            ];
            for (pages, prot) in pieces {
                if let Some(prot) = prot
                    && !pages.is_empty()
                {
                    kept.push(Arc::new(range.piece(pages, prot)));
                }
            }
        }
        self.count.store(kept.len(), Ordering::Relaxed);
        *ranges = kept;
        drop(ranges);
        // The last owner of a page table may be here: not under the lock.
        drop(old);
    }

    /// Has the accesses to `page` in `range` raise the signal, until the page is unmapped. Nothing
    /// if the range is gone, or if `still`, asked with the list locked, says that there is no reason
    /// any more: who takes the reason away unmaps the page afterwards, so either it does that to the
    /// refusal, or `still` sees it.
    pub fn refuse(&self, range: &Arc<MappedRange>, page: PageIndex, still: impl FnOnce() -> bool) {
        let ranges = self.ranges.write();
        let known = ranges.iter().any(|known| Arc::ptr_eq(known, range));
        if known && range.contains(page) && still() {
            range.mmu().refuse(page);
        }
    }

    // ---- pages

    /// Shows `frames` in `range` from page `at` on; what lies outside of the range is left out.
    /// `Ok(Err(Gone))`: the range was unmapped.
    ///
    /// Holding: the lock of the folio, or of the DAX entry, the frames belong to; it has been seen
    /// to be in the cache, and a folio has its mapped flag. Writable: it is dirty.
    ///
    /// # Errors
    ///
    /// What the page table answers.
    pub fn map(
        &self,
        range: &Arc<MappedRange>,
        at: PageIndex,
        frames: &Frames,
        writable: bool,
    ) -> Result<Result<(), Gone>> {
        let ranges = self.ranges.read();
        if !ranges.iter().any(|known| Arc::ptr_eq(known, range)) {
            return Ok(Err(Gone));
        }
        let shown = intersect(&range.pages(), &(at..at.plus(frames.pages())));
        if shown.is_empty() {
            return Ok(Ok(()));
        }
        let part = frames.part(shown.start.since(at), shown.end.since(shown.start));
        let writable = writable && range.prot().contains(Prot::WRITE) && frames.can_be_written();
        range.mmu().map(shown.start, &part, writable)?;
        Ok(Ok(()))
    }

    /// Takes write permission for `pages` away from every mapping.
    pub fn write_protect(&self, pages: &Range<PageIndex>) {
        self.for_each(pages, |range, pages| range.mmu().write_protect(pages));
    }

    /// Takes `pages` out of every mapping.
    pub fn unmap(&self, pages: &Range<PageIndex>) {
        self.for_each(pages, |range, pages| range.mmu().unmap(pages));
    }

    /// Calls `f` with every range that meets `pages`, and where it does, with the list locked.
    pub fn for_each(
        &self,
        pages: &Range<PageIndex>,
        mut f: impl FnMut(&MappedRange, Range<PageIndex>),
    ) {
        for range in &*self.ranges.read() {
            let met = intersect(&range.pages(), pages);
            if !met.is_empty() {
                f(range, met);
            }
        }
    }
}

impl fmt::Debug for ReverseMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseMap").finish_non_exhaustive()
    }
}
