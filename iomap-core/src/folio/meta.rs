//! The metadata of one folio: 48 bytes at a fixed place.
//!
//! Owns the layout, and the protocol by which a lookup makes sure that the folio it caught is the
//! one it looked for ([`Folio::join`], [`Folio::leave`], [`Folio::is_at`]). References, flags and
//! the lock are [`header`](super::header); the per-block state is [`state`](super::state).

use super::header::{Header, flag};
use super::state_ptr::StatePtr;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::units::BlockBits;

/// The metadata of one folio. All zero is a valid, free folio.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Folio {
    /// References and flags.
    pub header: Header,
    /// The page cache it is in, 0 for none. Stored with release after `index`; partner of the
    /// acquire load in [`Folio::is_at`]. Changes under the index lock of that cache only.
    cache: AtomicU64,
    /// The first page of the file it holds, while `cache` is not 0.
    index: AtomicU64,
    /// The first page of its data in the arena. Written before the header comes to life.
    pfn: AtomicU32,
    /// Neighbours on a reclaim list, under the list lock; the next free id while free.
    pub(super) prev: AtomicU32,
    /// See `prev`.
    pub(super) next: AtomicU32,
    /// Bytes whose writing has not ended, with the bias of the submitter (rule B27).
    pub(super) write_pending: AtomicU32,
    /// Which blocks are up to date and dirty, if that differs between them, and private state.
    pub(super) state: StatePtr,
}

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
const _: () = assert!(
    size_of::<Folio>() == 48,
    "the memory budget of a small folio"
);

impl Folio {
    /// Describes a folio that has just been allocated, before its header comes to life.
    pub(super) fn describe(&self, pfn: u32, order: u32) {
        debug_assert_eq!(self.header.refs(), 0);
        self.header.reset(order << flag::ORDER_SHIFT);
        self.pfn.store(pfn, Ordering::Relaxed);
        self.write_pending.store(0, Ordering::Relaxed);
    }

    /// The first page of the data.
    #[inline]
    pub(super) fn pfn(&self) -> u32 {
        self.pfn.load(Ordering::Relaxed)
    }

    /// The page of the data that holds page `index` of the file, if the folio is the one meant; else
    /// any number.
    #[inline]
    pub(super) fn page_of(&self, index: u64) -> u32 {
        let first = self.index.load(Ordering::Relaxed);
        self.pfn().wrapping_add(index.wrapping_sub(first) as u32)
    }

    /// log2 of the pages.
    #[inline]
    pub(crate) fn order(&self) -> u32 {
        (self.header.flags() & flag::ORDER) >> flag::ORDER_SHIFT
    }

    /// Gives up the upper half of the pages. Only while the header is frozen.
    pub(super) fn halve(&self) {
        debug_assert_eq!(self.header.refs(), 0);
        self.header.lower_order();
    }

    /// The block size the folio's state is kept in.
    #[inline]
    pub(super) fn block_bits(&self) -> u32 {
        ((self.header.flags() & flag::BLOCK) >> flag::BLOCK_SHIFT) + BlockBits::SECTOR.get()
    }

    /// The cache the folio is in, 0 for none.
    #[inline]
    pub(crate) fn cache(&self) -> u64 {
        self.cache.load(Ordering::Acquire)
    }

    /// The first page of the file, while the folio is in a cache.
    #[inline]
    pub(crate) fn index(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Puts the folio into a cache. The caller holds the index lock of it and makes the folio
    /// findable afterwards.
    pub fn join(&self, cache: u64, index: u64, blocks: BlockBits) {
        self.header.clear(flag::BLOCK);
        self.header
            .set((blocks.get() - BlockBits::SECTOR.get()) << flag::BLOCK_SHIFT);
        self.join_as(cache, index);
    }

    /// As [`Folio::join`], for a folio that has its block size already.
    pub(super) fn join_as(&self, cache: u64, index: u64) {
        debug_assert_eq!(self.cache.load(Ordering::Relaxed), 0);
        self.index.store(index, Ordering::Relaxed);
        self.cache.store(cache, Ordering::Release);
    }

    /// Takes the folio out of its cache. The caller holds the index lock of it.
    pub fn leave(&self) {
        self.cache.store(0, Ordering::Release);
    }

    /// Whether the folio, to which the caller has a reference, holds page `index` of `cache`.
    ///
    /// While the reference lasts the answer can turn from yes to no, never back.
    #[inline]
    pub fn is_at(&self, cache: u64, index: u64) -> bool {
        if self.cache.load(Ordering::Acquire) != cache {
            return false;
        }
        let first = self.index.load(Ordering::Relaxed);
        first <= index && index - first < 1 << self.order()
    }
}
