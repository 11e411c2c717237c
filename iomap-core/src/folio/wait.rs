//! Waiting for a folio: for its lock, or for the end of its writeback.
//!
//! Owns the table of wait buckets of a pool and the loop every waiter runs. There is no thread
//! that completes I/O by itself, so a waiter for a bit that a completion will clear drives the
//! device; a waiter for a bit that a thread will clear sleeps in the bucket.
//!
//! # Why no wake-up is lost
//!
//! A waiter sets `WAITERS` with the bucket locked, only if the bits it looked at have not changed
//! ([`Header::announce`]). Whoever changes them clears `WAITERS` in the same step or later, and
//! wakes with the bucket locked. So either the waiter sees the change, or the waker sees the
//! waiter and finds it asleep. The time limit on the sleep is for requests that are submitted
//! after their folio was handed over: nobody wakes for a submission.

use std::time::Duration;

use super::header::{Header, flag};
use crate::device::BlockDevice;
use crate::sync::{Condvar, Mutex, Rank, rank};

/// How long a waiter sleeps before it looks at the device again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
const BUCKETS: usize = 256;
#[cfg(any(iomap_shuttle, iomap_loom))]
const BUCKETS: usize = 2;

/// Where threads sleep until a folio changes.
#[derive(Debug)]
pub struct WaitTable {
    buckets: Vec<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    lock: Mutex<()>,
    changed: Condvar,
}

impl WaitTable {
    /// A table nobody sleeps in.
    #[must_use]
    pub fn new() -> Self {
        let bucket = || Bucket {
            lock: Mutex::new(Rank::Wait, ()),
            changed: Condvar::new(),
        };
        Self {
            buckets: (0..BUCKETS).map(|_| bucket()).collect(),
        }
    }

    fn bucket(&self, key: u32) -> &Bucket {
        let hash = key.wrapping_mul(0x9e37_79b1) >> 16;
        &self.buckets[hash as usize % BUCKETS]
    }

    /// Wakes everybody who sleeps for the folio `key`.
    pub fn wake(&self, key: u32) {
        let bucket = self.bucket(key);
        let _guard = bucket.lock.lock();
        bucket.changed.notify_all();
    }

    /// Sleeps until the folio `key` changes from `seen`, or for a moment.
    pub fn sleep(&self, key: u32, header: &Header, seen: u32) {
        let bucket = self.bucket(key);
        let mut guard = bucket.lock.lock();
        if header.announce(seen) {
            bucket.changed.wait_for(&mut guard, LOOK_AGAIN);
        }
    }

    /// Waits until none of `bits` (`LOCKED` or `WRITEBACK`) is set at some moment.
    ///
    /// # Panics
    ///
    /// With the rank checker on, if a lock is held that a completion may take.
    pub(super) fn wait_clear(
        &self,
        key: u32,
        header: &Header,
        bits: u32,
        device: &dyn BlockDevice,
    ) {
        rank::assert_none_from(Rank::IoendQueue, "waiting for a folio");
        // The bit a completion clears: the lock while a read has it, or writeback.
        let io = if bits & flag::LOCKED != 0 {
            flag::READING
        } else {
            flag::WRITEBACK
        };
        loop {
            let seen = header.flags();
            if seen & bits == 0 {
                return;
            }
            if seen & io == 0 {
                self.sleep(key, header, seen);
            } else if device.in_flight() > 0 {
                device.wait(&mut || header.flags() & io == 0 || device.in_flight() == 0);
            } else {
                self.await_submission(key, header, seen);
            }
        }
    }

    /// The folio belongs to an I/O that has not been submitted yet: looks again soon.
    fn await_submission(&self, key: u32, header: &Header, seen: u32) {
        if cfg!(any(iomap_shuttle, iomap_loom)) {
            // A model has no clock; a bounded sleep may end at any time.
            crate::sync::thread::yield_now();
        } else {
            self.sleep(key, header, seen);
        }
    }
}

impl Default for WaitTable {
    fn default() -> Self {
        Self::new()
    }
}
