//! The part of a page cache that folios lead back to: type-stable, like the folios.
//!
//! Owns the registry of the caches of a pool ([`CacheTable`]) and what is shared between a cache
//! and those who only have one of its folios ([`CacheCore`]): the index, the counts that are read
//! without a lock, the owner. A core is never freed. It is used again under another id, and ids
//! are never used again, so a folio's `cache` word says for certain which cache it is in.
//!
//! # Invariant
//!
//! A folio's `cache` word changes under the index lock of that cache only. So with the lock held a
//! matching word says that the folio is in the index of this core.

use std::sync::{Arc, OnceLock, Weak};

use super::header::flag;
use super::index::{Index, IndexGuard, InsertError, Mark};
use super::owner::CacheOwner;
use super::{FolioRef, LockedFolio, Pool};
use crate::mmap::ReverseMap;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::BlockBits;

/// Bits of an id that name the core; the others count its uses.
const SLOT_BITS: u32 = 28;
/// Cores in the first chunk of the table; each chunk is twice as long as the one before.
const FIRST: usize = 16;

/// What folios of a cache lead to.
#[derive(Debug)]
pub(crate) struct CacheCore {
    /// The id of the cache, or of the last one if `live` is empty.
    id: AtomicU64,
    index: Index,
    /// The marks at the root of the index ([`Mark::bit`]s). Stored with release under the index
    /// lock; partner of [`CacheCore::marks`].
    marks: AtomicU32,
    /// Pages in the index. As `marks`.
    nr_pages: AtomicU64,
    /// Pages of dirty folios.
    nr_dirty: AtomicU64,
    owner: Mutex<Owner>,
    /// The memory mappings that show the cache's file. Empty when the core goes to another cache.
    mappings: ReverseMap,
}

struct Owner {
    cache: u64,
    owner: Option<Weak<dyn CacheOwner>>,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner")
            .field("cache", &self.cache)
            .field("owner", &self.owner.is_some())
            .finish()
    }
}

impl CacheCore {
    fn new() -> Self {
        Self {
            id: AtomicU64::new(0),
            index: Index::new(),
            marks: AtomicU32::new(0),
            nr_pages: AtomicU64::new(0),
            nr_dirty: AtomicU64::new(0),
            owner: Mutex::new(
                Rank::InodeState,
                Owner {
                    cache: 0,
                    owner: None,
                },
            ),
            mappings: ReverseMap::new(),
        }
    }

    /// The memory mappings of the cache's file.
    pub(crate) fn mappings(&self) -> &ReverseMap {
        &self.mappings
    }

    #[inline]
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Locks the index.
    pub(crate) fn lock(&self, pool: &'static Pool) -> IndexGuard<'_> {
        self.index.lock(pool)
    }

    /// Makes the marks of the index readable without its lock. After every change of marks, with
    /// the lock still held.
    pub(crate) fn publish_marks(&self, index: &IndexGuard<'_>) {
        let marks = index.marks();
        if self.marks.load(Ordering::Relaxed) != marks {
            self.marks.store(marks, Ordering::Release);
        }
    }

    /// The marks some folio has, at this moment ([`Mark::bit`]s).
    #[inline]
    pub(crate) fn marks(&self) -> u32 {
        self.marks.load(Ordering::Acquire)
    }

    /// Pages in the index, at this moment.
    #[inline]
    pub(crate) fn nr_pages(&self) -> u64 {
        self.nr_pages.load(Ordering::Acquire)
    }

    /// Pages of dirty folios, at this moment.
    #[inline]
    pub(crate) fn nr_dirty(&self) -> u64 {
        self.nr_dirty.load(Ordering::Relaxed)
    }

    pub(crate) fn count_dirty(&self, pages: u64, up: bool) {
        if up {
            self.nr_dirty.fetch_add(pages, Ordering::Relaxed);
        } else {
            self.nr_dirty.fetch_sub(pages, Ordering::Relaxed);
        }
    }

    /// The owner of the cache `cache`, if that is what this core is and it is alive.
    pub(crate) fn owner(&self, cache: u64) -> Option<Arc<dyn CacheOwner>> {
        let owner = self.owner.lock();
        if owner.cache != cache {
            return None;
        }
        owner.owner.as_ref()?.upgrade()
    }

    pub(crate) fn set_owner(&self, cache: u64, new: Option<Weak<dyn CacheOwner>>) {
        let new = Owner { cache, owner: new };
        let old = std::mem::replace(&mut *self.owner.lock(), new);
        drop(old);
    }

    // ---- folios in and out

    /// Puts a folio that is in no cache at page `at`. The index holds a reference from here on.
    pub(crate) fn insert(
        &self,
        pool: &'static Pool,
        index: &mut IndexGuard<'_>,
        cache: u64,
        (folio, at, blocks): (&FolioRef, u64, BlockBits),
    ) -> Result<(), InsertError> {
        let meta = folio.meta();
        meta.join(cache, at, blocks);
        meta.header.get();
        if let Err(error) = index.insert(at, folio.order(), folio.id()) {
            meta.leave();
            // Not the last: the caller has one.
            let _ = meta.header.put();
            return Err(error);
        }
        self.nr_pages.fetch_add(folio.pages(), Ordering::Release);
        pool.count_pages(folio.pages(), true);
        Ok(())
    }

    /// Takes a folio out of the index, dropping its dirt, and puts the reference of the index. The
    /// caller has seen under this lock that the folio is in this cache, and has a reference.
    pub(crate) fn remove(&self, pool: &'static Pool, index: &mut IndexGuard<'_>, folio: &FolioRef) {
        self.unlink(pool, index, folio);
        // Not the last: the caller has one.
        let _ = folio.meta().header.put();
    }

    /// As [`CacheCore::remove`], if nobody but the index and the caller refers to the folio, and it
    /// is clean: nobody can look it up meanwhile.
    pub(crate) fn remove_frozen(
        &self,
        pool: &'static Pool,
        index: &mut IndexGuard<'_>,
        folio: &LockedFolio,
    ) -> bool {
        let header = &folio.meta().header;
        if folio.is_dirty() || folio.is_writeback() || !header.freeze(2) {
            return false;
        }
        self.unlink(pool, index, folio);
        header.revive(1);
        true
    }

    fn unlink(&self, pool: &'static Pool, index: &mut IndexGuard<'_>, folio: &FolioRef) {
        let meta = folio.meta();
        index.remove(meta.index(), folio.order());
        meta.leave();
        if meta.header.clear(flag::DIRTY | flag::BLOCKS_DIRTY) & flag::DIRTY != 0 {
            pool.count_dirty(folio.pages(), false);
            self.count_dirty(folio.pages(), false);
        }
        self.nr_pages.fetch_sub(folio.pages(), Ordering::Release);
        pool.count_pages(folio.pages(), false);
        self.publish_marks(index);
    }

    /// Takes the `TOWRITE` marks of `range` (page numbers) from the dirty ones.
    pub(crate) fn tag_for_writeback(
        &self,
        index: &mut IndexGuard<'_>,
        pool: &Pool,
        range: (u64, u64),
    ) {
        let mut at = range.0;
        while let Some((_, id)) = index.next(at, range.1, Some(Mark::Dirty)) {
            let meta = pool.folio(id);
            index.set_mark(meta.index(), meta.order(), Mark::ToWrite);
            at = meta.index() + (1 << meta.order());
        }
        self.publish_marks(index);
    }
}

/// The cores of a pool.
#[derive(Debug)]
pub(crate) struct CacheTable {
    /// Chunk `n` has `FIRST << n` cores. Each is created once and stays.
    chunks: [OnceLock<Box<[CacheCore]>>; 25],
    free: Mutex<FreeSlots>,
}

#[derive(Debug, Default)]
struct FreeSlots {
    given_back: Vec<u32>,
    unused: u32,
}

impl CacheTable {
    pub(crate) fn new() -> Self {
        Self {
            chunks: std::array::from_fn(|_| OnceLock::new()),
            free: Mutex::new(Rank::FolioArena, FreeSlots::default()),
        }
    }

    fn slot(&self, slot: usize) -> &CacheCore {
        let chunk = (slot / FIRST + 1).ilog2();
        let before = FIRST * ((1 << chunk) - 1);
        let cores = self.chunks[chunk as usize]
            .get_or_init(|| (0..FIRST << chunk).map(|_| CacheCore::new()).collect());
        &cores[slot - before]
    }

    /// The core of cache `id`, or what it has become since.
    pub(crate) fn get(&self, id: u64) -> &CacheCore {
        self.slot((id & ((1 << SLOT_BITS) - 1)) as usize)
    }

    /// Registers a cache. Returns its id, which is not 0 and never given out again.
    ///
    /// # Panics
    ///
    /// If 2^28 caches are alive: their inodes alone need more memory than there is.
    pub(crate) fn register(&self) -> u64 {
        let mut free = self.free.lock();
        let slot = match free.given_back.pop() {
            Some(slot) => slot,
            None => {
                assert!(free.unused < 1 << SLOT_BITS, "2^28 page caches are alive");
                free.unused += 1;
                free.unused - 1
            }
        };
        drop(free);
        let core = self.slot(slot as usize);
        let uses = (core.id.load(Ordering::Relaxed) >> SLOT_BITS) + 1;
        let id = uses << SLOT_BITS | u64::from(slot);
        core.id.store(id, Ordering::Relaxed);
        id
    }

    /// Takes back the core of a cache that is empty.
    pub(crate) fn unregister(&self, id: u64) {
        let core = self.get(id);
        debug_assert_eq!(core.nr_pages(), 0);
        debug_assert!(core.mappings.is_empty(), "a mapping outlived its file");
        core.set_owner(0, None);
        let slot = (id & ((1 << SLOT_BITS) - 1)) as u32;
        self.free.lock().given_back.push(slot);
    }
}
