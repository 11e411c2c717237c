//! Writeback, its ends, and fsync, against a file system in memory. One test for each rule.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Block, Hook, Mode, OrderA, OrderB, TestFile, Volume};
use iomap_core::device::BlockDevice;
use iomap_core::error::{Errno, FsError};
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::fsync::{self, SyncRange};
use iomap_core::iomap::{FsFlags, Iomap, MapKind};
use iomap_core::ops::MapOps;
use iomap_core::page_cache::GetFolio;
use iomap_core::read::read_folio;
use iomap_core::sync::thread;
use iomap_core::units::{DevAddr, FilePos, FileRange, PAGE_SIZE, PageIndex};
use iomap_core::user::SliceSource;
use iomap_core::write::{WriteOptions, buffered_write};
use iomap_core::writeback::{WritebackControl, write_pages};

const K: usize = 1024;

fn volume(bits: u32, mode: Mode) -> Arc<Volume> {
    Volume::new(4 << 20, bits, 4 << 20, mode)
}

fn range(start: u64, len: u64) -> FileRange {
    FileRange::at_most(FilePos::saturating(start), len)
}

fn sync<const A: bool>(file: &TestFile<A>) {
    fsync::fsync(file, FileRange::ALL, false).unwrap();
    file.check_balance();
}

fn write_all<const A: bool>(file: &TestFile<A>) -> u64 {
    write_pages(file, &WritebackControl::sync(FileRange::ALL)).unwrap()
}

/// A flusher without threads: the test is its thread.
fn manual(volume: &Volume) -> Arc<Flusher> {
    Flusher::new(
        &volume.pool,
        FlusherConfig {
            threads: false,
            ..FlusherConfig::default()
        },
    )
}

fn threaded(volume: &Volume) -> Arc<Flusher> {
    Flusher::new(&volume.pool, FlusherConfig::default())
}

/// As a store through a memory mapping: changes bytes of a folio, dirties all of it.
fn store<const A: bool>(file: &TestFile<A>, pos: u64, bytes: &[u8]) {
    let cache = file.inode().cache();
    let folio = cache.find(FilePos::saturating(pos).page()).unwrap();
    let mut folio = cache.lock(&folio).unwrap();
    let from = pos - folio.range().start().bytes();
    folio.copy_in(from as usize, bytes);
    folio.set_dirty();
}

/// Holds a file in the middle of its writeback: everything is submitted, nothing has completed.
fn start_held<const A: bool>(file: &TestFile<A>) {
    file.volume.device.set_mode(Mode::Held);
    write_all(file);
}

fn conversions(hooks: &[Hook]) -> Vec<&str> {
    let mut ranges = Vec::new();
    for hook in hooks {
        if let Hook::Convert(range) = hook {
            ranges.push(range.as_str());
        }
    }
    ranges
}

fn mapped(hooks: &[Hook]) -> Vec<&str> {
    let mut ranges = Vec::new();
    for hook in hooks {
        if let Hook::MapWriteback { range, .. } = hook {
            ranges.push(range.as_str());
        }
    }
    ranges
}

#[test]
fn per_block_dirty_state_writes_only_dirty_blocks() {
    let file: Arc<OrderB> = volume(10, Mode::Lazy).file(None);
    file.write(0, &[1; 64 * K]).unwrap();
    sync(&file);
    let device = &file.volume.device;
    device.take_writes();
    file.write(5 * K as u64, &[2; K]).unwrap();
    file.write(40 * K as u64 + 100, &[3; 10]).unwrap();
    sync(&file);
    let lengths: Vec<u64> = device.take_writes().iter().map(|write| write.1).collect();
    assert_eq!(lengths, [K as u64, K as u64]);
    assert_eq!(file.on_disk(64 * K as u64), file.contents());
}

#[test]
fn bytes_beyond_the_end_are_zeroed_at_every_writeback() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; 100]).unwrap();
    for round in 0..2 {
        store(&file, 100, &[9; 500]);
        sync(&file);
        let Some(Block::Written(at)) = file.block(0) else {
            panic!("not written")
        };
        let block = file.volume.device.bytes(at << 12, 4096);
        assert_eq!(block[..100], [1; 100], "round {round}");
        assert!(
            block[100..].iter().all(|&byte| byte == 0),
            "rule B41, round {round}"
        );
    }
}

#[test]
fn a_folio_wholly_beyond_the_end_is_not_written() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    for page in 0..4 {
        file.write(page * PAGE_SIZE as u64, &[1; PAGE_SIZE])
            .unwrap();
    }
    // A truncate has stored the size and not reached the cache yet.
    file.inode().set_size(FilePos::saturating(PAGE_SIZE as u64));
    sync(&file);
    let written: u64 = file
        .volume
        .device
        .take_writes()
        .iter()
        .map(|write| write.1)
        .sum();
    assert_eq!(written, PAGE_SIZE as u64);
    let prepared = |hook: &&Hook| matches!(hook, Hook::Prepare(_));
    assert_eq!(file.take_hooks().iter().filter(prepared).count(), 1);
    assert_eq!(file.inode().cache().nr_dirty(), 0);
    assert!(!file.inode().cache().has_dirty_or_writeback(FileRange::ALL));
}

#[test]
fn the_last_page_of_the_largest_file_is_written_once() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let last = FilePos::MAX.bytes() - 100;
    file.inode().set_size(FilePos::saturating(last));
    file.write(last, &[5; 50]).unwrap();
    sync(&file);
    assert_eq!(file.volume.device.take_writes().len(), 1, "rule B42");
    assert!(!file.inode().cache().has_dirty(FileRange::ALL));
}

#[test]
fn conversion_comes_after_the_data_and_before_the_end_of_writeback() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    start_held(&file);
    flusher.run_worker();
    assert!(
        conversions(&file.take_hooks()).is_empty(),
        "rule O5: the data is not written yet"
    );
    assert!(matches!(file.block(0), Some(Block::Unwritten(_))));
    volume.device.complete_all();
    assert!(
        file.inode().cache().has_writeback(FileRange::ALL),
        "not converted yet"
    );
    assert_eq!(file.disk_size(), 0);
    flusher.run_worker();
    assert_eq!(conversions(&file.take_hooks()), ["0..4096"]);
    assert!(!file.inode().cache().has_writeback(FileRange::ALL));
    assert_eq!(file.disk_size(), PAGE_SIZE as u64);
}

#[test]
fn a_failed_write_is_not_converted_and_reaches_each_opener_once() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let cache = file.inode().cache();
    let (mut a, mut b) = (cache.sample_error(), cache.sample_error());
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.volume.device.fail_write(0, Errno::IO);
    sync(&file);
    assert_eq!(cache.check_and_advance(&mut a), Err(Errno::IO));
    assert_eq!(cache.check_and_advance(&mut a), Ok(()));
    assert_eq!(cache.check_and_advance(&mut b), Err(Errno::IO));
    assert!(
        matches!(file.block(0), Some(Block::Unwritten(_))),
        "rule B45"
    );
    assert_eq!(file.disk_size(), 0);
    let hooks = file.take_hooks();
    assert!(hooks.contains(&Hook::Failed("0..4096".to_owned(), Errno::IO)));
    assert!(conversions(&hooks).is_empty());
    assert!(!cache.has_dirty_or_writeback(FileRange::ALL));
    assert_eq!(file.inode().counters().snapshot().writeback_errors, 1);
}

#[test]
fn a_failed_write_without_work_for_the_backend_is_recorded_before_the_writeback_ends() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    sync(&file);
    file.write(0, &[2; PAGE_SIZE]).unwrap();
    let mut seen = file.inode().cache().sample_error();
    start_held(&file);
    volume.device.fail_write(0, Errno::NOSPC);
    volume.device.complete_all();
    assert!(file.inode().cache().has_writeback(FileRange::ALL));
    flusher.run_worker();
    assert!(!file.inode().cache().has_writeback(FileRange::ALL));
    assert_eq!(
        file.inode().cache().check_and_advance(&mut seen),
        Err(Errno::NOSPC)
    );
}

#[test]
fn the_first_error_of_a_run_wins() {
    let volume = Volume::new(16 << 20, 12, 64 << 20, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    // More than one bio: 4 MiB each.
    file.write(0, &vec![1; 9 << 20]).unwrap();
    let mut seen = file.inode().cache().sample_error();
    file.volume.device.fail_write(0, Errno::NOSPC);
    file.volume.device.fail_write(0, Errno::IO);
    sync(&file);
    assert_eq!(file.volume.device.take_writes().len(), 3);
    assert_eq!(
        file.inode().cache().check_and_advance(&mut seen),
        Err(Errno::NOSPC)
    );
    assert!(conversions(&file.take_hooks()).is_empty());
}

#[test]
fn a_conversion_that_fails_reaches_fsync() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let mut seen = file.inode().cache().sample_error();
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.fail_convert(0, Errno::UCLEAN);
    sync(&file);
    assert_eq!(
        file.inode().cache().check_and_advance(&mut seen),
        Err(Errno::UCLEAN)
    );
}

#[test]
fn dirt_made_during_writeback_is_written_by_the_next_one() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    start_held(&file);
    file.write(100, &[2; 50]).unwrap();
    let pages = write_pages(&*file, &WritebackControl::background(FileRange::ALL, 99)).unwrap();
    assert_eq!(pages, 0, "under writeback: skipped without integrity");
    assert!(file.inode().cache().has_dirty(FileRange::ALL));
    volume.device.set_mode(Mode::Lazy);
    sync(&file);
    assert_eq!(file.on_disk(PAGE_SIZE as u64), file.contents());
    assert_eq!(volume.device.take_writes().len(), 2);
}

#[test]
fn an_integrity_sync_ends_while_others_dirty_more() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.inode().set_size(FilePos::saturating(1 << 20));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    // Each folio that is written has another one dirtied behind it.
    let weak = Arc::downgrade(&file);
    *file.on_map.lock() = Some(Box::new(move |req| {
        let file = weak.upgrade().unwrap();
        let how = GetFolio::default();
        let mut next = file
            .inode()
            .cache()
            .get_or_create(req.range.end().page(), how)
            .unwrap();
        let len = next.len();
        next.zero(0..len);
        next.set_uptodate();
        next.set_dirty();
    }));
    write_all(&file);
    assert_eq!(mapped(&file.take_hooks()), ["0..4096"]);
    *file.on_map.lock() = None;
}

#[test]
fn mapped_only_leaves_what_has_no_storage_dirty_and_passes_no_hook() {
    let file: Arc<OrderA> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    sync(&file);
    file.write(0, &[2; 3 * PAGE_SIZE]).unwrap();
    file.take_hooks();
    file.volume.device.take_writes();
    write_pages(
        &*file,
        &WritebackControl::sync(FileRange::ALL).mapped_only(),
    )
    .unwrap();
    assert_eq!(file.volume.device.take_writes().len(), 1);
    assert_eq!(file.block(1), Some(Block::Delalloc));
    assert!(!file.inode().cache().has_dirty(range(0, PAGE_SIZE as u64)));
    assert!(file.inode().cache().has_dirty(range(PAGE_SIZE as u64, 1)));
    assert!(
        file.take_hooks()
            .iter()
            .all(|hook| matches!(hook, Hook::MapWriteback { .. }))
    );
    sync(&file);
    assert_eq!(file.on_disk(3 * PAGE_SIZE as u64), vec![2; 3 * PAGE_SIZE]);
}

#[test]
fn mapped_only_keeps_the_unmapped_blocks_of_a_folio_dirty() {
    let file: Arc<OrderB> = volume(10, Mode::Lazy).file(None);
    file.write(0, &[1; K]).unwrap();
    sync(&file);
    file.write(0, &[2; 4 * K]).unwrap();
    write_pages(
        &*file,
        &WritebackControl::sync(FileRange::ALL).mapped_only(),
    )
    .unwrap();
    file.volume.device.poll();
    assert_eq!(file.on_disk(K as u64), vec![2; K]);
    let cache = file.inode().cache();
    let folio = cache.lock(&cache.find(PageIndex::ZERO).unwrap()).unwrap();
    assert_eq!(folio.dirty_ranges(4 * K).next(), Some(K..4 * K));
    drop(folio);
    sync(&file);
    assert_eq!(file.on_disk(4 * K as u64), vec![2; 4 * K]);
}

#[test]
fn scattered_runs_enter_the_device_together() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    for page in 0..12 {
        file.write(page * 2 * PAGE_SIZE as u64, &[1; PAGE_SIZE])
            .unwrap();
    }
    volume.device.take_batches();
    sync(&file);
    assert_eq!(volume.device.take_writes().len(), 12);
    assert_eq!(volume.device.take_batches(), [12]);
    assert_eq!(file.on_disk(23 * PAGE_SIZE as u64), file.contents());
}

#[test]
fn large_runs_do_not_wait_for_company() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    for run in 0..4 {
        file.write(run * (300 << 10), &vec![1; 256 << 10]).unwrap();
    }
    volume.device.take_batches();
    sync(&file);
    assert_eq!(volume.device.take_batches(), [1, 1, 1, 1]);
}

/// The device pages written, as pages of a file whose page n is at device page `first + n`.
fn pages_written(file: &OrderB, first: u64) -> Vec<u64> {
    let mut pages = Vec::new();
    for (addr, len) in file.volume.device.take_writes() {
        let page = (addr >> 12) - first;
        pages.extend(page..page + (len >> 12));
    }
    pages
}

/// A file of 16 written pages in folios of their own, all dirty again.
fn sixteen_dirty_pages() -> (Arc<OrderB>, u64) {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    for page in 0..16 {
        file.write(page * PAGE_SIZE as u64, &[1; PAGE_SIZE])
            .unwrap();
    }
    sync(&file);
    let Some(Block::Written(first)) = file.block(0) else {
        panic!("not written")
    };
    file.volume.device.take_writes();
    for page in 0..16 {
        file.write(page * PAGE_SIZE as u64, &[2; PAGE_SIZE])
            .unwrap();
    }
    (file, first)
}

#[test]
fn background_writeback_goes_on_where_it_stopped() {
    let (file, first) = sixteen_dirty_pages();
    let background = WritebackControl::background(FileRange::ALL, 6);
    let mut written = Vec::new();
    for _ in 0..3 {
        write_pages(&*file, &background).unwrap();
        written.push(pages_written(&file, first));
        // Dirtied again each time: it must not keep the others from their turn.
        file.write(0, &[3; PAGE_SIZE]).unwrap();
    }
    let pages = |range: std::ops::Range<u64>| range.collect::<Vec<_>>();
    assert_eq!(written[..2], [pages(0..6), pages(6..12)]);
    // What is behind the last page goes on at the first.
    assert_eq!(written[2], [12, 13, 14, 15, 0]);
    write_pages(&*file, &background).unwrap();
    assert_eq!(pages_written(&file, first), [0]);
    assert_eq!(file.inode().cache().nr_dirty(), 0);
}

#[test]
fn an_integrity_sync_begins_at_the_start_whatever_background_writeback_did() {
    let (file, first) = sixteen_dirty_pages();
    write_pages(&*file, &WritebackControl::background(FileRange::ALL, 6)).unwrap();
    file.write(0, &[3; PAGE_SIZE]).unwrap();
    pages_written(&file, first);
    sync(&file);
    let expected: Vec<u64> = std::iter::once(0).chain(6..16).collect();
    assert_eq!(pages_written(&file, first), expected);
}

/// Writes metadata of the file system beyond the end of the file, as a verified file has it.
fn write_beyond(file: &OrderB, pos: u64, bytes: &[u8]) {
    let _lock = file.inode().lock_exclusive();
    file.inode()
        .set_metadata_start(Some(FilePos::saturating(pos)));
    let mut source = SliceSource::new(bytes);
    let options = WriteOptions::default();
    let done = buffered_write(file, FilePos::saturating(pos), &mut source, options);
    assert_eq!(done.unwrap(), bytes.len() as u64);
}

#[test]
fn metadata_beyond_the_end_is_written_and_read_and_leaves_the_size_alone() {
    for (bits, at) in [(12, 64 * K), (10, 2 * K)] {
        // Of 1 KiB blocks, the end of the file and the metadata lie in one page.
        let file: Arc<OrderB> = volume(bits, Mode::Lazy).file(None);
        file.write(0, &[1; 100]).unwrap();
        write_beyond(&file, at as u64, &[7; 1500]);
        store(&file, 100, &[9; 500]);
        sync(&file);
        assert_eq!((file.inode().size().bytes(), file.disk_size()), (100, 100));
        let on_disk = file.on_disk((at + 2 * K) as u64);
        assert_eq!(on_disk[..100], [1; 100]);
        assert!(
            on_disk[100..at].iter().all(|&byte| byte == 0),
            "between the end of the file and the metadata (rule B41)"
        );
        assert_eq!(on_disk[at..at + 1500], [7; 1500], "rule B73");

        // Nothing of it was left dirty, and it comes back from storage.
        let cache = file.inode().cache();
        cache.invalidate(FileRange::ALL, false).unwrap();
        assert!(cache.is_empty());
        let index = FilePos::saturating(at as u64).page();
        let folio = cache.get_or_create(index, GetFolio::default()).unwrap();
        let folio = read_folio(&*file, folio).unwrap();
        let mut bytes = vec![0; 1500];
        folio.copy_out(at - folio.range().start().bytes() as usize, &mut bytes);
        assert_eq!(bytes, [7; 1500], "rule B73");
    }
}

#[test]
fn neighbouring_folios_become_one_run() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    for page in 0..8 {
        file.write(page * PAGE_SIZE as u64, &[page as u8; PAGE_SIZE])
            .unwrap();
    }
    sync(&file);
    assert_eq!(volume.device.take_writes().len(), 1);
    assert_eq!(conversions(&file.take_hooks()), ["0..32768"]);
    assert_eq!(file.inode().counters().snapshot().ioends, 1);
    assert_eq!(file.on_disk(32768), file.contents());
}

#[test]
fn an_early_completion_does_not_end_the_writeback_of_the_folio() {
    // Every other block is dirty, so the folio goes out in several runs, each complete at once.
    let volume = volume(10, Mode::Immediate);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; 4 * K]).unwrap();
    sync(&file);
    file.write(0, &[2; K]).unwrap();
    file.write(2 * K as u64, &[2; K]).unwrap();
    file.take_hooks();
    sync(&file);
    let marks: Vec<bool> = file
        .take_hooks()
        .iter()
        .filter_map(|hook| match hook {
            Hook::MapWriteback { writeback, .. } => Some(*writeback),
            _ => None,
        })
        .collect();
    assert_eq!(
        marks,
        [true, true],
        "rule B27: mark and bias before the first submission"
    );
}

#[test]
fn every_run_is_mapped_anew() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    for page in [0, 1, 5] {
        file.write(page * PAGE_SIZE as u64, &[1; PAGE_SIZE])
            .unwrap();
    }
    sync(&file);
    for page in [0, 1, 5] {
        file.write(page * PAGE_SIZE as u64, &[2; PAGE_SIZE])
            .unwrap();
    }
    file.take_hooks();
    sync(&file);
    assert_eq!(
        mapped(&file.take_hooks()),
        ["0..4096", "4096..8192", "20480..24576"],
        "rule V3"
    );
}

#[test]
fn direct_io_in_flight_makes_writeback_allocate_unwritten() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.unwritten
        .store(false, std::sync::atomic::Ordering::Relaxed);
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    let direct = file.inode().direct().begin();
    sync(&file);
    drop(direct);
    let hooks = file.take_hooks();
    assert!(
        hooks
            .iter()
            .any(|hook| matches!(hook, Hook::MapWriteback { direct: true, .. }))
    );
    assert_eq!(conversions(&hooks), ["0..4096"]);
    file.write(PAGE_SIZE as u64, &[1; PAGE_SIZE]).unwrap();
    sync(&file);
    let hooks = file.take_hooks();
    assert!(
        hooks
            .iter()
            .any(|hook| matches!(hook, Hook::MapWriteback { direct: false, .. }))
    );
}

#[test]
fn direct_io_that_starts_while_the_folio_is_waited_for_is_seen() {
    let volume = volume(12, Mode::Lazy);
    let file: Arc<OrderB> = volume.file(None);
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    let cache = file.inode().cache();
    let held = cache.lock(&cache.find(PageIndex::ZERO).unwrap()).unwrap();
    let writer = thread::spawn({
        let file = Arc::clone(&file);
        move || sync(&file)
    });
    while file.inode().counters().snapshot().folio_waits == 0 {
        thread::yield_now();
    }
    let _direct = file.inode().direct().begin();
    drop(held);
    writer.join().unwrap();
    let hooks = file.take_hooks();
    let seen = hooks
        .iter()
        .any(|hook| matches!(hook, Hook::MapWriteback { direct: true, .. }));
    assert!(seen, "rule O4: read with the folio locked");
}

#[test]
fn dirty_bits_and_reservations_go_when_there_is_no_storage() {
    let file: Arc<OrderB> = volume(10, Mode::Lazy).file(None);
    let mut seen = file.inode().cache().sample_error();
    file.write(0, &[1; 3 * K]).unwrap();
    file.fail_map(0, Errno::NOSPC);
    sync(&file);
    assert_eq!(
        file.inode().cache().check_and_advance(&mut seen),
        Err(Errno::NOSPC)
    );
    assert!(
        file.take_hooks()
            .contains(&Hook::Release("0..3072".to_owned()))
    );
    assert_eq!(file.block(0), None);
    let cache = file.inode().cache();
    let folio = cache.lock(&cache.find(PageIndex::ZERO).unwrap()).unwrap();
    assert!(
        !folio.is_dirty() && !folio.is_range_dirty(0..4 * K),
        "rule B21"
    );
    assert!(!folio.is_writeback());
    assert_eq!(cache.nr_dirty(), 0);
}

#[test]
fn the_size_on_disk_is_exact_to_the_byte_and_never_covers_unwritten_data() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; 5000]).unwrap();
    start_held(&file);
    // An append while the first run is on its way; its data is not.
    file.write(5000, &[2; 1000]).unwrap();
    volume.device.set_mode(Mode::Lazy);
    flusher.run_worker();
    assert_eq!(conversions(&file.take_hooks()), ["0..5000"], "rule B39");
    assert_eq!(file.disk_size(), 5000);
    sync(&file);
    assert_eq!(file.disk_size(), 6000);
}

#[test]
fn a_folio_without_any_data_to_write_ends_its_writeback() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    write_pages(
        &*file,
        &WritebackControl::sync(FileRange::ALL).mapped_only(),
    )
    .unwrap();
    let cache = file.inode().cache();
    assert!(!cache.has_writeback(FileRange::ALL));
    assert!(cache.has_dirty(FileRange::ALL));
    assert!(file.volume.device.take_writes().is_empty());
}

#[test]
fn what_is_collected_is_submitted_before_a_transaction_is_waited_for() {
    // The backend of order A refuses to open one without waiting.
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderA> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.write(PAGE_SIZE as u64, &[2; PAGE_SIZE]).unwrap();
    sync(&file);
    let opened: Vec<Hook> = file
        .take_hooks()
        .into_iter()
        .filter(|h| matches!(h, Hook::BeforeLock { .. }))
        .collect();
    let nowait = |nowait| Hook::BeforeLock { nowait };
    assert_eq!(opened, [nowait(false), nowait(true), nowait(false)]);
    assert_eq!(file.on_disk(2 * PAGE_SIZE as u64), file.contents());
}

#[test]
fn what_is_collected_is_submitted_before_a_folio_lock_is_waited_for() {
    // The holder of the second folio waits for the first one's writeback.
    let volume = volume(12, Mode::Lazy);
    let flusher = threaded(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.write(PAGE_SIZE as u64, &[2; PAGE_SIZE]).unwrap();
    let cache = file.inode().cache();
    let first = cache.find(PageIndex::ZERO).unwrap();
    let second = cache.lock(&cache.find(PageIndex::new(1)).unwrap()).unwrap();
    let writer = thread::spawn({
        let file = Arc::clone(&file);
        move || sync(&file)
    });
    while first.is_dirty() || first.is_writeback() {
        first.wait_writeback(&*volume.device);
        thread::yield_now();
    }
    drop(second);
    writer.join().unwrap();
    assert_eq!(file.on_disk(2 * PAGE_SIZE as u64), file.contents());
}

#[test]
fn the_worker_finishes_what_a_thread_with_locks_waits_for() {
    let volume = volume(12, Mode::Lazy);
    let flusher = threaded(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    for round in 0..50 {
        file.write(0, &[round; PAGE_SIZE]).unwrap();
        write_all(&file);
        let cache = file.inode().cache();
        let folio = cache.lock(&cache.find(PageIndex::ZERO).unwrap()).unwrap();
        folio.wait_writeback(&*volume.device);
        assert!(!folio.is_writeback());
        drop(folio);
        file.truncate(0).unwrap();
    }
}

#[test]
fn write_and_wait_tells_of_errors_without_taking_them_from_open_files() {
    let volume = volume(12, Mode::Lazy);
    let flusher = threaded(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    let mut open = file.inode().cache().sample_error();
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    volume.device.fail_write(0, Errno::IO);
    let _lock = file.inode().lock_shared();
    let error = fsync::write_and_wait(&*file, FileRange::ALL).unwrap_err();
    assert_eq!(error, FsError::Writeback(Errno::IO));
    assert_eq!(fsync::write_and_wait(&*file, FileRange::ALL), Ok(()));
    assert_eq!(
        file.inode().cache().check_and_advance(&mut open),
        Err(Errno::IO)
    );
}

#[test]
fn without_waiting_dirty_or_written_data_would_block() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    assert_eq!(
        fsync::nothing_to_write(file.inode(), FileRange::ALL),
        Ok(())
    );
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    let answer = fsync::nothing_to_write(file.inode(), range(0, 1));
    assert_eq!(answer, Err(FsError::WouldBlock));
    assert_eq!(
        fsync::nothing_to_write(file.inode(), range(1 << 20, 1)),
        Ok(())
    );
}

#[test]
fn sync_file_range_starts_and_waits_separately() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; 2 * PAGE_SIZE]).unwrap();
    volume.device.set_mode(Mode::Held);
    let all = FileRange::ALL;
    fsync::sync_file_range(&*file, all, SyncRange::WRITE).unwrap();
    assert!(file.inode().cache().has_writeback(all));
    assert!(!file.inode().cache().has_dirty(all));
    volume.device.set_mode(Mode::Lazy);
    fsync::sync_file_range(&*file, all, SyncRange::WAIT_BEFORE).unwrap();
    assert!(!file.inode().cache().has_writeback(all));
    assert!(!file.take_hooks().contains(&Hook::SyncMetadata));
}

#[test]
fn a_run_does_not_cross_a_boundary() {
    let volume = volume(12, Mode::Lazy);
    let flusher = manual(&volume);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.boundary.store(1, std::sync::atomic::Ordering::Relaxed);
    file.write(0, &[1; 2 * PAGE_SIZE]).unwrap();
    sync(&file);
    assert_eq!(file.volume.device.take_writes().len(), 2);
}

#[test]
fn a_wrong_answer_of_the_backend_is_an_error_and_no_write() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let page = PAGE_SIZE as u64;
    let addr = DevAddr::new(page);
    let answers = [
        Iomap::new(range(0, page), MapKind::Delalloc),
        Iomap::hole(range(0, page)),
        Iomap::new(range(page, page), MapKind::Mapped { addr }),
        Iomap::new(range(0, 0), MapKind::Mapped { addr }),
        Iomap::new(range(0, 100), MapKind::Mapped { addr }),
        Iomap::new(range(0, page), MapKind::Mapped { addr }).with_flags(FsFlags::BEYOND_EOF),
        Iomap::new(
            range(0, page),
            MapKind::Mapped {
                addr: DevAddr::new(u64::MAX - 10),
            },
        ),
    ];
    for answer in answers {
        let mut seen = file.inode().cache().sample_error();
        file.write(0, &[1; PAGE_SIZE]).unwrap();
        file.answer_map(answer.clone());
        sync(&file);
        let told = file.inode().cache().check_and_advance(&mut seen);
        assert_eq!(told, Err(Errno::IO), "{answer:?}");
        assert!(file.volume.device.take_writes().is_empty());
    }
}

#[test]
fn what_a_hook_refuses_stays_dirty_and_is_told_at_once() {
    let file: Arc<OrderA> = volume(12, Mode::Lazy).file(None);
    let mut seen = file.inode().cache().sample_error();
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.fail_prepare(0, Errno::NOMEM);
    let error = fsync::fsync(&*file, FileRange::ALL, false).unwrap_err();
    assert_eq!(error, FsError::NoMemory);
    file.check_balance();
    assert_eq!(
        file.inode().cache().check_and_advance(&mut seen),
        Ok(()),
        "nothing is lost"
    );
    sync(&file);
    assert_eq!(file.on_disk(PAGE_SIZE as u64), file.contents());
}

/// Pieces of several folios, several runs, old and new blocks.
fn some_writes(file: &OrderB) {
    for n in 0..6 {
        file.write(n * 3 * K as u64, &[n as u8 + 1; 2 * K]).unwrap();
    }
}

#[test]
fn whichever_step_fails_nothing_is_left_behind() {
    type Fault = fn(&OrderB, usize);
    let faults: [Fault; 4] = [
        |file, n| file.volume.device.fail_write(n, Errno::IO),
        |file, n| file.fail_map(n, Errno::NOSPC),
        |file, n| file.fail_convert(n, Errno::NOSPC),
        |file, n| file.fail_prepare(n, Errno::NOMEM),
    ];
    for (kind, fault) in faults.iter().enumerate() {
        for n in 0..8 {
            let volume = volume(10, Mode::Lazy);
            let flusher = manual(&volume);
            let file: Arc<OrderB> = volume.file(Some(&flusher));
            some_writes(&file);
            let cache = file.inode().cache();
            let mut seen = cache.sample_error();
            fault(&file, n);
            let told = fsync::fsync(&*file, FileRange::ALL, false).is_err();
            let kept = cache.check_and_advance(&mut seen).is_err();
            file.check_balance();
            assert!(!cache.has_writeback(FileRange::ALL));
            assert_eq!(told, cache.has_dirty(FileRange::ALL), "fault {kind}, {n}");
            assert!(!(told && kept), "fault {kind}, {n}: told twice");
            let whole = file.on_disk(file.inode().size().bytes()) == file.contents();
            assert_eq!(whole, !told && !kept, "fault {kind}, {n}");
            // What is gone is gone; what comes afterwards works. The faults left over first.
            (0..8).for_each(|_| drop(fsync::fsync(&*file, FileRange::ALL, false)));
            some_writes(&file);
            (0..8).for_each(|_| drop(fsync::fsync(&*file, FileRange::ALL, false)));
            some_writes(&file);
            sync(&file);
            assert_eq!(file.on_disk(file.inode().size().bytes()), file.contents());
            assert_eq!(volume.pool.nr_dirty() + volume.pool.nr_writeback(), 0);
        }
    }
}

#[test]
fn what_nobody_wants_cached_leaves_when_it_has_been_written() {
    let file: Arc<OrderB> = volume(12, Mode::Lazy).file(None);
    let options = WriteOptions {
        dontcache: true,
        ..WriteOptions::default()
    };
    file.write_with(0, &[1; 3 * PAGE_SIZE], options).unwrap();
    assert!(file.inode().cache().nr_pages() > 0);
    sync(&file);
    assert_eq!(file.inode().cache().nr_pages(), 0);
    assert_eq!(file.on_disk(3 * PAGE_SIZE as u64), [1; 3 * PAGE_SIZE]);
}

#[test]
fn writers_truncates_and_syncs_beside_each_other_in_order_b() {
    stress::<false>();
}

#[test]
fn writers_truncates_and_syncs_beside_each_other_in_order_a() {
    stress::<true>();
}

fn stress<const A: bool>() {
    let volume = Volume::new(32 << 20, 10, 4 << 20, Mode::Lazy);
    let flusher = threaded(&volume);
    let file: Arc<TestFile<A>> = volume.file(Some(&flusher));
    let rounds = 400;
    let threads: Vec<_> = (0..8u64)
        .map(|id| {
            let (file, flusher) = (Arc::clone(&file), Arc::clone(&flusher));
            thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(id);
                for _ in 0..rounds {
                    match id % 4 {
                        0 | 1 => {
                            let bytes = vec![random.u8(1..); random.usize(1..20_000)];
                            file.write(random.u64(..200_000), &bytes).unwrap();
                        }
                        2 => fsync::fsync(&*file, FileRange::ALL, true).unwrap(),
                        _ if random.u8(..4) == 0 => drop(file.volume.pool.shrink(64)),
                        _ if random.bool() => file.truncate(random.u64(..200_000)).unwrap(),
                        _ => drop(flusher.run_once(std::time::Duration::MAX)),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    sync(&file);
    assert_eq!(file.on_disk(file.inode().size().bytes()), file.contents());
    assert_eq!(file.disk_size(), file.inode().size().bytes());
    let stats = volume.pool.stats();
    assert_eq!((stats.nr_dirty, stats.nr_writeback), (0, 0));
    assert_eq!(file.inode().cache().nr_dirty(), 0);
}
