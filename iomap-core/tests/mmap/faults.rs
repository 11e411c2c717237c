//! One thread: what a fault gives, what it refuses, and what takes a page away again.

use std::sync::Arc;

use iomap_core::error::{FaultError, FaultSignal, FsError};
use iomap_core::folio::FolioRef;
use iomap_core::mmap::{Access, Prot};
use iomap_core::ops::MapOps;
use iomap_core::page_cache::GetFolio;
use iomap_core::writeback::{WritebackControl, write_pages};

use crate::file::{BOTH, Block, Config, TestFile, page, pos, range};

fn small_blocks() -> Config {
    Config {
        bits: 10,
        ..Config::default()
    }
}

fn without_delalloc() -> Config {
    Config {
        delalloc: false,
        ..Config::default()
    }
}

/// The bytes of a mapping.
fn load(mapping: &iomap_core::mmap::soft::SoftMapping, at: u64, len: usize) -> Vec<u8> {
    let mut to = vec![0xCC; len];
    mapping.load(pos(at), &mut to).unwrap();
    to
}

#[test]
fn a_store_reaches_storage_and_every_way_to_read() {
    for config in [Config::default(), without_delalloc(), small_blocks()] {
        let file = TestFile::new(config, 20_000);
        let (mapping, other) = (file.map(0..5, BOTH), file.map(0..5, Prot::READ));
        mapping
            .store(pos(4_000), b"a store over a page boundary, of 200 bytes")
            .unwrap();
        let wanted = file.read(4_000, 200);
        assert!(wanted.starts_with(b"a store over a page boundary"));
        assert_eq!(load(&other, 4_000, 200), wanted);
        assert_eq!(file.read_direct(0, 8192)[4_000..4_200], wanted);
        file.sync();
        file.drop_cache();
        assert_eq!(load(&mapping, 4_000, 200), wanted);
        file.check();
    }
}

#[test]
fn a_load_from_a_hole_is_zero_and_takes_no_space() {
    let file = TestFile::new(Config::default(), 20_000);
    let free = file.free_blocks();
    let mapping = file.map(0..5, BOTH);
    assert_eq!(load(&mapping, 100, 19_900), [0; 19_900]);
    assert_eq!(
        (file.free_blocks(), file.inode().cache().nr_dirty()),
        (free, 0)
    );
    mapping.store(pos(5_000), b"x").unwrap();
    assert_eq!(file.free_blocks(), free - 1, "one page, not its folio");
    assert!(file.inode().cache().nr_dirty() > 0);
}

#[test]
fn a_store_faults_again_once_the_page_was_taken_for_writing() {
    let file = TestFile::new(Config::default(), 8192);
    let mapping = file.map(0..2, BOTH);
    mapping.store(pos(0), b"1").unwrap();
    assert!(mapping.try_store(pos(1), b"2"));
    file.sync();
    assert_eq!(file.inode().cache().nr_dirty(), 0);
    assert!(
        !mapping.try_store(pos(1), b"3"),
        "clean, so write-protected"
    );
    mapping.store(pos(1), b"3").unwrap();
    assert!(file.inode().cache().nr_dirty() > 0);
    file.sync();
    assert_eq!(file.read_direct(0, 4096)[..2], *b"13");
}

#[test]
fn past_the_last_page_of_the_file_is_a_signal() {
    let file = TestFile::new(small_blocks(), 5_000);
    let mapping = file.map(0..8, BOTH);
    for access in [Access::Load, Access::Store] {
        let fault = mapping.fault(page(2), access);
        assert_eq!(fault, Err(FaultError::BeyondEnd { page: page(2) }));
        assert_eq!(fault.unwrap_err().signal(), FaultSignal::Bus);
    }
    mapping.store(pos(8_191), b"x").unwrap();
    file.truncate(4_096).unwrap();
    assert!(
        mapping.load(pos(4_096), &mut [0]).is_err(),
        "gone with the end of the file"
    );
    file.truncate(8_192).unwrap();
    assert_eq!(load(&mapping, 4_096, 4_096), [0; 4_096]);
}

/// Straddling: blocks past the end get no storage when the page becomes writable; when the file
/// grows over them, the next store faults and gets it, and what was stored there before is gone.
#[test]
fn a_page_at_the_end_of_the_file_is_faulted_again_when_the_file_grows_over_it() {
    for by_write in [false, true] {
        let file = TestFile::new(small_blocks(), 1_500);
        let mapping = file.map(0..4, BOTH);
        mapping.store(pos(0), &[1; 1_500]).unwrap();
        mapping.store(pos(1_500), &[2; 2_500]).unwrap();
        assert_eq!(file.block(1), Some(Block::Delalloc));
        assert_eq!((file.block(2), file.block(3)), (None, None), "past the end");
        if by_write {
            file.write(9_000, b"end").unwrap();
        } else {
            file.truncate(9_003).unwrap();
        }
        assert!(
            !mapping.try_store(pos(3_500), b"x"),
            "has no storage for it"
        );
        assert_eq!(load(&mapping, 1_500, 2_500), [0; 2_500]);
        mapping.store(pos(3_500), b"kept").unwrap();
        assert_eq!(file.block(3), Some(Block::Delalloc));
        file.sync();
        file.drop_cache();
        let back = file.read(0, 4_096);
        assert_eq!(
            (&back[..1_500], &back[3_500..3_504]),
            (&[1; 1_500][..], &b"kept"[..])
        );
        assert!(back[1_500..3_500].iter().all(|b| *b == 0));
        file.check();
    }
}

/// The same, when the file grows by a direct write that does not touch the page.
#[test]
fn a_direct_write_beyond_the_end_has_the_page_at_the_old_end_faulted_again() {
    let file = TestFile::new(small_blocks(), 1_500);
    let mapping = file.map(0..4, BOTH);
    mapping.store(pos(0), &[1; 1_500]).unwrap();
    assert!(file.write_direct(8_192, &[5; 4_096]));
    assert!(
        !mapping.try_store(pos(3_500), b"x"),
        "has no storage for it"
    );
    mapping.store(pos(3_500), b"kept").unwrap();
    file.sync();
    assert_eq!(file.read_direct(0, 4_096)[3_500..3_504], *b"kept");
}

#[test]
fn what_is_stored_past_the_end_never_reaches_storage() {
    let file = TestFile::new(Config::default(), 100);
    let mapping = file.map(0..1, BOTH);
    mapping.store(pos(0), &[7; 4_096]).unwrap();
    file.sync();
    let Some(Block::Written(at)) = file.block(0) else {
        panic!("{:?}", file.block(0));
    };
    let disk = file.device.bytes(at << 12, 4_096);
    assert_eq!(
        (&disk[..100], &disk[100..]),
        (&[7; 100][..], &[0; 3_996][..])
    );
    assert_eq!(load(&mapping, 100, 100), [0; 100]);
}

#[test]
fn no_space_is_the_error_of_the_fault_and_nothing_is_lost() {
    let file = TestFile::new(small_blocks(), 16_384);
    let mapping = file.map(0..4, BOTH);
    file.write(1_024, &[3; 1_024]).unwrap();
    file.set_free(2);
    let stored = mapping.store(pos(0), b"x");
    assert_eq!(stored, Err(FaultError::Fs(FsError::NoSpace)));
    assert_eq!(
        file.free_blocks(),
        2,
        "what was promised before the error is given back"
    );
    assert!(
        mapping
            .mmu()
            .bits(page(0))
            .is_none_or(|bits| !bits.writable)
    );
    assert_eq!(file.read(1_024, 1_024), [3; 1_024]);
    assert!(
        file.inode().cache().nr_dirty() > 0,
        "what was dirty stays dirty"
    );
    file.check();
    file.set_free(4);
    mapping.store(pos(0), b"x").unwrap();
    file.sync();
    assert_eq!(file.read_direct(0, 2_048)[..1], *b"x");
    assert_eq!(file.read_direct(0, 2_048)[1_024..], [3; 1_024]);
    let clean = mapping.store(pos(8_192), b"x");
    assert_eq!(clean, Err(FaultError::Fs(FsError::NoSpace)));
    assert_eq!(
        file.inode().cache().nr_dirty(),
        0,
        "clean before, clean after"
    );
}

#[test]
fn truncate_punch_and_direct_writes_take_pages_out_of_every_mapping() {
    let file = TestFile::new(small_blocks(), 16_384);
    let (one, two) = (file.map(0..4, BOTH), file.map(0..4, BOTH));
    for mapping in [&one, &two] {
        mapping.store(pos(0), &[1; 16_384]).unwrap();
    }
    file.punch(range(1_024, 6_144)).unwrap();
    for mapping in [&one, &two] {
        assert!(!mapping.try_store(pos(1_500), b"x"), "the block is gone");
        let bytes = load(mapping, 0, 8_192);
        assert!(bytes[..1_024].iter().all(|b| *b == 1));
        assert!(bytes[1_024..6_144].iter().all(|b| *b == 0));
        assert!(bytes[6_144..].iter().all(|b| *b == 1));
    }
    one.store(pos(1_500), b"back").unwrap();
    assert!(file.write_direct(8_192, &[9; 4_096]));
    assert_eq!(load(&one, 8_192, 4_096), [9; 4_096]);
    assert_eq!(load(&two, 8_192, 4_096), [9; 4_096]);
    file.sync();
    let disk = file.read_direct(0, 16_384);
    assert_eq!(disk[1_500..1_504], *b"back");
    assert!(disk[4_096..6_144].iter().all(|b| *b == 0));
    assert!(disk[12_288..].iter().all(|b| *b == 1));
    file.check();
}

#[test]
fn a_truncate_to_the_middle_of_a_mapped_page_leaves_zeroes_behind_the_end() {
    let file = TestFile::new(small_blocks(), 8_192);
    let mapping = file.map(0..2, BOTH);
    mapping.store(pos(0), &[1; 8_192]).unwrap();
    file.truncate(1_100).unwrap();
    assert!(!mapping.try_store(pos(3_000), b"x"), "its block was freed");
    mapping.store(pos(3_000), b"lost").unwrap();
    file.truncate(8_192).unwrap();
    let bytes = load(&mapping, 0, 8_192);
    assert!(bytes[..1_100].iter().all(|b| *b == 1) && bytes[1_100..].iter().all(|b| *b == 0));
    file.sync();
    assert_eq!(file.read_direct(0, 8_192), bytes);
}

#[test]
fn a_page_that_cannot_be_read_is_the_error_of_the_fault() {
    let file = TestFile::new(Config::default(), 8_192);
    file.lay_out(0..2, 5);
    file.device
        .set_fault(|_| Some(iomap_core::error::Errno::IO));
    let mapping = file.map(0..2, BOTH);
    for access in [Access::Load, Access::Store] {
        let fault = mapping.fault(page(0), access).unwrap_err();
        assert_eq!(fault.signal(), FaultSignal::Bus);
        assert_eq!(fault.errno(), iomap_core::error::Errno::IO);
    }
    file.device.clear_fault();
    mapping.store(pos(0), b"x").unwrap();
    assert_eq!(load(&mapping, 0, 2), [b'x', 5]);
}

#[test]
fn a_store_waits_for_writeback_where_pages_must_be_stable() {
    for stable in [false, true] {
        let config = Config {
            stable,
            ..Config::default()
        };
        let file = TestFile::new(config, 4_096);
        let mapping = Arc::new(file.map(0..1, BOTH));
        mapping.store(pos(0), b"1").unwrap();
        file.device.hold();
        write_pages(&*file, &WritebackControl::sync(range(0, 4_096))).unwrap();
        let storer = std::thread::spawn({
            let mapping = Arc::clone(&mapping);
            move || mapping.store(pos(0), b"2").unwrap()
        });
        if stable {
            file.device.await_waiters(1);
            assert_eq!(load(&mapping, 0, 1), b"1");
        } else {
            storer.join().unwrap();
            assert_eq!(load(&mapping, 0, 1), b"2");
            file.device.release();
            continue;
        }
        file.device.release();
        storer.join().unwrap();
        assert_eq!(load(&mapping, 0, 1), b"2");
    }
}

#[test]
fn a_folio_that_is_being_filled_is_waited_for() {
    let file = TestFile::new(Config::default(), 4_096);
    file.lay_out(0..1, 5);
    file.device.hold();
    let mapping = Arc::new(file.map(0..1, BOTH));
    let threads = [Access::Load, Access::Store].map(|access| {
        let mapping = Arc::clone(&mapping);
        std::thread::spawn(move || mapping.fault(page(0), access))
    });
    file.device.await_held(1);
    file.device.release();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    assert_eq!(load(&mapping, 7, 1), [5]);
}

#[test]
fn a_folio_in_use_by_a_device_stays_in_the_cache() {
    let file = TestFile::new(Config::default(), 8_192);
    let mapping = file.map(0..2, BOTH);
    let pin = mapping.pin(page(0), Access::Store).unwrap();
    file.sync();
    file.inode().cache().pool_handle().shrink(u64::MAX);
    pin.write(9, b"dma");
    assert_eq!(load(&mapping, 9, 3), b"dma");
    assert_eq!(file.read(9, 3), b"dma", "the same page");
}

/// The folio flag of a mapping that is gone costs a walk and no more.
#[test]
fn an_unmapped_file_behaves_as_one_that_never_was_mapped() {
    let file = TestFile::new(Config::default(), 8_192);
    drop({
        let mapping = file.map(0..2, BOTH);
        mapping.store(pos(0), &[4; 8_192]).unwrap();
        mapping
    });
    assert!(file.inode().cache().mappings().is_empty());
    file.sync();
    file.drop_cache();
    assert_eq!(file.read(0, 8_192), [4; 8_192]);
    let folio: FolioRef = (*file
        .inode()
        .cache()
        .get_or_create(page(0), GetFolio::default())
        .unwrap())
    .clone();
    assert!(!folio.is_mapped());
}
