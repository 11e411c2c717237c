//! The metadata of testfs: one copy-on-write tree, and everything done to it below the data paths.
//!
//! Owns the mounted state ([`Meta`]), transactions, commit, space, and the rules of inodes, extents,
//! directories and attributes. Does not own the bytes of files, the page cache or any mapping
//! of it: the file system on top does, and calls down with block numbers.
//!
//! | To see | open |
//! |---|---|
//! | what is on the device | [`format`](crate::format) |
//! | how a change is made, and undone | [`txn`] |
//! | how it becomes durable | `commit` |
//! | who may use which block | [`space`] |
//! | where a file's blocks are | [`extents`] |
//! | names | [`dir`], [`rename`](dir) |
//!
//! # Locking
//!
//! ```text
//! … folio → Meta::state (Rank::TransactionInFolio) → space account (AllocGroup)
//!                                                  → node cache (Journal)
//! commit state (Journal): alone; a commit takes Meta::state to begin and to end, and holds
//! nothing while it writes
//! ```
//!
//! A transaction may be opened with folios locked (order B): neither it nor a commit ever takes a
//! folio. Nodes are read from the device under the state lock; no completion takes that lock.

mod commit;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod crash_tests;
pub mod dir;
pub mod extents;
pub mod inode;
mod mkfs;
pub(crate) mod node;
pub(crate) mod open;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod open_tests;
pub mod orphan;
mod refcount;
pub mod space;
pub(crate) mod store;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod testing;
pub(crate) mod tree;
pub mod txn;
pub mod view;
pub mod xattr;

use std::fmt;
use std::sync::Arc;

use iomap_core::device::BlockDevice;
use iomap_core::error::{Corrupt, FsError, Result};
use iomap_core::sync::{RwLock, RwLockWriteGuard};
use iomap_core::units::DevAddr;

pub use commit::Durable;
pub use mkfs::MkfsOptions;
pub use open::{OpenError, OpenOptions, recognise};
pub use space::{Grant, Purpose, Reservation};
pub use txn::Txn;
pub use view::View;

use crate::format::{DiskBlock, DiskRun, Features, Geometry, Ino};
use commit::Committer;
use space::free_map::FreeMap;
use space::lone::Lone;
use space::{Room, Space};
use store::NodeStore;
use tree::Tree;

/// What never changes after mkfs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Feature bits.
    pub features: Features,
    /// Identity of the file system.
    pub uuid: [u8; 16],
    /// Volume label.
    pub label: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// Seed of the name hashes.
    pub hash_seed: [u8; 16],
    /// Block size and number of blocks.
    pub geometry: Geometry,
}

/// The mounted metadata of a file system.
pub struct Meta {
    identity: Identity,
    store: NodeStore,
    space: Arc<Space>,
    state: RwLock<State>,
    committer: Committer,
    read_only: bool,
}

/// What a transaction replaces as a whole, and puts back if it fails.
#[derive(Clone, Debug)]
struct Version {
    tree: Tree,
    next_ino: Ino,
    inodes: u64,
}

/// Behind the state lock.
#[derive(Debug)]
struct State {
    version: Version,
    /// The running generation: the next commit writes it.
    generation: u64,
    /// Whether the running generation differs from the one before.
    changed: bool,
    map: FreeMap,
    /// Freed in the running generation.
    freed: Vec<DiskRun>,
    /// Blocks in `freed`, and in those of commits that are not durable.
    pinned: u64,
    /// Not shared any more, but to be treated so.
    lone: Lone,
    /// Where the next node goes.
    node_cursor: DiskBlock,
}

/// Space and inodes, for `statfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Blocks nobody uses and nobody was promised.
    pub free: u64,
    /// Those of them that ordinary changes may use.
    pub available: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Inodes that can still be made: as many as inode items fit.
    pub inodes_free: u64,
    /// Bytes of the longest name.
    pub name_max: u32,
}

impl Meta {
    /// Block size and number of blocks.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.identity.geometry
    }

    /// What never changes after mkfs.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The device below.
    #[must_use]
    pub fn device(&self) -> &dyn BlockDevice {
        self.store.device()
    }

    /// The device address of a block.
    #[must_use]
    pub fn block_addr(&self, block: DiskBlock) -> DevAddr {
        self.store.addr(block)
    }

    /// Whether changes are refused.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Looks at the running version. The state lock is held shared while `f` runs: no change and
    /// no other look from inside.
    ///
    /// # Errors
    ///
    /// Whatever `f` returns.
    pub fn read<T>(&self, f: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        let state = self.state.read();
        f(&View::new(
            &self.store,
            &state.version,
            &state.lone,
            &self.identity.hash_seed,
        ))
    }

    /// Changes the metadata: all that `f` does, or nothing if it fails.
    ///
    /// The state lock is held while `f` runs. May commit first, if freed blocks have to become
    /// usable; so the caller must not hold a lock a commit needs, which are the state lock and
    /// the device's.
    ///
    /// # Errors
    ///
    /// Whatever `f` returns; [`FsError::NoSpace`] if it took more space than `purpose` allows;
    /// [`FsError::ReadOnly`].
    pub fn update<T>(
        &self,
        purpose: Purpose,
        f: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        if self.read_only {
            return Err(FsError::ReadOnly);
        }
        self.make_room()?;
        let mut state = self.state.write();
        self.take_returned(&mut state)?;
        let mut txn = Txn::new(&self.store, &self.space, &self.identity, &mut state);
        let result = f(&mut txn);
        txn.finish(purpose, result)
    }

    /// Promises `blocks` of data: allocating them later cannot fail for lack of space.
    ///
    /// May commit, if freed blocks have to become usable: as [`Meta::update`].
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`]; [`FsError::ReadOnly`]; what the device says to a commit.
    pub fn reserve(&self, blocks: u64) -> Result<Reservation> {
        if self.read_only {
            return Err(FsError::ReadOnly);
        }
        loop {
            match self.space.try_reserve(blocks) {
                Room::Yes => return Ok(Reservation::new(Arc::clone(&self.space), blocks)),
                Room::No => return Err(FsError::NoSpace),
                Room::AfterCommit if self.reclaim()? => {}
                Room::AfterCommit => return Err(FsError::NoSpace),
            }
        }
    }

    /// Space and inodes.
    #[must_use]
    pub fn statfs(&self) -> Statfs {
        let inodes = self.state.read().version.inodes;
        let account = self.space.account();
        let available = self.space.available();
        let taken = account.dirty + account.reserved;
        let per_block = (self.geometry().block_size() / 256) as u64;
        Statfs {
            block_size: self.geometry().block_size() as u32,
            blocks: self.geometry().blocks(),
            free: (account.free + account.pinned).saturating_sub(taken),
            available,
            inodes,
            inodes_free: available.saturating_mul(per_block),
            name_max: crate::format::NAME_MAX as u32,
        }
    }

    /// Blocks of live reservations, and of live grants.
    #[must_use]
    pub fn promises(&self) -> (u64, u64) {
        self.space.promises()
    }

    /// Commits if a transaction could not be sure of the blocks its nodes need.
    fn make_room(&self) -> Result<()> {
        if self.space.room_for_txn() == Room::AfterCommit {
            self.reclaim()?;
        }
        Ok(())
    }

    /// Makes pinned blocks free: returns whether that changed anything.
    fn reclaim(&self) -> Result<bool> {
        let before = self.space.account();
        self.commit()?;
        Ok(self.space.account() != before)
    }

    /// Puts the blocks of dropped grants back on the map.
    fn take_returned(&self, state: &mut RwLockWriteGuard<'_, State>) -> Result<()> {
        for run in self.space.take_returned() {
            state.release(run)?;
        }
        Ok(())
    }
}

impl State {
    /// Puts blocks back on the map.
    fn release(&mut self, run: DiskRun) -> Result<()> {
        if self.map.release(run) {
            return Ok(());
        }
        Err(Corrupt::new(format!("blocks {run}: freed twice")).into())
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta")
            .field("label", &self.identity.label)
            .field("geometry", &self.identity.geometry)
            .field("space", &self.space.account())
            .finish_non_exhaustive()
    }
}
