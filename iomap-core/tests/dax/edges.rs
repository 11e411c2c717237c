//! Steps of DAX that an edit of the code once left out and no test noticed.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use iomap_core::dax::DaxDevice;
use iomap_core::dax_io::{self, Blocks, Content};
use iomap_core::error::Errno;
use iomap_core::mmap::soft::{Pin, SoftMapping};
use iomap_core::mmap::{Access, MapOptions};
use iomap_core::ops::MapOps;
use iomap_core::units::{DevAddr, FileRange, PageIndex};
use parking_lot::Mutex;

use crate::file::{DaxFile, Disk, PAGE, addr, page, pos};

const HUGE: u64 = 512;

fn load(mapping: &SoftMapping, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xAA; len];
    mapping.load(pos(at), &mut bytes).unwrap();
    bytes
}

fn has_dirty(file: &DaxFile<false>) -> bool {
    let all = PageIndex::ZERO..PageIndex::END;
    file.inode().dax().unwrap().has_dirty(&all)
}

/// What a write by call made private is what mappings show from then on.
#[test]
fn a_write_by_call_to_shared_blocks_is_seen_in_mappings() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(2, 1), disk.file::<false>());
    a.clone_to(&b).unwrap();
    let (map_a, map_b) = (a.map(MapOptions::empty()), b.map(MapOptions::empty()));
    assert_eq!((load(&map_a, 0, 1), load(&map_b, 0, 1)), (vec![1], vec![1]));
    a.write(0, b"own");
    assert_eq!(load(&map_a, 0, 4), b"own\x01");
    assert_eq!(load(&map_b, 0, 4), [1; 4]);
}

/// Every part of what could not be made durable is tried again by the next sync.
#[test]
fn bytes_written_by_call_are_not_forgotten_when_they_cannot_be_made_durable() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(5, 1);
    for n in [0, 2, 4] {
        file.write(n * PAGE, b"new");
    }
    disk.pmem.fail_persist(Some(Errno::IO));
    let failed = iomap_core::fsync::fsync(&*file, FileRange::ALL, true);
    assert_eq!(failed.map_err(|error| error.errno()), Err(Errno::IO));
    disk.pmem.fail_persist(None);
    file.fsync();
    for n in [0, 2, 4] {
        let at = (n * PAGE) as usize;
        assert_eq!(&file.after_crash()[at..at + 3], b"new", "page {n}");
    }
}

/// The blocks of a hole begin behind the page in which its bytes begin, and end before the last one.
#[test]
fn pages_a_hole_covers_in_part_keep_their_dirty_bytes() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(0), b"head").unwrap();
    mapping.store(pos(4 * PAGE - 4), b"tail").unwrap();
    let part = Blocks {
        backend: &*file,
        range: FileRange::between(pos(100), pos(4 * PAGE - 100)),
        content: Content::Dropped,
    };
    let inode = file.inode().lock_exclusive();
    drop(dax_io::unmap_and_wait_for_pins(&[part], [inode], None).unwrap());
    file.fsync();
    let left = file.after_crash();
    assert_eq!(&left[..4], b"head");
    assert_eq!(&left[left.len() - 4..], b"tail");
}

/// Whoever was going to free the blocks got no further than the locks.
#[test]
fn stores_to_blocks_that_were_to_be_freed_and_were_not_become_durable() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(PAGE), b"stored").unwrap();
    let part = Blocks {
        backend: &*file,
        range: FileRange::ALL,
        content: Content::Dropped,
    };
    let inode = file.inode().lock_exclusive();
    drop(dax_io::unmap_and_wait_for_pins(&[part], [inode], None).unwrap());
    file.fsync();
    assert_eq!(&file.after_crash()[PAGE as usize..][..6], b"stored");
}

/// The file ends in the middle of a large entry now: pages take its place.
#[test]
fn a_large_entry_that_gives_way_to_pages_keeps_its_dirty_bytes() {
    let disk = Disk::new(2 * HUGE);
    let file = disk.written::<false>(HUGE, 1);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(3 * PAGE), b"kept").unwrap();
    assert!(mapping.mmu().bits(page(100)).is_some(), "one entry for all");
    file.set_size(200 * PAGE);
    mapping.fault(page(0), Access::Load).unwrap();
    assert!(
        mapping.mmu().bits(page(100)).is_none(),
        "pages from here on"
    );
    file.fsync();
    assert_eq!(&file.after_crash()[3 * PAGE as usize..][..4], b"kept");
}

/// Its block is durable after the fault: what the page had before must be durable in it.
#[test]
fn a_synchronous_fault_makes_bytes_durable_that_were_written_before() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.write(0, &[7; PAGE as usize]);
    let mapping = file.map(MapOptions::SYNC);
    mapping.store(pos(0), b"x").unwrap();
    assert_eq!(file.after_crash()[1..], [7; PAGE as usize - 1]);
}

/// A private copy for a synchronous store: the program flushes what it stores, and nothing else.
#[test]
fn a_copy_for_a_synchronous_store_is_durable_as_a_whole() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(1, 1), disk.file::<false>());
    a.clone_to(&b).unwrap();
    b.fsync();
    let mapping = b.map(MapOptions::SYNC);
    mapping.store(pos(100), b"x").unwrap();
    let line = DevAddr::new(addr(b.block(0).unwrap()).bytes() + 100);
    disk.pmem.persist(line, 1).unwrap();
    let mut wanted = [1; PAGE as usize];
    wanted[100] = b'x';
    assert_eq!(b.after_crash(), wanted);
}

/// Others may load from the page while its metadata is on the way.
#[test]
fn a_page_can_be_read_while_its_fault_syncs() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(PAGE);
    let mapping = Arc::new(file.map(MapOptions::SYNC));
    let seen = Arc::new(Mutex::new(None));
    file.after_sync({
        let (mapping, seen) = (Arc::clone(&mapping), Arc::clone(&seen));
        move || {
            let mut byte = [1];
            let loaded = mapping.try_load(pos(0), &mut byte);
            *seen.lock() = Some((loaded, byte, mapping.try_store(pos(0), b"y")));
        }
    });
    mapping.store(pos(0), b"x").unwrap();
    assert_eq!(*seen.lock(), Some((true, [0], false)));
}

/// A thread that faults, and where it says that it is done.
fn store(mapping: &Arc<SoftMapping>) -> std::sync::mpsc::Receiver<()> {
    let (mapping, (send, receive)) = (Arc::clone(mapping), channel());
    thread::spawn(move || {
        mapping.store(pos(0), b"x").unwrap();
        let _ = send.send(());
    });
    receive
}

/// Fails unless the fault ends after `moving` is let go of, and not before.
fn waits_until<T>(moving: T, stored: &std::sync::mpsc::Receiver<()>) {
    for _ in 0..5000 {
        thread::yield_now();
    }
    assert!(stored.try_recv().is_err(), "the fault did not wait");
    drop(moving);
    stored.recv_timeout(Duration::from_secs(20)).unwrap();
}

/// Blocks are moved with the invalidate lock held exclusively: until then no fault looks for one.
#[test]
fn a_fault_waits_for_who_moves_blocks() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    let mapping = Arc::new(file.map(MapOptions::empty()));
    let moving = file.inode().invalidate_lock().write();
    let stored = store(&mapping);
    waits_until(moving, &stored);
}

/// The same after the sync of a synchronous fault.
#[test]
fn a_fault_that_has_synced_waits_for_who_moves_blocks() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(PAGE);
    let mapping = Arc::new(file.map(MapOptions::SYNC));
    let ((synced, has_synced), (go_on, may_go_on)) = (channel(), channel());
    let may_go_on = Mutex::new(may_go_on);
    file.after_sync(move || {
        let _ = synced.send(());
        let _: Result<(), _> = may_go_on.lock().recv();
    });
    let stored = store(&mapping);
    has_synced.recv().unwrap();
    let moving = file.inode().invalidate_lock().write();
    go_on.send(()).unwrap();
    waits_until(moving, &stored);
}

/// As [`nobody_pins_a_page_after_the_search_without_a_fault`](super::layout), for the other file.
#[test]
fn nobody_pins_a_page_of_the_second_file_after_the_search_without_a_fault() {
    let disk = Disk::new(64);
    let (from, to) = (disk.written::<false>(1, 1), disk.written::<false>(1, 2));
    let (other, third) = (disk.written::<false>(1, 3), disk.file::<false>());
    let mapping = Arc::new(to.map(MapOptions::empty()));
    mapping.store(pos(0), b"x").unwrap();
    // Pins elsewhere: so the blocks are looked at.
    let elsewhere = other.map(MapOptions::empty());
    let _elsewhere = elsewhere.pin(page(0), Access::Store).unwrap();
    let caught: Arc<Mutex<Option<Pin>>> = Arc::default();
    to.at_end_of_report({
        let (mapping, caught) = (Arc::clone(&mapping), Arc::clone(&caught));
        move || {
            let bits = mapping.mmu().bits(page(0));
            if bits.is_some_and(|bits| bits.writable) {
                *caught.lock() = mapping.pin(page(0), Access::Store).ok();
            }
        }
    });
    from.clone_to(&to).unwrap();
    third.write(0, b"QQQ");
    if let Some(caught) = caught.lock().take() {
        caught.write(0, b"DMA");
    }
    assert_eq!(third.read(0, 3), b"QQQ", "rule D2");
}

#[test]
fn a_file_whose_blocks_were_replaced_has_no_dirty_entries() {
    let disk = Disk::new(64);
    let (from, to) = (disk.written::<false>(1, 1), disk.written::<false>(1, 2));
    let mapping = to.map(MapOptions::empty());
    mapping.store(pos(0), b"x").unwrap();
    assert!(has_dirty(&to));
    from.clone_to(&to).unwrap();
    assert!(!has_dirty(&to));
    assert_eq!(load(&mapping, 0, 1), [1]);
}

#[test]
fn a_store_fault_tells_the_backend_that_the_file_is_modified_and_a_load_does_not() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    let mapping = file.map(MapOptions::empty());
    let _loaded = load(&mapping, 0, 1);
    assert_eq!(file.modified(), 0);
    mapping.store(pos(0), b"x").unwrap();
    assert_eq!(file.modified(), 1);
}
