//! Loads and stores through memory mappings: holes, copies, sizes, flushes.

use std::sync::Arc;

use iomap_core::dax::{DaxDevice, HUGE_PAGES};
use iomap_core::dax_io::flush_range;
use iomap_core::error::{Errno, FaultError};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{Access, MapOptions};
use iomap_core::units::FileRange;

use crate::file::{Disk, PAGE, SECRET, addr, page, pages, pos};

fn load(mapping: &SoftMapping, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; len];
    mapping.load(pos(at), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_hole_is_loaded_as_zeroes_and_gets_a_block_by_a_store() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(4 * PAGE);
    let (one, two) = (file.map(MapOptions::empty()), file.map(MapOptions::empty()));
    assert_eq!(load(&one, PAGE, 8), [0; 8]);
    assert_eq!(load(&two, PAGE, 8), [0; 8]);
    assert_eq!(file.block(1), None);
    one.store(pos(PAGE + 2), b"data").unwrap();
    // The other mapping showed the page of zeroes.
    assert_eq!(load(&two, PAGE, 8), b"\0\0data\0\0");
    assert_eq!(file.read(PAGE, PAGE as usize)[6..], [0; PAGE as usize - 6]);
    assert_eq!(file.block(0), None);
}

#[test]
fn a_write_by_call_replaces_pages_of_zeroes_in_mappings() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(4 * PAGE);
    let mapping = file.map(MapOptions::empty());
    assert_eq!(load(&mapping, 0, 4), [0; 4]);
    file.write(0, b"call");
    assert_eq!(load(&mapping, 0, 4), b"call");
    mapping.store(pos(0), b"MAPS").unwrap();
    assert_eq!(file.read(0, 4), b"MAPS");
}

#[test]
fn an_access_past_the_end_is_refused_and_the_rest_of_the_last_page_is_not() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(PAGE + 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(PAGE + 100), b"x").unwrap();
    for access in [Access::Load, Access::Store] {
        let error = mapping.fault(page(2), access).unwrap_err();
        assert_eq!(error, FaultError::BeyondEnd { page: page(2) });
    }
}

#[test]
fn a_full_device_is_told_to_the_store_and_nothing_is_lost() {
    let disk = Disk::new(2);
    let file = disk.written::<false>(1, 7);
    file.set_size(2 * PAGE);
    let mapping = file.map(MapOptions::empty());
    let error = mapping.store(pos(PAGE), b"x").unwrap_err();
    assert_eq!(error.errno(), Errno::NOSPC);
    assert_eq!(load(&mapping, PAGE, 1), [0]);
    assert_eq!(load(&mapping, 0, 1), [7]);
}

#[test]
fn a_store_to_a_shared_page_is_private() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(2, 1), disk.file::<false>());
    let (map_a, map_b) = (a.map(MapOptions::empty()), b.map(MapOptions::empty()));
    // Writable before the files share: must not stay so.
    map_a.store(pos(0), b"own").unwrap();
    a.clone_to(&b).unwrap();
    assert_eq!(load(&map_b, 0, 4), b"own\x01");
    map_a.store(pos(0), b"new").unwrap();
    assert_eq!(load(&map_b, 0, 4), b"own\x01");
    map_b.store(pos(PAGE), b"B").unwrap();
    assert_eq!(
        (a.read(PAGE, 2), b.read(PAGE, 2)),
        (vec![1, 1], vec![b'B', 1])
    );
    assert_ne!(a.block(0), b.block(0));
    assert_ne!(a.block(1), b.block(1));
    assert_eq!(a.read(0, 4), b"new\x01");
}

#[test]
fn fsync_makes_stores_durable_and_the_next_store_is_noticed() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(3, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(PAGE), b"one").unwrap();
    assert_eq!(file.after_crash()[PAGE as usize], 1);
    file.fsync();
    assert_eq!(&file.after_crash()[PAGE as usize..][..3], b"one");
    assert!(!mapping.mmu().bits(page(1)).unwrap().writable);
    mapping.store(pos(PAGE), b"two").unwrap();
    assert!(file.core().dax().unwrap().has_dirty(&(page(1)..page(2))));
    file.fsync();
    assert_eq!(&file.after_crash()[PAGE as usize..][..3], b"two");
}

/// A store between the write-protection and the end of the flush: its line may have been flushed
/// before it. The entry must be dirty afterwards.
#[test]
fn what_is_stored_during_a_flush_stays_dirty() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    let mapping = Arc::new(file.map(MapOptions::empty()));
    mapping.store(pos(0), b"one").unwrap();
    let storing = Arc::clone(&mapping);
    let (send, stored) = std::sync::mpsc::channel();
    let send = parking_lot::Mutex::new(Some(send));
    disk.pmem.on_persist(Some(Arc::new(move |_, _| {
        if let Some(send) = send.lock().take() {
            assert!(!storing.try_store(pos(0), b"two"), "not write-protected");
            let storing = Arc::clone(&storing);
            std::thread::spawn(move || {
                storing.store(pos(0), b"two").unwrap();
                let _ = send.send(());
            });
        }
    })));
    flush_range(file.core(), FileRange::ALL).unwrap();
    stored.recv().unwrap();
    assert!(file.core().dax().unwrap().has_dirty(&(page(0)..page(1))));
    flush_range(file.core(), FileRange::ALL).unwrap();
    assert_eq!(&file.after_crash()[..3], b"two");
}

#[test]
fn a_pinned_page_is_never_clean() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    let mapping = file.map(MapOptions::empty());
    let pinned = mapping.pin(page(0), Access::Store).unwrap();
    file.fsync();
    pinned.write(0, b"DMA");
    drop(pinned);
    file.fsync();
    assert_eq!(&file.after_crash()[..3], b"DMA");
    assert!(!file.core().dax().unwrap().has_dirty(&(page(0)..page(1))));
}

#[test]
fn a_failed_flush_leaves_the_page_dirty_and_is_told() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(0), b"x").unwrap();
    disk.pmem.fail_persist(Some(Errno::IO));
    let error = flush_range(file.core(), FileRange::ALL).unwrap_err();
    assert_eq!(error.errno(), Errno::IO);
    disk.pmem.fail_persist(None);
    flush_range(file.core(), FileRange::ALL).unwrap();
    assert_eq!(file.after_crash()[0], b'x');
}

#[test]
fn a_large_extent_is_mapped_by_one_fault() {
    let disk = Disk::new(3 * HUGE_PAGES);
    let file = disk.written::<false>(2 * HUGE_PAGES, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(5 * PAGE), b"x").unwrap();
    let before = file.core().counters().snapshot().dax_faults;
    let all = load(&mapping, 0, (HUGE_PAGES * PAGE) as usize);
    assert_eq!(file.core().counters().snapshot().dax_faults, before);
    assert_eq!(all.iter().filter(|byte| **byte != 1).count(), 1);
    // Dirty as a whole, and clean as a whole.
    file.fsync();
    assert_eq!(file.after_crash()[5 * PAGE as usize], b'x');
    assert!(!mapping.mmu().bits(page(HUGE_PAGES - 1)).unwrap().writable);
}

#[test]
fn a_large_hole_gives_way_to_pages_when_there_is_no_large_extent() {
    let disk = Disk::new(100);
    let file = disk.file::<false>();
    file.set_size(HUGE_PAGES * PAGE);
    let mapping = file.map(MapOptions::empty());
    assert_eq!(load(&mapping, 7 * PAGE, 4), [0; 4]);
    assert!(
        mapping.mmu().bits(page(500)).is_some(),
        "one entry for the hole"
    );
    mapping.store(pos(7 * PAGE), b"page").unwrap();
    assert_eq!(load(&mapping, 7 * PAGE, 5), b"page\0");
    assert_eq!(load(&mapping, 500 * PAGE, 1), [0]);
}

#[test]
fn punching_a_page_of_a_large_entry_keeps_the_others_dirty_bytes() {
    let disk = Disk::new(2 * HUGE_PAGES);
    let file = disk.written::<false>(HUGE_PAGES, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(0), b"kept").unwrap();
    mapping.store(pos(9 * PAGE), b"gone").unwrap();
    file.punch(9, 1).unwrap();
    file.fsync();
    let left = file.after_crash();
    assert_eq!((&left[..5], left[9 * PAGE as usize]), (&b"kept\x01"[..], 0));
    assert_eq!(load(&mapping, 9 * PAGE, 4), [0; 4]);
    assert_eq!(load(&mapping, 0, 5), b"kept\x01");
}

#[test]
fn nothing_old_is_seen_through_a_mapping_of_a_punched_page() {
    let disk = Disk::new(64);
    let (file, other) = (disk.written::<false>(2, 1), disk.file::<false>());
    let mapping = file.map(MapOptions::empty());
    assert_eq!(load(&mapping, 0, 1), [1]);
    file.punch(0, 1).unwrap();
    other.write(0, &[9; PAGE as usize]);
    assert_eq!(load(&mapping, 0, 1), [0]);
    mapping.store(pos(0), b"x").unwrap();
    let bytes = load(&mapping, 0, PAGE as usize);
    assert!(bytes[1..].iter().all(|byte| *byte == 0 && *byte != SECRET));
    assert_eq!(other.read(0, 1), [9]);
}

#[test]
fn many_threads_store_while_pages_are_flushed_moved_and_punched() {
    let disk = Disk::new(256);
    let file = disk.written::<false>(16, 0);
    let threads = 3;
    std::thread::scope(|scope| {
        for n in 0..threads {
            let mapping = file.map(MapOptions::empty());
            scope.spawn(move || {
                // Each thread has a page of its own, and the bytes it stored are there.
                for round in 0..300_u32 {
                    let at = n * PAGE + u64::from(round % 1000) * 4;
                    mapping.store(pos(at), &round.to_le_bytes()).unwrap();
                    assert_eq!(load(&mapping, at, 4), round.to_le_bytes());
                }
            });
        }
        let file = &file;
        scope.spawn(move || {
            for round in 0..150 {
                flush_range(file.core(), FileRange::ALL).unwrap();
                file.move_page(round % threads).unwrap();
                file.punch(threads + round % 10, 1).unwrap();
            }
        });
    });
    for n in 0..threads {
        let bytes = file.read(n * PAGE, 1200);
        for round in 0..300_u32 {
            let at = round as usize * 4;
            assert_eq!(bytes[at..at + 4], round.to_le_bytes(), "thread {n}");
        }
    }
    let blocks: std::collections::BTreeSet<_> = (0..16).filter_map(|n| file.block(n)).collect();
    assert!(!blocks.contains(&0) && addr(1).bytes() == PAGE && !pages(0, 1).is_empty());
    disk.pmem.persist(addr(0), PAGE).unwrap();
}
