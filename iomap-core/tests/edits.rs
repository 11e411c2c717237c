//! Steps that an edit of the core once left out, one at a time, and no test noticed: each of these
//! fails when the step of its name is forgotten.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{Block, Mode, OrderA, OrderB, Volume};
use iomap_core::commit::{
    CommitInode, CommitList, Committing, finish_ordered, protect_journalled, submit_ordered,
};
use iomap_core::delalloc;
use iomap_core::error::{Errno, FsError, ProtocolError};
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::folio::LockedFolio;
use iomap_core::fsync::{self, SyncRange};
use iomap_core::iomap::{FsFlags, InlineBuffer, Iomap, MapKind};
use iomap_core::ops::MapOps;
use iomap_core::page_cache::{CacheOwner, GetFolio};
use iomap_core::units::{DevAddr, FilePos, FileRange, PageIndex};
use iomap_core::writeback::{WritebackControl, write_pages};

const PAGE: usize = 4096;

fn volume(bits: u32, mode: Mode) -> Arc<Volume> {
    Volume::new(4 << 20, bits, 4 << 20, mode)
}

fn pos(bytes: usize) -> FilePos {
    FilePos::saturating(bytes as u64)
}

fn sync<const A: bool>(file: &common::TestFile<A>) -> Result<(), FsError> {
    fsync::fsync(file, FileRange::ALL, false)
}

/// Bytes were accepted, then the transaction around them could not be closed: the write tells of the
/// bytes, the next sync of the error.
#[test]
fn an_error_behind_accepted_bytes_is_kept_for_the_next_sync() {
    let file: Arc<OrderA> = volume(12, Mode::Lazy).file(None);
    let mut seen = file.inode().cache().sample_error();
    file.fail_unlock(0, Errno::NOSPC);
    assert_eq!(file.write(0, &[1; PAGE]), Ok(PAGE as u64));
    let told = file.inode().cache().check_and_advance(&mut seen);
    assert_eq!(told, Err(Errno::NOSPC));
}

/// The same behind the bytes of writeback.
#[test]
fn an_error_behind_written_back_bytes_is_kept_for_the_next_sync() {
    let file: Arc<OrderA> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE]).unwrap();
    let mut seen = file.inode().cache().sample_error();
    file.fail_unlock(0, Errno::NOSPC);
    let _synced = sync(&file);
    let told = file.inode().cache().check_and_advance(&mut seen);
    assert_eq!(told, Err(Errno::NOSPC));
}

/// A block that begins exactly at the end of the file holds nothing of the file: it is not read.
#[test]
fn a_block_that_begins_at_the_end_is_not_read_by_a_write_into_it() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE]).unwrap();
    sync(&file).unwrap();
    file.set_block(1, Block::Written(9));
    file.write(PAGE as u64 + 100, &[2; 10]).unwrap();
    let contents = file.contents();
    assert_eq!(
        contents[PAGE..PAGE + 100],
        [0; 100],
        "somebody else's bytes"
    );
}

/// Blocks that were allocated for this very write hold nothing yet, whatever the device has there.
#[test]
fn a_new_block_is_not_read_by_a_write_into_it() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.truncate(PAGE as u64).unwrap();
    file.set_block(0, Block::Written(9));
    let kind = MapKind::Mapped {
        addr: DevAddr::new(9 * PAGE as u64),
    };
    let block = FileRange::at_most(pos(0), PAGE as u64);
    file.answer_begin(Iomap::new(block, kind).with_flags(FsFlags::NEW));
    file.write(100, &[2; 10]).unwrap();
    assert_eq!(file.contents()[..100], [0; 100], "somebody else's bytes");
}

/// Inline data with room for a hundred bytes.
struct Hundred;

impl InlineBuffer for Hundred {
    fn read_at(&self, _offset: usize, to: &mut [u8]) {
        to.fill(0);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= 100, "past the room there is");
    }

    fn capacity(&self) -> usize {
        100
    }
}

#[test]
fn inline_data_ends_where_its_room_ends() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let data = Arc::new(Hundred);
    let whole = FileRange::at_most(pos(0), PAGE as u64);
    file.answer_begin(Iomap::new(whole, MapKind::Inline { data }));
    let refused = file.write(0, &[1; 101]);
    assert!(
        matches!(
            refused,
            Err(FsError::Protocol(ProtocolError::BadKind { .. }))
        ),
        "{refused:?}"
    );
}

/// Between the look at the writeback bit and the folio lock somebody else began to write the folio.
#[test]
fn a_folio_whose_writeback_began_while_it_was_waited_for_is_waited_for_again() {
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; PAGE]).unwrap();
    let cache = file.inode().cache();
    let mut held = cache.lock(&cache.find(PageIndex::ZERO).unwrap()).unwrap();
    let writer = thread::spawn({
        let file = Arc::clone(&file);
        move || sync(&file)
    });
    while file.inode().counters().snapshot().folio_waits == 0 {
        thread::yield_now();
    }
    held.clear_dirty_for_io();
    held.start_writeback();
    held.clear_all_dirty_blocks();
    held.copy_in(0, &[2; PAGE]);
    held.set_dirty();
    let other = (*held).clone();
    let waits = file.inode().counters().snapshot().folio_waits;
    drop(held);
    while file.inode().counters().snapshot().folio_waits == waits && !writer.is_finished() {
        thread::yield_now();
    }
    assert!(!writer.is_finished(), "written twice at the same time");
    other.end_writeback();
    writer.join().unwrap().unwrap();
    assert_eq!(file.on_disk(PAGE as u64), [2; PAGE]);
}

/// Two who write collected runs and wait for each other's folios would wait forever, if what is
/// collected was not on its way first.
#[test]
fn what_is_collected_is_submitted_before_writeback_of_others_is_waited_for() {
    let volume = volume(12, Mode::Lazy);
    let config = FlusherConfig {
        threads: true,
        ..FlusherConfig::default()
    };
    let flusher = Flusher::new(&volume.pool, config);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE]).unwrap();
    file.write(PAGE as u64, &[2; PAGE]).unwrap();
    let cache = file.inode().cache();
    let first = cache.find(PageIndex::ZERO).unwrap();
    let mut second = cache.lock(&cache.find(PageIndex::new(1)).unwrap()).unwrap();
    second.clear_dirty_for_io();
    second.start_writeback();
    second.clear_all_dirty_blocks();
    second.set_dirty();
    let others = (*second).clone();
    drop(second);
    let writer = thread::spawn({
        let file = Arc::clone(&file);
        move || sync(&file)
    });
    // The other one ends its writeback only when the first folio has been written.
    while first.is_dirty() || first.is_writeback() {
        first.wait_writeback(&*volume.device);
        thread::yield_now();
    }
    others.end_writeback();
    writer.join().unwrap().unwrap();
    assert_eq!(file.on_disk(2 * PAGE as u64), file.contents());
}

/// Who keeps state with a folio hears which of its bytes go.
#[test]
fn the_owner_of_a_cache_hears_of_the_part_of_a_folio_that_is_cut() {
    #[derive(Default)]
    struct Told(parking_lot::Mutex<Vec<std::ops::Range<usize>>>);
    impl CacheOwner for Told {
        fn release_folio(&self, _folio: &mut LockedFolio) -> bool {
            true
        }

        fn write_dirty(&self, _range: FileRange, _nr: usize) -> Result<usize, FsError> {
            Ok(0)
        }

        fn invalidate_folio(&self, _folio: &mut LockedFolio, bytes: std::ops::Range<usize>) {
            self.0.lock().push(bytes);
        }
    }
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE]).unwrap();
    let told = Arc::new(Told::default());
    let owner = Arc::downgrade(&told);
    file.inode().cache().set_owner(owner);
    file.inode().cache().truncate(FileRange::from(pos(3000)));
    file.inode().cache().truncate(FileRange::ALL);
    assert_eq!(*told.0.lock(), [3000..PAGE, 0..PAGE]);
}

/// Pages that are removed for good are not counted as dirty any more.
#[test]
fn what_is_removed_is_not_dirty() {
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; 4 * PAGE]).unwrap();
    file.inode().cache().truncate(FileRange::ALL);
    assert_eq!(file.inode().cache().nr_dirty(), 0);
    assert_eq!(volume.pool.stats().nr_dirty, 0);
}

/// What is being written is waited for, then it goes: it does not stay behind as "busy".
#[test]
fn invalidation_waits_for_writeback() {
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; PAGE]).unwrap();
    let cache = file.inode().cache();
    let mut folio = cache.lock(&cache.find(PageIndex::ZERO).unwrap()).unwrap();
    folio.clear_dirty_for_io();
    folio.start_writeback();
    folio.clear_all_dirty_blocks();
    let written = (*folio).clone();
    drop(folio);
    let invalidation = thread::spawn({
        let file = Arc::clone(&file);
        move || file.inode().cache().invalidate(FileRange::ALL, false)
    });
    // It waits with the folio locked.
    while !written.is_locked() && !invalidation.is_finished() {
        thread::yield_now();
    }
    written.end_writeback();
    drop(written);
    assert_eq!(invalidation.join().unwrap(), Ok(()));
    assert_eq!(file.inode().cache().nr_pages(), 0);
}

/// What the device holds behind the end inside the last block is not part of the file when it grows.
#[test]
fn a_file_that_grows_inside_its_last_block_shows_zeroes_between() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.set_block(0, Block::Written(9));
    file.inode().set_size(pos(100));
    file.write(200, &[2; 10]).unwrap();
    assert_eq!(file.contents()[100..200], [0; 100]);
}

/// Without a worker the thread that writes also ends the writeback, errors and all.
#[test]
fn an_error_that_comes_while_the_dirty_pages_are_walked_is_told() {
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; PAGE]).unwrap();
    volume.device.fail_write(0, Errno::IO);
    let written = fsync::write_and_wait(&*file, FileRange::ALL);
    assert_eq!(written, Err(FsError::Writeback(Errno::IO)));
}

/// An inode of a transaction: what it answers, and how often it was asked.
struct Member(Result<(), FsError>, AtomicU32);

impl CommitInode for Member {
    fn submit(&self, _range: FileRange) -> Result<(), FsError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.clone()
    }

    fn finish(&self, range: FileRange) -> Result<(), FsError> {
        self.submit(range)
    }
}

/// The last inode of a transaction is fine, the first one is not: it is asked all the same.
#[test]
fn one_inode_that_fails_keeps_the_whole_commit_from_becoming_durable() {
    let list = CommitList::new();
    let members =
        [Err(FsError::NoSpace), Ok(())].map(|answer| Arc::new(Member(answer, AtomicU32::new(0))));
    for (ino, member) in members.iter().enumerate() {
        let member = Arc::clone(member) as Arc<dyn CommitInode>;
        list.add(ino as u64, &member, FileRange::ALL);
    }
    assert_eq!(list.submit(), Err(FsError::NoSpace));
    assert_eq!(list.finish(), Err(FsError::NoSpace));
    let asked = members.map(|member| member.1.load(Ordering::Relaxed));
    assert_eq!(asked, [2, 2]);
}

/// A write fails whose file has gone meanwhile: nobody can be told, and the writeback of its folio
/// ends all the same, so that its memory is free.
#[test]
fn writeback_of_a_file_that_is_gone_ends_also_when_it_fails() {
    let volume = volume(12, Mode::Lazy);
    let config = FlusherConfig {
        threads: false,
        ..FlusherConfig::default()
    };
    let flusher = Flusher::new(&volume.pool, config);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE]).unwrap();
    sync(&file).unwrap();
    // An overwrite: the backend has nothing to do afterwards, so nothing keeps the file.
    volume.device.set_mode(Mode::Held);
    file.write(0, &[2; PAGE]).unwrap();
    volume.device.fail_write(0, Errno::IO);
    let everything = WritebackControl::sync(FileRange::ALL);
    assert_eq!(write_pages(&*file, &everything), Ok(1));
    assert_eq!(volume.pool.nr_writeback(), 1);
    drop(file);
    volume.device.set_mode(Mode::Lazy);
    assert_eq!(volume.pool.nr_writeback(), 0);
    assert_eq!(volume.pool.stats().nr_pages, 0);
}

/// A folio that has become clean between the look of a commit and its lock is not asked about.
#[test]
fn a_commit_asks_about_folios_that_are_still_dirty() {
    let file: Arc<OrderA> = volume(12, Mode::Lazy).file(None);
    for page in 0..3 {
        file.write(page * PAGE as u64, &[1; 10]).unwrap();
    }
    let cache = file.inode().cache();
    let first = cache.find(PageIndex::ZERO).unwrap();
    let second = cache.lock(&cache.find(PageIndex::new(1)).unwrap()).unwrap();
    let mut third = cache.lock(&cache.find(PageIndex::new(2)).unwrap()).unwrap();
    let commit = thread::spawn({
        let file = Arc::clone(&file);
        move || {
            let mut asked = Vec::new();
            protect_journalled(&*file, FileRange::ALL, |folio| {
                asked.push(folio.index().get());
                Committing::KeepDirty
            });
            asked
        }
    });
    // It has the first one, so it has found all three.
    while !first.is_locked() {
        thread::yield_now();
    }
    third.cancel_dirty();
    drop((second, third));
    assert_eq!(commit.join().unwrap(), [0, 1]);
}

/// Who waits for a folio is woken by the end of another one, which somebody else takes: it goes on
/// to look after its own, because nobody else will.
#[test]
fn who_finds_nothing_to_finish_goes_on_helping() {
    let volume = volume(12, Mode::Held);
    let config = FlusherConfig {
        threads: false,
        ..FlusherConfig::default()
    };
    let flusher = Flusher::new(&volume.pool, config);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE]).unwrap();
    file.write(2 * PAGE as u64, &[1; PAGE]).unwrap();
    let everything = WritebackControl::sync(FileRange::ALL);
    assert_eq!(write_pages(&*file, &everything), Ok(2));
    let (woken, was_woken) = mpsc::channel();
    volume.device.after_wait.set({
        let file = Arc::clone(&file);
        move || {
            for ioend in file.inode().ioends().take() {
                ioend.end_folios();
            }
            woken.send(()).unwrap();
        }
    });
    let (ended, has_ended) = mpsc::channel();
    let waiter = thread::spawn({
        let file = Arc::clone(&file);
        let second = FileRange::at_most(pos(2 * PAGE), PAGE as u64);
        move || {
            fsync::sync_file_range(&*file, second, SyncRange::WAIT_BEFORE).unwrap();
            ended.send(()).unwrap();
        }
    });
    while volume.device.waiters() == 0 {
        thread::yield_now();
    }
    let waits = volume.device.waits();
    assert!(volume.device.complete_one());
    was_woken.recv().unwrap();
    while volume.device.waits() == waits {
        thread::yield_now();
    }
    assert!(volume.device.complete_one());
    let in_time = has_ended.recv_timeout(Duration::from_secs(20));
    assert_eq!(in_time, Ok(()), "nobody looks after the second folio");
    waiter.join().unwrap();
}

/// A file of `size` bytes with 1 KiB blocks, the first four promised and those of `dirty` dirty.
fn promised(size: u64, dirty: std::ops::Range<usize>) -> (Arc<OrderB>, Iomap) {
    let file: Arc<OrderB> = volume(10, Mode::Lazy).file(None);
    file.truncate(size).unwrap();
    for block in 0..4 {
        file.set_block(block, Block::Delalloc);
    }
    let cache = file.inode().cache();
    let mut folio = cache
        .get_or_create(PageIndex::ZERO, GetFolio::default())
        .unwrap();
    folio.zero(0..PAGE);
    folio.set_uptodate();
    folio.set_range_dirty(dirty);
    drop(folio);
    file.take_hooks();
    let whole = FileRange::at_most(pos(0), PAGE as u64);
    (file, Iomap::new(whole, MapKind::Delalloc))
}

/// What a failed write gives back, block by block.
fn given_back(file: &OrderB) -> Vec<u64> {
    (0..4).filter(|n| file.block(*n).is_none()).collect()
}

#[test]
fn a_failed_write_gives_back_whole_blocks_around_dirty_ones() {
    let table = [
        // The end of the file lies in a dirty block.
        (100, 0..100, 0..4096, vec![1, 2, 3]),
        // Clean blocks before and behind a dirty one in one folio, all inside the file.
        (4096, 1024..2048, 0..4096, vec![0, 2, 3]),
        // The range ends inside a block, and begins inside one.
        (4096, 0..10, 1024..2050, vec![1, 2]),
        (4096, 0..10, 1500..2048, vec![1]),
    ];
    for (size, dirty, range, wanted) in table {
        let (file, iomap) = promised(size, dirty.clone());
        let range = FileRange::between(pos(range.start), pos(range.end));
        delalloc::release_unwritten(&*file, range, &iomap);
        assert_eq!(given_back(&file), wanted, "{size} {dirty:?} {range}");
        file.inode().cache().truncate(FileRange::ALL);
    }
}

/// A fault dirties a page that has a promise: not while the promise is taken away.
#[test]
fn a_failed_write_gives_back_with_faults_locked_out() {
    let (file, iomap) = promised(4096, 0..10);
    let fault = file.inode().invalidate_lock().read();
    let giving_back = thread::spawn({
        let file = Arc::clone(&file);
        move || delalloc::release_unwritten(&*file, FileRange::at_most(pos(1024), 10), &iomap)
    });
    // A writer that waits keeps further readers out.
    while file.inode().invalidate_lock().try_read().is_some() && !giving_back.is_finished() {
        thread::yield_now();
    }
    assert_eq!(given_back(&file), []);
    drop(fault);
    giving_back.join().unwrap();
    assert_eq!(given_back(&file), [1]);
    file.inode().cache().truncate(FileRange::ALL);
}

/// What an inode of a transaction was asked to do.
#[derive(Default)]
struct Asked(parking_lot::Mutex<Vec<FileRange>>);

impl CommitInode for Asked {
    fn submit(&self, range: FileRange) -> Result<(), FsError> {
        self.0.lock().push(range);
        Ok(())
    }

    fn finish(&self, range: FileRange) -> Result<(), FsError> {
        self.submit(range)
    }
}

#[test]
fn a_commit_covers_every_range_an_inode_was_added_with() {
    let (list, inode) = (CommitList::new(), Arc::new(Asked::default()));
    let member: Arc<dyn CommitInode> = Arc::clone(&inode) as Arc<dyn CommitInode>;
    for (start, end) in [(500, 600), (100, 200), (550, 900)] {
        list.add(1, &member, FileRange::between(pos(start), pos(end)));
    }
    list.submit().unwrap();
    list.finish().unwrap();
    let all = FileRange::between(pos(100), pos(900));
    assert_eq!(*inode.0.lock(), [all, all]);
}

/// An error of long ago, which everybody has heard of, is none of this transaction.
#[test]
fn an_earlier_error_does_not_fail_a_commit() {
    let file: Arc<OrderA> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE]).unwrap();
    sync(&file).unwrap();
    let mut seen = file.inode().cache().sample_error();
    file.inode().cache().record_error(Errno::IO);
    assert!(file.inode().cache().check_and_advance(&mut seen).is_err());
    let since = submit_ordered(&*file, FileRange::ALL).unwrap();
    assert_eq!(finish_ordered(&*file, FileRange::ALL, since), Ok(()));
}

/// All that was written over, wherever it lies in the range of the transaction, and nothing else.
#[test]
fn every_page_of_ordered_data_is_written() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let places = [0, 9, 40, 90].map(|n| n * PAGE as u64);
    for byte in [1, 2] {
        for at in places {
            file.write(at, &[byte; PAGE]).unwrap();
        }
        if byte == 1 {
            sync(&file).unwrap();
        }
    }
    let range = FileRange::between(pos(0), pos(90 * PAGE));
    let since = submit_ordered(&*file, range).unwrap();
    assert_eq!(finish_ordered(&*file, range, since), Ok(()));
    let disk = file.on_disk(91 * PAGE as u64);
    let first = places.map(|at| disk[at as usize]);
    assert_eq!(first, [2, 2, 2, 1], "rule J6");
}

/// Bytes that were written again while the older ones are on their way belong to the transaction.
#[test]
fn ordered_data_is_written_again_if_it_changed_on_its_way() {
    let volume = volume(12, Mode::Lazy);
    let flusher = Flusher::new(&volume.pool, FlusherConfig::default());
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; 2 * PAGE]).unwrap();
    sync(&file).unwrap();
    volume.device.set_mode(Mode::Held);
    file.write(0, &[2; 2 * PAGE]).unwrap();
    let everything = WritebackControl::sync(FileRange::ALL);
    write_pages(&*file, &everything).unwrap();
    file.write(0, &[3; 2 * PAGE]).unwrap();
    let commit = thread::spawn({
        let file = Arc::clone(&file);
        move || {
            let since = submit_ordered(&*file, FileRange::ALL)?;
            finish_ordered(&*file, FileRange::ALL, since)
        }
    });
    while volume.device.waiters() == 0 && !commit.is_finished() {
        thread::yield_now();
    }
    volume.device.set_mode(Mode::Lazy);
    assert_eq!(commit.join().unwrap(), Ok(()));
    assert_eq!(file.on_disk(2 * PAGE as u64), [3; 2 * PAGE], "rule J6");
}
