//! The free blocks: by place and by length.
//!
//! Owns the choice of blocks. Knows nothing of why blocks are free, reserved or pinned
//! ([`space`](super)). Lives in memory only: a mount rebuilds it from the tree.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::{DiskBlock, DiskRun};

/// Runs of free blocks. No two touch or overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct FreeMap {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    free: u64,
}

impl FreeMap {
    /// Free blocks.
    pub(crate) const fn free(&self) -> u64 {
        self.free
    }

    /// The free runs, by place.
    #[cfg(test)]
    pub(crate) fn runs(&self) -> impl Iterator<Item = DiskRun> {
        self.by_start
            .iter()
            .map(|(start, len)| DiskRun::new(DiskBlock::new(*start), *len))
    }

    /// Adds a run. Returns false, and changes nothing, if a block of it is free already.
    #[must_use]
    pub(crate) fn release(&mut self, run: DiskRun) -> bool {
        let (mut start, mut len) = (run.start.get(), run.len);
        if len == 0 {
            return true;
        }
        let before = self.by_start.range(..=start).next_back();
        let before = before.map(|(s, l)| (*s, *l));
        let after = self.by_start.range(start..).next().map(|(s, l)| (*s, *l));
        if before.is_some_and(|(s, l)| s + l > start) || after.is_some_and(|(s, _)| s < start + len)
        {
            return false;
        }
        self.free += len;
        if let Some((s, l)) = before.filter(|(s, l)| s + l == start) {
            self.forget(s, l);
            start = s;
            len += l;
        }
        if let Some((s, l)) = after.filter(|(s, _)| *s == run.end().get()) {
            self.forget(s, l);
            len += l;
        }
        self.remember(start, len);
        true
    }

    /// Takes up to `want` neighbouring blocks: at `goal` if they are free, else the smallest run
    /// that is long enough, else the longest there is.
    pub(crate) fn take(&mut self, goal: Option<DiskBlock>, want: u64) -> Option<DiskRun> {
        if want == 0 {
            return None;
        }
        let (start, len, from) = self.at_goal(goal).or_else(|| {
            let fit = self.by_len.range((want, 0)..).next();
            let (len, start) = *fit.or_else(|| self.by_len.last())?;
            Some((start, len, start))
        })?;
        Some(self.cut(start, len, from, want))
    }

    /// Takes one block: the first free one from `cursor` on, wrapping around.
    pub(crate) fn take_after(&mut self, cursor: DiskBlock) -> Option<DiskBlock> {
        let cursor = cursor.get();
        let (start, len, from) = self.at_goal(Some(DiskBlock::new(cursor))).or_else(|| {
            let next = self.by_start.range(cursor..).next();
            let (start, len) = next.or_else(|| self.by_start.first_key_value())?;
            Some((*start, *len, *start))
        })?;
        Some(self.cut(start, len, from, 1).start)
    }

    /// The free run that contains `goal`, and the goal.
    fn at_goal(&self, goal: Option<DiskBlock>) -> Option<(u64, u64, u64)> {
        let goal = goal?.get();
        let (start, len) = self.by_start.range(..=goal).next_back()?;
        (start + len > goal).then_some((*start, *len, goal))
    }

    /// Takes up to `want` blocks from `from` on out of the free run `start`, `len`.
    fn cut(&mut self, start: u64, len: u64, from: u64, want: u64) -> DiskRun {
        debug_assert!(start <= from && from < start + len);
        let taken = want.min(start + len - from);
        self.forget(start, len);
        self.remember(start, from - start);
        self.remember(from + taken, start + len - from - taken);
        self.free -= taken;
        DiskRun::new(DiskBlock::new(from), taken)
    }

    fn remember(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.by_start.insert(start, len);
            self.by_len.insert((len, start));
        }
    }

    fn forget(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(start: u64, len: u64) -> DiskRun {
        DiskRun::new(DiskBlock::new(start), len)
    }

    #[test]
    fn best_fit_leaves_the_long_runs_alone() {
        let mut map = FreeMap::default();
        assert!(map.release(run(0, 100)));
        assert!(map.release(run(200, 10)));
        assert_eq!(map.take(None, 8), Some(run(200, 8)));
        assert_eq!(map.take(Some(DiskBlock::new(50)), 4), Some(run(50, 4)));
        assert_eq!(map.take(None, 1000), Some(run(0, 50)));
    }

    #[test]
    fn a_block_is_not_freed_twice() {
        let mut map = FreeMap::default();
        assert!(map.release(run(10, 10)));
        assert!(!map.release(run(19, 1)));
        assert!(!map.release(run(5, 6)));
        assert_eq!(map.free(), 10);
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(steps in prop::collection::vec((any::<bool>(), 0u64..64, 1u64..16), 1..200)) {
            let mut map = FreeMap::default();
            let mut bits = [false; 80];
            for (release, at, len) in steps {
                if release {
                    let span = at as usize..(at + len) as usize;
                    let clash = bits[span.clone()].contains(&true);
                    prop_assert_eq!(map.release(run(at, len)), !clash);
                    if !clash {
                        bits[span].fill(true);
                    }
                } else {
                    let got = map.take(Some(DiskBlock::new(at)), len);
                    prop_assert_eq!(got.is_some(), bits.contains(&true));
                    if let Some(got) = got {
                        prop_assert!(got.len >= 1 && got.len <= len);
                        if bits[at as usize] {
                            prop_assert_eq!(got.start.get(), at);
                        }
                        let span = got.start.get() as usize..got.end().get() as usize;
                        prop_assert!(!bits[span.clone()].contains(&false));
                        bits[span].fill(false);
                    }
                }
                prop_assert_eq!(map.free(), bits.iter().filter(|b| **b).count() as u64);
                prop_assert_eq!(map.runs().map(|r| r.len).sum::<u64>(), map.free());
                prop_assert_eq!(map.by_len.len(), map.by_start.len());
            }
            let _ = map.take_after(DiskBlock::new(79)).map(|b| assert!(bits[b.get() as usize]));
        }
    }
}
