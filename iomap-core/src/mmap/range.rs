//! One range of a file in one address space.
//!
//! Owns what a mapping was asked to be. What is in its page table is the [`Mmu`]'s; which ranges a
//! file has is the [`ReverseMap`](super::ReverseMap)'s.

use std::ops::Range;
use std::sync::Arc;

use super::{FileMemory, Mmu};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::PageIndex;

bitflags::bitflags! {
    /// What a program may do with the bytes of a mapping.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Prot: u8 {
        /// Load from it.
        const READ = 1 << 0;
        /// Store to it.
        const WRITE = 1 << 1;
    }
}

bitflags::bitflags! {
    /// What else a mapping is asked to be.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MapOptions: u8 {
        /// A page becomes writable only after the metadata that finds its block is durable
        /// (`MAP_SYNC`; rules S1 to S5). DAX only.
        const SYNC = 1 << 0;
    }
}

/// What a program tried to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Load,
    /// A store.
    Store,
}

impl Access {
    /// The permission it needs.
    #[must_use]
    pub const fn needs(self) -> Prot {
        match self {
            Self::Load => Prot::READ,
            Self::Store => Prot::WRITE,
        }
    }

    /// Whether it changes bytes.
    #[must_use]
    pub const fn is_store(self) -> bool {
        matches!(self, Self::Store)
    }
}

/// Pages of a file shown by one page table, all with the same permission. Never changes: unmapping
/// a part of it, or giving a part another permission, makes new ranges in its place.
#[derive(Debug)]
pub struct MappedRange {
    /// The end of the pages that the last read fault has shown. `Relaxed`, no partner: whatever is
    /// found is a good guess or a bad one.
    last: AtomicU64,
    pages: Range<PageIndex>,
    prot: Prot,
    options: MapOptions,
    mmu: Arc<dyn Mmu>,
}

/// Tells the mappings of the program apart, while they exist. The ranges of one mapping share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingId(usize);

impl MappingId {
    /// The mapping with this page table.
    #[must_use]
    pub fn of(mmu: &Arc<dyn Mmu>) -> Self {
        Self(Arc::as_ptr(mmu).cast::<()>().addr())
    }
}

impl MappedRange {
    /// A new mapping of `pages`, shown by `mmu`.
    #[must_use]
    pub fn new(
        pages: Range<PageIndex>,
        prot: Prot,
        options: MapOptions,
        mmu: Arc<dyn Mmu>,
    ) -> Self {
        Self {
            last: AtomicU64::new(u64::MAX),
            pages,
            prot,
            options,
            mmu,
        }
    }

    /// A part of it with another permission.
    pub(super) fn piece(&self, pages: Range<PageIndex>, prot: Prot) -> Self {
        Self::new(pages, prot, self.options, Arc::clone(&self.mmu))
    }

    /// The mapping it belongs to.
    #[must_use]
    pub fn mapping(&self) -> MappingId {
        MappingId::of(&self.mmu)
    }

    /// The pages of the file.
    #[must_use]
    pub fn pages(&self) -> Range<PageIndex> {
        self.pages.clone()
    }

    /// Whether it shows `page`.
    #[must_use]
    pub fn contains(&self, page: PageIndex) -> bool {
        self.pages.contains(&page)
    }

    /// What the program may do.
    #[must_use]
    pub const fn prot(&self) -> Prot {
        self.prot
    }

    /// What else was asked for.
    #[must_use]
    pub const fn options(&self) -> MapOptions {
        self.options
    }

    /// Whether pages may become writable only when their blocks are durably mapped.
    #[must_use]
    pub const fn is_synchronous(&self) -> bool {
        self.options.contains(MapOptions::SYNC)
    }

    /// The memory in which folios must lie to be shown. See [`Mmu::memory`].
    #[must_use]
    pub fn memory(&self) -> Option<&Arc<FileMemory>> {
        self.mmu.memory()
    }

    /// Whether the last read fault was of the page before, or of one in the same `1 << order` pages.
    pub(crate) fn is_near_last(&self, page: PageIndex, order: u32) -> bool {
        let end = self.last.load(Ordering::Relaxed);
        let last = PageIndex::new(end.saturating_sub(1));
        end == page.get() || last.align_down(order) == page.align_down(order)
    }

    /// A read fault shows pages up to `end`.
    pub(crate) fn note_shown(&self, end: PageIndex) {
        self.last.store(end.get(), Ordering::Relaxed);
    }

    /// The page table.
    pub(super) const fn mmu(&self) -> &Arc<dyn Mmu> {
        &self.mmu
    }
}
