//! The index of the page cache: cost against the size of the file.
//!
//! Unit: time for one lookup, or for one walk over 64 dirty folios. Leaves out copying, locking of
//! folios and I/O. The rows of a group differ in the size of the file only; the number of folios
//! is the same, spread evenly. A group should be flat: a folio that is alone in its part of the file
//! hangs near the root.

use std::hint::black_box;
use std::sync::Arc;

use benches::{PAGE, Positions};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use iomap_core::device::MemoryDevice;
use iomap_core::folio::{Pool, PoolConfig};
use iomap_core::page_cache::{GetFolio, Mark, PageCache};
use iomap_core::units::{BlockBits, PageIndex};

const FOLIOS: u64 = 1024;
const DIRTY: u64 = 64;
const SIZES: [(&str, u64); 3] = [("4 MiB", 4 << 20), ("1 GiB", 1 << 30), ("1 TiB", 1 << 40)];

/// A cache with [`FOLIOS`] single pages spread over `size` bytes; every 16th is dirty.
fn sparse_cache(size: u64) -> PageCache {
    let pool = Pool::new(PoolConfig::with_budget(64 << 20)).expect("64 MiB of address space");
    let blocks = BlockBits::new(12).expect("a page is a block size");
    let cache = PageCache::new(&pool, blocks, Arc::new(MemoryDevice::new(1 << 20)), 1);
    for n in 0..FOLIOS {
        let index = PageIndex::new(n * (size / FOLIOS) / PAGE);
        let mut folio = cache
            .get_or_create(index, GetFolio::default())
            .expect("the pool is large enough");
        folio.set_uptodate();
        if n % (FOLIOS / DIRTY) == 0 {
            folio.set_dirty();
        }
    }
    cache
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/lookup");
    for (name, size) in SIZES {
        let cache = sparse_cache(size);
        let mut positions = Positions::new(size, size / FOLIOS);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| black_box(cache.find(PageIndex::new(positions.draw() / PAGE))));
        });
    }
}

/// Folios marked dirty before page `end`, found as writeback finds them.
fn count_dirty(cache: &PageCache, end: PageIndex) -> u64 {
    let (mut at, mut found) = (PageIndex::new(0), 0);
    loop {
        let batch = cache.batch(at, end, Some(Mark::Dirty), 32);
        let Some(last) = batch.last() else {
            return found;
        };
        found += batch.len() as u64;
        at = last.end_index();
    }
}

fn dirty_walk(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/walk 64 dirty");
    for (name, size) in SIZES {
        let cache = sparse_cache(size);
        let end = PageIndex::new(size / PAGE);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| assert_eq!(count_dirty(&cache, end), DIRTY));
        });
    }
}

criterion_group!(benches, lookup, dirty_walk);
criterion_main!(benches);
