//! A transaction: changes that happen as a whole or not at all.
//!
//! Owns the change of items and blocks inside one, and the way back. The rules of what may be changed
//! are with the nouns ([`inode`](super::inode), [`dir`](super::dir), …), whose changes are methods of
//! [`Txn`] too. Durability is a matter of [`Meta::commit`](super::Meta::commit).
//!
//! The way back is short: the version before is still there, as its nodes were copied; blocks taken
//! go back to the map, and blocks freed were not put there yet.

use std::fmt;
use std::sync::Arc;

use iomap_core::error::{Corrupt, FsError, Result};
use iomap_core::mutation::{self, Rule};
use iomap_core::sync::atomic::{AtomicU64, Ordering};

use super::space::{Grant, Purpose, Reservation, Space};
use super::store::NodeStore;
use super::tree::edit::Edit;
use super::{Identity, State, Version, View};
use crate::format::{DiskBlock, DiskRun, Geometry, Key};

/// An open transaction. Exists inside [`Meta::update`](super::Meta::update) only.
pub struct Txn<'a> {
    store: &'a NodeStore,
    space: &'a Arc<Space>,
    identity: &'a Identity,
    state: &'a mut State,
    /// What to put back; gone when the changes are kept.
    before: Option<Version>,
    dirty_before: u64,
    edited: bool,
    /// Taken from the map, for files.
    allocated: Vec<DiskRun>,
    /// Freed: nodes and blocks of files.
    freed_nodes: Vec<DiskBlock>,
    freed: Vec<DiskRun>,
    /// Blocks that have one owner now and had two.
    lone: Vec<DiskRun>,
    /// Blocks taken out of reservations, and where to put them back.
    drawn: Vec<(Arc<AtomicU64>, u64)>,
    /// Grants that became part of a file.
    attached: Vec<Grant>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(
        store: &'a NodeStore,
        space: &'a Arc<Space>,
        identity: &'a Identity,
        state: &'a mut State,
    ) -> Self {
        Self {
            before: Some(state.version.clone()),
            dirty_before: state.version.tree.dirty(),
            store,
            space,
            identity,
            state,
            edited: false,
            allocated: Vec::new(),
            freed_nodes: Vec::new(),
            freed: Vec::new(),
            lone: Vec::new(),
            drawn: Vec::new(),
            attached: Vec::new(),
        }
    }

    /// The metadata as this transaction has made it so far.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        let state = &*self.state;
        let seed = &self.identity.hash_seed;
        View::new(self.store, &state.version, &state.lone, seed)
    }

    /// The generation the changes belong to: durable when
    /// [`Meta::commit_through`](super::Meta::commit_through) has it.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.state.generation
    }

    /// Block size and number of blocks.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.identity.geometry
    }

    /// Whether a long job should end this transaction and go on in the next.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let dirtied = self
            .state
            .version
            .tree
            .dirty()
            .saturating_sub(self.dirty_before);
        dirtied >= self.space.limits.txn_nodes / 3 || self.freed_nodes.len() as u64 >= 256
    }

    /// Items a long job changes at a time, before it asks [`Txn::is_full`]: each may dirty a path
    /// through the tree, and one to reference counts.
    pub(super) fn batch(&self) -> usize {
        (self.space.limits.txn_nodes / 8) as usize
    }

    /// Sets an item.
    pub(crate) fn insert(&mut self, key: Key, value: &[u8]) -> Result<()> {
        self.edited = true;
        self.edit().insert(key, value)
    }

    /// Removes an item. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: &Key) -> Result<bool> {
        self.edited = true;
        self.edit().remove(key)
    }

    /// Removes an item that has just been seen.
    pub(crate) fn remove_known(&mut self, key: &Key) -> Result<()> {
        if self.remove(key)? {
            return Ok(());
        }
        Err(Corrupt::new(format!("item {key}: gone while it was being changed")).into())
    }

    fn edit(&mut self) -> Edit<'_> {
        Edit {
            tree: &mut self.state.version.tree,
            store: self.store,
            freed: &mut self.freed_nodes,
        }
    }

    /// The next inode number, and one inode more.
    pub(crate) fn new_ino(&mut self) -> Result<crate::format::Ino> {
        let version: &mut Version = &mut self.state.version;
        let ino = version.next_ino;
        let next = ino.get().checked_add(1).ok_or(FsError::NoSpace)?;
        version.next_ino = crate::format::Ino::new(next);
        version.inodes = version.inodes.saturating_add(1);
        Ok(ino)
    }

    /// One inode less.
    pub(crate) fn forget_ino(&mut self) {
        self.state.version.inodes = self.state.version.inodes.saturating_sub(1);
    }

    /// Takes up to `want` neighbouring blocks for a file out of `reservation`, near `goal`.
    pub(crate) fn take_blocks(
        &mut self,
        goal: Option<DiskBlock>,
        want: u64,
        reservation: &Reservation,
    ) -> Result<DiskRun> {
        let run = self.take_run(goal, want, reservation)?;
        self.allocated.push(run);
        Ok(run)
    }

    /// Takes up to `want` neighbouring blocks that belong to no file yet out of `reservation`, near
    /// `goal`: at least one.
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`] if the reservation is empty.
    pub fn allocate(
        &mut self,
        goal: Option<DiskBlock>,
        want: u64,
        reservation: &Reservation,
    ) -> Result<Grant> {
        let run = self.take_run(goal, want, reservation)?;
        Ok(Grant::new(Arc::clone(self.space), run))
    }

    fn take_run(
        &mut self,
        goal: Option<DiskBlock>,
        want: u64,
        reservation: &Reservation,
    ) -> Result<DiskRun> {
        let drawn = reservation.draw(want);
        if drawn == 0 {
            return Err(FsError::NoSpace);
        }
        let cell = reservation.cell();
        let Some(run) = self.state.map.take(goal, drawn) else {
            cell.fetch_add(drawn, Ordering::Relaxed);
            return Err(Corrupt::new("free space map: fewer blocks than reserved").into());
        };
        cell.fetch_add(drawn - run.len, Ordering::Relaxed);
        self.drawn.push((cell, run.len));
        Ok(run)
    }

    /// Makes the blocks of `grant` part of a file.
    pub(crate) fn attach(&mut self, grant: Grant) -> DiskRun {
        let run = grant.run();
        self.attached.push(grant);
        run
    }

    /// Frees blocks no file refers to any more.
    pub(crate) fn free_blocks(&mut self, run: DiskRun) {
        self.freed.push(run);
    }

    /// Notes blocks that have one owner left.
    pub(super) fn left_alone(&mut self, run: DiskRun) {
        self.lone.push(run);
    }

    /// Keeps everything, or nothing if that or `result` fails.
    pub(super) fn finish<T>(mut self, purpose: Purpose, result: Result<T>) -> Result<T> {
        let value = result?;
        self.publish(purpose)?;
        self.before = None;
        Ok(value)
    }

    fn publish(&mut self, purpose: Purpose) -> Result<()> {
        let nodes = self.freed_nodes.len() as u64;
        let freed = nodes + self.freed.iter().map(|run| run.len).sum::<u64>();
        let consumed = self.drawn.iter().map(|(_, blocks)| *blocks).sum();
        let state = &mut *self.state;
        let numbers = [
            state.map.free(),
            state.pinned + freed,
            state.version.tree.dirty(),
        ];
        self.space.try_publish(purpose, numbers, consumed)?;
        state.pinned += freed;
        state.freed.append(&mut self.freed);
        let nodes = self.freed_nodes.drain(..);
        state
            .freed
            .extend(nodes.map(|block| DiskRun::new(block, 1)));
        for run in self.lone.drain(..) {
            if !mutation::off(Rule::C6) {
                state.lone.insert(run);
            }
        }
        if mutation::off(Rule::C4) {
            for run in std::mem::take(&mut state.freed) {
                state.release(run)?;
                state.pinned -= run.len;
            }
            let dirty = state.version.tree.dirty();
            self.space.publish(state.map.free(), state.pinned, dirty);
        }
        state.changed |= self.edited;
        for mut grant in self.attached.drain(..) {
            grant.disarm();
        }
        Ok(())
    }
}

impl Drop for Txn<'_> {
    /// Undoes everything, unless it was kept: after an error, and after a panic.
    fn drop(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        for (cell, blocks) in self.drawn.drain(..) {
            cell.fetch_add(blocks, Ordering::Relaxed);
        }
        for run in self.allocated.drain(..) {
            let released = self.state.map.release(run);
            debug_assert!(released, "blocks {run} were taken by this transaction");
        }
        let state = &mut *self.state;
        state.version = before;
        let dirty = state.version.tree.dirty();
        self.space.publish(state.map.free(), state.pinned, dirty);
    }
}

impl fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Txn")
            .field("generation", &self.state.generation)
            .finish_non_exhaustive()
    }
}
