//! The memory pool: a budget of page cache memory, shared by the caches made from it.
//!
//! Owns allocation and freeing of folios, the accounting, the registry that leads from a folio to
//! its page cache, and the life of the pool itself. What is dropped when memory runs short is
//! [`reclaim`](super::reclaim). A pool is never freed: lookups without locks may look at its tables
//! at any time. When nobody uses it any more its data goes back to the system and the pool waits
//! for the next [`Pool::new`] with an equal configuration.
//!
//! # Locking
//!
//! ```text
//! Folio → PageCacheIndex → ReclaimList → FolioArena
//! ```
//!
//! Freeing a folio takes the two inner ones, so the last reference may be dropped in a completion.

mod alloc;
mod refusal;
mod retired;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use alloc::Arena;
use refusal::Refusal;

use super::arena::{Data, Table};
use super::buddy::MAX_ORDER;
use super::folio_ref::FolioRef;
use super::foreign::Moved;
use super::index::{IndexGuard, MAX_HEIGHT, Node};
use super::locked::LockedFolio;
use super::meta::Folio;
use super::owner::CacheOwner;
use super::reclaim::Lists;
use super::registry::{CacheCore, CacheTable};
use super::wait::WaitTable;
use crate::error::{FsError, Result};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, Rank};
use crate::units::PAGE_SIZE;

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Bytes of folio data. Rounded up to whole pages, at least 16 of them.
    pub budget: u64,
    /// The largest folio: `1 << max_order` pages, `0..=9`.
    pub max_order: u32,
    /// Bytes on top of the budget for folios in no cache ([`PoolHandle::alloc_private`]): what writing
    /// dirty folios needs when the budget is used up.
    pub reserve: u64,
    /// Whether to ask for transparent huge pages.
    pub huge_pages: bool,
}

impl PoolConfig {
    /// A pool of `budget` bytes, everything else by default.
    #[must_use]
    pub const fn with_budget(budget: u64) -> Self {
        Self {
            budget,
            max_order: MAX_ORDER,
            reserve: 256 << 10,
            huge_pages: true,
        }
    }
}

impl Default for PoolConfig {
    /// 256 MiB.
    fn default() -> Self {
        Self::with_budget(256 << 20)
    }
}

/// Counts of a pool at about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Pages of the budget.
    pub budget_pages: u64,
    /// Pages free, without the reserve.
    pub free_pages: u64,
    /// Pages in page caches.
    pub nr_pages: u64,
    /// Pages of dirty folios.
    pub nr_dirty: u64,
    /// Pages of folios under writeback.
    pub nr_writeback: u64,
    /// Pages reclaimed.
    pub reclaimed: u64,
    /// Folios looked at by reclaim.
    pub reclaim_scanned: u64,
    /// Folios a backend refused to let go.
    pub refused: u64,
    /// Allocations that had to wait.
    pub allocation_waits: u64,
    /// Bytes of the tables of folios and index nodes that were ever used: they are kept for the
    /// next ones. Per-block state of folios and the addresses of caches are not counted.
    pub metadata_bytes: u64,
}

/// Somebody who can make dirty folios clean: the flusher.
pub trait DirtyPressure: Send + Sync {
    /// Reclaim found nothing but dirty folios: start writing about `pages` of them. Called with
    /// folio locks held, so it must hand the work to another thread and must not wait.
    fn relieve(&self, pages: u64);
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Free pages without the reserve, as of the last change; a hint outside the arena lock.
    free: AtomicU32,
    /// Allocations that wait for memory. Partner: [`Pool::notify_freeable`].
    starving: AtomicU32,
    /// Handles and folios. The pool retires when it reaches 0.
    users: AtomicU64,
    pub(super) nr_pages: AtomicU64,
    pub(super) nr_dirty: AtomicU64,
    pub(super) nr_writeback: AtomicU64,
    pub(super) reclaimed: AtomicU64,
    pub(super) scanned: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) waits: AtomicU64,
}

/// Keeps what many threads change away from what every lookup reads: on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A memory pool. See [`Pool::new`].
pub struct Pool {
    config: PoolConfig,
    budget_pages: u32,
    reserve_pages: u32,
    data: Data,
    folios: Table<Folio>,
    nodes: Table<Node>,
    caches: CacheTable,
    /// Folios whose bytes lie elsewhere.
    moved: Moved,
    arena: Apart<Mutex<Arena>>,
    lists: Apart<Mutex<Lists>>,
    /// Advances with the pages that come in: see [`reclaim`](super::reclaim). A hint, relaxed.
    epoch: AtomicU32,
    waits: WaitTable,
    starved: Mutex<()>,
    freed: Condvar,
    pressure: Mutex<Option<Arc<dyn DirtyPressure>>>,
    refusal: Refusal,
    counters: Apart<Counters>,
}

impl Pool {
    /// A pool, or one that was retired and has the same configuration.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] for an order above 9; `ENOMEM` if there is no address space.
    #[expect(clippy::new_ret_no_self, reason = "a pool lives behind its handles")]
    pub fn new(config: PoolConfig) -> Result<PoolHandle> {
        if config.max_order > MAX_ORDER {
            return Err(FsError::Invalid("the largest folio order is 9"));
        }
        if let Some(pool) = retired::take(&config) {
            pool.counters.users.store(1, Ordering::Relaxed);
            return Ok(PoolHandle { pool });
        }
        let pool = Self::build(config)?;
        Ok(PoolHandle {
            pool: Box::leak(Box::new(pool)),
        })
    }

    fn build(config: PoolConfig) -> Result<Self> {
        let pages_of = |bytes: u64| {
            u32::try_from(bytes.div_ceil(PAGE_SIZE as u64))
                .ok()
                // Ids share a word with a tag.
                .filter(|pages| *pages < 1 << 29)
                .ok_or(FsError::Invalid("a pool is smaller than 2 TiB"))
        };
        let budget_pages = pages_of(config.budget)?.max(16);
        let reserve_pages = pages_of(config.reserve)?;
        let pages = budget_pages + reserve_pages;
        // A leaf for each folio and as many levels above it at worst; address space only.
        let nodes = pages.saturating_mul(MAX_HEIGHT);
        Ok(Self {
            data: retired::data(pages, config.huge_pages)?,
            folios: Table::new(pages + 1)?,
            nodes: Table::new(nodes.min(1 << 30))?,
            caches: CacheTable::new(),
            moved: Moved::new(pages + 1)?,
            arena: Apart(Mutex::new(Rank::FolioArena, Arena::new(pages))),
            lists: Apart(Mutex::new(Rank::ReclaimList, Lists::default())),
            epoch: AtomicU32::new(0),
            waits: WaitTable::new(),
            starved: Mutex::new(Rank::Wait, ()),
            freed: Condvar::new(),
            pressure: Mutex::new(Rank::InodeState, None),
            refusal: Refusal::new(),
            counters: Apart(Counters {
                free: AtomicU32::new(budget_pages),
                users: AtomicU64::new(1),
                ..Counters::default()
            }),
            budget_pages,
            reserve_pages,
            config,
        })
    }

    /// What the pool was made of.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Refuses the allocation after `n` more, once; none if `None`. For tests: builds without debug
    /// assertions do not have it.
    #[cfg(debug_assertions)]
    pub fn refuse_nth(&self, n: Option<u64>) {
        self.refusal.set(n);
    }

    /// Whether the refusal asked for is still to come.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn has_refusal(&self) -> bool {
        self.refusal.is_pending()
    }

    /// Counts an allocation. Returns whether a test wants it refused.
    pub(in crate::folio) fn refuses(&self) -> bool {
        self.refusal.strikes()
    }

    /// The order of the largest folio.
    #[must_use]
    pub fn max_order(&self) -> u32 {
        self.config.max_order
    }

    /// Pages of the budget.
    #[must_use]
    pub fn budget_pages(&self) -> u64 {
        u64::from(self.budget_pages)
    }

    /// Pages of dirty folios, at this moment: the cheap half of [`Pool::stats`] for throttling.
    #[must_use]
    #[inline]
    pub fn nr_dirty(&self) -> u64 {
        self.counters.nr_dirty.load(Ordering::Relaxed)
    }

    /// Pages of folios under writeback, at this moment.
    #[must_use]
    #[inline]
    pub fn nr_writeback(&self) -> u64 {
        self.counters.nr_writeback.load(Ordering::Relaxed)
    }

    /// The counts.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PoolStats {
            budget_pages: self.budget_pages(),
            free_pages: u64::from(self.free_pages()),
            nr_pages: get(&self.counters.nr_pages),
            nr_dirty: get(&self.counters.nr_dirty),
            nr_writeback: get(&self.counters.nr_writeback),
            reclaimed: get(&self.counters.reclaimed),
            reclaim_scanned: get(&self.counters.scanned),
            refused: get(&self.counters.refused),
            allocation_waits: get(&self.counters.waits),
            metadata_bytes: self.metadata_bytes(),
        }
    }

    /// Sets whom to ask for clean folios when memory runs short.
    pub fn set_pressure(&self, pressure: Option<Arc<dyn DirtyPressure>>) {
        let old = std::mem::replace(&mut *self.pressure.lock(), pressure);
        drop(old);
    }

    pub(super) fn pressure(&self) -> Option<Arc<dyn DirtyPressure>> {
        self.pressure.lock().clone()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    #[inline]
    pub(super) fn data(&self) -> &Data {
        &self.data
    }

    #[inline]
    pub(crate) fn folio(&self, id: u32) -> &'static Folio {
        self.folios.get(id)
    }

    pub(super) fn moved(&self) -> &Moved {
        &self.moved
    }

    pub(super) fn waits(&self) -> &WaitTable {
        &self.waits
    }

    pub(crate) fn caches(&'static self) -> &'static CacheTable {
        &self.caches
    }

    pub(super) fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock()
    }

    /// The reclaim epoch.
    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(super) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Free pages of the budget: a hint.
    pub(super) fn free_pages(&self) -> u32 {
        self.counters.free.load(Ordering::Relaxed)
    }

    // ---- accounting

    fn count(counter: &AtomicU64, pages: u64, up: bool) {
        if up {
            counter.fetch_add(pages, Ordering::Relaxed);
        } else {
            counter.fetch_sub(pages, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_pages(&self, pages: u64, up: bool) {
        Self::count(&self.counters.nr_pages, pages, up);
    }

    pub(crate) fn count_dirty(&self, pages: u64, up: bool) {
        Self::count(&self.counters.nr_dirty, pages, up);
    }

    pub(crate) fn count_writeback(&self, pages: u64, up: bool) {
        Self::count(&self.counters.nr_writeback, pages, up);
    }

    // ---- from a folio to its cache

    /// Runs `f` with the index of the folio's cache locked, unless it is in none.
    pub(crate) fn with_cache_of(
        &'static self,
        folio: &FolioRef,
        f: impl FnOnce(&CacheCore, &mut IndexGuard<'_>),
    ) {
        let cache = folio.meta().cache();
        if cache == 0 {
            return;
        }
        let core = self.caches.get(cache);
        let mut index = core.lock(self);
        // The folio leaves its cache under this lock only; if it has, `core` may be another's.
        if folio.meta().cache() == cache {
            f(core, &mut index);
        }
    }

    /// The owner of the folio's cache, if it is alive. The folio is locked.
    pub(crate) fn owner_of(&'static self, folio: &FolioRef) -> Option<Arc<dyn CacheOwner>> {
        let cache = folio.meta().cache();
        if cache == 0 {
            return None;
        }
        self.caches.get(cache).owner(cache)
    }

    // ---- the life of the pool

    fn put_user(&'static self) {
        if self.counters.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.retire();
        }
    }

    /// Nobody uses the pool: no handle, so no cache; no folio.
    fn retire(&'static self) {
        self.set_pressure(None);
        let c = &self.counters;
        for counter in [&c.reclaimed, &c.scanned, &c.refused, &c.waits] {
            counter.store(0, Ordering::Relaxed);
        }
        debug_assert_eq!(self.stats().nr_pages + self.stats().nr_dirty, 0);
        debug_assert_eq!(self.stats().nr_writeback, 0);
        self.data.discard();
        retired::put(self);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Keeps a [`Pool`] in use.
#[derive(Debug)]
pub struct PoolHandle {
    pool: &'static Pool,
}

impl PoolHandle {
    /// The pool, for as long as the process lives. Using it after the last handle is gone is
    /// harmless and useless.
    pub(crate) fn get(&self) -> &'static Pool {
        self.pool
    }

    /// A folio in no cache, from the reserve if need be: for frozen copies and bounce buffers. Its
    /// bytes are anything.
    ///
    /// # Errors
    ///
    /// [`FsError::NoMemory`] if even the reserve is used up.
    pub fn alloc_private(&self, order: u32) -> Result<LockedFolio> {
        self.pool.alloc_private(order)
    }

    /// Tries to reclaim `pages` pages; returns how many were.
    pub fn shrink(&self, pages: u64) -> u64 {
        self.pool.reclaim(pages)
    }
}

impl Clone for PoolHandle {
    fn clone(&self) -> Self {
        self.pool.counters.users.fetch_add(1, Ordering::Relaxed);
        Self { pool: self.pool }
    }
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        self.pool.put_user();
    }
}

impl Deref for PoolHandle {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        self.pool
    }
}
