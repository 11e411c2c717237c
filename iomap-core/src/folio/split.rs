//! A large folio becomes two: so that truncate can give back the memory of the part it cuts off.
//!
//! Owns the step from one folio to its two halves, with its state, marks and counts. When to split
//! is the page cache's decision. It happens under the folio lock and the index lock, with the
//! references frozen: nobody else has a reference, so nobody ever sees the size of a folio it holds
//! change, and a lookup meanwhile waits for the index lock.

use super::header::flag;
use super::index::{IndexGuard, Mark};
use super::locked::LockedFolio;
use super::registry::CacheCore;
use super::state::State;
use crate::sync::{Rank, rank};

impl LockedFolio {
    /// Splits the folio into halves, both locked, the lower first.
    ///
    /// # Errors
    ///
    /// The folio as it was, if it is as small as it may be, in no cache, under writeback, mapped, moved to a memory file,
    /// has private state, or is referred to by anybody but its cache and the caller.
    pub(crate) fn halve(mut self, min_order: u32) -> Result<(Self, Self), Self> {
        let order = self.order();
        let moved = self.meta().header.flags() & flag::MOVED != 0;
        let fixed = self.is_writeback() || self.is_mapped() || self.has_private() || moved;
        if order <= min_order || fixed || self.meta().cache() == 0 {
            return Err(self);
        }
        let pool = self.pool();
        let pfn = self.meta().pfn() + (1 << (order - 1));
        let mut upper = None;
        let this = (*self).clone();
        pool.with_cache_of(&this, |core, index| {
            // The index, this guard, and the clone.
            if self.meta().header.freeze(3) {
                upper = pool.bear_half(pfn, order - 1);
                match &mut upper {
                    Some(upper) => self.part(upper, core, index),
                    None => self.meta().header.revive(3),
                }
            }
        });
        match upper {
            Some(upper) => Ok((self, upper)),
            None => Err(self),
        }
    }

    /// Divides everything between the two. The header is frozen, and comes back to life.
    fn part(&mut self, upper: &mut Self, core: &CacheCore, index: &mut IndexGuard<'_>) {
        let pool = self.pool();
        let (meta, order) = (self.meta(), self.order());
        let (cache, at) = (meta.cache(), meta.index());
        let marks = [Mark::Dirty, Mark::ToWrite].map(|mark| index.has_mark(at, order, mark));
        {
            // The lists count pages: the folio is not on one while its size changes.
            let mut lists = pool.lists();
            let listed = meta.header.flags() & flag::ON_LIST != 0;
            if listed {
                lists.remove(pool, self.id());
            }
            meta.halve();
            if listed {
                lists.add(pool, self.id());
                lists.add(pool, upper.id());
            }
        }
        let half = 1 << (order - 1);
        upper.inherit(self);
        upper.meta().join_as(cache, at + half);
        index.remove(at, order);
        for (folio, at) in [(&*self, at), (&*upper, at + half)] {
            // Enough nodes exist: a pool has as many as its folios can need.
            let inserted = index.insert(at, order - 1, folio.id());
            debug_assert!(inserted.is_ok(), "no node for half a folio");
        }
        upper.meta().header.get();
        for folio in [&mut *self, upper] {
            folio.settle_half(core, index, marks);
        }
        core.publish_marks(index);
        upper.set_held(rank::acquired_by_try(Rank::Folio, at + half));
        meta.header.revive(3);
    }

    /// Takes over the state of the upper half of `lower`, which still has the state of both.
    fn inherit(&mut self, lower: &mut Self) {
        let kept = flag::UPTODATE
            | flag::DIRTY
            | flag::BLOCKS_DIRTY
            | flag::DROPBEHIND
            | flag::USED
            | flag::EPOCH
            | flag::BLOCK;
        let flags = lower.meta().header.flags() & kept;
        self.meta().header.set(flags);
        let blocks = lower
            .owned_mut()
            .state_mut()
            .and_then(|state| state.blocks.as_mut())
            .map(super::state::Blocks::split_off);
        if blocks.is_some() {
            self.owned_mut().replace(Some(Box::new(State {
                blocks,
                private: None,
            })));
        }
    }

    /// Brings flags, marks and counts of one half in step with its blocks. The dirty flag is the
    /// one of the whole folio, and so are `marks` (dirty, to write).
    fn settle_half(&mut self, core: &CacheCore, index: &mut IndexGuard<'_>, marks: [bool; 2]) {
        self.settle();
        let header = &self.meta().header;
        let dirty = self.is_range_dirty(0..self.len());
        if !dirty && header.clear(flag::DIRTY) & flag::DIRTY != 0 {
            self.pool().count_dirty(self.pages(), false);
            core.count_dirty(self.pages(), false);
        }
        if dirty {
            let (at, order) = (self.meta().index(), self.order());
            for (mark, on) in [Mark::Dirty, Mark::ToWrite].into_iter().zip(marks) {
                if on {
                    index.set_mark(at, order, mark);
                }
            }
        }
    }
}
