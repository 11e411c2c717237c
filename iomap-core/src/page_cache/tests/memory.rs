//! What stays when memory runs short, and what it all costs.

use super::*;
use crate::error::FsError;
use crate::folio::{LockedFolio, MAX_ORDER};
use crate::units::PageIndex;

fn fill(cache: &PageCache, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let mut folio = cache.get_or_create(page(at), order(0)).unwrap();
        folio.set_uptodate();
        folio.mark_accessed();
        at = folio.end_index().get();
    }
}

fn cached(cache: &PageCache, from: u64, to: u64) -> usize {
    (from..to)
        .filter(|at| cache.find(page(*at)).is_some())
        .count()
}

#[test]
fn a_scan_leaves_the_working_set_alone() {
    let pool = pool(512);
    let (hot, scanned) = (cache(&pool, 12), cache(&pool, 12));
    // The working set is used beside the scan, a quarter of it for each folio of the scan.
    fill(&hot, 0, 128);
    let mut misses = 0;
    for round in 0..160 {
        fill(&scanned, round * 32, round * 32 + 32);
        let part = round % 4 * 32;
        misses += 32 - cached(&hot, part, part + 32);
        fill(&hot, part, part + 32);
    }
    assert_eq!(misses, 0, "the scan took the working set");
    assert!(pool.stats().reclaimed > 4000);
    // The working set changes: the old one goes in the end.
    let mut misses = 0;
    for round in 0..64 {
        misses = 400 - cached(&scanned, 0, 400);
        fill(&scanned, 0, 400);
        fill(&scanned, 10_000 + round * 50, 10_050 + round * 50);
    }
    assert!(misses <= 20, "{misses} of the new working set");
}

#[test]
fn many_small_reads_of_a_folio_are_one_use() {
    let pool = pool(512);
    let (hot, scanned) = (cache(&pool, 12), cache(&pool, 12));
    fill(&hot, 0, 128);
    for round in 0..200 {
        let folio = scanned.get_or_create(page(round * 16), order(4)).unwrap();
        for _ in 0..100 {
            folio.mark_accessed();
        }
        drop(folio);
        fill(&hot, round % 4 * 32, round % 4 * 32 + 32);
    }
    assert_eq!(cached(&hot, 0, 128), 128);
}

#[test]
fn what_may_not_be_dropped_stays() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    fill(&cache, 0, 5);
    let referenced = cache.find(page(0)).unwrap();
    let locked = cache.find_lock(page(1), false).unwrap().unwrap();
    let get = |at| cache.find_lock(page(at), false).unwrap().unwrap();
    get(2).set_dirty();
    let mut written = get(3);
    written.set_dirty();
    assert!(written.clear_dirty_for_io());
    written.start_writeback();
    written.clear_all_dirty_blocks();
    let written = written.unlock_keep();
    let weak = written.clone();
    drop(weak);
    assert_eq!(pool.shrink(64), 1, "only page 4 may go");
    assert_eq!(cache.nr_pages(), 4);
    written.end_writeback();
    drop((referenced, locked, written));
    assert_eq!(pool.shrink(64), 3, "all but the dirty one");
    assert!(cache.find(page(2)).is_some());
}

#[test]
fn streams_of_large_folios_find_large_memory() {
    let pool = pool(4 * 512);
    let cache = cache(&pool, 12);
    for n in 0..40u64 {
        let folio = cache
            .get_or_create(page(n * 512), order(MAX_ORDER))
            .unwrap();
        assert_eq!(folio.order(), MAX_ORDER, "folio {n}");
    }
}

#[test]
fn large_folios_shrink_when_memory_is_in_pieces() {
    let pool = Pool::new(PoolConfig {
        reserve: 0,
        ..PoolConfig::with_budget(64 * PAGE_SIZE as u64)
    })
    .unwrap();
    let cache = cache(&pool, 12);
    for n in 0..64 {
        drop(cache.get_or_create(page(n), order(0)).unwrap());
    }
    // Every other page is pinned by its state.
    for n in (0..64).step_by(2) {
        cache
            .find_lock(page(n), false)
            .unwrap()
            .unwrap()
            .set_dirty();
    }
    let folio = cache.get_or_create(page(128), order(5)).unwrap();
    assert_eq!(folio.order(), 0);
    drop(folio);
    cache.truncate(FileRange::ALL);
}

/// Lets nothing go and counts how often it was asked.
#[derive(Debug, Default)]
struct Keeper(std::sync::atomic::AtomicUsize);

impl CacheOwner for Keeper {
    fn release_folio(&self, _: &mut LockedFolio) -> bool {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        false
    }
    fn write_dirty(&self, _: FileRange, _: usize) -> crate::error::Result<usize> {
        Ok(0)
    }
}

/// Dirties the second page when it is asked for the first.
struct Dirtying(std::sync::Weak<PageCache>);

impl CacheOwner for Dirtying {
    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        if folio.index() == page(0)
            && let Some(cache) = self.0.upgrade()
            && let Some(second) = cache.find(page(1))
        {
            cache.lock(&second).unwrap().set_dirty();
        }
        true
    }

    fn write_dirty(&self, _range: FileRange, _nr: usize) -> Result<usize, FsError> {
        Ok(0)
    }
}

/// Reclaim picks several folios at once; the second one is not what it was when it is its turn.
#[test]
fn a_folio_that_became_dirty_after_reclaim_chose_it_stays() {
    let pool = pool(64);
    let cache = Arc::new(cache(&pool, 12));
    let owner: Arc<dyn CacheOwner> = Arc::new(Dirtying(Arc::downgrade(&cache)));
    cache.set_owner(Arc::downgrade(&owner));
    fill(&cache, 0, 2);
    assert_eq!(pool.shrink(2), 1);
    assert!(cache.find(page(0)).is_none());
    assert!(cache.find(page(1)).is_some_and(|folio| folio.is_dirty()));
    cache.truncate(FileRange::ALL);
}

/// What nobody wants cached leaves when it has been written, unless somebody needs it: its owner, or
/// a memory mapping.
#[test]
fn a_folio_with_private_state_or_a_mapping_is_not_dropped_behind() {
    for (private, mapped) in [(false, false), (true, false), (false, true)] {
        let pool = pool(64);
        let cache = cache(&pool, 12);
        fill(&cache, 0, 1);
        let mut folio = cache.lock(&cache.find(page(0)).unwrap()).unwrap();
        folio.set_dropbehind();
        if private {
            folio.set_private(Box::new(()));
        }
        folio.set_mapped(mapped);
        folio.set_dirty();
        folio.clear_dirty_for_io();
        folio.start_writeback();
        folio.clear_all_dirty_blocks();
        let written = (*folio).clone();
        drop(folio);
        written.end_writeback();
        drop(written);
        let stays = cache.find(page(0)).is_some();
        assert_eq!(stays, private || mapped, "{private} {mapped}");
        cache.truncate(FileRange::ALL);
    }
}

/// Somebody dirtied the folio between the flag and the mark: the next walk finds it.
#[test]
fn a_folio_dirtied_before_its_writeback_starts_stays_marked() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    fill(&cache, 0, 1);
    let mut folio = cache.lock(&cache.find(page(0)).unwrap()).unwrap();
    folio.set_dirty();
    folio.clear_dirty_for_io();
    folio.set_dirty();
    folio.start_writeback();
    assert!(cache.has_dirty(FileRange::ALL) && cache.has_writeback(FileRange::ALL));
    let written = (*folio).clone();
    drop(folio);
    written.end_writeback();
    assert!(cache.has_dirty(FileRange::ALL) && !cache.has_writeback(FileRange::ALL));
    drop(written);
    cache.truncate(FileRange::ALL);
}

#[test]
fn an_owner_may_refuse() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let keeper: Arc<Keeper> = Arc::default();
    let owner: Arc<dyn CacheOwner> = keeper.clone();
    cache.set_owner(Arc::downgrade(&owner));
    fill(&cache, 0, 4);
    assert_eq!(pool.shrink(64), 0);
    assert_eq!(
        cache.invalidate(FileRange::ALL, false),
        Err(InvalidateError::Busy)
    );
    assert_eq!(cache.drop_clean(FileRange::ALL), 0);
    assert!(keeper.0.load(std::sync::atomic::Ordering::Relaxed) >= 12);
    cache.truncate(FileRange::ALL);
    assert!(cache.is_empty(), "truncate does not ask");
}

/// Asks a thread to clean folios.
struct Helper(std::sync::Mutex<std::sync::mpsc::Sender<u64>>);

impl crate::folio::DirtyPressure for Helper {
    fn relieve(&self, pages: u64) {
        let _ = self.0.lock().unwrap().send(pages);
    }
}

fn clean(cache: &PageCache, mut pages: u64) {
    let mut at = PageIndex::ZERO;
    while pages > 0
        && let Some(folio) = cache.next_marked(Mark::Dirty, at, PageIndex::END)
    {
        at = folio.end_index();
        let Some(mut folio) = cache.lock(&folio) else {
            continue;
        };
        if folio.clear_dirty_for_io() {
            folio.start_writeback();
            folio.clear_all_dirty_blocks();
            let folio = folio.unlock_keep();
            folio.end_writeback();
            pages = pages.saturating_sub(folio.pages());
        }
    }
}

#[test]
fn an_allocation_waits_for_the_flusher_when_everything_is_dirty() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let (ask, asked) = std::sync::mpsc::channel();
    pool.set_pressure(Some(Arc::new(Helper(std::sync::Mutex::new(ask)))));
    std::thread::scope(|scope| {
        let flushed = &cache;
        scope.spawn(move || asked.iter().for_each(|pages| clean(flushed, pages)));
        for n in 0..500 {
            let mut folio = cache.get_or_create(page(n), order(0)).unwrap();
            folio.set_uptodate();
            folio.set_dirty();
        }
        let read = cache.create_for_read(page(1000), 0, false).unwrap();
        assert!(read.is_some(), "a read waits for memory as well");
        pool.set_pressure(None);
    });
    assert!(pool.stats().allocation_waits > 0);
}

#[test]
fn an_allocation_waits_on_while_others_get_on() {
    let pool = pool(16);
    let cache = cache(&pool, 12);
    for n in 0..16 {
        let mut folio = cache.get_or_create(page(n), order(0)).unwrap();
        folio.set_uptodate();
        folio.set_dirty();
    }
    let waits = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // More often than an allocation waits in vain, and none of it is for it.
            while pool.stats().allocation_waits == 0 {
                std::thread::yield_now();
            }
            let held = cache.find(page(3)).unwrap();
            for _ in 0..2000 {
                let mut folio = cache.lock(&held).unwrap();
                folio.clear_dirty_for_io();
                folio.start_writeback();
                let folio = folio.unlock_keep();
                folio.end_writeback();
                std::thread::yield_now();
                cache.lock(&folio).unwrap().set_dirty();
                assert!(waits.load(std::sync::atomic::Ordering::Relaxed));
            }
            let mut folio = cache.lock(&held).unwrap();
            folio.clear_dirty_for_io();
            folio.start_writeback();
            folio.clear_all_dirty_blocks();
            let folio = folio.unlock_keep();
            drop(held);
            folio.end_writeback();
        });
        let folio = cache.get_or_create(page(100), order(0));
        waits.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(folio.is_ok(), "{folio:?}");
    });
}

#[test]
fn an_allocation_that_nobody_helps_fails() {
    let pool = pool(16);
    let cache = cache(&pool, 12);
    let kept: Vec<_> = (0..16)
        .map(|n| cache.get_or_create(page(n), order(0)).unwrap())
        .collect();
    assert_eq!(
        cache.get_or_create(page(100), order(0)).unwrap_err(),
        FsError::NoMemory
    );
    drop(kept);
    assert!(cache.get_or_create(page(100), order(0)).is_ok());
}

#[test]
fn a_retired_pool_is_used_again_and_reads_as_zeroes() {
    let config = PoolConfig {
        reserve: 12345,
        ..PoolConfig::with_budget(1 << 20)
    };
    let first = Pool::new(config.clone()).unwrap();
    let address: *const Pool = &raw const *first;
    let mut folio = first.alloc_private(3).unwrap();
    folio.copy_in(0, &[1; 100]);
    let kept = folio.unlock_keep();
    drop(first);
    let other = Pool::new(config.clone()).unwrap();
    assert_ne!(address, &raw const *other, "still in use by a folio");
    drop(kept);
    let again = Pool::new(config).unwrap();
    assert_eq!(address, &raw const *again);
    let mut bytes = [7; 100];
    again.alloc_private(3).unwrap().copy_out(0, &mut bytes);
    assert_eq!(bytes, [0; 100]);
}

#[test]
fn metadata_keeps_to_its_budget() {
    let folio = size_of::<crate::folio::meta::Folio>() as f64;
    let slots = size_of::<crate::folio::index::Node>() as f64 / 64.0;
    // Two bits of the buddy allocator, and the summaries above them.
    let buddy = 0.3;
    assert!(folio + slots + buddy <= 64.0, "a page in a small folio");
    assert!(
        folio / 16.0 + slots + buddy <= 9.5,
        "a page in a folio of 64 KiB"
    );
}

#[test]
fn threads_beside_each_other_find_their_own_bytes() {
    let pool = pool(96);
    let caches = [cache(&pool, 12), cache(&pool, 12)];
    let step = |random: &mut fastrand::Rng| {
        let number = random.usize(0..2);
        let cache = &caches[number];
        let at = random.u64(0..200);
        let stamp = |at: u64| (at << 1 | number as u64).to_le_bytes();
        match random.u32(0..100) {
            0..50 => {
                if let Some(folio) = cache.find(page(at))
                    && folio.is_uptodate()
                    && folio.is_mapped_in(cache)
                {
                    let mut bytes = [0; 8];
                    folio.copy_out((at - folio.index().get()) as usize * PAGE_SIZE, &mut bytes);
                    assert_eq!(bytes, stamp(at));
                }
            }
            50..90 => {
                let hint = random.u32(0..4);
                let Ok(mut folio) = cache.get_or_create(page(at), order(hint)) else {
                    return;
                };
                if !folio.is_uptodate() {
                    for n in 0..folio.pages() {
                        let bytes = stamp(folio.index().get() + n);
                        folio.copy_in(n as usize * PAGE_SIZE, &bytes);
                    }
                    folio.set_uptodate();
                }
            }
            90..97 => {
                cache.drop_clean(pages(at, at + 16));
            }
            _ => {
                pool.shrink(8);
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..4000 {
                    step(&mut random);
                }
            });
        }
    });
    for cache in &caches {
        cache.truncate(FileRange::ALL);
    }
    assert_eq!(pool.stats().free_pages, 96);
    assert_eq!(pool.stats().nr_pages, 0);
}
