//! Two threads: a store through a mapping beside direct I/O and writeback, in the two schedules of
//! the direct I/O discussion (races A and B, rules O1 to O4).

use std::sync::Arc;

use iomap_core::device::BioOp;
use iomap_core::mmap::Access;
use iomap_core::ops::{MapFlags, MapOps};
use iomap_core::sync::atomic::{AtomicU32, Ordering};
use iomap_core::writeback::{WritebackControl, write_pages};

use crate::file::{BOTH, Block, Config, TestFile, page, pos, range};

const NOT_ASKED: u32 = 2;

/// Records whether the next write faults are told of direct I/O.
fn told(file: &TestFile) -> Arc<AtomicU32> {
    let told = Arc::new(AtomicU32::new(NOT_ASKED));
    let in_fault = Arc::clone(&told);
    file.hooks.lock().fault = Some(Box::new(move |req| {
        let busy = req.flags.contains(MapFlags::DIRECT_IN_FLIGHT);
        in_fault.store(u32::from(busy), Ordering::Relaxed);
    }));
    told
}

/// Race A. A direct read has looked at the cache and found nothing; then a store dirties the page,
/// writeback gives it a block, and the device reads before it writes.
#[test]
fn race_a_with_delayed_allocation_reads_zeroes() {
    race(true);
}

/// Race B. The same, but the fault itself allocates the block.
#[test]
fn race_b_without_delayed_allocation_reads_zeroes() {
    race(false);
}

fn race(delalloc: bool) {
    let config = Config {
        delalloc,
        ..Config::default()
    };
    let file = TestFile::new(config, 8_192);
    let mapping = file.map(0..2, BOTH);
    // The second page is dirty: the direct read waits for it, past its look at the first.
    mapping.store(pos(4_096), &[2; 4_096]).unwrap();
    let told = told(&file);
    file.device.hold();
    let reader = std::thread::spawn({
        let file = Arc::clone(&file);
        move || file.read_direct(0, 8_192)
    });
    file.device.await_held(1);
    file.device.await_waiters(1);
    let second = file.device.held()[0].addr;
    mapping.store(pos(0), &[7; 4_096]).unwrap();
    assert_eq!(
        told.load(Ordering::Relaxed),
        1,
        "the fault knows of the direct read"
    );
    write_pages(&*file, &WritebackControl::sync(range(0, 4_096))).unwrap();
    file.device.await_held(2);
    let first = file.device.held()[1].addr;
    // Everything but the write of the first page happens now.
    while !reader.is_finished() {
        file.device
            .complete_where(|asked| asked.addr == second || asked.op == BioOp::Read);
        std::thread::yield_now();
    }
    assert_eq!(reader.join().unwrap(), [[0; 4_096], [2; 4_096]].concat());
    assert!(
        matches!(file.block(0), Some(Block::Unwritten(_))),
        "converted before the data is there"
    );
    file.device.complete_where(|asked| asked.addr == first);
    file.device.release();
    file.sync();
    assert_eq!(file.read_direct(0, 4_096), [7; 4_096]);
    file.check();
}

/// The other half of both: the page is dirty first, so the direct read finds and awaits it, however
/// the block was allocated.
#[test]
fn a_direct_read_that_comes_after_the_fault_waits_for_the_page() {
    for delalloc in [true, false] {
        let config = Config {
            delalloc,
            ..Config::default()
        };
        let file = TestFile::new(config, 4_096);
        let mapping = file.map(0..1, BOTH);
        let told = told(&file);
        mapping.store(pos(0), &[7; 4_096]).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 0);
        assert_eq!(file.read_direct(0, 4_096), [7; 4_096]);
    }
}

/// The direct read begins while the fault is in the middle of allocating: the page is dirty already
/// and its folio locked, so the read waits for both (rules O3, O4).
#[test]
fn a_direct_read_in_the_middle_of_a_fault_waits_for_it() {
    let config = Config {
        delalloc: false,
        ..Config::default()
    };
    let file = TestFile::new(config, 4_096);
    let mapping = file.map(0..1, BOTH);
    mapping.fault(page(0), Access::Load).unwrap();
    let reader = Arc::new(std::sync::Mutex::new(None));
    file.hooks.lock().fault = Some(Box::new({
        let (file, reader) = (Arc::downgrade(&file), Arc::clone(&reader));
        move |_| {
            let file = file.upgrade().unwrap();
            let at_it = Arc::clone(&file);
            let thread = std::thread::spawn(move || at_it.read_direct(0, 4_096));
            // It has raised the count; what it sees of the page comes next. A reader that does not
            // wait for the folio is done, and has read the block that is being allocated.
            while !file.inode().direct().is_busy_after_fence() && !thread.is_finished() {
                std::thread::yield_now();
            }
            for _ in 0..100 {
                std::thread::yield_now();
            }
            *reader.lock().unwrap() = Some(thread);
        }
    }));
    mapping.store(pos(0), &[7; 4_096]).unwrap();
    file.hooks.lock().fault = None;
    let bytes = reader.lock().unwrap().take().unwrap().join().unwrap();
    assert_eq!(
        bytes, [7; 4_096],
        "neither old bytes nor a hole the store had left"
    );
}

/// The direct read begins between the first look of a fault at the file and its folio lock, and
/// finds the page clean; it maps when the fault has allocated (rule O4).
#[test]
fn a_direct_read_that_begins_before_the_folio_lock_of_a_fault_is_seen_by_it() {
    let config = Config {
        delalloc: false,
        ..Config::default()
    };
    let file = TestFile::new(config, 4_096);
    let mapping = file.map(0..1, BOTH);
    mapping.fault(page(0), Access::Load).unwrap();
    let (looked, allocated) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let wait_for = |flag: Arc<AtomicU32>| {
        move || {
            while flag.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
        }
    };
    file.hooks.lock().direct = Some(Box::new({
        let (looked, wait) = (Arc::clone(&looked), wait_for(Arc::clone(&allocated)));
        move |_| {
            looked.store(1, Ordering::Release);
            wait();
        }
    }));
    let reader = Arc::new(std::sync::Mutex::new(None));
    file.hooks.lock().before_lock = Some(Box::new({
        let (file, reader) = (Arc::downgrade(&file), Arc::clone(&reader));
        let wait = wait_for(Arc::clone(&looked));
        move || {
            let file = file.upgrade().unwrap();
            let thread = std::thread::spawn(move || file.read_direct(0, 4_096));
            wait();
            *reader.lock().unwrap() = Some(thread);
        }
    }));
    mapping.store(pos(0), &[7; 4_096]).unwrap();
    allocated.store(1, Ordering::Release);
    let bytes = reader.lock().unwrap().take().unwrap().join().unwrap();
    assert_eq!(bytes, [0; 4_096], "a hole at that time");
    assert!(matches!(file.block(0), Some(Block::Unwritten(_))));
}
