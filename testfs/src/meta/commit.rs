//! Making changes durable.
//!
//! Owns the protocol of a commit and who runs it. What a version of the tree is, [`tree`](super::tree);
//! which blocks may be used, [`space`](super::space).
//!
//! # A commit
//!
//! 1. Under the state lock: give every changed node an address among the free blocks, turn it into
//!    bytes, begin the next generation. From here on changes go on, into copies.
//! 2. Write the nodes.
//! 3. Flush (rule C1): nodes, and all data whose I/O had completed before step 1, are durable.
//! 4. Write the superblock with FUA (rule C2) into the slot that does *not* hold the newest durable state
//!    (rule C3).
//! 5. Under the state lock: the blocks freed in this generation become free (rule C4), and those that lost
//!    their second owner in it may be written in place.
//!
//! A crash before step 4 completes leaves the other slot, and no block of its tree has been touched:
//! what it refers to was not free. If a step fails, the generation stays undurable and its blocks
//! stay pinned; the next commit writes its nodes again, because after a failed flush nothing is known
//! about them (rule C15).
//!
//! # Who
//!
//! One thread at a time commits. Whoever comes meanwhile waits, and the first of the waiters then
//! commits for all of them.

use iomap_core::device::bytes;
use iomap_core::error::{Corrupt, Result};
use iomap_core::mutation::{self, Rule};
use iomap_core::sync::{Condvar, Mutex, Rank};
use iomap_core::units::DevAddr;

use super::tree::edit;
use super::{Meta, State};
use crate::format::superblock::SLOT_ADDRS;
use crate::format::{DiskBlock, DiskRun, NodePtr, Superblock};

/// The longest run of nodes written as one request, bytes.
const WRITE_BYTES: usize = 1 << 20;

/// What making a generation durable took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// It was already: nothing was written, and the device was *not* flushed.
    Already,
    /// A commit: the device was flushed as well, after the call began.
    Flushed,
}

/// Who commits, and what is durable.
#[derive(Debug)]
pub(super) struct Committer {
    state: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug)]
struct Progress {
    running: bool,
    /// Commits begun, and the number of the last one that succeeded.
    begun: u64,
    succeeded: u64,
    /// The newest durable generation.
    durable: u64,
    /// The slot of its superblock.
    slot: usize,
    /// What failed commits have left behind.
    backlog: Backlog,
}

/// Nodes to write, and blocks that become free when that is done.
#[derive(Debug, Default)]
struct Backlog {
    nodes: Vec<(DiskBlock, Vec<u8>)>,
    pinned: Vec<DiskRun>,
}

impl Committer {
    /// `durable` is on the device, in `slot`.
    pub(super) fn new(durable: u64, slot: usize) -> Self {
        let progress = Progress {
            running: false,
            begun: 0,
            succeeded: 0,
            durable,
            slot,
            backlog: Backlog::default(),
        };
        Self {
            state: Mutex::new(Rank::Journal, progress),
            changed: Condvar::new(),
        }
    }
}

impl Meta {
    /// Makes everything done so far durable.
    ///
    /// # Errors
    ///
    /// What the device says; then nothing may be taken for durable, and a later call tries again.
    pub fn commit(&self) -> Result<Durable> {
        self.commit_through(self.newest_generation())
    }

    /// The newest generation with a change in it: everything done so far is durable when
    /// [`Meta::commit_through`] has it.
    #[must_use]
    pub fn newest_generation(&self) -> u64 {
        let state = self.state.read();
        if state.changed {
            state.generation
        } else {
            state.generation - 1
        }
    }

    /// Makes `generation` ([`Txn::generation`](super::Txn::generation)) and those before it durable.
    ///
    /// With [`Durable::Already`] the caller that also wrote data has to flush the device itself.
    ///
    /// # Errors
    ///
    /// As [`Meta::commit`].
    pub fn commit_through(&self, generation: u64) -> Result<Durable> {
        let mut progress = self.committer.state.lock();
        let begun_before = progress.begun;
        loop {
            if progress.durable >= generation || self.read_only {
                // A commit that was running when we came may have flushed before that.
                return Ok(if progress.succeeded > begun_before {
                    Durable::Flushed
                } else {
                    Durable::Already
                });
            }
            if progress.running {
                self.committer.changed.wait(&mut progress);
                continue;
            }
            progress.running = true;
            progress.begun += 1;
            let serial = progress.begun;
            let backlog = std::mem::take(&mut progress.backlog);
            let slot = if mutation::off(Rule::C3) {
                progress.slot
            } else {
                1 - progress.slot
            };
            drop(progress);
            let (result, backlog) = self.run_commit(backlog, slot);
            progress = self.committer.state.lock();
            progress.running = false;
            progress.backlog = backlog;
            if mutation::off(Rule::C15) {
                progress.backlog.nodes.clear();
            }
            if let Ok(durable) = result {
                progress.durable = durable;
                progress.slot = slot;
                progress.succeeded = serial;
            }
            self.committer.changed.notify_all();
            result?;
        }
    }

    /// The newest durable generation.
    #[must_use]
    pub fn durable_generation(&self) -> u64 {
        self.committer.state.lock().durable
    }

    /// One commit. Gives back what is still to be done if it failed.
    fn run_commit(&self, mut backlog: Backlog, slot: usize) -> (Result<u64>, Backlog) {
        let superblock = match self.begin_commit(&mut backlog) {
            Ok(superblock) => superblock,
            Err(error) => return (Err(error), backlog),
        };
        if let Err(error) = self.write_commit(&mut backlog, &superblock, slot) {
            return (Err(error), backlog);
        }
        let result = self.end_commit(&backlog, superblock.generation);
        (result.map(|()| superblock.generation), Backlog::default())
    }

    /// Step 1.
    fn begin_commit(&self, backlog: &mut Backlog) -> Result<Superblock> {
        let mut state = self.state.write();
        self.take_returned(&mut state)?;
        let state = &mut *state;
        let needed = state.version.tree.dirty();
        if state.map.free() < needed {
            return Err(Corrupt::new("free space account: no blocks for a commit").into());
        }
        let State {
            version,
            map,
            node_cursor,
            ..
        } = state;
        let generation = state.generation;
        let nodes = edit::place(&mut version.tree, &self.store, generation, &mut || {
            let block = map
                .take_after(*node_cursor)
                .ok_or_else(|| Corrupt::new("free space map: fewer blocks than counted"))?;
            *node_cursor = block.plus(1);
            Ok(block)
        })?;
        backlog.nodes.extend(nodes);
        backlog.pinned.append(&mut state.freed);
        state.lone.begin_commit();
        state.generation += 1;
        state.changed = false;
        self.space.publish(state.map.free(), state.pinned, 0);
        self.superblock(state, generation)
    }

    /// The superblock of the version just placed.
    fn superblock(&self, state: &State, generation: u64) -> Result<Superblock> {
        let identity = &self.identity;
        let root: NodePtr = state
            .version
            .tree
            .root_ptr()
            .ok_or_else(|| Corrupt::new("tree root without an address after a commit"))?;
        let unused = state.map.free() + state.pinned + self.space.blocks_granted();
        Ok(Superblock {
            features: identity.features,
            uuid: identity.uuid,
            label: identity.label.clone(),
            created: identity.created,
            hash_seed: identity.hash_seed,
            geometry: identity.geometry,
            generation,
            root,
            root_level: state.version.tree.level(),
            next_ino: state.version.next_ino,
            inodes: state.version.inodes,
            used_blocks: identity.geometry.blocks().saturating_sub(unused),
        })
    }

    /// Steps 2 to 4.
    fn write_commit(
        &self,
        backlog: &mut Backlog,
        superblock: &Superblock,
        slot: usize,
    ) -> Result<()> {
        backlog.nodes.sort_by_key(|(addr, _)| *addr);
        let mut rest = backlog.nodes.as_slice();
        let mut buffer = Vec::new();
        while let Some((start, _)) = rest.first() {
            buffer.clear();
            let mut taken = 0;
            while let Some((addr, bytes)) = rest.get(taken)
                && *addr == start.plus(taken as u64)
                && (taken == 0 || buffer.len() + bytes.len() <= WRITE_BYTES)
            {
                buffer.extend_from_slice(bytes);
                taken += 1;
            }
            bytes::write_bytes(self.device(), self.store.addr(*start), &buffer, false)?;
            rest = &rest[taken..];
        }
        if !mutation::off(Rule::C1) {
            self.device().flush()?;
        }
        let addr = DevAddr::new(SLOT_ADDRS[slot]);
        let fua = !mutation::off(Rule::C2);
        bytes::write_bytes(self.device(), addr, &superblock.encode(), fua)?;
        Ok(())
    }

    /// Step 5.
    fn end_commit(&self, backlog: &Backlog, generation: u64) -> Result<()> {
        let mut state = self.state.write();
        for run in &backlog.pinned {
            state.release(*run)?;
            state.pinned -= run.len;
        }
        state.lone.end_commit();
        let dirty = state.version.tree.dirty();
        self.space.publish(state.map.free(), state.pinned, dirty);
        self.store.unpin(generation);
        Ok(())
    }
}
