//! The inode lock of direct writes.

use std::sync::Arc;

use iomap_core::direct::{self, DirectFlags, DirectOutcome, WriteLock};
use iomap_core::error::FsError;
use iomap_core::ops::MapOps;

use crate::file::{Block, TestFile, range};
use crate::{memory, write};

const NONE: DirectFlags = DirectFlags::empty();

#[test]
fn overwrites_share_the_lock() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.lay_out(2..4, None);
    let lock = |start, end| direct::lock_for_write(&*file, range(start, end), NONE).unwrap();
    assert!(matches!(lock(0, 8192), WriteLock::Shared(_)));
    assert!(matches!(lock(512, 1024), WriteLock::Shared(_)));
    assert!(matches!(lock(4096, 12288), WriteLock::Shared(_)));
    assert!(matches!(
        lock(8704, 9216),
        WriteLock::Exclusive {
            force_wait: true,
            ..
        }
    ));
    assert!(matches!(
        lock(12288, 20480),
        WriteLock::Exclusive {
            force_wait: true,
            ..
        }
    ));
    file.inode().set_size(crate::pos(1 << 16));
    assert!(matches!(
        lock(16384, 20480),
        WriteLock::Exclusive {
            force_wait: false,
            ..
        }
    ));
    let nowait = DirectFlags::NOWAIT;
    let result = direct::lock_for_write(&*file, range(8704, 9216), nowait);
    assert_eq!(result.err(), Some(FsError::WouldBlock));
}

#[test]
fn after_the_change_of_the_lock_everything_is_asked_again() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    let shared = file.inode().lock_shared();
    let other = Arc::clone(&file);
    let waiter = std::thread::spawn(move || {
        let lock = direct::lock_for_write(&*other, range(512, 1024), NONE).unwrap();
        lock.flags()
    });
    // Exclusive waiters keep new sharers out: then it has let go of its shared lock.
    while file.inode().try_lock_shared().is_some() {
        std::thread::yield_now();
    }
    let Some(Block::Unwritten(at)) = file.block(0) else {
        panic!()
    };
    file.state.lock().blocks.insert(0, Block::Written(at));
    drop(shared);
    assert_eq!(waiter.join().unwrap(), NONE);
}

#[test]
fn two_writers_of_one_unwritten_block_do_not_zero_each_other() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    file.device.hold();
    let writers: Vec<_> = [(0, 5), (2048, 6)]
        .map(|(at, byte)| {
            let file = Arc::clone(&file);
            std::thread::spawn(move || write(&file, at, 2048, byte, NONE).unwrap())
        })
        .into();
    // Both are on their way before anything completes, unless one keeps the other out.
    while file.inode().try_lock_shared().is_some() && file.device.held().len() < 4 {
        std::thread::yield_now();
    }
    while !writers.iter().all(std::thread::JoinHandle::is_finished) {
        file.device.complete_where(|_| true);
        std::thread::yield_now();
    }
    for writer in writers {
        assert_eq!(writer.join().unwrap(), DirectOutcome::Done(2048));
    }
    file.device.release();
    let both = file.contents() == [[5; 2048], [6; 2048]].concat();
    assert!(both, "rule O10: one of two writers zeroed the other's half");
    file.check_balance();
}

#[test]
fn a_write_alone_waits_for_the_others() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.lay_out(1..2, None);
    file.device.hold();
    let ticket = {
        let _lock = file.inode().lock_shared();
        direct::submit_write(Arc::clone(&file), crate::pos(0), memory(4096, 3), NONE)
    };
    let nowait = DirectFlags::NOWAIT;
    let grow = direct::lock_for_write(&*file, range(4096, 16384), nowait);
    assert_eq!(grow.err(), Some(FsError::WouldBlock));
    let other = Arc::clone(&file);
    let writer = std::thread::spawn(move || write(&other, 4608, 512, 4, NONE));
    while file.inode().try_lock_shared().is_some() && file.device.held().len() == 1 {
        std::thread::yield_now();
    }
    assert_eq!(file.device.held().len(), 1);
    file.device.release();
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(writer.join().unwrap(), Ok(DirectOutcome::Done(512)));
    file.check_balance();
}
