//! Pages of a folio as a page table names them: memory, and no reference.
//!
//! Owns the way back from an entry of a page table to the folio ([`FolioPages::get`]). When such an
//! entry may exist is [`mmap`](crate::mmap)'s: while the folio has its mapped flag. The memory of a
//! folio is never unmapped, so an entry that outlived its folio would show another file's bytes,
//! not crash.

use std::fmt;
use std::ops::Range;

use super::bytes::SharedBytes;
use super::{FolioRef, LockedFolio, Pool};
use crate::units::{PAGE_SIZE, PageIndex};

/// The memory of some pages of a folio.
#[derive(Clone)]
pub(crate) struct FolioPages {
    pool: &'static Pool,
    id: u32,
    cache: u64,
    /// The first of the pages in the file.
    first: u64,
    bytes: SharedBytes,
}

impl LockedFolio {
    /// The pages `pages` of the file, as far as a page table goes.
    ///
    /// # Panics
    ///
    /// If they do not all lie in the folio.
    pub(crate) fn frames(&self, pages: Range<PageIndex>) -> FolioPages {
        assert!(
            self.index() <= pages.start && pages.end <= self.end_index(),
            "pages outside of the folio"
        );
        // A place inside a folio: fits a `usize`.
        let offset = pages.start.since(self.index()) as usize * PAGE_SIZE;
        let len = pages.end.since(pages.start) as usize * PAGE_SIZE;
        FolioPages {
            pool: self.pool(),
            id: self.id(),
            cache: self.meta().cache(),
            first: pages.start.get(),
            bytes: self.bytes().part(offset, len),
        }
    }

    /// Takes the folio out of every memory mapping, and clears the mapped flag.
    pub fn unmap(&mut self) {
        if self.is_mapped() {
            self.with_mappings(|mappings, pages| mappings.unmap(&pages));
            self.set_mapped(false);
        }
    }

    /// Takes write permission for the folio away from every memory mapping: the next store faults.
    pub fn write_protect(&mut self) {
        if self.is_mapped() {
            self.with_mappings(|mappings, pages| mappings.write_protect(&pages));
        }
    }

    /// The reverse map of the cache the folio is in. Should the cache go away meanwhile, it may be
    /// another's by now: then that one faults once more than it had to.
    fn with_mappings(&self, f: impl FnOnce(&crate::mmap::ReverseMap, Range<PageIndex>)) {
        let cache = self.meta().cache();
        if cache != 0 {
            let core = self.pool().caches().get(cache);
            f(core.mappings(), self.index()..self.end_index());
        }
    }
}

impl FolioPages {
    /// The part from page `first` on.
    pub(crate) fn part(&self, first: u64, pages: u64) -> Self {
        let (offset, len) = (first as usize * PAGE_SIZE, pages as usize * PAGE_SIZE);
        Self {
            first: self.first + first,
            bytes: self.bytes.part(offset, len),
            ..self.clone()
        }
    }

    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        self.bytes.read(offset, to);
    }

    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        self.bytes.write(offset, from);
    }

    /// A reference to the folio, if it is still the one that holds these pages.
    pub(crate) fn get(&self) -> Option<FolioRef> {
        FolioRef::try_get(self.pool, self.id, self.cache, self.first)
    }
}

impl fmt::Debug for FolioPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Folio({}, page {}, {:?})",
            self.id, self.first, self.bytes
        )
    }
}
