//! Direct I/O beside stores and writeback, in scheduled interleavings, on a disk that executes
//! requests in any order: nobody reads what was on the disk before (rules O1, O4, O5), and what was
//! written last is there.

#![cfg(iomap_shuttle)]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::allow_attributes,
    reason = "shared with tests that use all of it"
)]

#[path = "direct/device.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod device;
#[path = "direct/file.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod file;
#[path = "common/schedules.rs"]
mod schedules;

use std::sync::Arc;

use iomap_core::device::DeviceBuf;
use iomap_core::direct::{self, DirectFlags, DirectOutcome};
use iomap_core::ops::MapOps;
use iomap_core::sync::atomic::{AtomicBool, Ordering};
use iomap_core::sync::thread;
use iomap_core::writeback::{WritebackControl, write_pages};
use shuttle::rand::Rng;

use file::{TestFile, pos, range};
use schedules::schedules;

/// Runs `test` in `n` random schedules, and `n` of bounded depth: those hold one thread for as long
/// as another needs to run through.
fn on_a_disk(n: usize, test: impl Fn(&Arc<TestFile>) + Send + Sync + 'static) {
    let test = Arc::new(test);
    let again = Arc::clone(&test);
    shuttle::check_random(move || one_run(&*test), schedules(n));
    shuttle::check_pct(move || one_run(&*again), schedules(n), 3);
}

/// Runs `test` with a disk that takes the requests in any order.
fn one_run(test: &impl Fn(&Arc<TestFile>)) {
    let file = TestFile::new(12);
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
    file.check_balance();
}

fn read(file: &TestFile) -> Vec<u8> {
    let mut to = DeviceBuf::zeroed(4096, 4096);
    let _lock = file.inode().lock_shared();
    match direct::read(file, pos(0), &mut to, DirectFlags::empty()).unwrap() {
        DirectOutcome::Done(4096) => to.to_vec(),
        DirectOutcome::UseBuffered { done: 0 } => file.contents(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_direct_read_beside_a_store_and_its_writeback_sees_zeroes_or_the_store() {
    on_a_disk(8000, |file| {
        file.inode().set_size(pos(4096));
        let reader = {
            let file = Arc::clone(file);
            thread::spawn(move || read(&file))
        };
        file.store(0, 7);
        write_pages(&**file, &WritebackControl::sync(range(0, 4096))).unwrap();
        let bytes = reader.join().unwrap();
        assert!(
            bytes == [0; 4096] || bytes == [7; 4096],
            "somebody else's bytes: {}",
            bytes[0]
        );
        assert_eq!(read(file), [7; 4096]);
    });
}

#[test]
fn a_direct_write_beside_a_read_leaves_nothing_stale_in_the_cache() {
    on_a_disk(400, |file| {
        file.lay_out(0..1, None);
        let reader = {
            let file = Arc::clone(file);
            thread::spawn(move || {
                let bytes = read(&file);
                assert!(bytes == [0; 4096] || bytes == [5; 4096], "{}", bytes[0]);
            })
        };
        let from = DeviceBuf::from_slice(&[5; 4096], 4096);
        let _all = direct::write_locked(&**file, pos(0), &from, DirectFlags::empty()).unwrap();
        reader.join().unwrap();
        assert_eq!(file.contents(), [5; 4096]);
    });
}

#[test]
fn two_halves_of_one_unwritten_block_both_arrive() {
    on_a_disk(400, |file| {
        file.lay_out(0..1, None);
        let writers: Vec<_> = [(0, 5), (2048, 6)]
            .map(|(at, byte)| {
                let file = Arc::clone(file);
                thread::spawn(move || {
                    let from = DeviceBuf::from_slice(&[byte; 2048], 4096);
                    let flags = DirectFlags::empty();
                    let _all = direct::write_locked(&*file, pos(at), &from, flags).unwrap();
                })
            })
            .into();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(file.contents(), [[5; 2048], [6; 2048]].concat());
    });
}

#[test]
fn a_ticket_ends_whoever_asks_first() {
    on_a_disk(400, |file| {
        file.lay_out(0..2, Some(1));
        let start = |at, byte| {
            let _lock = file.inode().lock_shared();
            let from = DeviceBuf::from_slice(&[byte; 4096], 4096);
            direct::submit_write(Arc::clone(file), pos(at), from, DirectFlags::empty())
        };
        let (asked, dropped) = (start(0, 2), start(4096, 3));
        drop(dropped);
        let waiter = thread::spawn(move || asked.wait().outcome.unwrap());
        let lock = file.inode().lock_exclusive();
        file.inode().wait_for_direct(&lock);
        drop(lock);
        let _all = waiter.join().unwrap();
        assert_eq!(file.contents(), [[2; 4096], [3; 4096]].concat());
    });
}
