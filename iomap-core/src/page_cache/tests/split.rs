//! Truncating parts of large folios: bytes, state, marks, counts and memory.

use proptest::prelude::*;

use super::*;

fn large(cache: &PageCache, order_hint: u32) {
    let mut folio = cache.get_or_create(page(0), order(order_hint)).unwrap();
    let bytes: Vec<u8> = (0..folio.len())
        .map(|at| (at / 512 % 251) as u8 + 1)
        .collect();
    folio.copy_in(0, &bytes);
    folio.set_uptodate();
}

#[test]
fn cutting_off_half_of_a_large_folio_gives_its_memory_back() {
    let pool = pool(1024);
    let cache = cache(&pool, 12);
    large(&cache, 9);
    assert_eq!(pool.stats().free_pages, 512);
    cache.truncate(FileRange::from(page(300).pos()));
    assert_eq!(cache.nr_pages(), 300);
    assert_eq!(pool.stats().free_pages, 1024 - 300);
    let folio = cache.find(page(299)).unwrap();
    assert!(folio.is_uptodate());
    assert_eq!((folio.index(), folio.order()), (page(296), 2));
    drop(folio);
    cache.truncate(FileRange::ALL);
    assert_eq!(pool.stats().free_pages, 1024);
}

#[test]
fn a_folio_somebody_refers_to_is_not_split() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    large(&cache, 4);
    let kept = cache.find(page(3)).unwrap();
    cache.truncate(FileRange::from(page(8).pos()));
    assert_eq!((kept.order(), cache.nr_pages()), (4, 16));
    let mut bytes = [1; 16];
    kept.copy_out(9 * PAGE_SIZE, &mut bytes);
    assert_eq!(bytes, [0; 16]);
}

#[test]
fn both_halves_are_dropped_behind() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    let uncached = GetFolio {
        order_hint: 2,
        dontcache: true,
        ..GetFolio::default()
    };
    drop(cache.get_or_create(page(0), uncached).unwrap());
    cache.truncate(pages(1, 3));
    for at in [0, 3] {
        let folio = cache.find(page(at)).unwrap();
        assert!(folio.is_dropbehind() && folio.order() == 0, "rule B68");
    }
}

#[test]
fn a_folio_that_is_being_written_is_not_split() {
    let pool = pool(64);
    let cache = cache(&pool, 12);
    large(&cache, 2);
    let mut folio = cache.lock(&cache.find(page(0)).unwrap()).unwrap();
    folio.set_dirty();
    folio.clear_dirty_for_io();
    folio.start_writeback();
    folio.clear_all_dirty_blocks();
    let folio = folio.halve(0).expect_err("whole until it is written");
    let written = (*folio).clone();
    drop(folio);
    written.end_writeback();
    drop(written);
    let folio = cache.lock(&cache.find(page(0)).unwrap()).unwrap();
    assert!(folio.halve(0).is_ok());
}

#[derive(Clone, Debug)]
struct Case {
    order: u32,
    block: u32,
    dirty: Vec<(usize, usize)>,
    cuts: Vec<(usize, usize)>,
    tag: bool,
}

fn case() -> impl Strategy<Value = Case> {
    (0u32..=7, 9u32..=14).prop_flat_map(|(order, block)| {
        let order = order.max(block.saturating_sub(12));
        let len = PAGE_SIZE << order;
        let range = (0..=len, 0..=len).prop_map(|(a, b)| (a.min(b), a.max(b)));
        let ranges = |n| prop::collection::vec(range.clone(), 0..n);
        (ranges(4), ranges(4), any::<bool>()).prop_map(move |(dirty, cuts, tag)| Case {
            order,
            block,
            dirty,
            cuts,
            tag,
        })
    })
}

proptest! {
    #[test]
    fn what_is_cut_is_gone_and_what_stays_is_as_it_was(case in case()) {
        let pool = pool(256);
        let cache = cache(&pool, case.block);
        large(&cache, case.order);
        let (len, block) = (PAGE_SIZE << case.order, 1usize << case.block);
        let mut bytes: Vec<u8> = (0..len).map(|at| (at / 512 % 251) as u8 + 1).collect();
        let mut dirty = vec![false; len / block];
        for (from, to) in case.dirty {
            let mut folio = cache.find_lock(page(0), false).unwrap().unwrap();
            folio.set_range_dirty(from..to);
            if from < to {
                dirty[from / block..to.div_ceil(block)].fill(true);
            }
        }
        if case.tag {
            cache.tag_for_writeback(FileRange::ALL);
        }
        for (from, to) in case.cuts {
            let at = |n: usize| FilePos::new(n as u64).unwrap();
            cache.truncate(FileRange::between(at(from), at(to)));
            bytes[from..to].fill(0);
            if from.div_ceil(block) < to / block {
                dirty[from.div_ceil(block)..to / block].fill(false);
            }
        }
        check_cut(&pool, &cache, &bytes, &dirty, block, case.tag);
    }
}

fn check_cut(
    pool: &PoolHandle,
    cache: &PageCache,
    bytes: &[u8],
    dirty: &[bool],
    block: usize,
    tag: bool,
) {
    let (mut at, mut pages_seen, mut dirty_pages) = (page(0), 0, 0);
    while let Some(folio) = cache.next(at, PageIndex::END) {
        let folio = cache.lock(&folio).unwrap();
        let first = folio.range().start().bytes() as usize;
        let mut got = vec![0; folio.len()];
        folio.copy_out(0, &mut got);
        assert!(folio.is_uptodate() && got == bytes[first..first + folio.len()]);
        let mut any = false;
        for n in 0..folio.len() / block {
            let expected = dirty[first / block + n];
            any |= expected;
            assert_eq!(folio.is_range_dirty(n * block..(n + 1) * block), expected);
        }
        assert_eq!(folio.is_dirty(), any);
        assert_eq!(cache.has_dirty(folio.range()), any);
        let tagged = cache.next_marked(Mark::ToWrite, folio.index(), folio.end_index());
        assert_eq!(tagged.is_some(), any && tag);
        pages_seen += folio.pages();
        dirty_pages += if any { folio.pages() } else { 0 };
        at = folio.end_index();
    }
    assert_eq!(
        (cache.nr_pages(), cache.nr_dirty()),
        (pages_seen, dirty_pages)
    );
    let stats = pool.stats();
    assert_eq!((stats.nr_pages, stats.nr_dirty), (pages_seen, dirty_pages));
    assert_eq!(stats.free_pages, 256 - pages_seen);
    cache.truncate(FileRange::ALL);
    assert_eq!(pool.stats().free_pages, 256);
}
