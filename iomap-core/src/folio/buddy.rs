//! The buddy allocator: which runs of pages of the data arena are free.
//!
//! Pure logic over page numbers; the memory itself is [`arena`](super::arena), the lock around it
//! is the pool's. Free blocks of each order are a bitmap with summaries above it, so that the
//! lowest free block is found in a few steps, nothing is stored in the free memory itself, and the
//! cost is about a quarter of a byte for each page.

/// The largest order: 2 MiB.
pub const MAX_ORDER: u32 = 9;

/// A bitmap whose first set bit is found in `log64(len)` steps.
#[derive(Debug)]
struct Summary {
    /// `levels[0]` is the bitmap; bit `i` of `levels[n + 1]` says word `i` of `levels[n]` is not 0.
    levels: Vec<Vec<u64>>,
}

impl Summary {
    fn new(len: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = len.div_ceil(64).max(1);
        loop {
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels };
            }
            words = words.div_ceil(64);
        }
    }

    fn get(&self, bit: usize) -> bool {
        self.levels[0]
            .get(bit / 64)
            .is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    fn set(&mut self, mut bit: usize) {
        for level in &mut self.levels {
            let word = &mut level[bit / 64];
            let was = *word;
            *word |= 1 << (bit % 64);
            if was != 0 {
                return;
            }
            bit /= 64;
        }
    }

    fn clear(&mut self, mut bit: usize) {
        for level in &mut self.levels {
            let word = &mut level[bit / 64];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                return;
            }
            bit /= 64;
        }
    }

    fn first(&self) -> Option<usize> {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let word = level[at];
            if word == 0 {
                return None;
            }
            at = at * 64 + word.trailing_zeros() as usize;
        }
        Some(at)
    }
}

/// Free runs of `1 << order` pages, naturally aligned, for orders `0..=MAX_ORDER`.
#[derive(Debug)]
pub(super) struct Buddy {
    free: Vec<Summary>,
    pages: u32,
    free_pages: u32,
}

impl Buddy {
    /// `pages` pages, all free.
    pub(super) fn new(pages: u32) -> Self {
        let free = (0..=MAX_ORDER)
            .map(|order| Summary::new((pages >> order) as usize))
            .collect();
        let mut buddy = Self {
            free,
            pages,
            free_pages: pages,
        };
        let mut at = 0;
        while at < pages {
            let order = MAX_ORDER.min(at.trailing_zeros()).min((pages - at).ilog2());
            buddy.free[order as usize].set((at >> order) as usize);
            at += 1 << order;
        }
        buddy
    }

    /// Pages that are free.
    pub(super) fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// Takes the lowest free run of `1 << order` pages, or the one cut from the smallest larger
    /// run. Returns its first page.
    pub(super) fn alloc(&mut self, order: u32) -> Option<u32> {
        let (mut from, block) = (order..=MAX_ORDER)
            .find_map(|o| self.free[o as usize].first().map(|block| (o, block)))?;
        self.free[from as usize].clear(block);
        let page = (block as u32) << from;
        while from > order {
            from -= 1;
            self.free[from as usize].set((page >> from) as usize + 1);
        }
        self.free_pages -= 1 << order;
        Some(page)
    }

    /// Gives back `1 << order` pages at `page`, joining them with their free buddies.
    pub(super) fn free(&mut self, mut page: u32, mut order: u32) {
        debug_assert!(page.trailing_zeros() >= order && page + (1 << order) <= self.pages);
        self.free_pages += 1 << order;
        while order < MAX_ORDER {
            let buddy = page ^ (1 << order);
            if buddy + (1 << order) > self.pages
                || !self.free[order as usize].get((buddy >> order) as usize)
            {
                break;
            }
            self.free[order as usize].clear((buddy >> order) as usize);
            page &= !(1 << order);
            order += 1;
        }
        debug_assert!(!self.free[order as usize].get((page >> order) as usize));
        self.free[order as usize].set((page >> order) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn freeing_everything_joins_into_the_largest_blocks() {
        let mut buddy = Buddy::new(1024 + 3);
        let pages: Vec<u32> = std::iter::from_fn(|| buddy.alloc(0)).collect();
        assert_eq!(pages.len(), 1027);
        assert_eq!(buddy.free_pages(), 0);
        for page in pages.iter().rev() {
            buddy.free(*page, 0);
        }
        assert_eq!(buddy.alloc(9), Some(0));
        assert_eq!(buddy.alloc(9), Some(512));
        assert_eq!(buddy.alloc(9), None);
        assert_eq!(buddy.alloc(1), Some(1024));
        assert_eq!(buddy.alloc(0), Some(1026));
        assert_eq!(buddy.alloc(0), None);
    }

    proptest! {
        #[test]
        fn runs_are_aligned_disjoint_and_all_come_back(
            pages in 1u32..3000,
            steps in prop::collection::vec((0u32..=MAX_ORDER, any::<bool>(), any::<usize>()), 1..200),
        ) {
            let mut buddy = Buddy::new(pages);
            let mut used = vec![false; pages as usize];
            let mut live: Vec<(u32, u32)> = Vec::new();
            for (order, free, pick) in steps {
                if free && !live.is_empty() {
                    let (page, order) = live.swap_remove(pick % live.len());
                    used[page as usize..(page + (1 << order)) as usize].fill(false);
                    buddy.free(page, order);
                } else if let Some(page) = buddy.alloc(order) {
                    prop_assert!(page.trailing_zeros() >= order || page == 0);
                    let run = &mut used[page as usize..(page + (1 << order)) as usize];
                    prop_assert!(run.iter().all(|u| !u), "handed out twice");
                    run.fill(true);
                    live.push((page, order));
                } else {
                    let n = 1usize << order;
                    prop_assert!(
                        !used.chunks_exact(n).any(|run| run.iter().all(|u| !u)),
                        "refused although an aligned run is free"
                    );
                }
                prop_assert_eq!(
                    buddy.free_pages() as usize,
                    used.iter().filter(|u| !**u).count()
                );
            }
        }
    }
}
