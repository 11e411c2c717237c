//! Where waiters of a device sleep that has no kernel object to sleep on.
//!
//! Owns [`Parking`]: the wait, the wake-up, and the counter of requests in flight, for devices that
//! complete in the submitter (memory, plain system calls) or when another thread says so (the
//! simulated devices of `testfs`). A ring has its own way, [`ring`](super::ring).

use std::fmt;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, Rank, smp_mb};

/// Waiters of one device.
pub struct Parking {
    /// Counts calls of [`Parking::notify`] that found a waiter.
    epoch: Mutex<u64>,
    changed: Condvar,
    /// Threads inside [`Parking::wait`]. Raised before `done` is asked, with a full fence between;
    /// partner of the fence in [`Parking::notify`].
    waiters: AtomicUsize,
}

impl Parking {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            epoch: Mutex::new(Rank::Wait, 0),
            changed: Condvar::new(),
            waiters: AtomicUsize::new(0),
        }
    }

    /// Waits until `done` holds, asking again after each [`Parking::notify`]. `done` runs without
    /// a lock.
    pub fn wait(&self, done: &mut dyn FnMut() -> bool) {
        let _waiter = Waiter::new(&self.waiters);
        loop {
            let seen = *self.epoch.lock();
            if done() {
                return;
            }
            let mut epoch = self.epoch.lock();
            while *epoch == seen {
                self.changed.wait(&mut epoch);
            }
        }
    }

    /// Makes every waiter ask again. Call it after what they wait for has become true.
    pub fn notify(&self) {
        // Partner: the fence of `Waiter::new`. Either this load sees the waiter, or the waiter's
        // question sees what was done before this call.
        smp_mb();
        if self.waiters.load(Ordering::Relaxed) != 0 {
            *self.epoch.lock() += 1;
            self.changed.notify_all();
        }
    }
}

struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        // Partner: the fence of `Parking::notify`.
        smp_mb();
        Self(waiters)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Parking {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parking")
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;
    use crate::sync::atomic::AtomicBool;
    use std::sync::Arc;

    #[test]
    fn a_condition_that_holds_is_not_waited_for() {
        Parking::new().wait(&mut || true);
    }

    #[test]
    fn no_wake_up_is_lost() {
        let parking = Arc::new(Parking::new());
        for _ in 0..200 {
            let flag = Arc::new(AtomicBool::new(false));
            let waiter = crate::sync::thread::spawn({
                let (parking, flag) = (Arc::clone(&parking), Arc::clone(&flag));
                move || parking.wait(&mut || flag.load(Ordering::Acquire))
            });
            flag.store(true, Ordering::Release);
            parking.notify();
            waiter.join().expect("waiter ends");
        }
    }
}
