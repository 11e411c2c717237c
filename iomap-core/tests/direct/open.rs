//! Open files: what lies around a transfer — the place of an append, the end that was there before,
//! the fall-back to the cache, and what a flag of the open file or of the call promises.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use iomap_core::error::{Errno, FsError};
use iomap_core::file::File;
use iomap_core::ops::{Intent, MapError, MapFlags, MapOps};
use iomap_core::vfs::{IoFlags, OpenFlags};

use crate::device::SECRET;
use crate::file::{Block, TestFile, pos};
use crate::memory;

const PAGE: u64 = 4096;
const NONE: IoFlags = IoFlags::empty();
const BOTH: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

fn open(file: &Arc<TestFile>, more: OpenFlags) -> File<TestFile> {
    File::new(Arc::clone(file), BOTH | more)
}

/// Direct requests from `at` on are for the page cache.
fn use_the_cache_from(file: &TestFile, at: u64) {
    file.hooks.lock().begin = Some(Box::new(move |req| {
        if req.flags.contains(MapFlags::DIRECT) && req.range.start() >= pos(at) {
            return Err(MapError::UseBuffered);
        }
        Ok(())
    }));
}

/// Runs it in a thread of its own; a test that would hang ends.
fn in_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let _ = send.send(run());
    });
    receive
}

fn end_of<T>(thread: &Receiver<T>) -> T {
    thread.recv_timeout(Duration::from_secs(20)).unwrap()
}

#[test]
fn an_append_goes_to_the_end_whatever_its_position() {
    for (opened, call) in [(OpenFlags::APPEND, NONE), (BOTH, IoFlags::APPEND)] {
        let file = TestFile::new(12);
        file.write_buffered(0, b"head").unwrap();
        let open = open(&file, opened);
        assert_eq!(open.write_at(pos(0), b"tail", call), Ok(4));
        assert_eq!(open.write_at(pos(1 << 20), b"end", call), Ok(3));
        assert_eq!(file.contents(), b"headtailend");
    }
}

/// Appends that begin direct and end in the cache: another one may have come in between.
#[test]
fn appends_through_the_cache_instead_lose_nothing_of_each_other() {
    let file = TestFile::new(12);
    file.write_buffered(0, b"x").unwrap();
    let appenders: Vec<_> = (1..=2)
        .map(|byte| {
            let open = open(&file, OpenFlags::APPEND | OpenFlags::DIRECT);
            thread::spawn(move || {
                for _ in 0..200 {
                    assert_eq!(open.write_at(pos(0), &[byte; 10], NONE), Ok(10));
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.join().unwrap();
    }
    let bytes = file.contents();
    assert_eq!(bytes.len(), 1 + 2 * 200 * 10);
    for record in bytes[1..].chunks(10) {
        assert!(record == [1; 10] || record == [2; 10], "{record:?}");
    }
    file.check_balance();
}

/// A direct write that is shorter than a page at the end of the file: storage behind it is not zero.
fn ends_in_old_bytes() -> Arc<TestFile> {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(SECRET));
    file.inode().set_size(pos(100));
    file
}

#[test]
fn a_write_far_behind_the_end_leaves_zeroes_between() {
    for direct in [false, true] {
        let file = ends_in_old_bytes();
        let flags = if direct { IoFlags::DIRECT } else { NONE };
        let open = open(&file, OpenFlags::empty());
        let written = open.write_at(pos(2 * PAGE), &memory(4096, 5), flags);
        assert_eq!(written, Ok(4096), "{direct}");
        let bytes = file.contents();
        assert_eq!(bytes[..100], [SECRET; 100]);
        assert_eq!(bytes[100..4096], [0; 3996], "old bytes of the device");
        file.sync_data();
        file.check_balance();
    }
}

#[test]
fn a_fall_back_that_cannot_be_written_fails() {
    let file = TestFile::new(12);
    use_the_cache_from(&file, 0);
    file.device.set_fault(|_| Some(Errno::IO));
    let open = open(&file, OpenFlags::DIRECT);
    let written = open.write_at(pos(0), &memory(4096, 5), NONE);
    assert_eq!(written, Err(FsError::Writeback(Errno::IO)));
    file.device.clear_fault();
    file.check_balance();
}

#[test]
fn a_fall_back_leaves_nothing_in_the_cache_and_keeps_what_was_promised() {
    let file = TestFile::new(12);
    use_the_cache_from(&file, 0);
    let open = open(&file, OpenFlags::DIRECT);
    assert_eq!(open.write_at(pos(0), &memory(4096, 5), NONE), Ok(4096));
    assert_eq!(file.inode().cache().nr_pages(), 0);
    assert_eq!(file.state.lock().syncs, []);
    let written = open.write_at(pos(0), &memory(4096, 6), IoFlags::DSYNC);
    assert_eq!(written, Ok(4096));
    assert_eq!(file.state.lock().syncs, [true]);
    assert_eq!(file.contents(), [6; 4096]);
}

/// What went around the cache is done, whatever becomes of the rest.
#[test]
fn bytes_that_were_transferred_count_though_the_rest_fails() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.lay_out(2..3, Some(2));
    file.state.lock().longest = 1;
    use_the_cache_from(&file, PAGE);
    let open = open(&file, OpenFlags::DIRECT);
    let rest_fails = |asked: &crate::device::Asked| (asked.addr >> 12 > 1).then_some(Errno::IO);
    file.device.set_fault(rest_fails);
    let mut to = memory(3 * 4096, 0);
    file.hooks.lock().begin = Some(Box::new(|req| match req.flags.contains(MapFlags::DIRECT) {
        true if req.range.start() >= pos(PAGE) => Err(MapError::UseBuffered),
        true => Ok(()),
        false => Err(FsError::NoMemory.into()),
    }));
    assert_eq!(open.read_at(pos(0), &mut to, NONE), Ok(4096));
    assert_eq!(to[..4096], [1; 4096]);
    assert_eq!(open.write_at(pos(0), &memory(3 * 4096, 5), NONE), Ok(4096));
    file.device.clear_fault();
    assert_eq!(file.contents()[..4096], [5; 4096]);
    file.check_balance();
}

#[test]
fn a_buffered_write_that_must_not_wait_does_not_wait_for_direct_io() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    let in_flight = file.inode().direct().begin();
    let open = open(&file, OpenFlags::empty());
    let written = in_thread(move || open.write_at(pos(0), b"x", IoFlags::NOWAIT));
    assert_eq!(end_of(&written), Err(FsError::WouldBlock));
    drop(in_flight);
}

/// Where an append goes is known when nobody moves the end any more.
#[test]
fn a_direct_append_waits_for_direct_io_in_flight() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    let in_flight = file.inode().direct().begin();
    let open = open(&file, OpenFlags::DIRECT | OpenFlags::APPEND);
    let refused = open.write_at(pos(0), &memory(4096, 2), IoFlags::NOWAIT);
    assert_eq!(refused, Err(FsError::WouldBlock));
    let written = in_thread(move || open.write_at(pos(0), &memory(4096, 2), NONE));
    while file.inode().try_lock_shared().is_some() {
        thread::yield_now();
    }
    for _ in 0..1000 {
        thread::yield_now();
    }
    assert_eq!(file.device.take_asked(), [], "the append is on its way");
    drop(in_flight);
    assert_eq!(end_of(&written), Ok(4096));
    assert_eq!(file.contents()[4096..], [2; 4096]);
}

/// What nobody wants cached is on its way to storage when the write ends, and leaves.
#[test]
fn a_write_that_keeps_nothing_in_the_cache_starts_writeback() {
    let file = TestFile::new(12);
    let open = open(&file, OpenFlags::empty());
    let written = open.write_at(pos(0), &[7; 4096], IoFlags::DONTCACHE);
    assert_eq!(written, Ok(4096));
    assert_eq!(file.inode().cache().nr_dirty(), 0);
    file.sync_data();
    assert_eq!(file.inode().cache().nr_pages(), 0);
    assert_eq!(file.contents(), [7; 4096]);
}

/// The kind of sync that a flag asks for, on the open file or on the call.
#[test]
fn flags_of_the_open_file_and_of_the_call_ask_for_a_sync() {
    let table = [
        (OpenFlags::empty(), NONE, None),
        (OpenFlags::DSYNC, NONE, Some(true)),
        (OpenFlags::SYNC, NONE, Some(false)),
        (OpenFlags::empty(), IoFlags::DSYNC, Some(true)),
        (OpenFlags::empty(), IoFlags::SYNC, Some(false)),
        (OpenFlags::DSYNC, IoFlags::SYNC, Some(false)),
    ];
    for (opened, call, wanted) in table {
        for direct in [IoFlags::DIRECT, NONE] {
            let file = TestFile::new(12);
            // Not written in place, so that no FUA does instead.
            let open = open(&file, opened);
            let written = open.write_at(pos(0), &memory(4096, 1), call | direct);
            assert_eq!(written, Ok(4096));
            let wanted: Vec<bool> = wanted.into_iter().collect();
            assert_eq!(file.state.lock().syncs, wanted, "{opened:?} {call:?}");
        }
    }
}

/// A hole in the middle of a direct write is not the file's when the write fails.
#[test]
fn a_direct_write_whose_second_mapping_fails_tells_of_the_first() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.hooks.lock().begin = Some(Box::new(|req| {
        if req.intent == Intent::Write && req.range.start() >= pos(PAGE) {
            return Err(FsError::NoSpace.into());
        }
        Ok(())
    }));
    file.state.lock().longest = 1;
    let open = open(&file, OpenFlags::DIRECT);
    assert_eq!(open.write_at(pos(0), &memory(8192, 5), NONE), Ok(4096));
    assert_eq!(file.inode().size(), pos(4096));
    assert!(matches!(file.block(0), Some(Block::Written(_))));
    file.check_balance();
}

/// Blocks are freed and moved with the invalidate lock held: nothing is read into the cache then.
#[test]
fn a_read_that_fills_the_cache_waits_for_who_frees_blocks() {
    for there_already in [false, true] {
        let file = TestFile::new(12);
        file.lay_out(0..1, Some(1));
        if there_already {
            // A folio whose read failed.
            file.device.set_fault(|_| Some(Errno::IO));
            let failed = open(&file, OpenFlags::empty()).read_at(pos(0), &mut [0; 10], NONE);
            assert!(failed.is_err());
            file.device.clear_fault();
        }
        let (asked, was_asked) = channel();
        file.hooks.lock().begin = Some(Box::new(move |_| {
            let _ = asked.send(());
            Ok(())
        }));
        let freeing = file.inode().invalidate_lock().write();
        let open = open(&file, OpenFlags::empty());
        let read = in_thread(move || {
            let mut to = [0; 10];
            let done = open.read_at(pos(0), &mut to, NONE);
            (done, to)
        });
        for _ in 0..5000 {
            thread::yield_now();
        }
        assert!(was_asked.try_recv().is_err(), "{there_already}");
        drop(freeing);
        assert_eq!(end_of(&read), (Ok(10), [1; 10]));
        file.hooks.lock().begin = None;
    }
}

/// A page whose mapping fails, behind others: what comes before it is given, and it says why itself.
#[test]
fn a_read_ends_where_a_mapping_fails_and_tells_why_there() {
    let file = TestFile::new(12);
    file.lay_out(0..4, Some(1));
    file.state.lock().longest = 1;
    let open = open(&file, OpenFlags::empty());
    let fail_from = |at: u64| {
        file.hooks.lock().begin = Some(Box::new(move |req| {
            if req.range.start() >= pos(at) {
                return Err(FsError::NoSpace.into());
            }
            Ok(())
        }));
    };
    let mut to = [0; 3 * 4096];
    fail_from(0);
    assert_eq!(open.read_at(pos(0), &mut to, NONE), Err(FsError::NoSpace));
    fail_from(PAGE);
    assert_eq!(open.read_at(pos(0), &mut to, NONE), Ok(4096));
    assert_eq!(to[..4096], [1; 4096]);
    let behind = open.read_at(pos(PAGE), &mut to, NONE);
    assert_eq!(behind, Err(FsError::NoSpace));
    file.hooks.lock().begin = None;
    assert_eq!(open.read_at(pos(0), &mut to, NONE), Ok(3 * 4096));
}
