//! Scenarios of one page cache: states, marks, removal, and threads against each other.

#![expect(clippy::unwrap_used, reason = "tests")]

mod memory;
mod split;
mod state;

use std::sync::Arc;

use super::*;
use crate::device::{Bio, Limits};
use crate::folio::PoolConfig;
use crate::units::{FilePos, FileRange, PAGE_SIZE};

/// A device nobody submits to.
#[derive(Debug)]
struct Idle;

impl BlockDevice for Idle {
    fn size(&self) -> u64 {
        0
    }
    fn limits(&self) -> &Limits {
        &Limits::PLAIN
    }
    fn submit(&self, bio: Bio) {
        bio.complete(Err(Errno::IO));
    }
    fn poll(&self) {}
    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        while !done() {
            std::thread::yield_now();
        }
    }
    fn wake(&self) {}
    fn in_flight(&self) -> usize {
        0
    }
}

fn pool(pages: u64) -> PoolHandle {
    Pool::new(PoolConfig {
        huge_pages: false,
        ..PoolConfig::with_budget(pages * PAGE_SIZE as u64)
    })
    .unwrap()
}

fn cache(pool: &PoolHandle, block: u32) -> PageCache {
    PageCache::new(pool, BlockBits::new(block).unwrap(), Arc::new(Idle), 1)
}

fn page(n: u64) -> PageIndex {
    PageIndex::new(n)
}

fn order(order_hint: u32) -> GetFolio {
    GetFolio {
        order_hint,
        ..GetFolio::default()
    }
}

fn pages(from: u64, to: u64) -> FileRange {
    FileRange::between(page(from).pos(), page(to).pos())
}

#[test]
fn what_is_created_is_found_until_it_is_truncated() {
    let pool = pool(256);
    let cache = cache(&pool, 12);
    assert!(cache.find(page(7)).is_none());
    let mut folio = cache.get_or_create(page(7), order(2)).unwrap();
    assert_eq!((folio.index(), folio.pages()), (page(4), 4));
    folio.copy_in(0, b"hello");
    folio.set_uptodate();
    drop(folio);
    let mut bytes = [0; 5];
    let found = cache.find(page(5)).unwrap();
    found.copy_out(0, &mut bytes);
    assert_eq!(&bytes, b"hello");
    assert!(found.is_uptodate());
    assert_eq!(pool.stats().nr_pages, 4);
    cache.truncate(FileRange::ALL);
    assert!(cache.find(page(5)).is_none() && cache.is_empty());
    assert!(cache.lock(&found).is_none(), "it has left");
    drop(found);
    assert_eq!(pool.stats().free_pages, 256);
}

#[test]
fn a_new_folio_shrinks_to_fit_between_its_neighbours() {
    let pool = pool(2048);
    let cache = cache(&pool, 12);
    drop(cache.get_or_create(page(5), order(0)).unwrap());
    let folio = cache.get_or_create(page(6), order(9)).unwrap();
    assert_eq!((folio.index(), folio.order()), (page(6), 1));
    drop(folio);
    let folio = cache.get_or_create(page(9), order(9)).unwrap();
    assert_eq!((folio.index(), folio.order()), (page(8), 3));
    drop(folio);
    let folio = cache.get_or_create(page(513), order(9)).unwrap();
    assert_eq!((folio.index(), folio.order()), (page(512), 9));
    assert!(cache.create_for_read(page(700), 4, true).unwrap().is_none());
}

#[test]
fn writeback_walks_through_flags_marks_and_counts() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let all = FileRange::ALL;
    let mut folio = cache.get_or_create(page(0), order(2)).unwrap();
    folio.set_uptodate();
    folio.set_range_dirty(4096..5000);
    assert!(folio.is_dirty() && cache.has_dirty(all));
    assert_eq!((pool.nr_dirty(), cache.nr_dirty()), (4, 4));
    assert!(
        folio
            .dirty_ranges(usize::MAX)
            .eq(std::iter::once(4096..8192))
    );
    assert_eq!(folio.dirty_ranges(4096).count(), 0);

    assert!(folio.clear_dirty_for_io());
    assert!(!folio.clear_dirty_for_io());
    assert!(!folio.is_dirty());
    assert!(cache.has_dirty_or_writeback(all), "on its way to storage");
    assert_eq!(folio.dirty_ranges(usize::MAX).count(), 1, "blocks stay");
    folio.start_writeback();
    folio.clear_all_dirty_blocks();
    assert!(!cache.has_dirty(all) && cache.has_writeback(all));
    assert_eq!((pool.nr_dirty(), pool.nr_writeback()), (0, 4));
    folio.begin_write_pending(16384);
    let folio = folio.unlock_keep();
    assert!(!folio.sub_write_pending(12288));
    assert!(folio.sub_write_pending(4096));
    folio.end_writeback();
    assert!(!cache.has_dirty_or_writeback(all) && !folio.is_writeback());
    assert_eq!(pool.nr_writeback(), 0);
}

#[test]
fn a_folio_taken_for_io_but_not_written_loses_its_mark() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let mut folio = cache.get_or_create(page(0), order(0)).unwrap();
    folio.set_dirty();
    assert!(folio.clear_dirty_for_io());
    folio.clear_all_dirty_blocks();
    assert!(!cache.has_dirty(FileRange::ALL));
}

#[test]
fn truncating_a_part_zeroes_and_cleans_the_blocks_inside() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let mut folio = cache.get_or_create(page(0), order(2)).unwrap();
    folio.copy_in(0, &[7; 16384]);
    folio.set_uptodate();
    folio.set_dirty();
    // Another reference keeps it from being split.
    let _kept = folio.unlock_keep();
    cache.truncate(FileRange::at(FilePos::new(5000).unwrap(), 8000).unwrap());
    let folio = cache.find_lock(page(0), false).unwrap().unwrap();
    let dirty: Vec<_> = folio.dirty_ranges(usize::MAX).collect();
    assert_eq!(dirty, [0..8192, 12288..16384]);
    let mut bytes = [0; 16384];
    folio.copy_out(0, &mut bytes);
    assert!(bytes[..5000].iter().all(|b| *b == 7));
    assert!(bytes[5000..13000].iter().all(|b| *b == 0));
    assert!(bytes[13000..].iter().all(|b| *b == 7));
}

#[test]
fn memory_comes_from_clean_folios_and_runs_out_when_there_are_none() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    for n in 0..200 {
        let mut folio = cache.get_or_create(page(n), order(0)).unwrap();
        folio.set_uptodate();
    }
    assert!(pool.stats().reclaimed >= 136);
    let nowait = GetFolio {
        nowait: true,
        ..GetFolio::default()
    };
    let mut n = 1000;
    let error = loop {
        match cache.get_or_create(page(n), nowait) {
            Ok(mut folio) => folio.set_dirty(),
            Err(error) => break error,
        }
        n += 1;
    };
    assert!(error.is_would_block());
    assert_eq!(pool.nr_dirty(), 64);
    assert!(pool.alloc_private(0).is_ok(), "the reserve is left");
    cache.truncate(FileRange::ALL);
    assert_eq!(pool.stats().free_pages, 64);
}

#[test]
fn invalidation_drops_clean_folios_and_reports_dirty_ones() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    for n in 0..4 {
        let mut folio = cache.get_or_create(page(n), order(0)).unwrap();
        folio.set_uptodate();
        if n == 2 {
            folio.set_dirty();
        }
    }
    assert_eq!(cache.invalidate(pages(0, 2), false), Ok(()));
    assert_eq!(
        cache.invalidate(pages(2, 4), false),
        Err(InvalidateError::Busy)
    );
    assert_eq!(cache.nr_pages(), 1);
    assert_eq!(
        cache.invalidate(pages(2, 4), true),
        Err(InvalidateError::WouldBlock)
    );
}

#[test]
fn data_and_holes_are_found_by_block() {
    let pool = pool(64);
    let cache = cache(&pool, 10);
    let mut folio = cache.get_or_create(page(1), order(0)).unwrap();
    folio.set_range_uptodate(1024..3072);
    drop(folio);
    let pos = |n| FilePos::new(n).unwrap();
    assert_eq!(cache.seek_data(FileRange::ALL), Some(pos(5120)));
    assert_eq!(cache.seek_data(FileRange::from(pos(5200))), Some(pos(5200)));
    assert_eq!(
        cache.seek_hole(FileRange::from(pos(5200))),
        pos(4096 + 3072)
    );
    assert_eq!(cache.seek_hole(FileRange::from(pos(0))), pos(0));
    assert_eq!(cache.seek_data(FileRange::from(pos(7168))), None);
}

#[test]
fn private_state_stays_with_the_folio_and_keeps_it() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let mut folio = cache.get_or_create(page(0), order(2)).unwrap();
    folio.set_uptodate();
    folio.set_private(Box::new(5u32));
    folio.set_range_dirty(0..10);
    assert_eq!(folio.private::<u32>(), Some(&5));
    *folio.private_mut::<u32>().unwrap() += 1;
    folio.cancel_dirty();
    assert_eq!(folio.private::<u64>(), None);
    drop(folio);
    assert_eq!(pool.shrink(64), 0);
    assert!(pool.stats().refused > 0);
    let mut folio = cache.find_lock(page(0), false).unwrap().unwrap();
    assert_eq!(folio.take_private().unwrap().downcast_ref(), Some(&6u32));
    drop(folio);
    assert_eq!(pool.shrink(64), 4);
}

#[test]
fn a_folio_lock_handed_to_a_read_is_released_by_its_end() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let reading = cache
        .get_or_create(page(0), order(0))
        .unwrap()
        .into_reading();
    let folio = cache.find(page(0)).unwrap();
    assert!(folio.is_reading() && cache.try_lock(&folio).is_none());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            folio.wait_unlocked(&**cache.device());
            folio.is_uptodate()
        });
        scope.spawn(move || reading.finish_all());
        assert!(waiter.join().unwrap());
    });
    assert!(cache.try_lock(&folio).is_some());
}

#[test]
fn a_dropped_cache_gives_its_memory_back() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let mut folio = cache.get_or_create(page(0), order(3)).unwrap();
    folio.set_dirty();
    let kept = folio.unlock_keep();
    drop(cache);
    assert_eq!(pool.stats().nr_dirty + pool.stats().nr_pages, 0);
    assert!(!kept.is_cached());
    drop(kept);
    assert_eq!(pool.stats().free_pages, 64);
}
