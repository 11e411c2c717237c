//! The lock ladder, and the checker that panics when a thread climbs it the wrong way.
//!
//! Owns the order of every lock class of the framework and the per-thread list of what is held.
//! On in debug builds and with the feature `rank-check`; otherwise every function here is empty.
//! The picture of the ladder for people is `docs/LOCKING.md`; a test there compares the two.

use std::fmt;

/// A lock class. Declared outer to inner: a thread may only take a lock of a class further down
/// than everything it holds, or of the same class with a larger key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rank {
    /// Freeze protection of a file system, shared by every change.
    Freeze,
    /// Directory tree changes that need several inodes at once (rename).
    Namespace,
    /// The inode lock: shared for reads and direct overwrites, exclusive for what changes size or
    /// mappings. Key: inode number.
    Inode,
    /// The invalidate lock: shared while the page cache is filled, exclusive while a range of it
    /// is removed for good. Key: inode number.
    Invalidate,
    /// A cluster lock (gfs2 glock).
    Glock,
    /// Quota.
    Quota,
    /// A reservation of blocks in a resource group.
    Reservation,
    /// A transaction of a backend that opens it before the folio lock (order A).
    TransactionBeforeFolio,
    /// The lock of a folio. Key: page index; several only in ascending order.
    Folio,
    /// A transaction of a backend that opens it inside the folio lock (order B).
    TransactionInFolio,
    /// The backend's mapping lock of an inode. Key: inode number.
    Mapping,
    /// An allocation group.
    AllocGroup,
    /// The state of a journal.
    Journal,
    /// A table of in-memory inodes.
    InodeTable,
    /// Queues of finished writeback.
    IoendQueue,
    /// The dirty accounting and the flusher's queues.
    Flusher,
    /// The list of memory mappings of one page cache.
    ReverseMap,
    /// The page table of one memory mapping.
    PageTable,
    /// The index of one page cache.
    PageCacheIndex,
    /// The per-block state of one folio.
    FolioState,
    /// Small state of one inode: error sequence, direct I/O waiters.
    InodeState,
    /// The reclaim lists of a memory pool.
    ReclaimList,
    /// The allocators of a memory pool.
    FolioArena,
    /// A submission queue of a device.
    DeviceQueue,
    /// A wait queue.
    Wait,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
mod checker {
    use super::Rank;
    use std::cell::{Cell, RefCell};

    /// The id of no entry.
    pub(super) const NOBODY: u64 = 0;

    #[derive(Clone, Copy)]
    struct Entry {
        id: u64,
        rank: Rank,
        key: u64,
    }

    #[cfg(not(iomap_shuttle))]
    std::thread_local! {
        static HELD: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
        static NEXT: Cell<u64> = const { Cell::new(1) };
    }
    #[cfg(iomap_shuttle)]
    shuttle::thread_local! {
        static HELD: RefCell<Vec<Entry>> = RefCell::new(Vec::new());
        static NEXT: Cell<u64> = Cell::new(1);
    }

    pub(super) fn push(rank: Rank, key: u64, checked: bool) -> u64 {
        if checked {
            check(rank, key);
        }
        let id = NEXT.with(|next| next.replace(next.get() + 1));
        HELD.with(|held| held.borrow_mut().push(Entry { id, rank, key }));
        id
    }

    fn check(rank: Rank, key: u64) {
        let broken = HELD.with(|held| {
            let held = held.borrow();
            let inner = held.iter().find(|h| (h.rank, h.key) >= (rank, key))?;
            let chain: Vec<_> = held
                .iter()
                .map(|h| format!("{}({})", h.rank, h.key))
                .collect();
            Some((format!("{}({})", inner.rank, inner.key), chain.join(" -> ")))
        });
        if let Some((inner, chain)) = broken
            && !std::thread::panicking()
        {
            panic!(
                "lock order broken: taking {rank}({key}) while holding {inner}\n  held: {chain}\n  \
                 the ladder asks for {rank} before {inner}; see docs/LOCKING.md"
            );
        }
    }

    pub(super) fn pop(id: u64) {
        HELD.with(|held| held.borrow_mut().retain(|h| h.id != id));
    }

    pub(super) fn chain() -> Vec<(Rank, u64)> {
        HELD.with(|held| held.borrow().iter().map(|h| (h.rank, h.key)).collect())
    }
}

/// The record that this thread holds a lock. Dropping it forgets the lock.
///
/// Not `Send` in spirit: a lock that moves to another owner (a folio handed to an I/O) drops its
/// record first.
#[must_use]
pub struct Held {
    #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
    entry: (u64, Rank, u64),
}

impl Held {
    /// The record of nothing.
    #[inline]
    pub(crate) fn none() -> Self {
        Self {
            #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
            entry: (checker::NOBODY, Rank::Wait, 0),
        }
    }

    /// Forgets the lock while `wait` runs (a condition variable has released it), remembers it
    /// afterwards.
    pub(super) fn paused(&mut self, wait: impl FnOnce()) {
        #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
        {
            checker::pop(self.entry.0);
            wait();
            self.entry.0 = checker::push(self.entry.1, self.entry.2, false);
        }
        #[cfg(not(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom))))]
        wait();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

#[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
impl Drop for Held {
    fn drop(&mut self) {
        checker::pop(self.entry.0);
    }
}

/// Records that the thread is about to wait for a lock of this class, and checks the ladder.
///
/// # Panics
///
/// With the checker on, if a lock of this class and key, or of an inner one, is held.
#[inline]
pub fn acquire(rank: Rank, key: u64) -> Held {
    let _ = (rank, key);
    Held {
        #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
        entry: (checker::push(rank, key, true), rank, key),
    }
}

/// Records a lock that was taken without waiting. Such a step cannot deadlock by itself, so the
/// ladder is not checked; what is taken after it is.
#[inline]
pub fn acquired_by_try(rank: Rank, key: u64) -> Held {
    let _ = (rank, key);
    Held {
        #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
        entry: (checker::push(rank, key, false), rank, key),
    }
}

/// Asserts that the thread holds no lock of class `rank` or further in: what follows may wait for
/// such a lock, or for I/O whose completion takes one.
///
/// # Panics
///
/// With the checker on, if it does.
#[inline]
pub fn assert_none_from(rank: Rank, what: &str) {
    let _ = (rank, what);
    #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
    if let Some(held) = checker::chain().iter().find(|h| h.0 >= rank)
        && !std::thread::panicking()
    {
        panic!(
            "{what} may wait for {rank}, but {}({}) is held",
            held.0, held.1
        );
    }
}

/// Whether the thread holds a lock of class `rank`. `true` when the checker is off: only for
/// assertions.
#[must_use]
pub fn is_held(rank: Rank) -> bool {
    let _ = rank;
    #[cfg(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom)))]
    return checker::chain().iter().any(|h| h.0 == rank);
    #[cfg(not(all(any(debug_assertions, feature = "rank-check"), not(iomap_loom))))]
    return true;
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::super::{Condvar, Mutex, RwLock};
    use super::*;

    #[test]
    fn going_down_the_ladder_is_allowed() {
        let inode = RwLock::new(Rank::Inode, 1, ());
        let other = RwLock::new(Rank::Inode, 2, ());
        let index = Mutex::new(Rank::PageCacheIndex, ());
        let _inode = inode.write();
        let _other = other.write();
        let _index = index.lock();
        assert!(is_held(Rank::Inode));
    }

    #[test]
    #[should_panic(expected = "taking Inode(1) while holding PageCacheIndex(0)")]
    fn climbing_up_panics() {
        let inode = RwLock::new(Rank::Inode, 1, ());
        let index = Mutex::new(Rank::PageCacheIndex, ());
        let _index = index.lock();
        let _inode = inode.read();
    }

    #[test]
    #[should_panic(expected = "taking Inode(1) while holding Inode(2)")]
    fn equal_ranks_need_ascending_keys() {
        let (one, two) = (
            RwLock::new(Rank::Inode, 1, ()),
            RwLock::new(Rank::Inode, 2, ()),
        );
        let _two = two.read();
        let _one = one.read();
    }

    #[test]
    fn trying_is_not_checked_but_remembered() {
        let outer = Mutex::new(Rank::Flusher, ());
        let inner = Mutex::new(Rank::FolioState, ());
        let _inner = inner.lock();
        let outer = outer.try_lock().expect("free");
        assert!(is_held(Rank::Flusher));
        drop(outer);
        assert!(!is_held(Rank::Flusher));
    }

    #[test]
    fn a_wait_holds_nothing_while_it_waits() {
        let mutex = Mutex::new(Rank::Wait, ());
        let cv = Condvar::new();
        let mut guard = mutex.lock();
        assert!(cv.wait_for(&mut guard, std::time::Duration::from_millis(1)));
        assert!(is_held(Rank::Wait));
    }
}
