//! Stores through memory mappings beside writeback, direct I/O, punch, truncate and reclaim, in
//! scheduled interleavings, on a disk that executes requests in any order: no store is lost, no
//! block that was freed is written, nobody reads what was on the disk before.

#![cfg(iomap_shuttle)]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::allow_attributes,
    reason = "shared with tests that use all of it"
)]

#[path = "direct/device.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod device;
#[path = "mmap/file.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod file;
#[path = "common/schedules.rs"]
mod schedules;

use std::sync::Arc;

use iomap_core::fsync;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::ops::MapOps;
use iomap_core::sync::atomic::{AtomicBool, Ordering};
use iomap_core::sync::thread;
use iomap_core::units::FileRange;
use shuttle::rand::Rng;

use file::{BOTH, Config, TestFile, pos, range};
use schedules::schedules;

/// Runs `test` in `n` random schedules and `n` of bounded depth, with and without delayed
/// allocation.
fn on_a_disk(n: usize, config: Config, size: u64, test: fn(&Arc<TestFile>)) {
    for delalloc in [true, false] {
        let config = Config { delalloc, ..config };
        shuttle::check_random(move || one_run(config, size, test), schedules(n));
        shuttle::check_pct(move || one_run(config, size, test), schedules(n), 3);
    }
}

/// Runs `test` with a disk that takes the requests in any order.
fn one_run(config: Config, size: u64, test: fn(&Arc<TestFile>)) {
    let file = TestFile::new(config, size);
    file.device.hold();
    let stop = Arc::new(AtomicBool::new(false));
    let disk = {
        let (device, stop) = (Arc::clone(&file.device), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let held = device.held();
                if let Some(last) = held.len().checked_sub(1) {
                    let chosen = held[shuttle::rand::thread_rng().gen_range(0..=last)];
                    device.complete_where(|asked| *asked == chosen);
                }
                thread::yield_now();
            }
        })
    };
    test(&file);
    stop.store(true, Ordering::Release);
    disk.join().unwrap();
    file.device.release();
    file.check();
}

fn go(
    file: &Arc<TestFile>,
    f: impl FnOnce(&Arc<TestFile>) + Send + 'static,
) -> thread::JoinHandle<()> {
    let file = Arc::clone(file);
    thread::spawn(move || f(&file))
}

fn write_and_wait(file: &TestFile) {
    fsync::write_and_wait(file, FileRange::ALL).unwrap();
}

fn byte(mapping: &SoftMapping, at: u64) -> u8 {
    let mut byte = [0xCC];
    mapping.load(pos(at), &mut byte).unwrap();
    byte[0]
}

#[test]
fn stores_beside_writeback_and_reclaim_all_arrive() {
    on_a_disk(600, Config::default(), 4096, |file| {
        let storers = [1_u8, 2].map(|n| {
            go(file, move |file| {
                let mapping = file.map(0..1, BOTH);
                for round in 0..2 {
                    let at = u64::from(n) * 100 + round;
                    mapping.store(pos(at), &[n]).unwrap();
                    assert_eq!(byte(&mapping, at), n);
                }
            })
        });
        let syncer = go(file, |file| {
            write_and_wait(file);
            file.inode().cache().drop_clean(FileRange::ALL);
            write_and_wait(file);
        });
        storers.into_iter().for_each(|t| t.join().unwrap());
        syncer.join().unwrap();
        write_and_wait(file);
        let disk = file.read_direct(0, 4096);
        assert_eq!(
            (&disk[100..102], &disk[200..202]),
            (&[1; 2][..], &[2; 2][..])
        );
    });
}

#[test]
fn a_direct_read_beside_a_store_and_its_writeback_sees_zeroes_or_the_store() {
    on_a_disk(2000, Config::default(), 4096, |file| {
        let mapping = file.map(0..1, BOTH);
        let reader = go(file, |file| {
            let bytes = file.read_direct(0, 4096);
            assert!(bytes == [0; 4096] || bytes == [7; 4096], "{}", bytes[0]);
        });
        let syncer = go(file, |file| write_and_wait(file));
        mapping.store(pos(0), &[7; 4096]).unwrap();
        write_and_wait(file);
        reader.join().unwrap();
        syncer.join().unwrap();
        assert_eq!(file.read_direct(0, 4096), [7; 4096]);
    });
}

#[test]
fn a_store_beside_a_punch_is_before_it_or_after_it() {
    let config = Config {
        bits: 10,
        ..Config::default()
    };
    on_a_disk(600, config, 4096, |file| {
        let mapping = file.map(0..1, BOTH);
        mapping.store(pos(0), &[1; 4096]).unwrap();
        let puncher = go(file, |file| file.punch(range(1024, 2048)).unwrap());
        let syncer = go(file, |file| write_and_wait(file));
        mapping.store(pos(1500), b"x").unwrap();
        mapping.store(pos(2500), b"y").unwrap();
        puncher.join().unwrap();
        syncer.join().unwrap();
        write_and_wait(file);
        let (disk, seen) = (file.read_direct(0, 4096), byte(&mapping, 1500));
        assert!(
            seen == 0 || seen == b'x',
            "the punch was neither before nor after: {seen}"
        );
        assert_eq!((disk[1500], disk[2500], disk[0]), (seen, b'y', 1));
        assert!(disk[1024..1500].iter().all(|b| *b == 0));
    });
}

#[test]
fn a_store_into_the_bytes_a_file_has_grown_by_is_kept() {
    let config = Config {
        bits: 10,
        ..Config::default()
    };
    on_a_disk(600, config, 1500, |file| {
        let grower = go(file, |file| {
            let mapping = file.map(0..1, BOTH);
            file.truncate(4096).unwrap();
            mapping.store(pos(3500), b"x").unwrap();
        });
        let storer = go(file, |file| {
            let mapping = file.map(0..1, BOTH);
            mapping.store(pos(10), b"y").unwrap();
            mapping.store(pos(1400), b"z").unwrap();
        });
        let syncer = go(file, |file| write_and_wait(file));
        for thread in [grower, storer, syncer] {
            thread.join().unwrap();
        }
        write_and_wait(file);
        let disk = file.read_direct(0, 4096);
        assert_eq!((disk[10], disk[1400], disk[3500]), (b'y', b'z', b'x'));
        assert!(disk[1500..3500].iter().all(|b| *b == 0));
    });
}

#[test]
fn a_truncate_beside_stores_leaves_no_page_behind_the_end() {
    on_a_disk(600, Config::default(), 3 * 4096, |file| {
        let storer = go(file, |file| {
            let mapping = file.map(0..3, BOTH);
            for at in [2 * 4096, 4096 + 100, 2 * 4096 + 5] {
                // A signal once the file is too short.
                let _signal = mapping.store(pos(at), b"x");
            }
        });
        let syncer = go(file, |file| write_and_wait(file));
        file.truncate(4096 + 50).unwrap();
        let mapping = file.map(0..3, BOTH);
        assert!(mapping.load(pos(2 * 4096), &mut [0]).is_err());
        storer.join().unwrap();
        syncer.join().unwrap();
        file.truncate(3 * 4096).unwrap();
        let mut tail = vec![0xCC; 2 * 4096 - 50];
        mapping.load(pos(4096 + 50), &mut tail).unwrap();
        assert!(
            tail.iter().all(|b| *b == 0),
            "a byte from behind the end came back"
        );
        write_and_wait(file);
    });
}

#[test]
fn a_file_larger_than_memory_is_stored_to_page_by_page() {
    let config = Config {
        budget: 4,
        ..Config::default()
    };
    on_a_disk(150, config, 6 * 4096, |file| {
        let storers = [1_u8, 2].map(|n| {
            go(file, move |file| {
                let mapping = file.map(0..6, BOTH);
                for page in 0..6 {
                    // Nobody writes in the background here: who runs out of memory writes.
                    while mapping
                        .store(pos(page * 4096 + u64::from(n)), &[n])
                        .is_err()
                    {
                        write_and_wait(file);
                    }
                }
            })
        });
        storers.into_iter().for_each(|t| t.join().unwrap());
        write_and_wait(file);
        let disk = file.read_direct(0, 6 * 4096);
        for page in 0..6 {
            assert_eq!(
                disk[page * 4096 + 1..page * 4096 + 3],
                [1, 2],
                "page {page}"
            );
        }
    });
}
