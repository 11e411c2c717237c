//! Rules that no other test is about: each fails here when its switch is off
//! (`cargo xtask mutate`).

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Block, Mode, OrderA, OrderB, TestFile, Volume};
use iomap_core::error::Errno;
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::folio::LockedFolio;
use iomap_core::ops::MapOps;
use iomap_core::page_cache::GetFolio;
use iomap_core::read::{ReadOptions, buffered_read, start_fill};
use iomap_core::units::{FilePos, FileRange, PageIndex};
use iomap_core::writeback::{WritebackControl, write_pages};
use iomap_core::{delalloc, fsync, zero};

const K: usize = 1024;
const PAGE: usize = 4096;

fn volume(bits: u32, mode: Mode) -> Arc<Volume> {
    Volume::new(4 << 20, bits, 4 << 20, mode)
}

fn range(start: usize, end: usize) -> FileRange {
    let pos = |bytes| FilePos::saturating(bytes as u64);
    FileRange::between(pos(start), pos(end))
}

fn folio<const A: bool>(file: &TestFile<A>, page: u64) -> LockedFolio {
    let get = GetFolio::default();
    file.inode()
        .cache()
        .get_or_create(PageIndex::new(page), get)
        .unwrap()
}

#[test]
fn a_hook_that_refuses_a_folio_leaves_nothing_open_in_both_orders() {
    fn refuse<const A: bool>(file: &TestFile<A>) {
        file.fail_change(0, Errno::NOMEM);
        assert!(file.write(0, &[2; PAGE]).is_err());
        file.check_balance();
        fsync::fsync(file, FileRange::ALL, false).unwrap();
    }
    let volume = volume(12, Mode::Lazy);
    refuse::<true>(&*volume.file::<true>(None) as &OrderA);
    refuse::<false>(&*volume.file::<false>(None) as &OrderB);
}

#[test]
fn a_write_behind_the_end_inside_its_folio_does_not_wait_for_itself() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; 100]).unwrap();
    file.write(200, &[2; 100]).unwrap();
    let contents = file.contents();
    assert_eq!(contents, [[1; 100], [0; 100], [2; 100]].concat());
}

#[test]
fn zeroing_waits_for_bytes_that_are_being_written() {
    let volume = volume(12, Mode::Lazy);
    volume
        .stable
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let config = FlusherConfig {
        threads: false,
        ..FlusherConfig::default()
    };
    let flusher = Flusher::new(&volume.pool, config);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE]).unwrap();
    volume.device.set_mode(Mode::Held);
    write_pages(&*file, &WritebackControl::sync(FileRange::ALL)).unwrap();
    let zeroing = std::thread::spawn({
        let file = Arc::clone(&file);
        move || {
            let _lock = file.inode().lock_exclusive();
            zero::zero_range(&*file, range(0, PAGE)).unwrap()
        }
    });
    while !zeroing.is_finished() && volume.device.waiters() == 0 {
        std::thread::yield_now();
    }
    volume.device.set_mode(Mode::Lazy);
    flusher.run_worker();
    assert!(zeroing.join().unwrap());
}

#[test]
fn a_range_of_no_bytes_changes_no_block() {
    let file: Arc<OrderB> = volume(9, Mode::Lazy).file(None);
    let mut folio = folio(&file, 0);
    for at in [0, 100, 512, 700, PAGE - 1, PAGE] {
        folio.set_range_dirty(at..at);
        folio.set_range_uptodate(at..at);
    }
    let changed = folio.is_range_dirty(0..PAGE) || folio.is_range_uptodate(0..1);
    let missing = folio.first_not_uptodate(0..PAGE);
    assert!(
        !changed && missing == Some(0..PAGE),
        "rule B22: a block changed"
    );
    assert!(!folio.is_dirty(), "rule B22");
}

#[test]
fn nobody_gets_a_folio_whose_read_has_not_ended() {
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; PAGE]).unwrap();
    fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    file.inode().cache().drop_clean(FileRange::ALL);
    volume.device.set_mode(Mode::Held);
    let started = start_fill(&*file, range(0, PAGE), ReadOptions::default());
    assert!(started.unwrap().is_some() && volume.device.queued() == 1);
    let cached = file.inode().cache().find(PageIndex::ZERO).unwrap();
    let got = file.inode().cache().try_lock(&cached).is_some();
    assert!(
        !got,
        "rule B23: a folio under read was given to somebody else"
    );
    volume.device.complete_all();
    assert_eq!(file.contents(), [1; PAGE]);
}

#[test]
fn a_fill_of_which_nothing_can_be_mapped_says_why() {
    let volume = volume(13, Mode::Immediate);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; PAGE]).unwrap();
    fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    for errno in [Errno::AGAIN, Errno::IO] {
        file.inode().cache().drop_clean(FileRange::ALL);
        file.fail_begin(0, errno);
        let refused = start_fill(&*file, range(0, PAGE), ReadOptions::default());
        // Who asked can wait for it elsewhere, or is told.
        assert_eq!(refused.map(drop), Err(errno.into()));
    }
    assert_eq!(file.contents(), [1; PAGE]);
}

#[test]
fn a_folio_stays_locked_until_its_last_piece_has_been_read() {
    // Two extents of one folio: two requests, each complete when it is submitted.
    let volume = volume(10, Mode::Immediate);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; 4 * K]).unwrap();
    fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    file.set_block(1, Block::Written(900));
    file.inode().cache().drop_clean(FileRange::ALL);
    let before = file.inode().counters().snapshot().mappings;
    let mut to = vec![0; 4 * K];
    buffered_read(&*file, FilePos::ZERO, &mut to, ReadOptions::default()).unwrap();
    let rounds = file.inode().counters().snapshot().mappings - before;
    assert_eq!(
        rounds, 3,
        "rule B26: the read ended with its first piece, and began anew"
    );
}

#[test]
fn reservations_past_the_end_go_whatever_the_cache_holds_there() {
    let file: Arc<OrderB> = volume(10, Mode::Lazy).file(None);
    file.write(0, &[1; 1500]).unwrap();
    // A store through a memory mapping dirtied the whole page of the end.
    folio(&file, 0).set_dirty();
    for n in 2..4 {
        file.set_block(n, Block::Delalloc);
    }
    let iomap = iomap_core::iomap::Iomap::hole(range(2 * K, 4 * K));
    {
        let _lock = file.inode().lock_exclusive();
        delalloc::release_unwritten(&*file, range(2 * K, 4 * K), &iomap);
    }
    let left = (file.block(2), file.block(3));
    assert_eq!(
        left,
        (None, None),
        "rule B30: a reservation past the end leaked"
    );
}

#[test]
fn a_mapping_is_not_kept_for_the_next_folio() {
    // Two pages in one extent. While the first is written, the second gets another block, and its
    // old one goes to another file.
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    let other: Arc<OrderB> = volume.file(None);
    for page in 0..2 {
        file.write((page * PAGE) as u64, &[1; PAGE]).unwrap();
    }
    fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    other.write(0, &[5; PAGE]).unwrap();
    fsync::fsync(&*other, FileRange::ALL, false).unwrap();
    for page in 0..2 {
        file.write((page * PAGE) as u64, &[2; PAGE]).unwrap();
    }
    let (mut moved, racing) = (false, Arc::downgrade(&file));
    *file.on_done.lock() = Some(Box::new(move || {
        let file = racing.upgrade().unwrap();
        if !std::mem::replace(&mut moved, true) {
            file.swap_block(1, &other);
        }
    }));
    write_pages(&*file, &WritebackControl::sync(FileRange::ALL)).unwrap();
    fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    let on_disk = file.on_disk(2 * PAGE as u64);
    assert!(
        on_disk == [2; 2 * PAGE],
        "rule V3: written to a block of another file"
    );
}
