//! The one import point for locks, atomics and threads.
//!
//! Owns the choice between the standard types and their model-checked twins: `--cfg iomap_shuttle`
//! swaps in shuttle's (whole protocols, sequentially consistent), `--cfg iomap_loom` swaps in
//! loom's (single orderings). Nothing else in the crate names `std::sync` locks, `parking_lot` or
//! atomics directly. Owns the ranked locks, and with [`rank`] the check of the lock ladder of
//! `docs/LOCKING.md`.
//!
//! Rule for orderings: accesses are `Relaxed`, `Acquire` or `Release`; where a store must be seen
//! before a later load, [`smp_mb`] stands between. A `SeqCst` *access* does not do that in the
//! language's model, and loom cannot check it.

pub mod rank;

pub use rank::Rank;

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
mod imp {
    pub(super) use parking_lot::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    };
    pub use std::sync::atomic;
    pub use std::thread;

    #[inline]
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }
    pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
        mutex.try_lock()
    }
    #[inline]
    pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read()
    }
    pub(super) fn try_read<T>(lock: &RwLock<T>) -> Option<RwLockReadGuard<'_, T>> {
        lock.try_read()
    }
    #[inline]
    pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write()
    }
    pub(super) fn try_write<T>(lock: &RwLock<T>) -> Option<RwLockWriteGuard<'_, T>> {
        lock.try_write()
    }
    pub(super) fn wait<'a, T>(cv: &Condvar, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        cv.wait(&mut guard);
        guard
    }
    pub(super) fn wait_for<'a, T>(
        cv: &Condvar,
        mut guard: MutexGuard<'a, T>,
        timeout: std::time::Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let result = cv.wait_for(&mut guard, timeout);
        (guard, result.timed_out())
    }
}

#[cfg(any(iomap_shuttle, iomap_loom))]
mod imp {
    #[cfg(iomap_loom)]
    use loom as model;
    #[cfg(iomap_shuttle)]
    use shuttle as model;

    pub use model::sync::atomic;
    pub(super) use model::sync::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    };
    pub use model::thread;

    // A model run ends at the first panic: a poisoned lock is never looked at again.
    const NOT_POISONED: &str = "a panic ends the model run";

    #[inline]
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect(NOT_POISONED)
    }
    pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
        mutex.try_lock().ok()
    }
    #[inline]
    pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read().expect(NOT_POISONED)
    }
    pub(super) fn try_read<T>(lock: &RwLock<T>) -> Option<RwLockReadGuard<'_, T>> {
        lock.try_read().ok()
    }
    #[inline]
    pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write().expect(NOT_POISONED)
    }
    pub(super) fn try_write<T>(lock: &RwLock<T>) -> Option<RwLockWriteGuard<'_, T>> {
        lock.try_write().ok()
    }
    pub(super) fn wait<'a, T>(cv: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        cv.wait(guard).expect(NOT_POISONED)
    }
    /// A model has no clock: the wait ends by a notification only.
    pub(super) fn wait_for<'a, T>(
        cv: &Condvar,
        guard: MutexGuard<'a, T>,
        _timeout: std::time::Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        (wait(cv, guard), false)
    }
}

pub use imp::{atomic, thread};

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A full memory barrier: every access before it is seen by others before any access after it.
///
/// Each use names its partner. The pair that exists today is the one of direct I/O against
/// writeback and write faults (rules O2 and O3).
pub fn smp_mb() {
    atomic::fence(atomic::Ordering::SeqCst);
}

/// A mutual exclusion lock with a place on the ladder.
pub struct Mutex<T> {
    rank: Rank,
    inner: imp::Mutex<T>,
}

/// Holds a [`Mutex`]; dropping it unlocks.
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T> {
    inner: Option<imp::MutexGuard<'a, T>>,
    held: rank::Held,
}

impl<T> Mutex<T> {
    /// A lock of this rank around `value`.
    pub fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            inner: imp::Mutex::new(value),
        }
    }

    /// Waits for the lock.
    ///
    /// # Panics
    ///
    /// With the rank checker on, if the thread holds a lock of the same or an inner rank.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = rank::acquire(self.rank, 0);
        MutexGuard {
            inner: Some(imp::lock(&self.inner)),
            held,
        }
    }

    /// Takes the lock if it is free. Cannot deadlock, so the order is not checked.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = imp::try_lock(&self.inner)?;
        Some(MutexGuard {
            inner: Some(inner),
            held: rank::acquired_by_try(self.rank, 0),
        })
    }

    /// The value, when nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        #[cfg(not(any(iomap_shuttle, iomap_loom)))]
        return self.inner.get_mut();
        #[cfg(any(iomap_shuttle, iomap_loom))]
        return self.inner.get_mut().expect("a panic ends the model run");
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex")
            .field("rank", &self.rank)
            .finish_non_exhaustive()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("only empty inside a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("only empty inside a wait")
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Lets threads wait for a change of what a [`Mutex`] guards.
pub struct Condvar(imp::Condvar);

impl Condvar {
    /// A condition nobody waits for.
    #[must_use]
    pub fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// Releases the lock, waits for a notification, takes the lock again. Wakes without a
    /// notification as well: look at the condition in a loop.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.inner.take().expect("only empty inside a wait");
        guard
            .held
            .paused(|| guard.inner = Some(imp::wait(&self.0, inner)));
    }

    /// As [`Condvar::wait`], for `timeout` at most. Returns whether the time ran out.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        let inner = guard.inner.take().expect("only empty inside a wait");
        let mut timed_out = false;
        guard.held.paused(|| {
            let (inner, out) = imp::wait_for(&self.0, inner, timeout);
            guard.inner = Some(inner);
            timed_out = out;
        });
        timed_out
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

/// A shared/exclusive lock with a place on the ladder.
///
/// `key` orders locks of the same rank (two inodes: the smaller number first).
pub struct RwLock<T> {
    rank: Rank,
    key: u64,
    inner: imp::RwLock<T>,
}

/// Holds a [`RwLock`] shared.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockReadGuard<'a, T> {
    inner: imp::RwLockReadGuard<'a, T>,
    _held: rank::Held,
}

/// Holds a [`RwLock`] exclusively.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockWriteGuard<'a, T> {
    inner: imp::RwLockWriteGuard<'a, T>,
    _held: rank::Held,
}

impl<T> RwLock<T> {
    /// A lock of this rank around `value`; `key` is its place among the locks of the rank.
    pub fn new(rank: Rank, key: u64, value: T) -> Self {
        Self {
            rank,
            key,
            inner: imp::RwLock::new(value),
        }
    }

    /// Waits for the lock, shared.
    ///
    /// # Panics
    ///
    /// With the rank checker on, if the thread holds a lock of an inner rank, or of the same rank
    /// with the same or a larger key.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let held = rank::acquire(self.rank, self.key);
        RwLockReadGuard {
            inner: imp::read(&self.inner),
            _held: held,
        }
    }

    /// Takes the lock shared if that needs no waiting.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        let inner = imp::try_read(&self.inner)?;
        Some(RwLockReadGuard {
            inner,
            _held: rank::acquired_by_try(self.rank, self.key),
        })
    }

    /// Waits for the lock, exclusive.
    ///
    /// # Panics
    ///
    /// As [`RwLock::read`].
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let held = rank::acquire(self.rank, self.key);
        RwLockWriteGuard {
            inner: imp::write(&self.inner),
            _held: held,
        }
    }

    /// Takes the lock exclusively if that needs no waiting.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let inner = imp::try_write(&self.inner)?;
        Some(RwLockWriteGuard {
            inner,
            _held: rank::acquired_by_try(self.rank, self.key),
        })
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock")
            .field("rank", &self.rank)
            .finish_non_exhaustive()
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
