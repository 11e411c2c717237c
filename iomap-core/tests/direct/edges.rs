//! Steps of direct I/O that an edit once left out and no test noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iomap_core::device::Limits;
use iomap_core::direct::{self, DirectFlags, DirectOutcome, Written};
use iomap_core::error::{Errno, FsError};
use iomap_core::ops::{DirectKinds, MapOps};
use iomap_core::units::FileRange;
use iomap_core::writeback::{WritebackControl, write_pages};

use crate::file::{Block, LIMITS, TestFile, pos};
use crate::{memory, read, write, write_all};

const NONE: DirectFlags = DirectFlags::empty();
const BLOCK: usize = 4096;

/// A file whose device can write through its cache.
fn on_a_device_with_fua() -> Arc<TestFile> {
    let limits = Limits {
        fua: true,
        volatile_cache: true,
        ..LIMITS
    };
    TestFile::with(12, limits, None)
}

/// A durable write under the exclusive lock, not synced yet.
fn write_durably(file: &TestFile, at: u64, len: usize) -> Written {
    let _lock = file.inode().lock_exclusive();
    direct::write(file, pos(at), &memory(len, 5), DirectFlags::DSYNC).unwrap()
}

/// The device is asked for one block: the count stays up until it has answered.
#[test]
fn a_small_read_is_in_flight_until_the_device_has_answered() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.device.hold();
    let reader = std::thread::spawn({
        let file = Arc::clone(&file);
        move || read(&file, 0, &mut memory(BLOCK, 0), NONE).unwrap()
    });
    file.device.await_held(1);
    let busy = file.inode().direct().is_busy_after_fence();
    file.device.release();
    assert_eq!(reader.join().unwrap(), DirectOutcome::Done(BLOCK as u64));
    assert!(busy, "the block could be freed while it is read");
}

#[test]
fn what_a_durable_write_got_through_is_synced_though_the_rest_failed() {
    let limits = Limits {
        max_transfer: BLOCK as u64,
        ..LIMITS
    };
    let file = TestFile::with(12, limits, None);
    file.lay_out(0..2, None);
    let mut writes = 0;
    file.device.set_fault(move |_| {
        writes += 1;
        (writes == 2).then_some(Errno::IO)
    });
    let written = write_durably(&file, 0, 2 * BLOCK);
    assert_eq!(written.outcome, DirectOutcome::Done(BLOCK as u64));
    assert!(written.sync.is_some(), "told of, and lost in a power cut");
}

/// One part could be found after a power cut as it is, the other could not.
#[test]
fn a_durable_write_is_synced_if_any_part_of_it_needs_that() {
    let file = on_a_device_with_fua();
    file.lay_out(0..1, None);
    file.lay_out(1..2, Some(1));
    assert!(write_durably(&file, 0, 2 * BLOCK).sync.is_some());
    assert!(write_durably(&file, 0, 2 * BLOCK).sync.is_none(), "by FUA");
}

#[test]
fn a_durable_write_that_grows_the_file_is_synced() {
    let file = on_a_device_with_fua();
    file.lay_out(0..2, Some(1));
    file.inode().set_size(pos(BLOCK as u64));
    assert!(write_durably(&file, BLOCK as u64, BLOCK).sync.is_some());
}

#[test]
fn a_durable_write_into_the_inode_is_synced() {
    let file = TestFile::with(12, LIMITS, Some(BLOCK));
    assert!(write_durably(&file, 0, 512).sync.is_some());
}

/// Two extents, the first unwritten: the end of the write converts it.
#[test]
fn every_kind_of_block_that_was_written_is_told() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    file.lay_out(1..2, Some(1));
    write_all(&file, 0, 2 * BLOCK, 5, NONE);
    let done = file.state.lock().done.clone();
    assert_eq!(done, [(2 * BLOCK as u64, DirectKinds::UNWRITTEN)]);
    assert!(matches!(file.block(0), Some(Block::Written(_))));
}

/// Behind the end of the file a block holds zeroes, whatever the device had there.
#[test]
fn a_write_up_to_the_end_of_the_file_zeroes_the_rest_of_its_block() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(0xEE));
    file.inode().set_size(pos(1024));
    assert_eq!(
        write(&file, 0, 1024, 5, NONE),
        Ok(DirectOutcome::Done(1024))
    );
    let Some(Block::Written(at)) = file.block(0) else {
        panic!("{:?}", file.block(0));
    };
    let rest = file.device.bytes((at << 12) + 1024, BLOCK - 1024);
    assert_eq!(rest, vec![0; BLOCK - 1024]);
}

/// Bytes behind a lost one may have arrived as well: what the cache has of them is old.
#[test]
fn the_cache_forgets_everything_a_failed_write_was_sent_over() {
    let limits = Limits {
        max_transfer: 4096,
        ..LIMITS
    };
    let file = TestFile::with(12, limits, None);
    file.lay_out(0..2, Some(1));
    let caching = Arc::downgrade(&file);
    file.hooks.lock().done = Some(Box::new(move |_| {
        // A read that came before the write has just ended.
        let file = caching.upgrade().unwrap();
        file.cache_page(0, 1);
        file.cache_page(1, 1);
        Ok(())
    }));
    file.device.hold();
    let writer = std::thread::spawn({
        let file = Arc::clone(&file);
        move || write(&file, 0, 8192, 5, DirectFlags::empty())
    });
    file.device.await_held(2);
    let first = file.device.held()[0].addr;
    file.device
        .set_fault(move |asked| (asked.addr == first).then_some(Errno::IO));
    file.device.release();
    assert!(writer.join().unwrap().is_err());
    file.device.clear_fault();
    assert_eq!(file.contents()[4096..], [5; 4096]);
    assert_eq!(file.inode().cache().nr_pages(), 0);
    file.check_balance();
}

/// Rule O1: who writes back a page a direct write found knows that it is on its way.
#[test]
fn the_writeback_a_direct_write_starts_knows_of_it() {
    let file = TestFile::new(12);
    file.write_buffered(0, &[1; 4096]).unwrap();
    let told = Arc::new(AtomicU32::new(2));
    let telling = Arc::clone(&told);
    file.hooks.lock().map_writeback = Some(Box::new(move |req| {
        telling.store(u32::from(req.direct_in_flight), Ordering::Relaxed);
    }));
    write_all(&file, 0, 4096, 5, DirectFlags::empty());
    assert_eq!(told.load(Ordering::Relaxed), 1);
    file.hooks.lock().map_writeback = None;
    file.check_balance();
}

/// The zeroes behind the bytes of a new block could not be written: the block is lost with them.
#[test]
fn a_new_block_whose_rest_could_not_be_zeroed_is_lost() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    file.device
        .set_fault(|asked| (asked.addr % 4096 == 512).then_some(Errno::IO));
    let written = write(&file, 0, 512, 5, NONE);
    assert!(written.is_err(), "{written:?}");
    file.device.clear_fault();
    assert!(matches!(file.block(0), Some(Block::Unwritten(_))));
    file.check_balance();
}

/// What is on its way to storage is waited for as much as what is dirty.
#[test]
fn a_read_that_must_not_wait_gives_up_at_a_page_that_is_being_written() {
    let file = TestFile::new(12);
    file.write_buffered(0, &[1; 4096]).unwrap();
    file.device.hold();
    let everything = WritebackControl::sync(FileRange::ALL);
    write_pages(&*file, &everything).unwrap();
    assert_eq!(file.inode().cache().nr_dirty(), 0);
    let mut to = memory(BLOCK, 0);
    let refused = read(&file, 0, &mut to, DirectFlags::NOWAIT);
    assert_eq!(refused, Err(FsError::WouldBlock));
    file.device.release();
    file.sync_data();
    file.check_balance();
}
