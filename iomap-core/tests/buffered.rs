//! Buffered reads and writes, zeroing, and what a failed write gives back. One test for each rule.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::file::SECRET;
use common::{Block, Mode, OrderA, OrderB, TestFile, Volume};
use iomap_core::error::{Errno, FsError};
use iomap_core::folio::LockedFolio;
use iomap_core::fsync;
use iomap_core::ops::MapOps;
use iomap_core::page_cache::GetFolio;
use iomap_core::read::{ReadOptions, buffered_read};
use iomap_core::readahead::Readahead;
use iomap_core::units::{FilePos, FileRange, PageIndex};
use iomap_core::user::UserSource;
use iomap_core::write::{WriteOptions, buffered_write};
use iomap_core::zero;

const K: u64 = 1024;
const PAGE: u64 = 4 * K;

fn volume(bits: u32, mode: Mode) -> Arc<Volume> {
    Volume::new(8 << 20, bits, 8 << 20, mode)
}

fn pos(bytes: u64) -> FilePos {
    FilePos::saturating(bytes)
}

fn range(start: u64, end: u64) -> FileRange {
    FileRange::between(pos(start), pos(end))
}

fn sync<const A: bool>(file: &TestFile<A>) {
    fsync::fsync(file, FileRange::ALL, false).unwrap();
    file.check_balance();
}

/// Writes everything and drops the cache.
fn make_cold<const A: bool>(file: &TestFile<A>) {
    sync(file);
    file.inode().cache().drop_clean(FileRange::ALL);
    assert_eq!(file.inode().cache().nr_pages(), 0);
}

fn read<const A: bool>(file: &TestFile<A>, from: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0x55; len as usize];
    let n = buffered_read(file, pos(from), &mut bytes, ReadOptions::default()).unwrap();
    bytes.truncate(n);
    bytes
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n / 3 + n / 251) as u8).collect()
}

/// Memory of which only some bytes can be copied at a time.
struct Awkward<'a> {
    bytes: &'a [u8],
    /// Bytes readable after a fault-in; the rest of a copy comes up short.
    copies: Box<dyn FnMut(usize) -> usize + 'a>,
    /// Called with no lock held, before each chunk.
    before: Box<dyn FnMut() + 'a>,
    readable: usize,
    /// How many of this many bytes a fault-in finds.
    readable_now: Option<Box<dyn FnMut(usize) -> usize + 'a>>,
}

impl<'a> Awkward<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            copies: Box::new(|len| len),
            before: Box::new(|| {}),
            readable: usize::MAX,
            readable_now: None,
        }
    }
}

impl UserSource for Awkward<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn fault_in(&mut self, len: usize) -> usize {
        (self.before)();
        let len = len.min(self.bytes.len()).min(self.readable);
        self.readable_now.as_mut().map_or(len, |now| now(len))
    }

    fn copy_to(&mut self, folio: &mut LockedFolio, offset: usize, len: usize) -> usize {
        let len = (self.copies)(len);
        folio.copy_in(offset, &self.bytes[..len]);
        len
    }

    fn consume(&mut self, n: usize) {
        self.bytes = &self.bytes[n..];
        self.readable = self.readable.saturating_sub(n);
    }
}

fn write_awkward<const A: bool>(
    file: &TestFile<A>,
    from: u64,
    source: &mut Awkward<'_>,
) -> Result<u64, FsError> {
    let _lock = file.inode().lock_exclusive();
    buffered_write(file, pos(from), source, WriteOptions::default())
}

#[test]
fn what_is_written_is_read_back_at_any_offset_cached_and_cold() {
    for bits in [9, 10, 12, 14] {
        let file = volume(bits, Mode::Lazy).file::<false>(None);
        let bytes = pattern(200_000);
        assert_eq!(file.write(0, &bytes), Ok(200_000));
        for round in 0..2 {
            for (from, len) in [(0, 1), (1, 4095), (4095, 2), (511, 70_000), (199_999, 5)] {
                let end = (from + len).min(200_000);
                let wanted = &bytes[from as usize..end as usize];
                assert_eq!(read(&file, from, len), wanted, "{bits} bits, round {round}");
            }
            assert_eq!(read(&file, 200_000, 10), [], "at the end");
            make_cold(&file);
        }
    }
}

#[test]
fn a_write_of_part_of_a_block_keeps_the_rest_of_it() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[7; 12_288]).unwrap();
    make_cold(&file);
    file.write(5_000, &[9; 10]).unwrap();
    let page = read(&file, PAGE, PAGE);
    assert!(page[..904].iter().chain(&page[914..]).all(|b| *b == 7));
    assert_eq!(page[904..914], [9; 10]);
    make_cold(&file);
    assert_eq!(read(&file, 5_000, 10), [9; 10]);
    assert_eq!(read(&file, 5_010, 3), [7; 3]);
}

#[test]
fn the_rest_of_a_new_block_is_zero_and_never_what_the_device_holds() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(100, &[1; 10]).unwrap();
    file.write(3 * PAGE + 50, &[2; 10]).unwrap();
    for _ in 0..2 {
        let bytes = read(&file, 0, 4 * PAGE);
        assert!(!bytes.contains(&SECRET));
        let written = bytes.iter().filter(|b| **b != 0).count();
        assert_eq!((bytes.len() as u64, written), (3 * PAGE + 60, 20));
        make_cold(&file);
    }
}

#[test]
fn a_whole_block_is_overwritten_without_reading_it() {
    let volume = volume(12, Mode::Lazy);
    let file = volume.file::<false>(None);
    file.write(0, &[7; 8_192]).unwrap();
    make_cold(&file);
    volume.device.fail_reads(usize::from(u8::MAX), Errno::IO);
    assert_eq!(file.write(0, &[8; 4_096]), Ok(4_096));
    let error = file.write(PAGE, &[8; 10]).unwrap_err();
    assert_eq!(error.errno(), Errno::IO, "a part needs the rest");
    assert_eq!(file.contents()[..4_096], [8; 4_096]);
    file.check_balance();
}

#[test]
fn a_short_copy_into_a_block_that_is_not_uptodate_shows_no_old_bytes() {
    // Rule B37: the folio is fresh, its memory holds whatever it held.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.inode().set_size(pos(PAGE));
    let bytes = pattern(PAGE);
    let mut source = Awkward::new(&bytes);
    source.copies = Box::new(|len| len.min(1));
    // After the first try nothing can be read any more.
    let mut tries = 0;
    let readable = |len: usize| {
        tries += 1;
        if tries == 1 { len } else { 0 }
    };
    source.readable_now = Some(Box::new(readable));
    let written = write_awkward(&file, 0, &mut source);
    assert_eq!(written, Err(FsError::Fault), "rule B37: part of a block");
    drop(source);
    assert_eq!(tries, 2);
    assert_eq!(read(&file, 0, PAGE), [0; PAGE as usize]);
    assert_eq!(
        file.take_accepted(),
        0,
        "rule F3: told of bytes never copied"
    );
    file.check_balance();
}

#[test]
fn a_short_copy_over_uptodate_bytes_is_accepted_and_the_write_goes_on_behind_it() {
    // Rule B36: nothing accepted is written a second time or taken back.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[1; 3 * PAGE as usize]).unwrap();
    let bytes = pattern(3 * PAGE);
    let mut source = Awkward::new(&bytes);
    source.copies = Box::new(|len| len.min(777));
    assert_eq!(write_awkward(&file, 0, &mut source), Ok(3 * PAGE));
    assert_eq!(read(&file, 0, 3 * PAGE), bytes);
}

/// The block is up to date, so what was copied of it counts; what was not is no part of the file.
#[test]
fn a_file_grows_by_what_was_copied_and_no_further() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[1; 1000]).unwrap();
    let bytes = [2; 2000];
    let mut source = Awkward::new(&bytes);
    source.readable = 2000;
    source.copies = Box::new(|len| len.min(500));
    let mut tries = 0;
    source.readable_now = Some(Box::new(move |len| {
        tries += 1;
        if tries == 1 { len } else { 0 }
    }));
    assert_eq!(write_awkward(&file, 1000, &mut source), Ok(500));
    assert_eq!(file.inode().size(), pos(1500));
    sync(&file);
    assert_eq!(file.disk_size(), 1500);
}

/// The page is there, so not even its block has to be read; then the memory of the caller is gone.
#[test]
fn a_copy_of_nothing_does_not_move_the_end_of_the_file() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[1; 100]).unwrap();
    let mut source = Awkward::new(&[2; 10]);
    source.copies = Box::new(|_| 0);
    let mut tries = 0;
    let readable = |len: usize| {
        tries += 1;
        if tries == 1 { len } else { 0 }
    };
    source.readable_now = Some(Box::new(readable));
    assert_eq!(write_awkward(&file, 200, &mut source), Err(FsError::Fault));
    drop(source);
    assert_eq!(file.inode().size(), pos(100));
    file.check_balance();
}

#[test]
fn memory_that_fails_at_its_second_page_still_lets_the_write_progress() {
    // Rule B35: the chunk is halved until it fits what can be copied without a fault.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    let bytes = pattern(64 * K);
    let mut source = Awkward::new(&bytes);
    source.copies = Box::new(|len| if len > 100 { 0 } else { len });
    assert_eq!(write_awkward(&file, 0, &mut source), Ok(64 * K));
    assert_eq!(read(&file, 0, 64 * K), bytes);
    assert!(file.inode().counters().snapshot().short_copies > 0);
}

#[test]
fn an_unreadable_first_byte_is_an_error_and_gives_the_reservation_back() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    let bytes = pattern(PAGE);
    let mut source = Awkward::new(&bytes);
    source.readable = 0;
    assert_eq!(write_awkward(&file, 0, &mut source), Err(FsError::Fault));
    assert_eq!(file.block(0), None, "nothing stays reserved");
    assert_eq!(file.inode().size(), FilePos::ZERO);
    file.check_balance();
}

#[test]
fn a_write_cut_short_keeps_the_reservations_under_dirty_bytes_and_no_others() {
    // Rules B29, B30, B33: blocks 0 and 1 are written; block 5 is dirtied meanwhile, as by a store
    // through a memory mapping; the rest of the reservation goes.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(8 * PAGE, &[5; 4_096]).unwrap();
    let bytes = pattern(8 * PAGE);
    let mut source = Awkward::new(&bytes);
    source.readable = PAGE as usize + 10;
    source.copies = Box::new(|len| len.min(PAGE as usize));
    let storing = Arc::clone(&file);
    source.before = Box::new(move || {
        let cache = storing.inode().cache();
        let get = GetFolio::default();
        let mut folio = cache.get_or_create(PageIndex::new(5), get).unwrap();
        let at = (5 * PAGE - folio.range().start().bytes()) as usize;
        folio.copy_in(at, &[9; PAGE as usize]);
        folio.set_range_uptodate(at..at + PAGE as usize);
        folio.set_range_dirty(at..at + PAGE as usize);
    });
    let written = write_awkward(&file, 0, &mut source);
    assert_eq!(written, Ok(PAGE + 10), "rule B36: bytes were accepted");
    let kept: Vec<_> = (0..9).map(|n| file.block(n).is_some()).collect();
    assert_eq!(
        kept,
        [true, true, false, false, false, true, false, false, true],
        "rule B29: reservations under dirty bytes"
    );
    sync(&file);
    assert_eq!(read(&file, 0, PAGE + 10), bytes[..PAGE as usize + 10]);
    assert_eq!(
        read(&file, 5 * PAGE, PAGE),
        [9; PAGE as usize],
        "the store is not lost"
    );
}

#[test]
fn a_mapping_that_went_stale_loses_no_bytes_of_another_writer() {
    // Rule V1, the five steps: a long write maps unwritten blocks; before it gets to page 8, the
    // dirty page there is written back, converted and reclaimed; the end of the write covers half
    // of it. With the old mapping the other half would be zeroed.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[1; 12 * PAGE as usize]).unwrap();
    file.unwritten
        .store(true, std::sync::atomic::Ordering::Relaxed);
    {
        // Everything allocated and unwritten, nothing in the cache but page 8.
        let _lock = file.inode().lock_exclusive();
        file.inode().cache().truncate(FileRange::ALL);
    }
    for n in 0..12 {
        file.set_block(n, Block::Unwritten(100 + n));
    }
    file.write(8 * PAGE, &[3; 4_096]).unwrap();
    let bytes = pattern(8 * PAGE + 2_048);
    let mut source = Awkward::new(&bytes);
    let racing = Arc::clone(&file);
    let mut chunks = 0;
    source.copies = Box::new(|len| len.min(2 * PAGE as usize));
    source.before = Box::new(move || {
        chunks += 1;
        if chunks == 2 {
            let other = Arc::clone(&racing);
            let flusher = std::thread::spawn(move || {
                fsync::fsync(&*other, range(8 * PAGE, 9 * PAGE), true).unwrap();
            });
            flusher.join().unwrap();
            racing.inode().cache().drop_clean(range(8 * PAGE, 9 * PAGE));
            assert!(racing.inode().cache().find(PageIndex::new(8)).is_none());
        }
    });
    assert_eq!(write_awkward(&file, 0, &mut source), Ok(bytes.len() as u64));
    let new = read(&file, 0, bytes.len() as u64) == bytes;
    assert!(new, "rule V2: bytes of the caller were lost");
    assert_eq!(
        read(&file, 8 * PAGE + 2_048, 2_048),
        [3; 2_048],
        "the other writer's bytes"
    );
    assert!(file.inode().counters().snapshot().stale_remaps > 0);
    file.check_balance();
}

#[test]
fn zeroing_reaches_dirty_bytes_over_unwritten_blocks_and_skips_the_rest() {
    // Rules B8, B9.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[0; 64 * PAGE as usize]).unwrap();
    sync(&file);
    {
        let _lock = file.inode().lock_exclusive();
        file.inode().cache().truncate(FileRange::ALL);
    }
    for n in 0..64 {
        file.set_block(n, Block::Unwritten(200 + n));
    }
    file.write(10 * PAGE, &[6; 4_096]).unwrap();
    file.write(40 * PAGE, &[6; 4_096]).unwrap();
    let pages = file.inode().cache().nr_pages();
    let changed = {
        let _lock = file.inode().lock_exclusive();
        zero::zero_range(&*file, range(100, 40 * PAGE + 10)).unwrap()
    };
    assert!(changed, "rule B8: dirty bytes over unwritten blocks stay");
    assert_eq!(
        file.inode().cache().nr_pages(),
        pages,
        "gaps bring no folio in"
    );
    assert_eq!(read(&file, 10 * PAGE, PAGE), [0; 4_096]);
    assert_eq!(read(&file, 40 * PAGE, PAGE)[..10], [0; 10]);
    assert_eq!(read(&file, 40 * PAGE, PAGE)[10..], [6; 4_086]);
}

#[test]
fn zeroing_looks_again_when_its_mapping_was_overtaken_by_writeback() {
    // The mapping says unwritten; before the cache is looked at, the dirty page is written back,
    // converted and dropped: nothing is left to see but the generation.
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[0; 8 * PAGE as usize]).unwrap();
    sync(&file);
    {
        let _lock = file.inode().lock_exclusive();
        file.inode().cache().truncate(FileRange::ALL);
    }
    for n in 0..8 {
        file.set_block(n, Block::Unwritten(300 + n));
    }
    file.write(5 * PAGE, &[6; 4_096]).unwrap();
    let racing = Arc::clone(&file);
    *file.on_begin.lock() = Some(Box::new(move || {
        let other = Arc::clone(&racing);
        let flusher = std::thread::spawn(move || {
            fsync::fsync(&*other, FileRange::ALL, true).unwrap();
        });
        flusher.join().unwrap();
        racing.inode().cache().drop_clean(FileRange::ALL);
        assert_eq!(racing.inode().cache().nr_pages(), 0);
    }));
    {
        let _lock = file.inode().lock_exclusive();
        zero::zero_range(&*file, range(0, 8 * PAGE)).unwrap();
    }
    assert_eq!(read(&file, 5 * PAGE, PAGE), [0; PAGE as usize]);
    file.check_balance();
}

#[test]
fn zeroing_written_blocks_goes_through_the_cache_and_keeps_what_is_outside() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &[6; 4 * PAGE as usize]).unwrap();
    make_cold(&file);
    {
        let _lock = file.inode().lock_exclusive();
        zero::zero_range(&*file, range(50, 3 * PAGE)).unwrap();
    }
    make_cold(&file);
    let bytes = read(&file, 0, 4 * PAGE);
    assert!(bytes[..50].iter().all(|b| *b == 6));
    assert!(bytes[50..3 * PAGE as usize].iter().all(|b| *b == 0));
    assert!(bytes[3 * PAGE as usize..].iter().all(|b| *b == 6));
}

#[test]
fn truncating_a_page_zeroes_to_the_end_of_its_block_and_brings_nothing_in_where_it_is_aligned() {
    let file = volume(10, Mode::Lazy).file::<false>(None);
    file.write(0, &[6; 8_192]).unwrap();
    let _lock = file.inode().lock_exclusive();
    assert_eq!(zero::truncate_page(&*file, pos(2_048)), Ok(false));
    assert_eq!(zero::truncate_page(&*file, pos(1_500)), Ok(true));
    let bytes = file.contents();
    assert!(bytes[1_500..2_048].iter().all(|b| *b == 0));
    assert!(
        bytes[..1_500]
            .iter()
            .chain(&bytes[2_048..])
            .all(|b| *b == 6)
    );
}

#[test]
fn the_hooks_balance_on_every_path_in_both_orders() {
    fn drive<const A: bool>(file: &TestFile<A>) {
        file.write(0, &pattern(50_000)).unwrap();
        file.write(100, &pattern(10)).unwrap();
        let bytes = pattern(9_000);
        let mut source = Awkward::new(&bytes);
        source.readable = 5_000;
        write_awkward(file, 60_000, &mut source).unwrap();
        let mut source = Awkward::new(&bytes);
        source.copies = Box::new(|len| len.min(700));
        write_awkward(file, 70_000, &mut source).unwrap();
        sync(file);
        let _lock = file.inode().lock_exclusive();
        zero::zero_range(file, range(10, 40_000)).unwrap();
        file.check_balance();
    }
    let volume = volume(12, Mode::Lazy);
    drive::<true>(&*volume.file::<true>(None) as &OrderA);
    drive::<false>(&*volume.file::<false>(None) as &OrderB);
}

#[test]
fn a_read_that_must_not_wait_tells_what_is_cached_and_no_more() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &pattern(4 * PAGE)).unwrap();
    make_cold(&file);
    read(&file, 0, PAGE);
    let mut bytes = vec![0; 3 * PAGE as usize];
    let nowait = ReadOptions {
        nowait: true,
        ..ReadOptions::default()
    };
    assert_eq!(
        buffered_read(&*file, pos(0), &mut bytes, nowait),
        Ok(PAGE as usize)
    );
    assert_eq!(
        buffered_read(&*file, pos(PAGE), &mut bytes, nowait),
        Err(FsError::WouldBlock)
    );
}

#[test]
fn a_write_that_must_not_wait_does_not_read_the_rest_of_a_block() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &pattern(4 * PAGE)).unwrap();
    make_cold(&file);
    let nowait = WriteOptions {
        nowait: true,
        ..WriteOptions::default()
    };
    assert_eq!(file.write_with(10, b"x", nowait), Err(FsError::WouldBlock));
    assert_eq!(
        file.write_with(PAGE, &[1; 4_096], nowait),
        Ok(PAGE),
        "a whole block needs nothing"
    );
    file.check_balance();
}

#[test]
fn a_failed_read_reports_the_devices_error_and_a_later_one_succeeds() {
    let volume = volume(12, Mode::Lazy);
    let file = volume.file::<false>(None);
    file.write(0, &pattern(4 * PAGE)).unwrap();
    make_cold(&file);
    // The read itself, and the one made alone to learn why.
    volume.device.fail_reads(2, Errno::IO);
    let mut bytes = [0; 100];
    let error = buffered_read(&*file, pos(0), &mut bytes, ReadOptions::default()).unwrap_err();
    assert!(matches!(error, FsError::Device(_)), "{error}");
    assert_eq!(read(&file, 0, 100), pattern(100));
}

#[test]
fn readahead_brings_in_more_than_is_asked_for_and_the_marker_keeps_it_going() {
    let volume = volume(12, Mode::Lazy);
    let file = volume.file::<false>(None);
    let bytes = pattern(2 << 20);
    file.write(0, &bytes).unwrap();
    make_cold(&file);
    let before = file.inode().counters().snapshot();
    let readahead = Readahead::new();
    let options = ReadOptions {
        readahead: Some(&readahead),
        ..ReadOptions::default()
    };
    let mut page = vec![0; PAGE as usize];
    for n in 0..512 {
        assert_eq!(
            buffered_read(&*file, pos(n * PAGE), &mut page, options),
            Ok(PAGE as usize)
        );
        assert_eq!(
            page,
            bytes[(n * PAGE) as usize..][..PAGE as usize],
            "page {n}"
        );
    }
    let counts = file.inode().counters().snapshot().since(&before);
    assert!(counts.cache_misses <= 2, "{counts:?}");
    assert!(counts.readahead_pages >= 490, "{counts:?}");
}

#[test]
fn a_dontcache_read_leaves_nothing_behind_but_what_was_there() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &pattern(64 * K)).unwrap();
    make_cold(&file);
    read(&file, 0, PAGE);
    let mut bytes = vec![0; 64 * K as usize];
    let once = ReadOptions {
        dontcache: true,
        ..ReadOptions::default()
    };
    let n = buffered_read(&*file, pos(0), &mut bytes, once);
    assert_eq!((n, &bytes), (Ok(64 * K as usize), &pattern(64 * K)));
    assert_eq!(file.inode().cache().nr_pages(), 1);
}

#[test]
fn a_folio_filled_in_part_by_a_write_is_completed_by_a_read_without_losing_the_write() {
    // Blocks of 1 KiB in one page: block 1 dirty, the others on the device.
    let file = volume(10, Mode::Lazy).file::<false>(None);
    file.write(0, &[7; 4_096]).unwrap();
    make_cold(&file);
    file.write(1_024, &[9; 1_024]).unwrap();
    assert_eq!(
        read(&file, 1_024, 1_024),
        [9; 1_024],
        "answered from the dirty block"
    );
    let bytes = read(&file, 0, PAGE);
    assert!(
        bytes[..1_024]
            .iter()
            .chain(&bytes[2_048..])
            .all(|b| *b == 7)
    );
    assert_eq!(bytes[1_024..2_048], [9; 1_024]);
}

#[test]
fn the_size_covers_new_bytes_before_their_folio_is_unlocked() {
    // Rule F6: writeback that runs as soon as the folio is unlocked finds the bytes inside.
    let volume = volume(12, Mode::Lazy);
    let file = volume.file::<false>(None);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..400_u64 {
                file.write(n * 1_000, &[n as u8 | 1; 1_000]).unwrap();
            }
        });
        while !writer.is_finished() {
            fsync::fsync(&*file, FileRange::ALL, false).unwrap();
        }
    });
    make_cold(&file);
    let bytes = read(&file, 0, 400_000);
    for (n, part) in bytes.chunks(1_000).enumerate() {
        assert!(part.iter().all(|b| *b == n as u8 | 1), "record {n}");
    }
}

#[test]
fn a_large_write_makes_large_folios() {
    let file = volume(12, Mode::Lazy).file::<false>(None);
    file.write(0, &pattern(1 << 20)).unwrap();
    let get = GetFolio::default();
    let folio = file
        .inode()
        .cache()
        .get_or_create(PageIndex::ZERO, get)
        .unwrap();
    assert!(folio.order() >= 4, "order {}", folio.order());
}
