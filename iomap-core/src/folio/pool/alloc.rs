//! Handing out folios and nodes, and taking them back.
//!
//! Owns the allocators of a pool and the sleep of those who wait for memory. What to do when there
//! is none is [`reclaim`](crate::folio::reclaim).

use super::Pool;
use crate::error::{FsError, Result};
use crate::folio::buddy::Buddy;
use crate::folio::header::flag;
use crate::folio::index::{Node, NodeSource};
use crate::folio::meta::Folio;
use crate::folio::state_ptr::{Owned, StatePtr};
use crate::folio::{FolioRef, LockedFolio};
use crate::sync::atomic::Ordering;
use crate::sync::rank;

/// The allocators, under one lock.
#[derive(Debug)]
pub(super) struct Arena {
    buddy: Buddy,
    folios: FreeIds,
    nodes: FreeIds,
}

/// Ids given back (linked through the entries) and ids never used. 0 is no id.
#[derive(Debug)]
struct FreeIds {
    head: u32,
    unused: u32,
}

impl Arena {
    /// Allocators of `pages` pages, all free.
    pub(super) fn new(pages: u32) -> Self {
        let none = || FreeIds { head: 0, unused: 1 };
        Self {
            buddy: Buddy::new(pages),
            folios: none(),
            nodes: none(),
        }
    }
}

impl Pool {
    /// Takes `1 << order` pages, leaving `keep` of all pages alone. Born locked, with one
    /// reference, in no cache; its bytes are anything.
    fn take(&'static self, order: u32, keep: u32) -> Option<LockedFolio> {
        let mut arena = self.arena.lock();
        if arena.buddy.free_pages() < keep + (1 << order) {
            return None;
        }
        let pfn = arena.buddy.alloc(order)?;
        let id = self.take_id(&mut arena);
        self.publish_free(&arena);
        drop(arena);
        self.bear(id, pfn, order)
    }

    fn take_id(&self, arena: &mut Arena) -> u32 {
        match arena.folios.head {
            0 => {
                arena.folios.unused += 1;
                arena.folios.unused - 1
            }
            id => {
                arena.folios.head = self.folio(id).next.load(Ordering::Relaxed);
                id
            }
        }
    }

    /// Brings folio `id` to life, locked, with one reference.
    fn bear(&'static self, id: u32, pfn: u32, order: u32) -> Option<LockedFolio> {
        self.counters.users.fetch_add(1, Ordering::Relaxed);
        let meta = self.folio(id);
        meta.describe(pfn, order);
        meta.header.revive(1);
        let owned = Owned::try_claim(FolioRef::from_counted(self, id)).ok()?;
        Some(LockedFolio::new(owned, rank::Held::none()))
    }

    /// A second folio over pages that a folio has just given up, see
    /// [`split`](crate::folio::split).
    pub(in crate::folio) fn bear_half(&'static self, pfn: u32, order: u32) -> Option<LockedFolio> {
        let id = self.take_id(&mut self.arena.lock());
        self.bear(id, pfn, order)
    }

    /// See [`PoolStats::metadata_bytes`](super::PoolStats::metadata_bytes).
    pub(super) fn metadata_bytes(&self) -> u64 {
        let (folios, nodes) = {
            let arena = self.arena.lock();
            (arena.folios.unused, arena.nodes.unused)
        };
        // Id 0 is none of them.
        u64::from(folios - 1) * size_of::<Folio>() as u64
            + u64::from(nodes - 1) * size_of::<Node>() as u64
    }

    fn publish_free(&self, arena: &Arena) {
        let free = arena.buddy.free_pages().saturating_sub(self.reserve_pages);
        self.counters.free.store(free, Ordering::Relaxed);
    }

    /// A folio for a page cache out of the free memory of the budget.
    pub(in crate::folio) fn take_from_budget(&'static self, order: u32) -> Option<LockedFolio> {
        self.take(order, self.reserve_pages)
    }

    /// A folio in no cache, from the reserve if need be: for frozen copies and bounce buffers. Its
    /// bytes are anything.
    ///
    /// # Errors
    ///
    /// [`FsError::NoMemory`] if even the reserve is used up.
    pub(crate) fn alloc_private(&'static self, order: u32) -> Result<LockedFolio> {
        if order > self.config.max_order {
            return Err(FsError::Invalid("folio order above the pool's"));
        }
        if self.refuses() {
            return Err(FsError::NoMemory);
        }
        if let Some(folio) = self.take_from_budget(order) {
            return Ok(folio);
        }
        self.reclaim(1 << order);
        self.take(order, 0).ok_or(FsError::NoMemory)
    }

    /// Frees a folio whose last reference is gone. Takes leaf locks only.
    pub(in crate::folio) fn free(&'static self, id: u32) {
        let meta = self.folio(id);
        debug_assert_eq!(meta.cache(), 0, "a folio freed while in a cache");
        let flags = meta.header.flags();
        debug_assert!(
            flags & (flag::WRITEBACK | flag::DIRTY) == 0 || std::thread::panicking(),
            "a folio freed dirty or under writeback (rule B28)"
        );
        drop(StatePtr::take_free(meta));
        if flags & flag::ON_LIST != 0 {
            self.lists.lock().remove(self, id);
        }
        if flags & flag::MOVED != 0 {
            self.moved.forget(id);
        }
        let order = meta.order();
        let mut arena = self.arena.lock();
        arena.buddy.free(meta.pfn(), order);
        meta.next.store(arena.folios.head, Ordering::Relaxed);
        arena.folios.head = id;
        self.publish_free(&arena);
        drop(arena);
        self.notify_freeable();
        self.put_user();
    }

    /// Tells allocations that wait that something may have become free or clean.
    pub(in crate::folio) fn notify_freeable(&self) {
        // Partner: `wait_freeable` counts itself with the lock held before it looks again; a store
        // missed here is made up for by its time limit.
        if self.counters.starving.load(Ordering::Relaxed) != 0 {
            let _guard = self.starved.lock();
            self.freed.notify_all();
        }
    }

    /// Sleeps until something was freed or written, or for a moment. Returns whether something was;
    /// never in a model, which knows no moments.
    pub(crate) fn wait_freeable(&self) -> bool {
        if cfg!(any(iomap_shuttle, iomap_loom)) {
            crate::sync::thread::yield_now();
            return false;
        }
        self.counters.starving.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.starved.lock();
        let late = self
            .freed
            .wait_for(&mut guard, std::time::Duration::from_millis(5));
        drop(guard);
        self.counters.starving.fetch_sub(1, Ordering::Relaxed);
        !late
    }
}

impl NodeSource for Pool {
    #[inline]
    fn place(&self, id: u32) -> (u64, u32) {
        let folio = self.folio(id);
        (folio.index(), folio.order())
    }

    #[inline]
    fn node(&self, id: u32) -> &'static Node {
        self.nodes.get(id)
    }

    fn alloc_node(&self) -> Option<u32> {
        let mut arena = self.arena.lock();
        let nodes = &mut arena.nodes;
        if nodes.head == 0 {
            if nodes.unused == self.nodes.len() {
                return None;
            }
            nodes.unused += 1;
            return Some(nodes.unused - 1);
        }
        let id = nodes.head;
        nodes.head = self.nodes.get(id).take_free_link();
        Some(id)
    }

    fn free_node(&self, id: u32) {
        let mut arena = self.arena.lock();
        self.nodes.get(id).set_free_link(arena.nodes.head);
        arena.nodes.head = id;
    }
}
