//! Space: what is free, what is promised, and what is kept back.
//!
//! Owns the account that makes "no space left" an answer of [`Meta::reserve`] and of namespace
//! changes, and never of writeback or commit. Which blocks are free is [`free_map`]; who takes and
//! frees them is [`txn`](super::txn) and [`commit`](super::commit).
//!
//! # The account
//!
//! | | Blocks |
//! |---|---|
//! | `free` | in no durable tree and not in the running one: can be written now |
//! | `pinned` | freed, but a durable tree may still refer to them: free after the next commit |
//! | `dirty` | nodes of the running tree without an address: the next commit takes as many of `free` |
//! | `reserved` | promised to data that is not allocated yet |
//!
//! Two rules, checked together whenever one of the numbers changes:
//!
//! - **Commits succeed:** `free >= dirty + reserved`, always.
//! - **Deleting works on a full file system:** what [`Purpose::Normal`] may use is
//!   `free + pinned - dirty - reserved - overhead`, less a reserve that only freeing, converting
//!   and committing may use. `overhead` is what the extent items of the reserved blocks can take
//!   in the tree, however fragmented they become.
//!
//! [`Meta::reserve`]: super::Meta::reserve

pub(crate) mod free_map;
pub mod grant;
pub(super) mod lone;

use iomap_core::error::{FsError, Result};
use iomap_core::sync::{Mutex, Rank};

pub use grant::{Grant, Reservation};

use crate::format::{DiskRun, Geometry};

/// What a change is for: how deep into the reserve it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Anything that may fail with `ENOSPC`: creating, naming, reserving.
    Normal,
    /// Frees space in the end, but may need some first: punching, sharing less.
    Release,
    /// Must not fail for lack of space: the end of an I/O, deleting.
    Must,
}

/// The numbers of the module's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) free: u64,
    pub(crate) pinned: u64,
    pub(crate) dirty: u64,
    pub(crate) reserved: u64,
}

/// What does not change while mounted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Nodes one transaction may change before it should end.
    pub(crate) txn_nodes: u64,
    /// Blocks kept back from [`Purpose::Normal`].
    pub(crate) reserve: u64,
    block_size: u64,
}

impl Limits {
    pub(crate) fn new(geometry: Geometry) -> Self {
        let blocks = geometry.blocks();
        let txn_nodes = (blocks / 16).clamp(16, 64);
        Self {
            txn_nodes,
            reserve: txn_nodes + (blocks / 64).clamp(8, 1024),
            block_size: geometry.block_size() as u64,
        }
    }

    /// Blocks of the tree that the extents of `reserved` blocks can take: one item each in half
    /// full leaves, and the branches above.
    const fn overhead(&self, reserved: u64) -> u64 {
        const ITEM_BYTES: u64 = 2 * 40;
        reserved
            .saturating_mul(ITEM_BYTES)
            .div_ceil(self.block_size)
    }
}

impl Account {
    /// Blocks that can be written now and are promised to nobody.
    const fn ready(&self) -> u64 {
        self.free.saturating_sub(self.dirty + self.reserved)
    }

    /// Blocks that are promised to nobody, some of them only after a commit.
    const fn available(&self, limits: &Limits) -> u64 {
        let taken = self.dirty + self.reserved + limits.overhead(self.reserved);
        (self.free + self.pinned).saturating_sub(taken)
    }
}

/// The account, shared by everybody who changes it.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) limits: Limits,
    state: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    account: Account,
    /// Blocks given back by grants that were dropped; the next transaction puts them on the map.
    returned: Vec<DiskRun>,
    /// Blocks of live grants: allocated, but in no tree.
    granted: u64,
}

/// The answer to a wish for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Granted.
    Yes,
    /// There will be room after a commit.
    AfterCommit,
    /// There is none.
    No,
}

impl Space {
    pub(crate) fn new(limits: Limits) -> Self {
        let shared = Shared {
            account: Account::default(),
            returned: Vec::new(),
            granted: 0,
        };
        Self {
            limits,
            state: Mutex::new(Rank::AllocGroup, shared),
        }
    }

    pub(crate) fn account(&self) -> Account {
        self.state.lock().account
    }

    /// Blocks an ordinary user may still use: the most that can be reserved at once, which takes
    /// room for the nodes that will find them too.
    pub(crate) fn available(&self) -> u64 {
        let account = self.account();
        let fits = |blocks: u64| {
            let promised = Account {
                reserved: account.reserved + blocks,
                ..account
            };
            promised.available(&self.limits) >= self.limits.reserve
        };
        let left = account.available(&self.limits);
        let (mut most, mut over) = (0, left.saturating_sub(self.limits.reserve) + 1);
        // `most` fits, or nothing does; `over` does not.
        while over - most > 1 {
            let middle = most + (over - most) / 2;
            if fits(middle) {
                most = middle;
            } else {
                over = middle;
            }
        }
        most
    }

    /// Whether a transaction can begin.
    pub(crate) fn room_for_txn(&self) -> Room {
        let account = self.account();
        if account.ready() >= self.limits.txn_nodes {
            Room::Yes
        } else if account.pinned > 0 {
            Room::AfterCommit
        } else {
            Room::No
        }
    }

    /// Promises `blocks`, if they are there.
    pub(crate) fn try_reserve(&self, blocks: u64) -> Room {
        let mut state = self.state.lock();
        let mut account = state.account;
        let Some(reserved) = account.reserved.checked_add(blocks) else {
            return Room::No;
        };
        account.reserved = reserved;
        let total = account.free.saturating_add(account.pinned);
        if blocks > total || account.available(&self.limits) < self.limits.reserve {
            return Room::No;
        }
        if account.ready() < self.limits.txn_nodes {
            return if account.pinned > 0 {
                Room::AfterCommit
            } else {
                Room::No
            };
        }
        state.account = account;
        Room::Yes
    }

    /// Takes back a promise.
    fn unreserve(&self, blocks: u64) {
        let mut state = self.state.lock();
        debug_assert!(state.account.reserved >= blocks);
        state.account.reserved = state.account.reserved.saturating_sub(blocks);
    }

    /// Takes the blocks of a dropped grant: usable again when a transaction has put them on the
    /// map.
    fn give_back(&self, run: DiskRun) {
        let mut state = self.state.lock();
        state.account.pinned += run.len;
        state.granted -= run.len;
        state.returned.push(run);
    }

    fn granted(&self, blocks: u64) {
        self.state.lock().granted += blocks;
    }

    fn ungranted(&self, blocks: u64) {
        self.state.lock().granted -= blocks;
    }

    /// Blocks that are allocated and in no tree: of live grants, and of dropped ones that are not back
    /// on the map.
    pub(crate) fn blocks_granted(&self) -> u64 {
        let state = self.state.lock();
        state.granted + state.returned.iter().map(|run| run.len).sum::<u64>()
    }

    /// Blocks of live reservations, and of live grants.
    pub(crate) fn promises(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.account.reserved, state.granted)
    }

    /// The blocks of dropped grants; the caller puts them on the map and publishes.
    pub(crate) fn take_returned(&self) -> Vec<DiskRun> {
        let mut state = self.state.lock();
        let runs = std::mem::take(&mut state.returned);
        let blocks: u64 = runs.iter().map(|run| run.len).sum();
        state.account.pinned -= blocks;
        state.account.free += blocks;
        runs
    }

    /// Sets the numbers after a mount or a commit, for which the rules are known to hold.
    pub(crate) fn publish(&self, free: u64, pinned: u64, dirty: u64) {
        let mut state = self.state.lock();
        let returned: u64 = state.returned.iter().map(|run| run.len).sum();
        state.account.free = free;
        state.account.pinned = pinned + returned;
        state.account.dirty = dirty;
    }

    /// Sets the numbers after a transaction, if the rules hold for its purpose.
    ///
    /// `consumed` of the reserved blocks are now allocated.
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`]: then nothing has changed.
    pub(crate) fn try_publish(
        &self,
        purpose: Purpose,
        [free, pinned, dirty]: [u64; 3],
        consumed: u64,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let returned: u64 = state.returned.iter().map(|run| run.len).sum();
        let after = Account {
            free,
            pinned: pinned + returned,
            dirty,
            reserved: state.account.reserved.saturating_sub(consumed),
        };
        let floor = match purpose {
            Purpose::Normal => self.limits.reserve,
            Purpose::Release => self.limits.reserve / 2,
            Purpose::Must => 0,
        };
        let (had, has) = (
            state.account.available(&self.limits),
            after.available(&self.limits),
        );
        if after.free < after.dirty + after.reserved || (has < floor && has < had) {
            return Err(FsError::NoSpace);
        }
        state.account = after;
        Ok(())
    }
}
