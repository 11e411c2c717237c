//! Lookup, creation, truncate, reclaim, reads and writeback of one page cache against each other,
//! in scheduled interleavings.

#![cfg(iomap_shuttle)]
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/schedules.rs"]
mod schedules;

use std::sync::Arc;

use iomap_core::device::{Bio, BlockDevice, Limits};
use iomap_core::folio::{FolioRef, Pool, PoolConfig, PoolHandle};
use iomap_core::page_cache::{GetFolio, Mark, PageCache};
use iomap_core::sync::atomic::{AtomicU64, Ordering};
use iomap_core::sync::{Condvar, Mutex, Rank, thread};
use iomap_core::units::{BlockBits, DevAddr, FileRange, PAGE_SIZE, PageIndex};
use schedules::check;

/// A device that completes a request when somebody looks.
#[derive(Debug)]
struct Lazy {
    queue: Mutex<Vec<Bio>>,
    busy: AtomicU64,
    changed: Condvar,
}

impl Lazy {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Rank::DeviceQueue, Vec::new()),
            busy: AtomicU64::new(0),
            changed: Condvar::new(),
        })
    }
}

impl BlockDevice for Lazy {
    fn size(&self) -> u64 {
        1 << 30
    }
    fn limits(&self) -> &Limits {
        &Limits::PLAIN
    }
    fn submit(&self, bio: Bio) {
        self.busy.fetch_add(1, Ordering::AcqRel);
        self.queue.lock().push(bio);
        self.changed.notify_all();
    }
    fn poll(&self) {
        loop {
            let Some(bio) = self.queue.lock().pop() else {
                return;
            };
            bio.complete(Ok(()));
            self.busy.fetch_sub(1, Ordering::AcqRel);
            self.wake();
        }
    }
    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        while !done() {
            self.poll();
            thread::yield_now();
        }
    }
    fn wake(&self) {
        self.changed.notify_all();
    }
    fn in_flight(&self) -> usize {
        self.busy.load(Ordering::Acquire) as usize
    }
}

fn pool() -> PoolHandle {
    Pool::new(PoolConfig {
        budget: 16 * PAGE_SIZE as u64,
        reserve: 0,
        huge_pages: false,
        max_order: 2,
    })
    .unwrap()
}

fn cache(pool: &PoolHandle, device: &Arc<Lazy>) -> Arc<PageCache> {
    Arc::new(PageCache::new(
        pool,
        BlockBits::PAGE,
        Arc::clone(device) as Arc<dyn BlockDevice>,
        1,
    ))
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

/// Each page of a folio begins with its number.
fn stamp(cache: &PageCache, at: u64, hint: u32) {
    let mut folio = cache.get_or_create(page(at), order(hint)).unwrap();
    if !folio.is_uptodate() {
        for n in 0..folio.pages() {
            let number = (folio.index().get() + n).to_le_bytes();
            folio.copy_in(n as usize * PAGE_SIZE, &number);
        }
        folio.set_uptodate();
    }
}

fn assert_stamped(folio: &FolioRef, first: u64, at: u64) {
    let mut number = [0; 8];
    folio.copy_out((at - first) as usize * PAGE_SIZE, &mut number);
    assert_eq!(u64::from_le_bytes(number), at, "bytes of another page");
}

/// What a lookup returns holds the page asked for, whatever happens to it meanwhile.
#[test]
fn lookups_beside_creation_truncate_and_reclaim() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let mut threads = Vec::new();
        let mut spawn = |f: fn(&PageCache)| {
            let cache = Arc::clone(&cache);
            threads.push(thread::spawn(move || f(&cache)));
        };
        spawn(|cache| {
            stamp(cache, 3, 2);
            stamp(cache, 70, 0);
        });
        spawn(|cache| {
            stamp(cache, 2, 1);
            cache.truncate(FileRange::between(page(0).pos(), page(3).pos()));
        });
        spawn(|cache| {
            cache.pool_handle().shrink(4);
            stamp(cache, 1, 0);
        });
        spawn(|cache| {
            for at in [1, 3, 70] {
                if let Some(folio) = cache.find(page(at)) {
                    let first = folio.index().get();
                    if folio.is_uptodate() && first + folio.pages() > at {
                        // Truncate zeroes the part of a folio it cuts: locked, all is one or the
                        // other.
                        if let Some(folio) = cache.lock(&folio)
                            && first == folio.index().get()
                            && at >= 3
                        {
                            assert_stamped(&folio, first, at);
                        }
                    }
                }
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        cache.truncate(FileRange::ALL);
        assert!(cache.is_empty());
        drop(cache);
        assert_eq!(pool.stats().free_pages, 16, "memory leaked");
        assert_eq!(pool.stats().nr_pages, 0);
    });
}

/// A lookup that catches a folio on its way from one page to another does not return it.
#[test]
fn a_lookup_does_not_return_a_folio_that_was_used_again() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        stamp(&cache, 1, 0);
        let changer = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                cache.truncate(FileRange::ALL);
                stamp(&cache, 2, 0);
                cache.truncate(FileRange::ALL);
                stamp(&cache, 1, 0);
            })
        };
        for at in [1, 2, 1] {
            if let Some(folio) = cache.find(page(at)) {
                assert_eq!(folio.index(), page(at), "another page");
            }
        }
        changer.join().unwrap();
        assert!(cache.find(page(1)).is_some());
    });
}

/// A page that stays is found at any moment, while the tree above it grows and shrinks.
#[test]
fn a_page_that_stays_is_always_found() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        stamp(&cache, 1, 0);
        let done = Arc::new(AtomicU64::new(0));
        let changer = {
            let (cache, done) = (Arc::clone(&cache), Arc::clone(&done));
            thread::spawn(move || {
                stamp(&cache, 5000, 0);
                cache.truncate(FileRange::from(page(100).pos()));
                done.store(1, Ordering::Release);
            })
        };
        // The fair schedules end; the others run out of patience.
        for _ in 0..300 {
            assert!(cache.find(page(1)).is_some(), "a false miss");
            if done.load(Ordering::Acquire) != 0 {
                break;
            }
        }
        changer.join().unwrap();
    });
}

/// A large folio is cut while others look it up, lock it and dirty it: nobody sees half a step.
#[test]
fn splitting_beside_lookups_and_writers() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        stamp(&cache, 0, 2);
        let looker = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                for at in [0, 1, 0] {
                    let folio = cache.find(page(at)).expect("these pages stay");
                    let (first, pages) = (folio.index().get(), folio.pages());
                    assert!(first <= at && at < first + pages);
                    assert_stamped(&folio, first, at);
                }
            })
        };
        let writer = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let mut folio = cache.get_or_create(page(1), order(0)).unwrap();
                assert!(folio.is_uptodate());
                folio.set_range_dirty(0..1);
            })
        };
        cache.truncate(FileRange::from(page(2).pos()));
        looker.join().unwrap();
        writer.join().unwrap();
        let folio = cache.find_lock(page(1), false).unwrap().unwrap();
        assert!(folio.is_dirty() && cache.nr_dirty() == folio.pages());
        drop(folio);
        cache.truncate(FileRange::ALL);
        assert_eq!(pool.nr_dirty(), 0);
        assert_eq!(pool.stats().free_pages, 16, "memory leaked");
    });
}

/// Several threads want the same page: one creates it, all get the same folio, one at a time.
#[test]
fn one_page_is_created_once() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let inside = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..3)
            .map(|n| {
                let (cache, inside) = (Arc::clone(&cache), Arc::clone(&inside));
                thread::spawn(move || {
                    let folio = cache.get_or_create(page(5), order(n)).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::AcqRel), 0, "two owners");
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::AcqRel);
                    let (index, id) = (folio.index(), folio.unlock_keep());
                    (index, id)
                })
            })
            .collect();
        let got: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(got.iter().all(|(_, folio)| *folio == got[0].1));
    });
}

/// Readers wait for a read in flight that its submitter does not wait for.
#[test]
fn waiters_drive_the_device_for_a_read_nobody_else_waits_for() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let locked = cache.get_or_create(page(0), order(0)).unwrap();
        let waiters: Vec<_> = (0..2)
            .map(|n| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    if n == 0 {
                        let folio = cache.find(page(0)).unwrap();
                        folio.wait_unlocked(&**cache.device());
                        assert!(folio.is_uptodate());
                    } else {
                        let folio = cache.find_lock(page(0), false).unwrap().unwrap();
                        assert!(folio.is_uptodate());
                    }
                })
            })
            .collect();
        let reading = locked.into_reading();
        let segment = reading.folio().segment(0, PAGE_SIZE);
        let done = iomap_core::device::Completion::call(move |result| {
            if result.is_ok() {
                reading.finish_all();
            }
        });
        device.submit(Bio::new(
            iomap_core::device::BioOp::Read,
            DevAddr::new(0),
            PAGE_SIZE as u64,
            &[segment],
            done,
        ));
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

fn write_back(cache: &PageCache, storage: &Arc<AtomicU64>) {
    let device = cache.device();
    while let Some(folio) = cache.next_marked(Mark::Dirty, page(0), page(8)) {
        let Some(mut folio) = cache.lock(&folio) else {
            continue;
        };
        folio.wait_writeback(&**device);
        if !folio.clear_dirty_for_io() {
            folio.clear_all_dirty_blocks();
            continue;
        }
        folio.start_writeback();
        folio.begin_write_pending(folio.len() as u32);
        folio.clear_all_dirty_blocks();
        let mut value = [0; 8];
        folio.copy_out(0, &mut value);
        let (segment, len) = (folio.segment(0, folio.len()), folio.len());
        let folio = folio.unlock_keep();
        let storage = Arc::clone(storage);
        let done = iomap_core::device::Completion::call(move |_| {
            storage.store(u64::from_le_bytes(value), Ordering::Release);
            if folio.sub_write_pending(len as u32) {
                folio.end_writeback();
            }
        });
        device.submit(Bio::new(
            iomap_core::device::BioOp::WRITE,
            DevAddr::new(0),
            len as u64,
            &[segment],
            done,
        ));
    }
}

fn dirty(cache: &PageCache, value: u64) {
    let mut folio = cache.get_or_create(page(0), order(1)).unwrap();
    folio.copy_in(0, &value.to_le_bytes());
    folio.set_uptodate();
    folio.set_range_dirty(0..8);
}

/// At no moment is a change neither in storage nor announced by a mark: what direct I/O relies on.
#[test]
fn a_change_is_marked_until_it_is_in_storage() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let storage = Arc::new(AtomicU64::new(0));
        dirty(&cache, 1);
        let looker = {
            let (cache, storage) = (Arc::clone(&cache), Arc::clone(&storage));
            thread::spawn(move || {
                for _ in 0..3 {
                    if !cache.has_dirty_or_writeback(FileRange::ALL) {
                        assert_eq!(
                            storage.load(Ordering::Acquire),
                            1,
                            "a change slipped through"
                        );
                    }
                }
            })
        };
        write_back(&cache, &storage);
        cache.wait_writeback(FileRange::ALL);
        looker.join().unwrap();
        assert_eq!(storage.load(Ordering::Acquire), 1);
        assert!(!cache.has_dirty_or_writeback(FileRange::ALL));
    });
}

/// Writers, two writebacks and truncate: the counts and marks come out even, and without truncate
/// the last value is in storage.
#[test]
fn dirtying_writeback_and_truncate_keep_the_books() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let storage = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for n in 0..4 {
            let (cache, storage) = (Arc::clone(&cache), Arc::clone(&storage));
            threads.push(thread::spawn(move || match n {
                0 => {
                    dirty(&cache, 1);
                    dirty(&cache, 2);
                }
                1 | 2 => write_back(&cache, &storage),
                _ => cache.truncate(FileRange::ALL),
            }));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        write_back(&cache, &storage);
        cache.wait_writeback(FileRange::ALL);
        assert_eq!(pool.nr_dirty() + cache.nr_dirty() + pool.nr_writeback(), 0);
        assert!(!cache.has_dirty_or_writeback(FileRange::ALL));
        cache.truncate(FileRange::ALL);
        drop(cache);
        assert_eq!(pool.stats().free_pages, 16, "memory leaked");
    });
}

/// A folio to be dropped behind its writeback goes, unless somebody dirties it again.
#[test]
fn dropbehind_drops_what_nobody_wants() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let storage = Arc::new(AtomicU64::new(0));
        let uncached = GetFolio {
            dontcache: true,
            ..GetFolio::default()
        };
        let mut folio = cache.get_or_create(page(0), uncached).unwrap();
        folio.copy_in(0, &1u64.to_le_bytes());
        folio.set_uptodate();
        folio.set_dirty();
        drop(folio);
        let again = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || dirty(&cache, 2))
        };
        write_back(&cache, &storage);
        cache.wait_writeback(FileRange::ALL);
        again.join().unwrap();
        let folio = cache.find(page(0)).expect("an ordinary user has it");
        assert!(!folio.is_dropbehind());
        let mut value = [0; 8];
        folio.copy_out(0, &mut value);
        assert_eq!(u64::from_le_bytes(value), 2);
    });
}

/// Allocation beside allocation when memory is short: clean folios go, and nobody hangs.
#[test]
fn threads_that_reclaim_from_each_other_all_get_memory() {
    check(|| {
        let pool = pool();
        let device = Lazy::new();
        let cache = cache(&pool, &device);
        let threads: Vec<_> = (0..2u64)
            .map(|n| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || {
                    for at in 0..12 {
                        stamp(&cache, 100 * n + at, 0);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let stats = pool.stats();
        assert_eq!(stats.free_pages + stats.nr_pages, 16);
    });
}
