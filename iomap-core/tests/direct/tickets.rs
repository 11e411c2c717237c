//! Direct I/O without waiting.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use iomap_core::direct::{self, DirectFlags, DirectOutcome, DirectTicket};
use iomap_core::error::{Errno, FsError};
use iomap_core::ops::MapOps;

use crate::file::{TestFile, pos};
use crate::memory;

const NONE: DirectFlags = DirectFlags::empty();

struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

fn start_write(file: &Arc<TestFile>, at: u64, byte: u8, flags: DirectFlags) -> DirectTicket {
    let _lock = file.inode().lock_shared();
    direct::submit_write(Arc::clone(file), pos(at), memory(4096, byte), flags)
}

#[test]
fn a_future_is_woken_when_the_io_has_ended() {
    for reads in [true, false] {
        let file = TestFile::new(12);
        file.lay_out(0..1, Some(1));
        file.device.hold();
        let ticket = if reads {
            let _lock = file.inode().lock_shared();
            direct::submit_read(Arc::clone(&file), pos(0), memory(4096, 0), NONE)
        } else {
            start_write(&file, 0, 2, NONE)
        };
        let wakes = Arc::new(CountWakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let mut ticket = pin!(ticket);
        assert!(ticket.as_mut().poll(&mut context).is_pending());
        file.device.release();
        while wakes.0.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        let Poll::Ready(result) = ticket.as_mut().poll(&mut context) else {
            panic!()
        };
        assert_eq!(result.outcome, Ok(DirectOutcome::Done(4096)));
        assert_eq!(result.buffer[..], [if reads { 1 } else { 2 }; 4096]);
        file.check_balance();
    }
}

#[test]
fn a_waiter_ends_the_write_itself() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.device.hold();
    let ticket = start_write(&file, 0, 2, DirectFlags::SYNC);
    let (sender, receiver) = std::sync::mpsc::channel();
    file.hooks.lock().done = Some(Box::new(move |_| {
        sender.send(std::thread::current().id()).unwrap();
        Ok(())
    }));
    let waiter = std::thread::spawn(move || ticket.wait());
    file.device.await_waiters(1);
    let id = waiter.thread().id();
    file.device.release();
    assert_eq!(
        waiter.join().unwrap().outcome,
        Ok(DirectOutcome::Done(4096))
    );
    assert_eq!(receiver.recv().unwrap(), id);
    assert_eq!(file.state.lock().syncs, [false]);
}

#[test]
fn a_dropped_ticket_ends_nothing_early() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.device.hold();
    drop(start_write(&file, 0, 2, NONE));
    {
        let _lock = file.inode().lock_shared();
        drop(direct::submit_read(
            Arc::clone(&file),
            pos(4096),
            memory(4096, 0),
            NONE,
        ));
    }
    assert!(file.inode().direct().is_busy_after_fence());
    file.device.release();
    let lock = file.inode().lock_exclusive();
    file.inode().wait_for_direct(&lock);
    drop(lock);
    let told = file.state.lock().done.len();
    assert_eq!(told, 1, "rule B53: nobody ended the write");
    assert_eq!(file.contents()[..4096], [2; 4096]);
}

#[test]
fn the_backend_lives_until_the_io_has_ended() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.device.hold();
    let device = Arc::clone(&file.device);
    let weak = Arc::downgrade(&file);
    let ticket = start_write(&file, 0, 2, NONE);
    drop(file);
    assert!(weak.upgrade().is_some());
    device.release();
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    while weak.upgrade().is_some() {
        std::thread::yield_now();
    }
}

#[test]
fn a_refused_request_gives_its_memory_back() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    let result = start_write(&file, 100, 2, NONE).wait();
    assert_eq!(result.outcome, Ok(DirectOutcome::UseBuffered { done: 0 }));
    assert_eq!(result.buffer[..], [2; 4096]);
    let result = start_write(&file, 1 << 20, 2, DirectFlags::OVERWRITE_ONLY).wait();
    assert_eq!(result.outcome, Err(FsError::WouldBlock));
    let _lock = file.inode().lock_shared();
    let ticket = direct::submit_read(Arc::clone(&file), pos(4096), memory(512, 0), NONE);
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(0)));
}

#[test]
fn a_forced_wait_returns_with_the_write_ended_and_syncs_later() {
    let file = TestFile::new(12);
    file.lay_out(0..1, None);
    let lock = file.inode().lock_exclusive();
    let flags = DirectFlags::FORCE_WAIT | DirectFlags::DSYNC;
    let ticket = direct::submit_write(Arc::clone(&file), pos(0), memory(4096, 2), flags);
    assert_eq!(file.state.lock().done.len(), 1);
    assert!(!file.inode().direct().is_busy_after_fence());
    drop(lock);
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(file.state.lock().syncs, [true]);
}

#[test]
fn the_size_moves_under_the_lock_of_the_submitter() {
    let file = TestFile::new(12);
    let _lock = file.inode().lock_exclusive();
    let ticket = direct::submit_write(Arc::clone(&file), pos(0), memory(4096, 2), NONE);
    assert_eq!(file.inode().size(), pos(4096));
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
}

#[test]
fn a_failed_request_reaches_the_ticket() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.device.hold();
    let ticket = start_write(&file, 0, 2, NONE);
    file.device.set_fault(|_| Some(Errno::NOSPC));
    file.device.release();
    let result = ticket.wait();
    assert_eq!(result.outcome.unwrap_err().errno(), Errno::NOSPC);
    file.check_balance();
}

#[test]
fn many_requests_end_in_any_order() {
    let file = TestFile::new(12);
    file.lay_out(0..16, Some(1));
    file.device.hold();
    let tickets: Vec<_> = (0..16)
        .map(|n| start_write(&file, n << 12, n as u8, NONE))
        .collect();
    let mut addrs: Vec<_> = file.device.held().iter().map(|asked| asked.addr).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut addrs);
    for addr in addrs {
        file.device.complete_where(|asked| asked.addr == addr);
    }
    for (n, ticket) in tickets.into_iter().enumerate() {
        let result = ticket.wait();
        assert_eq!(result.outcome, Ok(DirectOutcome::Done(4096)));
        assert_eq!(result.buffer[0], n as u8);
    }
    file.check_balance();
}

#[test]
fn writes_nobody_waits_for_share_a_few_threads() {
    let file = TestFile::new(12);
    file.lay_out(0..64, Some(1));
    file.device.hold();
    for n in 0..64 {
        drop(start_write(&file, n << 12, 2, NONE));
    }
    let threads = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let seen = Arc::clone(&threads);
    file.hooks.lock().done = Some(Box::new(move |_| {
        seen.lock().unwrap().insert(std::thread::current().id());
        Ok(())
    }));
    file.device.release();
    let lock = file.inode().lock_exclusive();
    file.inode().wait_for_direct(&lock);
    drop(lock);
    assert_eq!(file.state.lock().done.len(), 64);
    let threads = threads.lock().unwrap().len();
    assert!(threads <= 8, "{threads} threads for 64 writes");
    assert_eq!(file.contents()[..64 << 12], [2; 64 << 12]);
}

/// `O_SYNC`: FUA is not enough.
#[test]
fn what_is_to_be_durable_is_synced_though_the_backend_wants_to_hear_nothing() {
    let file = TestFile::new(12);
    file.lay_out(0..1, Some(1));
    file.state.lock().light = true;
    file.device.hold();
    let ticket = start_write(&file, 0, 2, DirectFlags::SYNC);
    file.device.release();
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(file.state.lock().syncs, [false]);
}

#[test]
fn a_pure_overwrite_nobody_wants_to_hear_of_ends_in_its_completion() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    file.state.lock().light = true;
    file.device.hold();
    let ticket = start_write(&file, 0, 2, DirectFlags::DSYNC);
    file.device.release();
    // No other thread has a part in it.
    assert!(!file.inode().direct().is_busy_after_fence());
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(file.counts().direct_write_bytes, 4096);
    // A page that came in meanwhile has to be removed, which may wait: elsewhere.
    file.device.hold();
    let ticket = start_write(&file, 0, 3, NONE);
    file.cache_page(0, 2);
    file.device.release();
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(file.contents()[..4096], [3; 4096]);
    // A failure is always told.
    file.device.hold();
    let ticket = start_write(&file, 0, 4, NONE);
    file.device.set_fault(|_| Some(Errno::IO));
    file.device.release();
    assert!(ticket.wait().outcome.is_err());
    assert_eq!(file.state.lock().done.len(), 1);
    // A conversion too.
    file.device.clear_fault();
    file.lay_out(2..3, None);
    let ticket = start_write(&file, 8192, 5, NONE);
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(file.state.lock().done.len(), 2);
    file.check_balance();
}

/// Rule O7 and the order of [`direct`] for the short way of a small read.
#[test]
fn a_small_read_ends_in_its_completion() {
    let file = TestFile::new(12);
    file.lay_out(0..2, Some(1));
    let start = |at, len, flags| {
        let _lock = file.inode().lock_shared();
        direct::submit_read(Arc::clone(&file), pos(at), memory(len, 0), flags)
    };
    let busy = || file.inode().direct().is_busy_after_fence();
    // No other thread has a part in it.
    file.device.hold();
    let ticket = start(4096, 4096, NONE);
    assert!(busy());
    file.device.release();
    assert!(!busy());
    let result = ticket.wait();
    assert_eq!(result.outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(result.buffer[..], [1; 4096]);
    assert_eq!(file.counts().direct_read_bytes, 4096);
    // More memory than there is to read.
    let result = start(4096, 8192, NONE).wait();
    assert_eq!(result.outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(result.buffer[4096..], [0; 4096]);
    // A failure gives the memory back and lowers the count.
    file.device.hold();
    let ticket = start(0, 4096, NONE);
    file.device.set_fault(|_| Some(Errno::IO));
    file.device.release();
    let result = ticket.wait();
    assert_eq!(result.outcome.unwrap_err().errno(), Errno::IO);
    assert_eq!(result.buffer.len(), 4096);
    assert!(!busy());
    file.device.clear_fault();
    // One that must have ended when the call returns.
    let ticket = start(0, 4096, DirectFlags::FORCE_WAIT);
    assert!(!busy());
    assert_eq!(ticket.wait().outcome, Ok(DirectOutcome::Done(4096)));
    // What a hole holds, no device knows.
    file.inode().set_size(pos(16384));
    let result = start(12288, 4096, NONE).wait();
    assert_eq!(result.outcome, Ok(DirectOutcome::Done(4096)));
    assert_eq!(result.buffer[..], [0; 4096]);
    file.check_balance();
}
