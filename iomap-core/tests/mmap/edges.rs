//! Steps of a fault that an edit once left out and no test noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iomap_core::commit::{Committing, protect_journalled};
use iomap_core::error::{Errno, FaultError, Result};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{Frames, MapOptions, MappedRange, Mmu};
use iomap_core::ops::MapOps;
use iomap_core::units::{FileRange, PageIndex};
use iomap_core::writeback::{WritebackControl, write_pages};

use crate::file::{BOTH, Block, Config, TestFile, page, pos};

const PAGE: u64 = 4096;

fn load(mapping: &iomap_core::mmap::soft::SoftMapping, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xAA; len];
    mapping.load(pos(at), &mut bytes).unwrap();
    bytes
}

/// The file shrank after the fault looked at its size, and before it had the folio.
#[test]
fn a_store_looks_at_the_end_again_with_the_folio_locked() {
    let file = TestFile::new(Config::default(), 2 * PAGE);
    let mapping = file.map(0..2, BOTH);
    let _in_the_cache = load(&mapping, PAGE, 1);
    let shrinking = std::sync::Arc::downgrade(&file);
    file.hooks.lock().before_lock = Some(Box::new(move || {
        if let Some(file) = shrinking.upgrade() {
            file.inode().set_size(pos(PAGE));
        }
    }));
    let stored = mapping.store(pos(PAGE), b"x");
    assert_eq!(stored, Err(FaultError::BeyondEnd { page: page(1) }));
    assert_eq!(file.inode().cache().nr_dirty(), 0);
}

/// The transaction around a store could not be closed: the page is writable, and the next sync tells.
#[test]
fn an_error_behind_a_fault_is_kept_for_the_next_sync() {
    let file = TestFile::new(Config::default(), PAGE);
    let mut seen = file.inode().cache().sample_error();
    let mapping = file.map(0..1, BOTH);
    file.hooks.lock().unlock_error = Some(Errno::NOSPC);
    mapping.store(pos(0), b"x").unwrap();
    let told = file.inode().cache().check_and_advance(&mut seen);
    assert_eq!(told, Err(Errno::NOSPC));
}

#[test]
fn a_store_fault_tells_the_backend_that_the_file_is_modified_and_a_load_does_not() {
    let file = TestFile::new(Config::default(), PAGE);
    let mapping = file.map(0..1, BOTH);
    let _loaded = load(&mapping, 0, 1);
    assert_eq!(file.hooks.lock().modified, 0);
    mapping.store(pos(0), b"x").unwrap();
    assert_eq!(file.hooks.lock().modified, 1);
}

/// What a page had of another file is not shown behind the end of this one.
#[test]
fn the_rest_of_the_last_page_is_zero_in_a_mapping() {
    let config = Config {
        bits: 10,
        budget: 16,
        ..Config::default()
    };
    let file = TestFile::new(config, 16 * PAGE);
    // Every page of memory there is gets bytes.
    file.write(0, &[0xFF; 16 * PAGE as usize]).unwrap();
    file.sync();
    file.truncate(0).unwrap();
    file.write(0, &[1; 1_000]).unwrap();
    let mapping = file.map(0..1, BOTH);
    assert_eq!(load(&mapping, 1_000, 3_096), [0; 3_096]);
}

/// Pages around the one that faults are shown as well, but none that lies behind the end.
/// A read is content with the first block of a page; a fault is not.
#[test]
fn a_page_of_which_the_first_block_is_there_is_read_whole_for_a_fault() {
    let bits = 10;
    let file = TestFile::new(
        Config {
            bits,
            ..Config::default()
        },
        PAGE,
    );
    file.lay_out(0..4, 7);
    for access in ["load", "store"] {
        file.write(0, &[9; 1024]).unwrap();
        let mapping = file.map(0..1, BOTH);
        if access == "store" {
            mapping.store(pos(PAGE - 1), &[8]).unwrap();
        } else {
            assert_eq!(load(&mapping, 1024, 3 * 1024), [7; 3 * 1024]);
        }
        drop(mapping);
        file.sync();
        file.drop_cache();
    }
    let whole = [vec![9; 1024], vec![7; 3 * 1024 - 1], vec![8]].concat();
    assert_eq!(file.read(0, PAGE as usize), whole);
}

#[test]
fn a_large_folio_is_not_shown_past_the_end_of_the_file() {
    let config = Config {
        bits: 15,
        blocks: 16,
        ..Config::default()
    };
    let file = TestFile::new(config, 0);
    file.write(0, &[1; 8 * PAGE as usize]).unwrap();
    let cache = file.inode().cache();
    assert_eq!(cache.find(page(0)).map(|folio| folio.pages()), Some(8));
    file.truncate(7 * PAGE).unwrap();
    let mapping = file.map(0..8, BOTH);
    // The second fault shows what is around it.
    assert_eq!(load(&mapping, 0, 1), [1]);
    assert_eq!(load(&mapping, PAGE, 1), [1]);
    assert!(mapping.try_load(pos(6 * PAGE), &mut [0]), "shown alone");
    let beyond = mapping.load(pos(7 * PAGE), &mut [0]);
    assert_eq!(beyond, Err(FaultError::BeyondEnd { page: page(7) }));
}

/// A store behind the end inside the last page is not part of the file when a write makes the file
/// grow over it, even inside the same page.
#[test]
fn a_write_inside_the_page_at_the_end_leaves_zeroes_between() {
    let config = Config {
        bits: 10,
        ..Config::default()
    };
    let file = TestFile::new(config, 1_500);
    let mapping = file.map(0..1, BOTH);
    mapping.store(pos(0), &[1; 1_500]).unwrap();
    mapping.store(pos(1_500), &[2; 2_500]).unwrap();
    file.write(3_000, b"end").unwrap();
    assert_eq!(load(&mapping, 1_500, 1_500), [0; 1_500]);
}

/// Writeback meets a page that a truncate under way has cut off: it is clean then, so it must not
/// stay writable.
#[test]
fn a_page_behind_the_end_is_not_writable_when_writeback_has_given_it_up() {
    let file = TestFile::new(Config::default(), 2 * PAGE);
    let mapping = file.map(0..2, BOTH);
    mapping.store(pos(PAGE), b"x").unwrap();
    file.inode().set_size(pos(PAGE));
    write_pages(&*file, &WritebackControl::sync(FileRange::ALL)).unwrap();
    assert!(!mapping.try_store(pos(PAGE), b"y"), "lost without a trace");
}

/// A page table that notes what is taken out of it.
#[derive(Debug, Default)]
struct Noting(parking_lot::Mutex<Vec<std::ops::Range<PageIndex>>>);

impl Mmu for Noting {
    fn map(&self, _at: PageIndex, _frames: &Frames, _writable: bool) -> Result<()> {
        Ok(())
    }

    fn write_protect(&self, _pages: std::ops::Range<PageIndex>) {}

    fn unmap(&self, pages: std::ops::Range<PageIndex>) {
        self.0.lock().push(pages);
    }
}

/// A page table whose pages are stored to, past the end, at the last moment before they are
/// protected: by another mapping, which is protected after this one.
#[derive(Debug, Default)]
struct Late(std::sync::OnceLock<SoftMapping>, AtomicU32);

impl Mmu for Late {
    fn map(&self, _at: PageIndex, _frames: &Frames, _writable: bool) -> Result<()> {
        Ok(())
    }

    fn write_protect(&self, _pages: std::ops::Range<PageIndex>) {
        if let Some(other) = self.0.get()
            && other.try_store(pos(2000), b"late")
        {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn unmap(&self, _pages: std::ops::Range<PageIndex>) {}
}

/// What lies past the end is made zero when nobody can store there any more, not before (rule B41).
#[test]
fn a_store_past_the_end_just_before_writeback_does_not_reach_the_device() {
    let file = TestFile::new(Config::default(), 100);
    let table = Arc::new(Late::default());
    let mmu: Arc<dyn Mmu> = Arc::clone(&table) as Arc<dyn Mmu>;
    let shown = MappedRange::new(page(0)..page(1), BOTH, MapOptions::empty(), mmu);
    let (mappings, id) = (file.inode().cache().mappings(), shown.mapping());
    mappings.insert(Arc::new(shown));
    let mapping = file.map(0..1, BOTH);
    mapping.store(pos(0), b"x").unwrap();
    table.0.set(mapping).unwrap();
    file.sync();
    assert!(table.1.load(Ordering::Relaxed) > 0, "nobody stored");
    let Some(Block::Written(at)) = file.block(0) else {
        panic!("not written");
    };
    let written = file.device.bytes(at << 12, PAGE as usize);
    assert!(written[100..].iter().all(|byte| *byte == 0), "rule B41");
    mappings.remove(id, &(page(0)..page(1)));
}

/// Pages past the end may be refused in page tables: those the file reaches now are asked for again.
#[test]
fn a_file_that_grows_takes_the_pages_it_reaches_out_of_page_tables() {
    let file = TestFile::new(Config::default(), 100);
    let table = Arc::new(Noting::default());
    let mmu: Arc<dyn Mmu> = Arc::clone(&table) as Arc<dyn Mmu>;
    let shown = MappedRange::new(page(0)..page(8), BOTH, MapOptions::empty(), mmu);
    let mappings = file.inode().cache().mappings();
    let id = shown.mapping();
    mappings.insert(Arc::new(shown));
    let guard = file.inode().lock_exclusive();
    file.inode().set_size(pos(3 * PAGE + 1));
    assert_eq!(*table.0.lock(), [page(1)..page(4)]);
    // A file that shrinks leaves that to its truncate.
    table.0.lock().clear();
    file.inode().set_size(pos(1));
    assert_eq!(*table.0.lock(), []);
    drop(guard);
    mappings.remove(id, &(page(0)..page(8)));
}

/// A store that the backend puts off is not there before the backend has taken it.
#[test]
fn a_fault_that_is_put_off_is_tried_again() {
    let file = TestFile::new(Config::default(), PAGE);
    let mapping = file.map(0..1, BOTH);
    let told = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&told);
    file.hooks.lock().put_off = 3;
    let asking = Arc::downgrade(&file);
    file.hooks.lock().fault = Some(Box::new(move |_| {
        let left = asking.upgrade().map(|file| file.hooks.lock().put_off);
        assert_eq!(left, Some(0), "storage for a fault that was put off");
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    mapping.store(pos(0), b"x").unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 1);
    file.hooks.lock().fault = None;
    file.check();
}

fn protect_all(file: &TestFile) -> Vec<u64> {
    let mut asked = Vec::new();
    protect_journalled(file, FileRange::ALL, |folio| {
        asked.push(folio.index().get());
        Committing::KeepDirty
    });
    asked
}

/// Pages side by side are protected together, and each group is.
#[test]
fn a_commit_protects_every_group_of_pages() {
    let file = TestFile::new(Config::default(), 8 * PAGE);
    let mapping = file.map(0..8, BOTH);
    let stored = [0, 1, 4, 6];
    for n in stored {
        mapping.store(pos(n * PAGE), b"x").unwrap();
    }
    assert_eq!(protect_all(&file), stored);
    for n in stored {
        let bits = mapping.mmu().bits(page(n)).unwrap();
        assert!(!bits.writable, "rule J1: page {n}");
    }
    assert_eq!(file.inode().cache().nr_dirty(), 4);
}

#[test]
fn a_commit_asks_about_more_pages_than_it_locks_at_once() {
    // Fewer than make the flusher write.
    let file = TestFile::new(Config::default(), 45 * PAGE);
    let mapping = file.map(0..45, BOTH);
    for n in 0..45 {
        mapping.store(pos(n * PAGE), b"x").unwrap();
    }
    let all: Vec<u64> = (0..45).collect();
    assert_eq!(protect_all(&file), all);
    assert!((0..45).all(|n| !mapping.mmu().bits(page(n)).unwrap().writable));
}

/// What belongs to the next transaction too stays dirty, every part of it.
#[test]
fn every_dirty_block_stays_dirty_that_the_next_transaction_has_too() {
    let config = Config {
        bits: 10,
        ..Config::default()
    };
    let file = TestFile::new(config, PAGE);
    file.write(0, &[1; 10]).unwrap();
    file.write(2048, &[2; 10]).unwrap();
    assert_eq!(protect_all(&file), [0]);
    let cache = file.inode().cache();
    let folio = cache.lock(&cache.find(page(0)).unwrap()).unwrap();
    let dirty: Vec<_> = folio.dirty_ranges(4096).collect();
    assert_eq!(dirty, [0..1024, 2048..3072], "rule J4");
}
