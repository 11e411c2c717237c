//! The page cache of one inode: which folio holds which pages of a file.
//!
//! # Responsibility boundary
//!
//! [`PageCache`] owns the index of an inode's folios and its marks, the only ways to lock a folio,
//! to create one and to remove one, and the record of writeback errors. It does not read or write
//! storage, knows neither mappings nor file size, and takes neither the inode lock nor the
//! invalidate lock: those who fill, dirty and truncate it do, as the matrix says. Memory, and what
//! leaves when it runs short, is [`folio`](crate::folio)'s.
//!
//! | Module | Owns |
//! |---|---|
//! | [`lookup`] | finding, locking and creating folios; walks |
//! | [`truncate`] | removing: truncate, invalidate, drop |
//! | [`seek`] | data and holes in the cache |
//! | [`errseq`] | writeback errors, reported once to each open file |
//!
//! The index itself, and what folios lead back to, is [`folio`](crate::folio)'s: a folio must find
//! its place without the cache's help.
//!
//! # Locking
//!
//! ```text
//! Inode → Invalidate → Folio (ascending) → PageCacheIndex → ReclaimList → FolioArena
//! ```
//!
//! Lookups take no lock. The index lock is a leaf for everybody outside this module.
//!
//! # Interaction matrix
//!
//! What serialises two operations on the same page. `inode` and `inval` are locks of the inode,
//! taken by the operations (`S` shared, `X` exclusive); `folio` is the folio lock; `wb` the
//! writeback bit; `refs` the reference count; `index` the index lock and the look after it; `count`
//! the count of direct I/O in flight with a fence on both sides; `-` means that both may run, and
//! the note says why that is right. The matrix is symmetric.
//!
//! | | read | write | direct read | direct write | truncate | writeback | reclaim | write fault |
//! |---|---|---|---|---|---|---|---|---|
//! | read | - ¹ | - ² | - | folio ³ | folio + inval ⁴ | - | refs | - ² |
//! | write | | inode X | inode X/S | inode X/S | inode X | folio ⁵ | folio | folio |
//! | direct read | | | - | - ⁶ | inode S/X | count ⁷ | - | count ⁷ |
//! | direct write | | | | - ⁶ | inode S/X, count ⁸ | count ⁷ | folio | count ⁷ |
//! | truncate | | | | | inode X | folio + wb ⁹ | folio | inval X/S |
//! | writeback | | | | | | wb ¹⁰ | folio + wb | folio ⁵ |
//! | reclaim | | | | | | | folio | folio |
//! | write fault | | | | | | | | folio |
//!
//! 1. A page that is missing is created by one of them (`index`); the other waits for its lock, and
//!    drives the device while the fill is in flight.
//! 2. A reader copies with a reference only: it may see parts of a write, never bytes that were not
//!    up to date, because `UPTODATE` is set with release after the bytes.
//! 3. Invalidation removes the folio before the blocks change and after: a reader in between keeps
//!    an old folio for one copy, or fills a new one that the second invalidation removes.
//! 4. A filler holds the invalidate lock shared, so nothing is filled while a range is removed. A
//!    reader that has its reference already finishes with the old bytes or zeroes.
//! 5. Writeback takes the dirty flag and its ranges under the lock; a write after that dirties the
//!    folio again, under `wb`, and the mark stays or comes back. Owners of stable bytes wait for
//!    `wb` in the getter (rule B74).
//! 6. Overlapping direct I/O is the caller's: devices tear, the cache is not involved.
//! 7. Rules O1 to O4. Direct I/O raises its count, passes a fence, then asks for marks and pages;
//!    writeback and write faults make the folio locked and marked, pass a fence, then read the
//!    count. One sees the other. Between the dirty flag and the writeback flag the `Dirty` mark
//!    stays, so a folio on its way to storage is never unmarked.
//! 8. Truncate waits for the count with the inode lock held exclusively, before it comes here
//!    (rule O6).
//! 9. Truncate waits for `wb` with the folio locked: no new writeback starts, the folio then goes.
//! 10. A second writeback waits for `wb` with the folio locked, or skips the folio.
//!
//! Reclaim tries locks and never waits; it freezes the references, so a folio somebody is about to
//! lock stays. Whoever locks a folio asks afterwards whether it is still here ([`PageCache::lock`]):
//! that is what makes truncate and invalidation safe against everybody who only has a reference.

pub mod errseq;
pub mod lookup;
pub mod seek;
pub mod truncate;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use crate::device::BlockDevice;
use crate::error::Errno;
use crate::folio::registry::CacheCore;
use crate::folio::{FolioRef, IndexGuard, Pool, PoolHandle};
use crate::mmap::{FileMemory, ReverseMap};
use crate::units::{BlockBits, PAGE_SHIFT, PageIndex};

pub use crate::folio::{CacheOwner, Mark};
pub use errseq::{ErrSeq, ErrorSequence};
pub use lookup::{FolioBatch, GetFolio};
pub use truncate::InvalidateError;

/// The page cache of one inode.
///
/// Dropping it removes every folio at once, dirty or not: who cares for the data has written it
/// before. Folios somebody still refers to live on, in no cache.
pub struct PageCache {
    core: &'static CacheCore,
    id: u64,
    blocks: BlockBits,
    key: u64,
    device: Arc<dyn BlockDevice>,
    errors: ErrorSequence,
    /// Where folios lie once the file is mapped by a program.
    memory: OnceLock<Arc<FileMemory>>,
    /// Last, so that the pool outlives the rest.
    pool: PoolHandle,
}

impl PageCache {
    /// An empty cache of folios from `pool`, with state in blocks of `blocks`, over `device`. `key`
    /// is the inode number, for messages.
    ///
    /// Blocks larger than a page make every folio at least as large as a block.
    #[must_use]
    pub fn new(
        pool: &PoolHandle,
        blocks: BlockBits,
        device: Arc<dyn BlockDevice>,
        key: u64,
    ) -> Self {
        let pool = pool.clone();
        let id = pool.get().caches().register();
        Self {
            core: pool.get().caches().get(id),
            id,
            blocks,
            key,
            device,
            errors: ErrorSequence::new(),
            memory: OnceLock::new(),
            pool,
        }
    }

    /// Sets who is asked before folios leave and told to write them.
    pub fn set_owner(&self, owner: Weak<dyn CacheOwner>) {
        self.core.set_owner(self.id, Some(owner));
    }

    pub(crate) fn owner(&self) -> Option<Arc<dyn CacheOwner>> {
        self.core.owner(self.id)
    }

    /// The id of this cache, never used for another.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The memory mappings that show the file.
    #[must_use]
    pub fn mappings(&self) -> &ReverseMap {
        self.core.mappings()
    }

    /// The memory in which the folios of a mapped file lie; made when it is asked for first. New
    /// folios lie there from then on, as far as it reaches; others move when a fault needs them.
    ///
    /// # Errors
    ///
    /// No descriptor or no memory left.
    pub fn file_memory(&self) -> crate::error::Result<&Arc<FileMemory>> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory);
        }
        let memory = FileMemory::new()?;
        Ok(self.memory.get_or_init(|| memory))
    }

    /// The pool its folios come from.
    #[must_use]
    #[inline]
    pub fn pool(&self) -> &Pool {
        self.pool.get()
    }

    /// A handle on the pool.
    #[must_use]
    pub fn pool_handle(&self) -> &PoolHandle {
        &self.pool
    }

    /// The device under the inode.
    #[must_use]
    #[inline]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// The block size state is kept in.
    #[must_use]
    pub fn block_bits(&self) -> BlockBits {
        self.blocks
    }

    /// The inode number.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The order of the smallest folio: that of a block, if it is larger than a page.
    #[must_use]
    #[inline]
    pub fn min_order(&self) -> u32 {
        self.blocks.get().saturating_sub(PAGE_SHIFT)
    }

    /// Pages in the cache.
    #[must_use]
    #[inline]
    pub fn nr_pages(&self) -> u64 {
        self.core.nr_pages()
    }

    /// Pages of dirty folios in the cache.
    #[must_use]
    pub fn nr_dirty(&self) -> u64 {
        self.core.nr_dirty()
    }

    /// Whether the cache is empty.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nr_pages() == 0
    }

    // ---- errors

    /// Records that writing something of this file failed.
    pub fn record_error(&self, errno: Errno) {
        self.errors.record(errno);
    }

    /// Where a file that is opened now begins in the sequence of errors.
    #[must_use]
    pub fn sample_error(&self) -> ErrSeq {
        self.errors.sample()
    }

    /// Whether an error was recorded that nobody was told of.
    #[must_use]
    pub fn has_unseen_error(&self) -> bool {
        self.errors.is_unseen()
    }

    /// The last error, as an open file would be told of it; it does not count as told.
    ///
    /// # Errors
    ///
    /// The error recorded last, if `since` has not seen it.
    pub fn check_error(&self, since: ErrSeq) -> Result<(), Errno> {
        self.errors.check(since)
    }

    /// Reports the last error to an open file, once.
    ///
    /// # Errors
    ///
    /// The error recorded last, if `since` has not seen it.
    pub fn check_and_advance(&self, since: &mut ErrSeq) -> Result<(), Errno> {
        self.errors.check_and_advance(since)
    }

    /// The errors of this file.
    #[must_use]
    pub fn errors(&self) -> &ErrorSequence {
        &self.errors
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        let pool = self.pool.get();
        loop {
            let batch = self.batch(PageIndex::ZERO, PageIndex::END, None, usize::MAX);
            if batch.is_empty() {
                break;
            }
            for folio in &batch {
                self.with_index_of(folio, |core, index| core.remove(pool, index, folio));
            }
        }
        pool.caches().unregister(self.id);
    }
}

impl PageCache {
    /// Runs `f` with the index locked if the folio is in this cache.
    fn with_index_of(&self, folio: &FolioRef, f: impl FnOnce(&CacheCore, &mut IndexGuard<'_>)) {
        if folio.is_mapped_in(self) {
            self.pool.get().with_cache_of(folio, f);
        }
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache")
            .field("key", &self.key)
            .field("nr_pages", &self.nr_pages())
            .field("nr_dirty", &self.nr_dirty())
            .finish_non_exhaustive()
    }
}
