//! Errors at every step: what is returned, what is told to the backend, what is left behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use iomap_core::device::Limits;
use iomap_core::direct::{DirectFlags, DirectOutcome};
use iomap_core::error::{Errno, FsError};
use iomap_core::folio::LockedFolio;
use iomap_core::ops::{DirectKinds, Intent, MapError, MapOps};
use iomap_core::page_cache::CacheOwner;
use iomap_core::units::{FileRange, PageIndex};

use crate::device::SECRET;
use crate::file::{Block, LIMITS, TestFile};
use crate::{memory, read, write, write_all, write_exclusive};

const NONE: DirectFlags = DirectFlags::empty();

/// Fails the request number `at` and counts them.
fn fail_nth(file: &TestFile, at: usize) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    file.device
        .set_fault(move |_| (counter.fetch_add(1, Ordering::Relaxed) == at).then_some(Errno::IO));
    seen
}

/// A file with every kind of block, dirty pages over some of them.
fn mixed(bits: u32, written: bool) -> Arc<TestFile> {
    let limits = Limits {
        max_transfer: 2048,
        ..LIMITS
    };
    let file = TestFile::with(bits, limits, None);
    file.lay_out(0..3, Some(1));
    file.lay_out(3..5, None);
    file.lay_out(8..10, Some(1));
    file.state.lock().allocate_written = written;
    file.write_buffered(2 << bits, &vec![3; 2 << bits]).unwrap();
    file
}

#[test]
fn no_failing_request_leaks_the_count_or_old_bytes() {
    for bits in [12, 14] {
        for (reads, flags) in [(true, NONE), (false, NONE), (false, DirectFlags::DSYNC)] {
            for at in 0.. {
                let file = mixed(bits, false);
                let seen = fail_nth(&file, at);
                let len = (9 << bits) - 512;
                if reads {
                    let mut to = memory(len, 0);
                    let _either = read(&file, 512, &mut to, NONE);
                    assert!(!to.contains(&SECRET), "{bits} {at}");
                } else {
                    let _either = write(&file, 512, len, 5, flags);
                }
                file.device.clear_fault();
                file.check_balance();
                assert!(
                    !file.contents().contains(&SECRET),
                    "{bits} {reads} {flags:?} {at}"
                );
                if seen.load(Ordering::Relaxed) <= at {
                    break;
                }
            }
        }
    }
}

#[test]
fn no_failing_mapping_leaks_the_count() {
    for reads in [true, false] {
        for errno in [Errno::IO, Errno::NOSPC] {
            for at in 0.. {
                let file = mixed(12, false);
                let seen = Arc::new(AtomicUsize::new(0));
                let counter = Arc::clone(&seen);
                file.hooks.lock().begin = Some(Box::new(move |_| {
                    if counter.fetch_add(1, Ordering::Relaxed) == at {
                        return Err(FsError::from(errno).into());
                    }
                    Ok(())
                }));
                let result = if reads {
                    read(&file, 0, &mut memory(10 << 12, 0), NONE)
                } else {
                    write(&file, 0, 10 << 12, 5, NONE)
                };
                file.check_balance();
                assert!(!file.contents().contains(&SECRET));
                if seen.load(Ordering::Relaxed) <= at {
                    assert_eq!(result.unwrap(), DirectOutcome::Done(10 << 12));
                    break;
                }
                match result {
                    Ok(DirectOutcome::Done(done)) => assert!(done > 0 && done < 10 << 12),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => assert_eq!(error.errno(), errno),
                }
            }
        }
    }
}

#[test]
fn bytes_before_the_first_lost_one_count() {
    let file = TestFile::new(12);
    file.lay_out(0..4, Some(1));
    file.state.lock().longest = 1;
    file.device.hold();
    let writer = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || write(&file, 0, 4 * 4096, 2, NONE))
    };
    file.device.await_held(4);
    fail_nth(&file, 2);
    file.device.release();
    assert_eq!(writer.join().unwrap().unwrap(), DirectOutcome::Done(8192));
    assert_eq!(file.state.lock().done, [(8192, DirectKinds::empty())]);
    file.check_balance();
}

#[test]
fn the_lowest_failure_decides_whatever_fails_first() {
    let file = TestFile::new(12);
    file.lay_out(0..4, Some(1));
    file.state.lock().longest = 1;
    file.device.hold();
    let writer = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || write(&file, 0, 4 * 4096, 2, NONE))
    };
    file.device.await_held(4);
    file.device.set_fault(|_| Some(Errno::IO));
    let first = file.device.held()[0].addr;
    file.device
        .complete_where(|asked| asked.addr == first + 3 * 4096);
    file.device
        .complete_where(|asked| asked.addr == first + 4096);
    file.device.clear_fault();
    file.device.release();
    assert_eq!(writer.join().unwrap().unwrap(), DirectOutcome::Done(4096));
}

#[test]
fn a_failed_request_stops_the_rest() {
    let file = TestFile::new(12);
    file.lay_out(0..8, Some(1));
    file.state.lock().longest = 1;
    fail_nth(&file, 2);
    assert_eq!(
        write(&file, 0, 8 << 12, 2, NONE).unwrap(),
        DirectOutcome::Done(8192)
    );
    let asked = file.device.take_asked().len();
    assert_eq!(asked, 3, "rule B55: requests after one that failed");
    assert_eq!(file.counts().mappings, 3);
    let file = TestFile::new(12);
    file.lay_out(0..8, Some(1));
    fail_nth(&file, 0);
    assert_eq!(
        write(&file, 0, 8 << 12, 2, NONE).unwrap_err().errno(),
        Errno::IO
    );
    assert_eq!(file.state.lock().done, [(0, DirectKinds::empty())]);
}

#[test]
fn a_block_that_was_written_in_part_is_not_converted() {
    let file = TestFile::with(
        14,
        Limits {
            max_transfer: 4096,
            ..LIMITS
        },
        None,
    );
    file.lay_out(0..2, None);
    fail_nth(&file, 6);
    // The first block is whole; the second lost its third quarter.
    let outcome = write(&file, 0, 2 << 14, 2, NONE).unwrap();
    assert_eq!(outcome, DirectOutcome::Done(1 << 14));
    assert!(matches!(file.block(0), Some(Block::Written(_))));
    assert!(matches!(file.block(1), Some(Block::Unwritten(_))));
    assert_eq!(file.contents()[1 << 14..], [0; 1 << 14]);
}

#[test]
fn the_rest_of_a_new_block_is_zeroed_after_an_error_too() {
    let file = TestFile::with(
        14,
        Limits {
            max_transfer: 4096,
            ..LIMITS
        },
        None,
    );
    file.state.lock().allocate_written = true;
    fail_nth(&file, 1);
    let _lost = write(&file, 0, 1 << 14, 2, NONE).unwrap_err();
    let zeroed: u64 = file.device.take_asked()[2..]
        .iter()
        .map(|asked| asked.len)
        .sum();
    assert_eq!(zeroed, 8192, "rule B56: the rest of the block");
    let Some(Block::Written(at)) = file.block(0).or(Some(Block::Written(1))) else {
        panic!()
    };
    assert_eq!(file.device.bytes((at << 14) + 8192, 8192), [0; 8192]);
}

#[test]
fn what_the_backend_says_at_the_end_is_the_result() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    file.cache_page(0, 0);
    file.hooks.lock().done = Some(Box::new(|_| Err(FsError::NoSpace)));
    let error = write(&file, 0, 4096, 2, DirectFlags::DSYNC).unwrap_err();
    assert_eq!(error, FsError::NoSpace);
    assert!(matches!(file.block(0), Some(Block::Unwritten(_))));
    assert!(file.state.lock().syncs.is_empty());
    file.check_balance();
}

#[test]
fn the_backend_can_send_the_rest_through_the_cache() {
    let file = TestFile::new(12);
    file.lay_out(0..4, Some(1));
    file.state.lock().longest = 1;
    file.hooks.lock().begin = Some(Box::new(|req| {
        if req.intent == Intent::Write && req.range.start().bytes() >= 8192 {
            return Err(MapError::UseBuffered);
        }
        Ok(())
    }));
    let outcome = write(&file, 0, 4 << 12, 2, DirectFlags::DSYNC).unwrap();
    assert_eq!(outcome, DirectOutcome::UseBuffered { done: 8192 });
    assert!(file.state.lock().syncs.is_empty());
    file.check_balance();
    assert_eq!(file.counts().direct_fallbacks, 1);
}

#[test]
fn a_page_that_cannot_be_written_back_sends_a_write_through_the_cache() {
    for (flags, wanted) in [(NONE, None), (DirectFlags::ATOMIC, Some(Errno::AGAIN))] {
        let limits = Limits {
            atomic_write: (512, 16384),
            ..LIMITS
        };
        let file = TestFile::with(12, limits, None);
        file.lay_out(0..1, Some(1));
        file.write_buffered(0, &[2; 4096]).unwrap();
        fail_nth(&file, 0);
        let result = write(&file, 0, 4096, 3, flags);
        match wanted {
            None => assert_eq!(result.unwrap(), DirectOutcome::UseBuffered { done: 0 }),
            Some(errno) => assert_eq!(result.unwrap_err().errno(), errno),
        }
        assert_eq!(file.counts().direct_invalidate_failures, 1);
        file.check_balance();
    }
}

/// The owner of the cache does not let go of a page.
struct Keeps;

impl CacheOwner for Keeps {
    fn release_folio(&self, _folio: &mut LockedFolio) -> bool {
        false
    }

    fn write_dirty(&self, _range: FileRange, _nr: usize) -> Result<usize, FsError> {
        Ok(0)
    }
}

#[test]
fn a_page_that_its_owner_keeps_sends_a_write_through_the_cache() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.cache_page(1, 1);
    let owner = Arc::new(Keeps);
    let cache = file.inode().cache();
    cache.set_owner(Arc::downgrade(&owner) as Weak<dyn CacheOwner>);
    let folio = cache.find(PageIndex::new(1)).unwrap();
    cache.lock(&folio).unwrap().set_private(Box::new("kept"));
    drop(folio);
    let result = write(&file, 0, 8192, 3, NONE);
    assert_eq!(result, Ok(DirectOutcome::UseBuffered { done: 0 }));
    assert_eq!(file.counts().direct_invalidate_failures, 1);
    assert_eq!(
        file.contents(),
        [1; 8192],
        "written beside a page that stays"
    );
    file.check_balance();
}

#[test]
fn a_page_that_cannot_be_written_back_fails_a_read() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.write_buffered(0, &[2; 4096]).unwrap();
    fail_nth(&file, 0);
    assert_eq!(
        read(&file, 0, &mut memory(4096, 0), NONE)
            .unwrap_err()
            .errno(),
        Errno::IO
    );
    file.check_balance();
}

#[test]
fn a_stale_page_left_behind_is_an_error_for_fsync() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    let mut seen = file.inode().cache().sample_error();
    let storing = Arc::clone(&file);
    file.hooks.lock().done = Some(Box::new(move |_| {
        storing.store(1, 9);
        Ok(())
    }));
    assert_eq!(
        write(&file, 0, 8192, 2, NONE).unwrap(),
        DirectOutcome::Done(8192)
    );
    assert_eq!(file.counts().direct_invalidate_failures, 1);
    assert_eq!(
        file.inode().cache().check_and_advance(&mut seen),
        Err(Errno::IO)
    );
    file.hooks.lock().done = None;
    file.sync_data();
}

#[test]
fn pages_that_came_in_before_the_conversion_are_removed() {
    let file = TestFile::new(12);
    file.lay_out(0..2, None);
    let reading = Arc::clone(&file);
    // A buffered read beside the write caches the zeroes of an unwritten extent (rule O8).
    file.hooks.lock().done = Some(Box::new(move |_| {
        reading.cache_page(0, 0);
        Ok(())
    }));
    write_all(&file, 0, 8192, 2, NONE);
    let new = file.contents() == [2; 8192];
    assert!(new, "stale zeroes in the cache");
    file.hooks.lock().done = None;
}

#[test]
fn nowait_gives_up_where_it_would_wait() {
    let nowait = DirectFlags::NOWAIT;
    let file = TestFile::new(12);
    file.lay_out(0..4, Some(1));
    let mut to = memory(4096, 0);
    let would_block = |result: Result<_, FsError>| assert_eq!(result, Err(FsError::WouldBlock));
    // Nothing in the cache.
    assert_eq!(
        read(&file, 0, &mut to, nowait).unwrap(),
        DirectOutcome::Done(4096)
    );
    assert_eq!(
        write(&file, 0, 4096, 2, nowait).unwrap(),
        DirectOutcome::Done(4096)
    );
    // A clean page: a read does not mind.
    file.cache_page(0, 2);
    assert_eq!(
        read(&file, 0, &mut to, nowait).unwrap(),
        DirectOutcome::Done(4096)
    );
    would_block(write(&file, 0, 4096, 2, nowait));
    // A dirty page.
    file.write_buffered(0, &[3; 4096]).unwrap();
    would_block(read(&file, 0, &mut to, nowait));
    would_block(write(&file, 0, 4096, 2, nowait));
    file.sync_data();
    file.inode().cache().truncate(FileRange::ALL);
    // An allocation; the change of the lock.
    file.inode().set_size(crate::pos(1 << 16));
    would_block(write(&file, 4 << 12, 4096, 2, nowait));
    would_block(write_exclusive(&file, 4 << 12, &memory(4096, 2), nowait).map(|w| w.outcome));
    // What was done already counts.
    let written = write_exclusive(&file, 3 << 12, &memory(8192, 2), nowait).unwrap();
    assert_eq!(written.outcome, DirectOutcome::Done(4096));
    // A lock that is taken.
    let lock = file.inode().lock_exclusive();
    let other = Arc::clone(&file);
    let result = std::thread::spawn(move || write(&other, 0, 4096, 2, nowait))
        .join()
        .unwrap();
    would_block(result);
    drop(lock);
    file.check_balance();
}

#[test]
fn an_overwrite_only_write_allocates_nothing() {
    let flags = DirectFlags::OVERWRITE_ONLY;
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.inode().set_size(crate::pos(4 << 12));
    assert_eq!(
        write(&file, 0, 4096, 2, flags).unwrap(),
        DirectOutcome::Done(4096)
    );
    for (at, len) in [(8192, 4096), (3 << 12, 8192)] {
        assert_eq!(write(&file, at, len, 2, flags), Err(FsError::WouldBlock));
        let result = write_exclusive(&file, at, &memory(len, 2), flags);
        assert_eq!(result.map(|w| w.outcome), Err(FsError::WouldBlock));
    }
    assert_eq!(file.block(2), None);
    file.check_balance();
}
