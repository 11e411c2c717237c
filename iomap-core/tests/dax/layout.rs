//! Pins and moves of blocks: discussion 2018-07, rules D1 to D5 and S6. (D6 is the backend's:
//! `testfs`.)

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use iomap_core::dax_io::{self, Blocks, Content};
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::mmap::soft::{Pin, SoftMapping};
use iomap_core::mmap::{Access, MapOptions};
use iomap_core::ops::MapOps;
use parking_lot::Mutex;

use crate::file::{DaxFile, Disk, PAGE, page, pages, pos};

type File = Arc<DaxFile<false>>;

/// So long nothing takes that gets on: the end of a test that would hang.
const HANG: Duration = Duration::from_secs(10);

/// A punch in a thread of its own, and where it says how it ended.
fn punch(file: &File, first: u64, count: u64) -> Receiver<Result<()>> {
    let (file, (send, receive)) = (Arc::clone(file), channel());
    thread::spawn(move || {
        let _ = send.send(file.punch(first, count));
    });
    receive
}

/// Until a thread waits for a pin, or `done` has something.
fn until_waiting<T>(disk: &Disk, done: &Receiver<T>) -> Option<T> {
    loop {
        if let Ok(done) = done.try_recv() {
            return Some(done);
        }
        if disk.pins().waiting() > 0 {
            return None;
        }
        thread::yield_now();
    }
}

fn pin(mapping: &SoftMapping, at: u64) -> Pin {
    mapping.pin(page(at), Access::Store).unwrap()
}

/// | P, pins | T, punches | Q, another file |
/// |---|---|---|
/// | pins block b, DMA goes on | | |
/// | | unmaps; without D1: frees b | |
/// | | | gets b, writes |
/// | DMA arrives in b | | corrupted |
#[test]
fn a_pinned_block_is_not_freed_before_it_is_released() {
    let disk = Disk::new(64);
    let (file, other) = (disk.written::<false>(4, 1), disk.file::<false>());
    let mapping = file.map(MapOptions::empty());
    let pinned = pin(&mapping, 2);
    let punched = punch(&file, 1, 2);
    let early = until_waiting(&disk, &punched);
    other.write(0, &vec![b'Q'; 3 * PAGE as usize]);
    pinned.write(0, b"DMA");
    assert_eq!(
        other.read(0, 3 * PAGE as usize),
        vec![b'Q'; 3 * PAGE as usize],
        "rule D1"
    );
    assert!(early.is_none(), "rule D1: the punch did not wait");
    drop(pinned);
    punched.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(
        file.read(PAGE, 2 * PAGE as usize),
        vec![0; 2 * PAGE as usize]
    );
    assert_eq!(file.read(0, 1), [1]);
}

/// Somebody pins the page between the search for pins and the unmapping: without a fault, for it is
/// still mapped.
#[test]
fn nobody_pins_a_page_after_the_search_without_a_fault() {
    let disk = Disk::new(64);
    let (file, other) = (disk.written::<false>(4, 1), disk.written::<false>(1, 2));
    let mapping = Arc::new(file.map(MapOptions::empty()));
    mapping.store(pos(PAGE), b"x").unwrap();
    // Pins elsewhere: so the blocks are looked at.
    let elsewhere = other.map(MapOptions::empty());
    let _elsewhere = pin(&elsewhere, 0);
    let caught: Arc<Mutex<Option<Pin>>> = Arc::default();
    let (hook_mapping, hook_caught) = (Arc::clone(&mapping), Arc::clone(&caught));
    file.at_end_of_report(move || {
        let bits = hook_mapping.mmu().bits(page(1));
        if bits.is_some_and(|bits| bits.writable) {
            *hook_caught.lock() = Some(pin(&hook_mapping, 1));
        }
    });
    file.punch(1, 1).unwrap();
    other.write(PAGE, &[b'Q'; PAGE as usize]);
    if let Some(caught) = caught.lock().take() {
        caught.write(0, b"DMA");
    }
    assert_eq!(other.read(PAGE, 3), b"QQQ", "rule D2");
}

/// The owner of the pin has to fault before it can let go, and a fault takes the invalidate lock.
#[test]
fn who_holds_a_pin_can_fault_while_it_is_waited_for() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = Arc::new(file.map(MapOptions::empty()));
    let pinned = pin(&mapping, 1);
    let punched = punch(&file, 0, 2);
    assert!(until_waiting(&disk, &punched).is_none());
    let (send, faulted) = channel();
    let faulting = Arc::clone(&mapping);
    thread::spawn(move || {
        let mut byte = [0];
        let loaded = faulting.load(pos(3 * PAGE), &mut byte);
        drop(pinned);
        let _ = send.send(loaded);
    });
    let loaded = faulted.recv_timeout(HANG);
    assert!(
        loaded.is_ok(),
        "a deadlock: the fault waits for the punch, the punch for the pin (rule D3)"
    );
    punched.recv_timeout(HANG).unwrap().unwrap();
}

/// While the lock was dropped a second page was pinned: it is waited for as well.
#[test]
fn after_the_wait_everything_is_looked_at_again() {
    let disk = Disk::new(64);
    let (file, other) = (disk.written::<false>(4, 1), disk.file::<false>());
    let mapping = Arc::new(file.map(MapOptions::empty()));
    let first = pin(&mapping, 1);
    let punched = punch(&file, 0, 3);
    assert!(until_waiting(&disk, &punched).is_none());
    let (send, second) = channel();
    let pinning = Arc::clone(&mapping);
    thread::spawn(move || send.send(pin(&pinning, 0)));
    let second = second.recv_timeout(HANG).expect("a deadlock (rule D3)");
    drop(first);
    while file.core().counters().snapshot().pin_waits < 2 {
        assert!(
            punched.try_recv().is_err(),
            "the second pin was not waited for"
        );
        thread::yield_now();
    }
    other.write(0, &vec![b'Q'; 3 * PAGE as usize]);
    second.write(0, b"DMA");
    assert_eq!(other.read(0, 3), b"QQQ");
    drop(second);
    punched.recv_timeout(HANG).unwrap().unwrap();
}

/// What was checked of the file before the wait is true after it: nobody else changes it meanwhile.
#[test]
fn the_inode_lock_is_held_while_a_pin_is_waited_for() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = file.map(MapOptions::empty());
    let pinned = pin(&mapping, 1);
    let punched = punch(&file, 0, 2);
    assert!(until_waiting(&disk, &punched).is_none());
    let writer = file.core().try_lock_exclusive();
    let got = writer.is_some();
    drop(writer);
    drop(pinned);
    punched.recv_timeout(HANG).unwrap().unwrap();
    assert!(!got, "rule D4");
}

#[test]
fn an_interrupted_wait_has_freed_nothing() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = file.map(MapOptions::empty());
    let pinned = pin(&mapping, 1);
    let punched = punch(&file, 0, 2);
    assert!(until_waiting(&disk, &punched).is_none());
    let before: Vec<_> = (0..4).map(|n| file.block(n)).collect();
    disk.pins().interrupt();
    let result = punched.recv_timeout(HANG).unwrap();
    let after: Vec<_> = (0..4).map(|n| file.block(n)).collect();
    assert_eq!(after, before, "rule D5");
    assert_eq!(result, Err(FsError::Interrupted));
    pinned.write(0, b"DMA");
    assert_eq!(file.read(PAGE, 3), b"DMA");
}

#[test]
fn a_wait_that_takes_too_long_ends_with_an_error_and_holds_no_lock() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = file.map(MapOptions::empty());
    let _pinned = pin(&mapping, 1);
    let part = Blocks {
        backend: &*file,
        range: pages(0, 4),
        content: Content::Dropped,
    };
    let inode = file.core().lock_exclusive();
    let result = dax_io::unmap_and_wait_for_pins(&[part], [inode], Some(Duration::ZERO));
    assert_eq!(result.unwrap_err().errno(), Errno::TIMEDOUT);
    assert!(file.core().try_lock_exclusive().is_some());
    assert!(file.core().invalidate_lock().try_write().is_some());
    // The file is as it was, and can be mapped again.
    mapping.store(pos(2 * PAGE), b"x").unwrap();
    assert_eq!(file.read(2 * PAGE, 2), [b'x', 1]);
}

/// A page that was pinned through one file, copied there on a write, and is freed by another.
#[test]
fn a_pin_counts_for_the_block_whichever_file_frees_it() {
    let disk = Disk::new(64);
    let (a, b) = (disk.written::<false>(1, 1), disk.file::<false>());
    a.clone_to(&b).unwrap();
    let mapping = a.map(MapOptions::empty());
    let pinned = mapping.pin(page(0), Access::Load).unwrap();
    a.write(0, b"copied");
    assert_ne!(a.block(0), b.block(0));
    let punched = punch(&b, 0, 1);
    assert!(until_waiting(&disk, &punched).is_none(), "rule D1");
    let mut bytes = [0; 2];
    pinned.read(0, &mut bytes);
    assert_eq!(bytes, [1, 1]);
    drop(pinned);
    punched.recv_timeout(HANG).unwrap().unwrap();
}

/// A page of the old block must not survive the move in any mapping.
#[test]
fn loads_and_stores_after_a_move_go_to_the_new_block() {
    let disk = Disk::new(64);
    let (file, other) = (disk.written::<false>(2, 1), disk.file::<false>());
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(0), b"before").unwrap();
    let old = file.block(0);
    file.move_page(0).unwrap();
    file.write(0, b"by call");
    let mut seen = [0; 7];
    mapping.load(pos(0), &mut seen).unwrap();
    assert_eq!(
        &seen, b"by call",
        "rule S6: the mapping shows the old block"
    );
    assert_ne!(file.block(0), old);
    other.write(0, &[b'Q'; PAGE as usize]);
    assert_eq!(other.block(0), old);
    mapping.store(pos(7), b", after").unwrap();
    assert_eq!(
        other.read(0, PAGE as usize),
        [b'Q'; PAGE as usize],
        "rule S6"
    );
    assert_eq!(file.read(0, 14), b"by call, after");
}

/// The metadata of the new place is not durable: a synchronous mapping makes it so.
#[test]
fn a_synchronous_store_after_a_move_is_found_after_a_crash() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    let mapping = file.map(MapOptions::SYNC);
    mapping.store(pos(0), b"a").unwrap();
    file.move_page(0).unwrap();
    mapping.store(pos(1), b"b").unwrap();
    let block = file.block(0).unwrap();
    use iomap_core::dax::DaxDevice;
    disk.pmem.persist(crate::file::addr(block), 64).unwrap();
    assert_eq!(&file.after_crash()[..3], b"ab\x01");
    assert_eq!(file.inode().counters().snapshot().dax_sync_faults, 1);
}
