//! Scenarios of page tables and the reverse map, with a file that is nothing but its cache.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::soft::SoftMapping;
use super::*;
use crate::device::MemoryDevice;
use crate::folio::{Pool, PoolConfig};
use crate::page_cache::GetFolio;
use crate::units::{BlockBits, FilePos, FileRange, PAGE_SIZE};

/// A file of zeroes: a fault brings in the folio and shows the page.
struct Zeroes {
    cache: PageCache,
    faults: AtomicUsize,
}

impl FaultHandler for Zeroes {
    fn cache(&self) -> &PageCache {
        &self.cache
    }

    fn fault(
        &self,
        range: &Arc<MappedRange>,
        page: PageIndex,
        access: Access,
    ) -> Result<(), FaultError> {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let get = GetFolio {
            order_hint: 1,
            ..GetFolio::default()
        };
        let mut folio = self.cache.get_or_create(page, get)?;
        if !folio.is_uptodate() {
            folio.zero(0..folio.len());
            folio.set_uptodate();
        }
        if access.is_store() {
            folio.set_dirty();
        }
        folio.set_mapped(true);
        let frames = Frames::of_folio(&folio, page..page.plus(1));
        let mappings = self.cache.mappings();
        let _gone = mappings.map(range, page, &frames, access.is_store())?;
        Ok(())
    }
}

impl Zeroes {
    fn new() -> Arc<Self> {
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(64 * PAGE_SIZE as u64)
        };
        let pool = Pool::new(config).unwrap();
        let device = Arc::new(MemoryDevice::new(4096));
        Arc::new(Self {
            cache: PageCache::new(&pool, BlockBits::PAGE, device, 1),
            faults: AtomicUsize::new(0),
        })
    }

    fn map(self: &Arc<Self>, first: u64, end: u64, prot: Prot) -> SoftMapping {
        let handler = Arc::clone(self) as Arc<dyn FaultHandler>;
        SoftMapping::new(handler, page(first)..page(end), prot, MapOptions::empty())
    }

    fn faults(&self) -> usize {
        self.faults.swap(0, Ordering::Relaxed)
    }
}

const BOTH: Prot = Prot::READ.union(Prot::WRITE);

fn page(n: u64) -> PageIndex {
    PageIndex::new(n)
}

fn pos(n: u64) -> FilePos {
    FilePos::saturating(n)
}

fn byte(mapping: &SoftMapping, at: u64) -> u8 {
    let mut byte = [0xcc];
    mapping.load(pos(at), &mut byte).unwrap();
    byte[0]
}

#[test]
fn a_store_in_one_mapping_is_loaded_in_another() {
    let file = Zeroes::new();
    let (one, two) = (file.map(0, 8, BOTH), file.map(2, 4, Prot::READ));
    one.store(pos(3 * 4096 - 2), b"abcd").unwrap();
    let mut back = [0; 4];
    two.load(pos(3 * 4096 - 2), &mut back).unwrap();
    assert_eq!(&back, b"abcd");
    assert_eq!(file.faults(), 4, "two pages in two tables");
    one.store(pos(2 * 4096), b"x").unwrap();
    assert_eq!((file.faults(), byte(&two, 2 * 4096)), (0, b'x'));
}

#[test]
fn a_load_gives_no_permission_to_store() {
    let file = Zeroes::new();
    let mapping = file.map(0, 1, BOTH);
    assert_eq!(byte(&mapping, 0), 0);
    assert!(!mapping.try_store(pos(0), b"x"));
    let bits = mapping.mmu().bits(page(0)).unwrap();
    assert!(bits.accessed && !bits.writable && !bits.dirty);
    mapping.store(pos(0), b"x").unwrap();
    assert!(mapping.mmu().bits(page(0)).unwrap().dirty);
}

#[test]
fn what_is_not_mapped_or_not_permitted_is_a_signal() {
    let file = Zeroes::new();
    let mapping = file.map(1, 2, Prot::READ);
    let stored = mapping.store(pos(4096), b"x");
    assert_eq!(stored, Err(FaultError::Denied { page: page(1) }));
    for at in [0, 2] {
        let loaded = mapping.load(pos(at * 4096), &mut [0]);
        assert_eq!(loaded, Err(FaultError::NotMapped { page: page(at) }));
    }
    assert_eq!(file.faults(), 0);
}

#[test]
fn write_protection_reaches_every_mapping_and_only_the_folio() {
    let file = Zeroes::new();
    let (one, two) = (file.map(0, 8, BOTH), file.map(0, 8, BOTH));
    for mapping in [&one, &two] {
        mapping.store(pos(0), b"a").unwrap();
        mapping.store(pos(4096), b"a").unwrap();
        mapping.store(pos(2 * 4096), b"a").unwrap();
    }
    let folio = file.cache.find(page(0)).unwrap();
    let mut folio = file.cache.lock(&folio).unwrap();
    assert!(folio.clear_dirty_for_io(), "takes the permission first");
    folio.clear_all_dirty_blocks();
    drop(folio);
    for mapping in [&one, &two] {
        assert!(!mapping.try_store(pos(0), b"b") && !mapping.try_store(pos(4096), b"b"));
        assert!(mapping.try_load(pos(0), &mut [0]));
        assert!(mapping.try_store(pos(2 * 4096), b"b"), "another folio");
    }
}

#[test]
fn reclaim_and_truncate_take_a_folio_out_of_the_mappings_first() {
    let file = Zeroes::new();
    let mapping = file.map(0, 8, BOTH);
    assert_eq!(byte(&mapping, 0), 0);
    mapping.store(pos(2 * 4096), b"x").unwrap();
    file.cache.pool_handle().shrink(u64::MAX);
    assert!(!mapping.try_load(pos(0), &mut [0]), "clean, so it went");
    assert!(
        mapping.try_load(pos(2 * 4096), &mut [0]),
        "dirty, so it stayed"
    );
    file.cache.truncate(FileRange::from(pos(4096)));
    assert!(!mapping.try_load(pos(2 * 4096), &mut [0]));
    assert_eq!(byte(&mapping, 2 * 4096), 0);
}

#[test]
fn a_folio_that_is_punched_in_part_faults_again_and_stays_whole_elsewhere() {
    let file = Zeroes::new();
    let mapping = file.map(0, 2, BOTH);
    mapping.store(pos(0), &[7; 8192]).unwrap();
    file.cache.truncate(FileRange::between(pos(100), pos(5000)));
    assert!(!mapping.try_store(pos(0), b"x") && !mapping.try_store(pos(6000), b"x"));
    assert_eq!((byte(&mapping, 99), byte(&mapping, 5000)), (7, 7));
    assert_eq!((byte(&mapping, 100), byte(&mapping, 4999)), (0, 0));
}

#[test]
fn unmapping_a_part_and_changing_its_permission_leave_the_rest() {
    let file = Zeroes::new();
    let mapping = file.map(0, 8, BOTH);
    for n in 0..8 {
        mapping.store(pos(n * 4096), b"x").unwrap();
    }
    mapping.unmap(page(2)..page(3));
    mapping.protect(page(4)..page(6), Prot::READ);
    for n in 0..8 {
        let stored = mapping.store(pos(n * 4096), b"y");
        match n {
            2 => assert_eq!(stored, Err(FaultError::NotMapped { page: page(2) })),
            4 | 5 => assert_eq!(stored, Err(FaultError::Denied { page: page(n) })),
            _ => assert_eq!(stored, Ok(())),
        }
    }
    assert_eq!(byte(&mapping, 5 * 4096), b'x');
    drop(mapping);
    assert!(file.cache.mappings().is_empty());
}

#[test]
fn a_pin_passes_by_write_protection_and_outlives_the_page() {
    let file = Zeroes::new();
    let mapping = file.map(0, 2, BOTH);
    let pin = mapping.pin(page(0), Access::Store).unwrap();
    let folio = file.cache.find(page(0)).unwrap();
    file.cache.lock(&folio).unwrap().write_protect();
    drop(folio);
    pin.write(5, b"dma");
    assert_eq!(byte(&mapping, 6), b'm');
    file.cache.truncate(FileRange::from(FilePos::ZERO));
    pin.write(5, b"DMA");
    let mut back = [0; 3];
    pin.read(5, &mut back);
    assert_eq!((&back, byte(&mapping, 6)), (b"DMA", 0), "another page now");
}

#[test]
fn a_page_cannot_be_shown_in_a_range_that_is_gone() {
    let file = Zeroes::new();
    let mapping = file.map(0, 2, BOTH);
    let mappings = file.cache.mappings();
    let mut found = None;
    mappings.for_each(&(page(0)..page(2)), |range, pages| {
        found = Some((range.mapping(), pages));
    });
    let (id, pages) = found.unwrap();
    assert_eq!(pages, page(0)..page(2));
    let range = mappings.find(id, page(1)).unwrap();
    mapping.unmap(page(1)..page(2));
    let shown = mappings.map(&range, page(0), &Frames::zero(2), false);
    assert_eq!(shown, Ok(Err(Gone)));
    let range = mappings.find(id, page(0)).unwrap();
    let shown = mappings.map(&range, page(0), &Frames::zero(2), true);
    assert_eq!(shown, Ok(Ok(())));
    assert!(
        !mapping.try_store(pos(0), b"x"),
        "zero pages are for reading"
    );
    assert_eq!(mapping.mmu().bits(page(1)), None, "cut to the range");
}

/// A range lost its permission to write while a store to it was resolved.
#[test]
fn a_page_is_not_shown_writable_in_a_range_that_may_only_be_read() {
    let file = Zeroes::new();
    let mapping = file.map(0, 1, Prot::READ);
    let mappings = file.cache.mappings();
    let range = {
        let mut id = None;
        mappings.for_each(&(page(0)..page(1)), |range, _| id = Some(range.mapping()));
        mappings.find(id.unwrap(), page(0)).unwrap()
    };
    file.fault(&range, page(0), Access::Store).unwrap();
    assert!(!mapping.mmu().bits(page(0)).unwrap().writable);
    assert!(!mapping.try_store(pos(0), b"x"));
}
