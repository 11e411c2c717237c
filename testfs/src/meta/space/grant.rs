//! Promised and allocated blocks that are not part of a file yet, as guards.
//!
//! Owns [`Reservation`] (a number of blocks, no place yet) and [`Grant`] (blocks with a place).
//! Dropping either gives it back. The account is [`space`](super).

use std::fmt;
use std::sync::Arc;

use iomap_core::sync::atomic::{AtomicU64, Ordering};

use super::Space;
use crate::format::DiskRun;

/// A promise of blocks: allocating that many cannot fail for lack of space. Dropping it gives the
/// rest back.
///
/// Splitting, merging and dropping a reservation or a grant takes the lock of the account
/// ([`Rank::AllocGroup`](iomap_core::sync::Rank::AllocGroup)) for a moment.
#[must_use = "dropping a reservation gives the blocks back"]
pub struct Reservation {
    space: Arc<Space>,
    /// Blocks left. Relaxed: a number of its own, orders nothing.
    left: Arc<AtomicU64>,
}

impl Reservation {
    pub(crate) fn new(space: Arc<Space>, blocks: u64) -> Self {
        Self {
            space,
            left: Arc::new(AtomicU64::new(blocks)),
        }
    }

    /// Blocks still promised.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Splits off up to `blocks` of them.
    pub fn split(&mut self, blocks: u64) -> Self {
        let taken = self.draw(blocks);
        Self::new(Arc::clone(&self.space), taken)
    }

    /// Adds what `other` holds. Both are of the same file system.
    ///
    /// # Panics
    ///
    /// If they are not.
    pub fn merge(&mut self, other: Self) {
        assert!(
            Arc::ptr_eq(&self.space, &other.space),
            "reservations of two file systems"
        );
        let blocks = other.draw(u64::MAX);
        self.left.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Takes up to `blocks` out, and says how many.
    pub(crate) fn draw(&self, blocks: u64) -> u64 {
        let mut taken = 0;
        // Cannot fail: the closure always gives a value.
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                taken = left.min(blocks);
                Some(left - taken)
            });
        taken
    }

    /// The place to put drawn blocks back to, if a transaction fails.
    pub(crate) fn cell(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.left)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let left = self.draw(u64::MAX);
        if left > 0 {
            self.space.unreserve(left);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("blocks", &self.blocks())
            .finish_non_exhaustive()
    }
}

/// Allocated blocks that belong to no file yet: the destination of a copy-on-write that is being
/// written. Dropping it frees them; a crash does as well, for nothing durable refers to them.
#[must_use = "dropping a grant frees the blocks"]
pub struct Grant {
    space: Arc<Space>,
    run: DiskRun,
}

impl Grant {
    pub(crate) fn new(space: Arc<Space>, run: DiskRun) -> Self {
        space.granted(run.len);
        Self { space, run }
    }

    /// The blocks.
    #[must_use]
    pub const fn run(&self) -> DiskRun {
        self.run
    }

    /// Splits off the first `blocks` of them.
    pub fn split(&mut self, blocks: u64) -> Self {
        let head = Self {
            space: Arc::clone(&self.space),
            run: self.run.take(blocks),
        };
        self.run = self.run.skip(blocks);
        head
    }

    /// Takes the blocks out of the guard: a file owns them now.
    pub(crate) fn disarm(&mut self) {
        self.space.ungranted(self.run.len);
        self.run.len = 0;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.run.len > 0 {
            self.space.give_back(self.run);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({})", self.run)
    }
}
