//! Writers, syncs, truncates, reclaim and the flusher's threads against each other, in scheduled
//! interleavings.

#![cfg(iomap_shuttle)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/schedules.rs"]
mod schedules;

use std::sync::Arc;
use std::time::Duration;

use common::{Mode, OrderB, Volume};
use iomap_core::device::BlockDevice;
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::fsync;
use iomap_core::ops::MapOps;
use iomap_core::sync::atomic::{AtomicBool, Ordering};
use iomap_core::sync::thread;
use iomap_core::units::{FileRange, PageIndex};
use schedules::check;
use shuttle::rand::Rng;

const BLOCK: usize = 1024;

fn volume() -> Arc<Volume> {
    Volume::new(256 * BLOCK as u64, 10, 64 * BLOCK as u64, Mode::Lazy)
}

fn with_threads(volume: &Volume) -> Arc<Flusher> {
    Flusher::new(&volume.pool, FlusherConfig::default())
}

/// A thread of the test.
fn go(f: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(f)
}

/// The end of a test: nothing is lost, nothing hangs over.
fn settle(file: &OrderB) {
    fsync::fsync(file, FileRange::ALL, false).unwrap();
    assert_eq!(file.on_disk(file.inode().size().bytes()), file.contents());
    file.check_balance();
    let stats = file.volume.pool.stats();
    assert_eq!((stats.nr_dirty, stats.nr_writeback), (0, 0));
}

#[test]
fn what_was_written_before_fsync_is_on_disk_after_it() {
    check(|| {
        let volume = volume();
        let flusher = with_threads(&volume);
        let file: Arc<OrderB> = volume.file(Some(&flusher));
        // Blocks of one folio: each sync meets the other's writeback.
        let threads: Vec<_> = (0..2u8)
            .map(|n| {
                let file = Arc::clone(&file);
                go(move || {
                    let (at, bytes) = (usize::from(n) * BLOCK, [n + 1; BLOCK]);
                    file.write(at as u64, &bytes).unwrap();
                    fsync::fsync(&*file, FileRange::ALL, true).unwrap();
                    let disk = file.on_disk((at + BLOCK) as u64);
                    assert_eq!(disk[at..], bytes, "fsync told a lie");
                    assert!(file.disk_size() >= (at + BLOCK) as u64);
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        settle(&file);
    });
}

#[test]
fn a_truncate_waits_for_the_conversion_it_overlaps() {
    check(|| {
        let volume = volume();
        let flusher = with_threads(&volume);
        let file: Arc<OrderB> = volume.file(Some(&flusher));
        file.write(0, &[1; 6 * BLOCK]).unwrap();
        let syncer = go({
            let file = Arc::clone(&file);
            move || fsync::fsync(&*file, FileRange::ALL, true).unwrap()
        });
        let truncater = go({
            let file = Arc::clone(&file);
            move || {
                file.truncate(1500).unwrap();
                assert!(file.disk_size() <= 1500);
                assert_eq!(file.block(3), None);
            }
        });
        syncer.join().unwrap();
        truncater.join().unwrap();
        file.truncate(3000).unwrap();
        let contents = file.contents();
        assert_eq!(contents[..1500], [1; 1500]);
        assert_eq!(contents[1500..], [0; 1500], "old bytes came back");
        settle(&file);
    });
}

#[test]
fn reclaim_and_writeback_between_the_folios_of_a_write_lose_nothing() {
    check(|| {
        let volume = volume();
        let flusher = with_threads(&volume);
        let file: Arc<OrderB> = volume.file(Some(&flusher));
        file.write(5 * BLOCK as u64 + 10, &[7; 20]).unwrap();
        // The mapping is reserved space; what lies under it is written, converted and reclaimed
        // before the writer gets there (rule V1).
        let writer = go({
            let file = Arc::clone(&file);
            move || assert!(file.write(0, &[1; 5 * BLOCK + 5]).is_ok())
        });
        let other = go({
            let (volume, flusher) = (Arc::clone(&volume), Arc::clone(&flusher));
            move || {
                flusher.run_once(Duration::MAX);
                volume.pool.shrink(16);
            }
        });
        writer.join().unwrap();
        other.join().unwrap();
        let contents = file.contents();
        assert_eq!(contents[..5 * BLOCK + 5], [1; 5 * BLOCK + 5]);
        assert_eq!(
            contents[5 * BLOCK + 10..],
            [7; 20],
            "durable bytes became zeroes"
        );
        settle(&file);
    });
}

#[test]
fn a_waiter_with_the_inode_lock_relies_on_the_worker() {
    check(|| {
        let volume = volume();
        let flusher = with_threads(&volume);
        let file: Arc<OrderB> = volume.file(Some(&flusher));
        for byte in 1..3 {
            file.truncate(0).unwrap();
            file.write(0, &[byte; 2 * BLOCK]).unwrap();
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let file = Arc::clone(&file);
                    go(move || {
                        let _lock = file.inode().lock_shared();
                        fsync::write_and_wait(&*file, FileRange::ALL).unwrap();
                        assert!(!file.inode().cache().has_dirty_or_writeback(FileRange::ALL));
                        assert_eq!(file.on_disk(2 * BLOCK as u64), [byte; 2 * BLOCK]);
                    })
                })
                .collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
        }
        settle(&file);
    });
}

#[test]
fn direct_io_never_meets_a_block_that_is_mapped_and_not_written() {
    check(|| {
        let volume = volume();
        let flusher = with_threads(&volume);
        let file: Arc<OrderB> = volume.file(Some(&flusher));
        file.truncate(4 * BLOCK as u64).unwrap();
        // Written blocks, unless direct I/O is in flight (race A of the direct I/O discussion).
        file.unwritten
            .store(false, std::sync::atomic::Ordering::Relaxed);
        let stored = Arc::new(AtomicBool::new(false));
        let reader = go({
            let (file, stored) = (Arc::clone(&file), Arc::clone(&stored));
            move || {
                let _lock = file.inode().lock_shared();
                let _direct = file.inode().direct().begin();
                fsync::write_and_wait(&*file, FileRange::ALL).unwrap();
                // The request is on its way for a while.
                while !stored.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                for _ in 0..shuttle::rand::thread_rng().gen_range(0..60) {
                    thread::yield_now();
                }
                let bytes = file.on_disk(4 * BLOCK as u64);
                assert!(
                    !bytes.contains(&common::file::SECRET),
                    "somebody else's bytes"
                );
            }
        });
        let mapper = go({
            let file = Arc::clone(&file);
            move || {
                file.store_fault(PageIndex::ZERO, 3);
                stored.store(true, Ordering::Release);
                flusher.run_once(Duration::MAX);
            }
        });
        reader.join().unwrap();
        mapper.join().unwrap();
        settle(&file);
    });
}

#[test]
fn the_last_user_of_a_file_system_may_be_its_worker() {
    check(|| {
        let volume = volume();
        let flusher = with_threads(&volume);
        let file: Arc<OrderB> = volume.file(Some(&flusher));
        drop(flusher);
        file.write(0, &[1; BLOCK]).unwrap();
        let control = iomap_core::writeback::WritebackControl::sync(FileRange::ALL);
        iomap_core::writeback::write_pages(&*file, &control).unwrap();
        drop(file);
        volume.device.poll();
    });
}

/// Without a flusher who writes back also ends it. The device tells of the last piece before the run
/// is queued: who looks in between finds nothing to end, and nobody else will.
#[test]
fn who_ends_its_own_writeback_does_not_look_for_it_too_early() {
    check(|| {
        let volume = volume();
        let file: Arc<OrderB> = volume.file(None);
        file.write(0, &[1; BLOCK]).unwrap();
        volume.device.set_mode(Mode::Held);
        let over = Arc::new(AtomicBool::new(false));
        let device = {
            let (volume, over) = (Arc::clone(&volume), Arc::clone(&over));
            go(move || {
                while !over.load(Ordering::Acquire) {
                    volume.device.complete_all();
                    thread::yield_now();
                }
            })
        };
        fsync::write_and_wait(&*file, FileRange::ALL).unwrap();
        over.store(true, Ordering::Release);
        device.join().unwrap();
        volume.device.set_mode(Mode::Lazy);
        settle(&file);
    });
}
