//! Direct I/O beside stores, writeback, truncation: the schedules of rules O1 to O9.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomap_core::direct::{self, DirectFlags, DirectOutcome};
use iomap_core::fsync;
use iomap_core::ops::MapOps;
use iomap_core::writeback::{WritebackControl, write_pages};

use crate::file::{Block, TestFile, range};
use crate::{memory, read, write};

const NONE: DirectFlags = DirectFlags::empty();

/// Race A: a page becomes dirty, gets its block and is being written while a direct read that found
/// the cache clean at that place has not mapped yet. The device reads before it writes.
///
/// The count was raised before the cache was looked at, so writeback allocates unwritten, and the
/// read gives zeroes, not the old bytes of the block (rule O1).
#[test]
fn a_read_never_sees_a_block_that_writeback_has_not_written_yet() {
    let file = TestFile::new(12);
    file.lay_out(1..2, Some(1));
    file.write_buffered(4096, &[2; 4096]).unwrap();
    let told_direct = Arc::new(AtomicBool::new(false));
    file.device.hold();
    let reader = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || {
            let mut to = memory(8192, 0xAA);
            let outcome = read(&file, 0, &mut to, NONE).unwrap();
            (outcome, to.to_vec())
        })
    };
    // It has looked at page 0, and waits for the writeback of page 1.
    file.device.await_held(1);
    file.device.await_waiters(1);
    let second = file.device.held()[0].addr;
    let told = Arc::clone(&told_direct);
    file.hooks.lock().map_writeback = Some(Box::new(move |req| {
        told.store(req.direct_in_flight, Ordering::Relaxed);
    }));
    file.store(0, 7);
    write_pages(&*file, &WritebackControl::sync(range(0, 4096))).unwrap();
    file.device.await_held(2);
    let first = file.device.held()[1].addr;
    assert!(
        told_direct.load(Ordering::Relaxed),
        "writeback does not know of the direct read"
    );
    // Everything but the write of page 0 happens now.
    while !reader.is_finished() {
        file.device.complete_where(|asked| {
            asked.addr == second || asked.op == iomap_core::device::BioOp::Read
        });
        std::thread::yield_now();
    }
    let (outcome, bytes) = reader.join().unwrap();
    assert_eq!(outcome, DirectOutcome::Done(8192));
    assert_eq!(bytes, [[0; 4096], [2; 4096]].concat());
    assert!(matches!(file.block(0), Some(Block::Unwritten(_))));
    file.device.complete_where(|asked| asked.addr == first);
    file.device.release();
    fsync::write_and_wait(&*file, range(0, 8192)).unwrap();
    assert_eq!(file.contents(), [[7; 4096], [2; 4096]].concat());
    file.check_balance();
}

/// The same for the half of the schedule in which writeback is there first: then direct I/O waits
/// for it.
#[test]
fn a_read_waits_for_writeback_that_was_there_first() {
    let file = TestFile::new(12);
    file.inode().set_size(crate::pos(4096));
    file.store(0, 7);
    file.device.hold();
    write_pages(&*file, &WritebackControl::sync(range(0, 4096))).unwrap();
    file.device.await_held(1);
    assert!(matches!(file.block(0), Some(Block::Written(_))));
    let reader = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || {
            let mut to = memory(4096, 0xAA);
            let _outcome = read(&file, 0, &mut to, NONE).unwrap();
            to.to_vec()
        })
    };
    file.device.await_waiters(1);
    assert_eq!(
        file.device.held().len(),
        1,
        "nothing is read before the page is written"
    );
    file.device.release();
    assert_eq!(reader.join().unwrap(), [7; 4096]);
}

/// A failed write of unwritten blocks leaves them unwritten, and so does one that is still on its
/// way (rule O5).
#[test]
fn blocks_are_converted_after_the_data_is_on_the_device() {
    let file = TestFile::new(12);
    file.lay_out(0..2, None);
    file.device.hold();
    let ticket = {
        let _lock = file.inode().lock_shared();
        direct::submit_write(Arc::clone(&file), crate::pos(0), memory(8192, 3), NONE)
    };
    assert!(matches!(file.block(0), Some(Block::Unwritten(_))));
    assert!(file.state.lock().done.is_empty());
    file.device.release();
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(8192)));
    assert_eq!(file.contents(), [3; 8192]);
}

/// Truncation frees blocks only when no direct write is on its way to them (rule O6).
#[test]
fn who_frees_blocks_waits_for_the_count() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.device.hold();
    let ticket = {
        let _lock = file.inode().lock_shared();
        direct::submit_write(Arc::clone(&file), crate::pos(0), memory(8192, 3), NONE)
    };
    let freed = Arc::new(AtomicBool::new(false));
    let (other, flag) = (Arc::clone(&file), Arc::clone(&freed));
    let truncating = std::thread::spawn(move || {
        let lock = other.inode().lock_exclusive();
        other.inode().wait_for_direct(&lock);
        flag.store(true, Ordering::Release);
    });
    while file.inode().try_lock_shared().is_some() {
        std::thread::yield_now();
    }
    assert!(!freed.load(Ordering::Acquire));
    // Nobody asks for the ticket.
    file.device.release();
    truncating.join().unwrap();
    drop(ticket);
    assert_eq!(file.state.lock().done.len(), 1);
}

/// A writer that falls back does so without its own count: a drain with the lock held ends at once
/// (rules O9, B62).
#[test]
fn who_falls_back_is_not_in_flight() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    let lock = file.inode().lock_exclusive();
    let written = direct::write(&*file, crate::pos(100), &memory(512, 3), NONE).unwrap();
    assert_eq!(written.outcome, DirectOutcome::UseBuffered { done: 0 });
    file.inode().wait_for_direct(&lock);
}

/// Direct and buffered writers of one file, each block written by one of them at a time: what was
/// written last is there.
#[test]
fn mixed_writers_agree() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bits = random.u32(9..=14);
        let file = TestFile::new(bits);
        file.state.lock().longest = random.u64(1..6);
        file.state.lock().allocate_written = random.bool();
        let mut model: Vec<u8> = Vec::new();
        for step in 1..40u8 {
            let at = random.u64(0..64) * 512;
            let len = random.usize(1..20) * 512;
            let end = at as usize + len;
            match random.u8(0..6) {
                0 | 1 => {
                    if at as usize > model.len() {
                        continue;
                    }
                    let outcome = write(&file, at, len, step, NONE).unwrap();
                    assert_eq!(outcome, DirectOutcome::Done(len as u64));
                }
                2 | 3 => {
                    if at as usize > model.len() {
                        continue;
                    }
                    file.write_buffered(at, &vec![step; len]).unwrap();
                }
                4 => {
                    let mut to = memory(len, 0);
                    let done = model.len().saturating_sub(at as usize).min(len);
                    let outcome = read(&file, at, &mut to, NONE).unwrap();
                    assert_eq!(outcome, DirectOutcome::Done(done as u64));
                    let wanted = &model[(at as usize).min(model.len())..];
                    assert_eq!(to[..done], wanted[..done], "seed {seed} step {step}");
                    continue;
                }
                _ => {
                    file.sync_data();
                    continue;
                }
            }
            if end > model.len() {
                model.resize(end, 0);
            }
            model[at as usize..end].fill(step);
            assert!(
                file.contents() == model,
                "seed {seed} step {step} block {}",
                1 << bits
            );
        }
        file.check_balance();
    }
}
