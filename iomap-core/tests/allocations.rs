//! What the hot paths allocate: nothing for a cached read, a handful at most for an overwrite, three
//! for a small direct read that nobody waits in.
//!
//! Alone in its binary: the allocator counts for the whole process, per thread.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

#[expect(dead_code, reason = "the example's own main is not run here")]
#[path = "../examples/flat_file.rs"]
pub mod flat_file;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use common::{Mode, Volume};
use flat_file::Flat;
use iomap_core::device::{DeviceBuf, MemoryDevice};
use iomap_core::direct::{self, DirectFlags, DirectOutcome};
use iomap_core::folio::{Pool, PoolConfig};
use iomap_core::ops::MapOps;
use iomap_core::read::{ReadOptions, buffered_read};
use iomap_core::readahead::Readahead;
use iomap_core::units::FilePos;
use iomap_core::user::SliceSource;
use iomap_core::write::{WriteOptions, buffered_write};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is being torn down is not measured.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    f();
    COUNT.with(Cell::get) - before
}

#[test]
fn a_cached_read_allocates_nothing_and_an_overwrite_a_handful() {
    let volume = Volume::new(8 << 20, 12, 8 << 20, Mode::Immediate);
    let file = volume.file::<false>(None);
    file.write(0, &vec![7; 1 << 20]).unwrap();
    let readahead = Readahead::new();
    let mut page = vec![0; 4096];
    let mut read = |n: u64| {
        let options = ReadOptions {
            readahead: Some(&readahead),
            ..ReadOptions::default()
        };
        let pos = FilePos::saturating(n * 4096);
        assert_eq!(buffered_read(&*file, pos, &mut page, options), Ok(4096));
    };
    // The first ones make thread-local state.
    read(0);
    let reads = allocations(|| (0..256).for_each(&mut read));
    assert_eq!(reads, 0, "256 cached reads");

    let bytes = [8; 4096];
    let write = |n: u64| {
        let _lock = file.inode().lock_exclusive();
        let pos = FilePos::saturating(n * 4096);
        let done = buffered_write(
            &*file,
            pos,
            &mut SliceSource::new(&bytes),
            WriteOptions::default(),
        );
        assert_eq!(done, Ok(4096));
    };
    write(0);
    let writes = allocations(|| (0..256).for_each(write));
    assert!(writes <= 4 * 256, "{writes} allocations for 256 overwrites");
}

/// The memory is the caller's. The way of larger requests allocates more.
#[test]
fn a_small_direct_read_through_a_ticket_allocates_three_times() {
    let pool = Pool::new(PoolConfig::with_budget(4 << 20)).unwrap();
    let file = Flat::new(Arc::new(MemoryDevice::new(1 << 20)), 0, pool);
    let mut memory = Some(DeviceBuf::zeroed(4096, 4096));
    let mut read = |n: u64| {
        let _lock = file.inode().lock_shared();
        let (file, buffer) = (Arc::clone(&file), memory.take().unwrap());
        let pos = FilePos::saturating(n * 4096);
        let ticket = direct::submit_read(file, pos, buffer, DirectFlags::NOWAIT);
        let Poll::Ready(result) = pin!(ticket).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("memory answers at once")
        };
        assert_eq!(result.outcome, Ok(DirectOutcome::Done(4096)));
        memory = Some(result.buffer);
    };
    read(0);
    let reads = allocations(|| (0..64).for_each(&mut read));
    assert!(reads <= 3 * 64, "{reads} allocations for 64 direct reads");
}
