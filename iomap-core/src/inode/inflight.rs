//! The count of direct I/O in flight, and its place in the order of events (rules O1-O3, O6, O7).
//!
//! Owns the counter, its fences and the wait for zero. What direct I/O does under it is
//! [`direct`](crate::direct).
//!
//! # The pair
//!
//! ```text
//! direct I/O                          writeback, write fault
//!   count += 1                          folio locked, dirty or writeback mark visible
//!   full fence                          full fence
//!   look at the cache                   look at the count
//! ```
//!
//! At least one of the two sees the other. If direct I/O sees the folio, it waits for it; if the
//! other side sees the count, it allocates unwritten blocks, which direct I/O reads as zeroes. Were
//! both blind, direct I/O would read a block that is mapped but not written yet: somebody else's old
//! bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::device::BlockDevice;
use crate::mutation::{self, Rule};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Condvar, Mutex, Rank, smp_mb};

/// How long a waiter for zero sleeps before it looks at the device again, because a request whose
/// submitter does not wait has nobody else to run its completion.
const RELOOK: Duration = Duration::from_millis(1);

/// Direct I/O in flight on one inode.
#[derive(Clone, Debug)]
pub struct InFlight(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Raised before the cache is looked at, lowered at the very end of completion. `Relaxed`
    /// with [`smp_mb`] behind it going up; its partner is the cache's marks. `Release` going down,
    /// partner: the `Acquire` load of the wait for zero.
    count: AtomicU32,
    idle: Mutex<()>,
    changed: Condvar,
}

impl InFlight {
    /// Nothing in flight.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            count: AtomicU32::new(0),
            idle: Mutex::new(Rank::InodeState, ()),
            changed: Condvar::new(),
        }))
    }

    /// Raises the count; on return the raise is ordered before everything the caller does next
    /// (rules O1, O2). The guard lowers it, on every exit (rule O7), from any thread.
    ///
    /// Kernel counterpart: `inode_dio_begin`; dropping the guard is `inode_dio_end`.
    pub fn begin(&self) -> DirectGuard {
        raise(&self.0.count);
        DirectGuard(Arc::clone(&self.0))
    }

    /// Whether direct I/O is in flight, read after a full fence: to be asked by writeback and
    /// write faults with the folio locked and visible as dirty or under writeback (rules O3, O4).
    #[must_use]
    #[inline]
    pub fn is_busy_after_fence(&self) -> bool {
        sees_raised(&self.0.count)
    }

    /// Waits until the count is zero, driving `device` meanwhile. Only meaningful with starters
    /// locked out.
    ///
    /// Kernel counterpart: `inode_dio_wait`.
    #[inline]
    pub fn wait_idle(&self, device: &dyn BlockDevice) {
        if self.0.count.load(Ordering::Acquire) != 0 {
            self.wait_busy(device);
        }
    }

    #[cold]
    fn wait_busy(&self, device: &dyn BlockDevice) {
        while self.0.count.load(Ordering::Acquire) != 0 {
            device.poll();
            let mut idle = self.0.idle.lock();
            if self.0.count.load(Ordering::Acquire) != 0 {
                self.0.changed.wait_for(&mut idle, RELOOK);
            }
        }
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new()
    }
}

/// Raises the counter, then a full fence: what a direct I/O does before it looks at the cache.
pub fn raise(count: &AtomicU32) {
    count.fetch_add(1, Ordering::Relaxed);
    if !mutation::off(Rule::O2) {
        smp_mb();
    }
}

/// A full fence, then whether the counter is raised: what writeback does once its folio is visible.
#[must_use]
#[inline]
pub fn sees_raised(count: &AtomicU32) -> bool {
    if !mutation::off(Rule::O3) {
        smp_mb();
    }
    count.load(Ordering::Relaxed) != 0
}

/// Counts as one direct I/O in flight until dropped.
#[derive(Debug)]
#[must_use = "the direct I/O is over when the guard is dropped"]
pub struct DirectGuard(Arc<Shared>);

impl Drop for DirectGuard {
    fn drop(&mut self) {
        let before = self.0.count.fetch_sub(1, Ordering::Release);
        debug_assert!(
            before > 0,
            "direct I/O count lowered more often than raised"
        );
        if before == 1 {
            let _idle = self.0.idle.lock();
            self.0.changed.notify_all();
        }
    }
}
