//! An allocation that fails because a test says so.
//!
//! Owns the count down to it. A build without debug assertions has none of it.

#[cfg(debug_assertions)]
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which allocation is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Allocations up to and with the one that is refused; zero if none is. A count of its own:
    /// orders nothing.
    #[cfg(debug_assertions)]
    left: AtomicU64,
}

impl Refusal {
    pub(super) fn new() -> Self {
        Self {
            #[cfg(debug_assertions)]
            left: AtomicU64::new(0),
        }
    }

    /// The allocation after `n` more is refused; none if `None`.
    #[cfg(debug_assertions)]
    pub(super) fn set(&self, n: Option<u64>) {
        self.left.store(n.map_or(0, |n| n + 1), Relaxed);
    }

    /// Whether the refusal is still to come.
    #[cfg(debug_assertions)]
    pub(super) fn is_pending(&self) -> bool {
        self.left.load(Relaxed) > 0
    }

    /// Counts an allocation. Returns whether it is the one that is refused.
    #[inline]
    pub(super) fn strikes(&self) -> bool {
        #[cfg(debug_assertions)]
        {
            let down = |left: u64| left.checked_sub(1);
            self.left.fetch_update(Relaxed, Relaxed, down) == Ok(1)
        }
        #[cfg(not(debug_assertions))]
        {
            false
        }
    }
}
