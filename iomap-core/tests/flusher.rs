//! The flusher: ages, limits, throttled writers, memory pressure. Time is the test's.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Mode, OrderB, Volume};
use iomap_core::error::{Errno, FsError};
use iomap_core::flusher::{self, Flusher, FlusherConfig};
use iomap_core::ops::MapOps;
use iomap_core::page_cache::GetFolio;
use iomap_core::units::{FileRange, PAGE_SIZE, PageIndex};
use iomap_core::write::WriteOptions;

const PAGE: u64 = PAGE_SIZE as u64;

/// 1024 pages of cache.
fn volume() -> Arc<Volume> {
    Volume::new(32 << 20, 12, 4 << 20, Mode::Lazy)
}

fn config() -> FlusherConfig {
    FlusherConfig {
        threads: false,
        ..FlusherConfig::default()
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A flusher without threads whose clock shows the seconds of the second value.
fn by_hand(volume: &Volume, config: FlusherConfig) -> (Arc<Flusher>, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let clock = Arc::new(move || secs(clock.load(Ordering::Relaxed)));
    (Flusher::with_clock(&volume.pool, config, clock), time)
}

fn is_dirty(file: &OrderB) -> bool {
    file.inode().cache().has_dirty_or_writeback(FileRange::ALL)
}

#[test]
fn dirty_data_is_written_when_it_has_expired() {
    let volume = volume();
    let (flusher, time) = by_hand(&volume, config());
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    time.store(100, Ordering::Relaxed);
    file.write(0, &[1; 3 * PAGE_SIZE]).unwrap();
    file.write(10 * PAGE, &[1; PAGE_SIZE]).unwrap();
    assert_eq!(
        flusher.nr_listed(),
        1,
        "listed once, with its first dirty folio"
    );
    assert_eq!(flusher.run_once(secs(129)), 0);
    assert!(is_dirty(&file));
    assert!(flusher.run_once(secs(130)) >= 4);
    assert!(!is_dirty(&file), "written, and waited for");
    assert_eq!(flusher.nr_listed(), 0);
    file.write(0, &[2; PAGE_SIZE]).unwrap();
    assert_eq!(flusher.nr_listed(), 1);
}

#[test]
fn a_stream_is_written_behind_its_writer_and_other_writes_are_not() {
    const MIB: u64 = 1 << 20;
    // Below every limit: 64 MiB of cache, and nothing expires.
    let volume = Volume::new(64 << 20, 12, 64 << 20, Mode::Lazy);
    let lax = FlusherConfig {
        background_percent: 95,
        limit_percent: 98,
        ..config()
    };
    let (flusher, time) = by_hand(&volume, lax);
    time.store(100, Ordering::Relaxed);
    let stream: Arc<OrderB> = volume.file(Some(&flusher));
    let random: Arc<OrderB> = volume.file(Some(&flusher));
    let chunk = vec![7; MIB as usize];
    for n in 0..11 {
        stream.write(n * MIB, &chunk).unwrap();
        // From the end to the start.
        random.write((10 - n) * MIB, &chunk).unwrap();
    }
    flusher.run_once(secs(101));
    let dirty = |file: &OrderB, start, end| {
        let bytes = |mib: u64| iomap_core::units::FilePos::new(mib * MIB).unwrap();
        let range = FileRange::between(bytes(start), bytes(end));
        file.inode().cache().has_dirty_or_writeback(range)
    };
    assert!(!dirty(&stream, 0, 8), "what lies behind the stream");
    assert!(dirty(&stream, 8, 11), "what it may still be filling");
    assert_eq!(random.inode().cache().nr_dirty(), 11 * MIB / PAGE);
    assert_eq!(flusher.nr_listed(), 2, "the rest has its age as before");
}

#[test]
fn a_stream_waits_for_its_age_where_write_behind_is_off() {
    let volume = Volume::new(64 << 20, 12, 64 << 20, Mode::Lazy);
    let lax = FlusherConfig {
        background_percent: 95,
        limit_percent: 98,
        write_behind: false,
        ..config()
    };
    let (flusher, time) = by_hand(&volume, lax);
    time.store(100, Ordering::Relaxed);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &vec![7; 9 << 20]).unwrap();
    assert_eq!(flusher.run_once(secs(101)), 0);
    assert_eq!(file.inode().cache().nr_dirty(), (9 << 20) / PAGE);
}

#[test]
fn above_the_background_limit_the_oldest_inode_is_written_first_and_no_more_than_needed() {
    let volume = volume();
    let (flusher, time) = by_hand(&volume, config());
    let old: Arc<OrderB> = volume.file(Some(&flusher));
    let young: Arc<OrderB> = volume.file(Some(&flusher));
    old.write(0, &[1; 150 * PAGE_SIZE]).unwrap();
    time.store(1, Ordering::Relaxed);
    young.write(0, &[1; 150 * PAGE_SIZE]).unwrap();
    assert!(volume.pool.nr_dirty() > 1024 * 20 / 100);
    flusher.run_once(secs(2));
    assert!(!is_dirty(&old));
    assert!(is_dirty(&young));
    assert_eq!(flusher.run_once(secs(2)), 0, "below the limit, not expired");
}

#[test]
fn an_inode_dirtied_while_it_is_written_stays_on_the_list() {
    let volume = volume();
    let (flusher, _time) = by_hand(&volume, config());
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.write(100 * PAGE, &[1; PAGE_SIZE]).unwrap();
    let weak = Arc::downgrade(&file);
    *file.on_map.lock() = Some(Box::new(move |req| {
        if req.range.start().bytes() == 100 * PAGE {
            // Behind the walk.
            let file = weak.upgrade().unwrap();
            let cache = file.inode().cache();
            cache
                .try_lock(&cache.find(PageIndex::ZERO).unwrap())
                .unwrap()
                .set_dirty();
        }
    }));
    flusher.run_once(secs(30));
    *file.on_map.lock() = None;
    assert!(file.inode().cache().has_dirty(FileRange::ALL));
    assert_eq!(flusher.nr_listed(), 1);
    flusher.run_once(secs(60));
    assert!(!is_dirty(&file));
    assert_eq!(flusher.nr_listed(), 0);
}

#[test]
fn an_inode_that_could_not_be_written_stays_on_the_list() {
    let volume = volume();
    let (flusher, _time) = by_hand(&volume, config());
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    file.fail_prepare(0, Errno::NOMEM);
    assert_eq!(flusher.run_once(secs(30)), 0);
    assert!(is_dirty(&file));
    assert_eq!(flusher.nr_listed(), 1);
    flusher.run_once(secs(60));
    assert!(!is_dirty(&file));
}

#[test]
fn an_inode_is_listed_once_however_often_it_turns_dirty() {
    let volume = volume();
    let (flusher, _time) = by_hand(&volume, config());
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    for _ in 0..3 {
        file.write(0, &[1; PAGE_SIZE]).unwrap();
        iomap_core::fsync::fsync(&*file, FileRange::ALL, true).unwrap();
    }
    assert_eq!(flusher.nr_listed(), 1);
}

#[test]
fn above_the_hard_limit_a_writer_makes_room_itself() {
    let volume = volume();
    let tight = FlusherConfig {
        background_percent: 5,
        limit_percent: 10,
        ..config()
    };
    let (flusher, _time) = by_hand(&volume, tight);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    // Without work for the backend: nobody runs the worker while the writer waits.
    file.truncate(60 * 20 * PAGE).unwrap();
    file.unwritten.store(false, Ordering::Relaxed);
    // 20 pages at a time: no write passes the limit by itself.
    for n in 0..60 {
        file.write(n * 20 * PAGE, &[n as u8; 20 * PAGE_SIZE])
            .unwrap();
        assert!(
            volume.pool.nr_dirty() <= 1024 / 10 + 20 + 16,
            "{}",
            volume.pool.nr_dirty()
        );
    }
    assert!(file.inode().counters().snapshot().throttled > 0);
}

#[test]
fn above_the_hard_limit_a_writer_that_must_not_wait_is_refused() {
    let volume = volume();
    let tight = FlusherConfig {
        background_percent: 1,
        limit_percent: 2,
        ..config()
    };
    let (flusher, _time) = by_hand(&volume, tight);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    // One folio: the limit is passed in one step.
    file.write(0, &[1; 32 * PAGE_SIZE]).unwrap();
    let nowait = WriteOptions {
        nowait: true,
        ..WriteOptions::default()
    };
    assert_eq!(
        file.write_with(0, &[1; 10], nowait),
        Err(FsError::WouldBlock)
    );
    flusher.run_once(secs(0));
    assert_eq!(file.write_with(0, &[1; 10], nowait), Ok(10));
    file.check_balance();
}

#[test]
#[should_panic(expected = "dirty throttling may wait for TransactionBeforeFolio")]
fn a_writer_is_never_held_up_with_a_folio_locked() {
    let volume = volume();
    let file: Arc<OrderB> = volume.file(None);
    let folio = file
        .inode()
        .cache()
        .get_or_create(PageIndex::ZERO, GetFolio::default())
        .unwrap();
    let _result = flusher::balance_dirty_pages(file.inode(), false);
    drop(folio);
}

#[test]
fn more_than_fits_into_the_cache_can_be_written() {
    let volume = volume();
    let flusher = Flusher::new(&volume.pool, FlusherConfig::default());
    let files: Vec<Arc<OrderB>> = (0..2).map(|_| volume.file(Some(&flusher))).collect();
    for n in 0..160u64 {
        let file = &files[n as usize % 2];
        file.write(n / 2 * 16 * PAGE, &[n as u8; 16 * PAGE_SIZE])
            .unwrap();
    }
    for (id, file) in files.iter().enumerate() {
        iomap_core::fsync::fsync(&**file, FileRange::ALL, false).unwrap();
        let disk = file.on_disk(80 * 16 * PAGE);
        for (n, chunk) in disk.chunks(16 * PAGE_SIZE).enumerate() {
            assert!(
                chunk.iter().all(|&byte| byte == (2 * n + id) as u8),
                "chunk {n}"
            );
        }
    }
}

#[test]
fn reclaim_that_finds_only_dirty_folios_gets_them_written() {
    let volume = volume();
    // No limit on what may be dirty: only the end of memory makes the flusher write.
    let lax = FlusherConfig {
        background_percent: 100,
        limit_percent: 100,
        ..FlusherConfig::default()
    };
    let flusher = Flusher::new(&volume.pool, lax);
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    for n in 0..100u64 {
        file.write(n * 16 * PAGE, &[n as u8; 16 * PAGE_SIZE])
            .unwrap();
    }
    iomap_core::fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    let disk = file.on_disk(100 * 16 * PAGE);
    assert!(
        disk.chunks(16 * PAGE_SIZE)
            .enumerate()
            .all(|(n, c)| c.iter().all(|&b| b == n as u8))
    );
}

#[test]
fn dropping_a_flusher_ends_its_threads() {
    let volume = volume();
    let flusher = Flusher::new(&volume.pool, FlusherConfig::default());
    let file: Arc<OrderB> = volume.file(Some(&flusher));
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    iomap_core::fsync::fsync(&*file, FileRange::ALL, false).unwrap();
    file.write(0, &[1; PAGE_SIZE]).unwrap();
    drop(flusher);
    drop(file);
    assert_eq!(
        volume.pool.nr_dirty(),
        0,
        "what nobody wrote went with the cache"
    );
}
