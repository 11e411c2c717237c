//! What a file has in memory and not in the tree: promised blocks, and copies on their way.
//!
//! Owns three sets of blocks and the reservation behind them:
//!
//! | Set | Over | Means |
//! |---|---|---|
//! | `delalloc` | holes | dirty data in the cache; storage is promised, writeback chooses it |
//! | `copying` | shared extents | the same for the private copy that a write makes |
//! | `grants` | shared extents | the copy has its blocks; the tree learns of them when they are written |
//!
//! Nothing of it survives a crash, and nothing of it needs to: until the data is written the file
//! is what the tree says.
//!
//! Behind the mapping lock of the inode. The extents in the tree change under it as well
//! ([`TestInode::change`](super::inode::TestInode::change)), so whoever holds it sees both agree.

use std::collections::BTreeMap;

use super::runs::Runs;
use crate::format::{BlockRange, DiskBlock, FileBlock};
use crate::meta::extents::{Extent, ExtentState};
use crate::meta::{Grant, Reservation};

/// What a file has in memory and not in the tree.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    delalloc: Runs,
    copying: Runs,
    grants: BTreeMap<FileBlock, Grant>,
    /// One block for each of `delalloc` and `copying`; for inline data that is not in the tree
    /// yet, one for the node it will need.
    promised: Option<Reservation>,
    /// The extent looked up last, from the tree as it is.
    pub(super) recent: Option<Extent>,
}

/// Where dirty bytes over a shared extent will go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// Promised.
    Promised(BlockRange),
    /// Here.
    Granted(BlockRange, DiskBlock),
}

/// What is at a block, memory and tree taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing.
    Hole(BlockRange),
    /// Promised blocks.
    Delalloc(BlockRange),
    /// Blocks.
    Mapped {
        /// Of the file.
        range: BlockRange,
        /// The first of them.
        start: DiskBlock,
        /// They read as zeroes.
        unwritten: bool,
        /// Another file has them too, or a copy of them is being made.
        shared: bool,
    },
}

impl Mapping {
    /// What is at `block`; `extent` is the tree's answer, and contains it.
    pub(super) fn place(&self, extent: Extent, block: FileBlock) -> Place {
        let range = BlockRange::between(block, extent.range.end());
        match extent.state {
            ExtentState::Mapped {
                start,
                unwritten,
                shared,
            } => {
                let (range, shared) = self.sharing(range, shared);
                Place::Mapped {
                    range,
                    start: start.plus(block.since(extent.range.start())),
                    unwritten,
                    shared,
                }
            }
            ExtentState::Hole => match self.delalloc.at(block) {
                Some(run) => Place::Delalloc(run.intersect(range)),
                None => {
                    let end = self.delalloc.next(block);
                    Place::Hole(range.intersect(BlockRange::between(block, end)))
                }
            },
        }
    }

    /// The start of `range` that is to be copied before it is written, or is not. A copy that was
    /// promised or has its blocks is made, though the other owner may be gone by now.
    fn sharing(&self, range: BlockRange, shared: bool) -> (BlockRange, bool) {
        // Most files have no copy on its way: every read asks this.
        if shared || !self.is_copying() {
            return (range, shared);
        }
        match self.copy_at(range.start()) {
            Some(copy) => (range.intersect(copy.range()), true),
            None => {
                let end = self.next_copy(range.start());
                let before = BlockRange::between(range.start(), end);
                (range.intersect(before), false)
            }
        }
    }

    fn is_copying(&self) -> bool {
        self.copying.len() > 0 || !self.grants.is_empty()
    }

    /// The copy that is being made at `block`, which lies in a shared extent.
    pub(super) fn copy_at(&self, block: FileBlock) -> Option<Copy> {
        if let Some(run) = self.copying.at(block) {
            return Some(Copy::Promised(run));
        }
        let (start, grant) = self.grants.range(..=block).next_back()?;
        let run = BlockRange::at(*start, grant.run().len);
        run.contains(block).then(|| {
            let disk = grant.run().start.plus(block.since(*start));
            Copy::Granted(BlockRange::between(block, run.end()), disk)
        })
    }

    /// The first block at or after `block` for which a copy is being made.
    pub(super) fn next_copy(&self, block: FileBlock) -> FileBlock {
        let granted = self.grants.range(block..).next();
        let granted = granted.map_or(FileBlock::MAX, |(start, _)| *start);
        granted.min(self.copying.next(block))
    }

    /// Blocks promised to the file.
    pub(super) const fn promised_blocks(&self) -> u64 {
        self.delalloc.len() + self.copying.len()
    }

    /// The promised blocks, run by run.
    pub(super) fn promised_runs(&self) -> impl Iterator<Item = BlockRange> + '_ {
        self.delalloc.runs().chain(self.copying.runs())
    }

    /// Blocks of copies on their way.
    pub(super) fn granted_blocks(&self) -> u64 {
        self.grants.values().map(|grant| grant.run().len).sum()
    }

    /// The reservation behind the promises.
    pub(super) const fn reservation(&self) -> Option<&Reservation> {
        self.promised.as_ref()
    }

    /// Promises the start of `hole`, as far as `room` reaches. Returns what is promised now; the
    /// rest of `room` goes back.
    pub(super) fn promise(&mut self, hole: BlockRange, room: Reservation) -> BlockRange {
        let range = BlockRange::at(hole.start(), hole.len().min(room.blocks()));
        let added = self.delalloc.insert(range);
        self.keep(room, added);
        range
    }

    /// Promises a copy of the start of `shared`: as [`Mapping::promise`].
    pub(super) fn promise_copy(&mut self, shared: BlockRange, room: Reservation) -> BlockRange {
        let range = BlockRange::at(shared.start(), shared.len().min(room.blocks()));
        let added = self.copying.insert(range);
        self.keep(room, added);
        range
    }

    fn keep(&mut self, mut room: Reservation, blocks: u64) {
        let room = room.split(blocks);
        match &mut self.promised {
            Some(promised) => promised.merge(room),
            None => self.promised = Some(room),
        }
    }

    /// The promised blocks of `range` have been allocated out of the reservation.
    pub(super) fn allocated(&mut self, range: BlockRange) {
        self.delalloc.remove(range);
        self.drop_surplus();
    }

    /// The copies of the start of `range` have their blocks.
    pub(super) fn granted(&mut self, range: BlockRange, grant: Grant) {
        self.copying.remove(range);
        self.grants.insert(range.start(), grant);
        self.drop_surplus();
    }

    /// Takes out the blocks of copies in `range`.
    pub(super) fn take_grants(&mut self, range: BlockRange) -> Vec<(FileBlock, Grant)> {
        let mut taken = Vec::new();
        let before = self.grants.range(..=range.start()).next_back();
        let from = before.map_or(range.start(), |(start, _)| *start);
        while let Some((start, _)) = self.grants.range(from..range.end()).next_back() {
            let start = *start;
            let Some(mut grant) = self.grants.remove(&start) else {
                break;
            };
            let run = BlockRange::at(start, grant.run().len);
            let part = run.intersect(range);
            if part.start() > start {
                self.grants
                    .insert(start, grant.split(part.start().since(start)));
            }
            if part.is_empty() {
                // It ends before the range; so do all before it.
                break;
            }
            let middle = grant.split(part.len());
            if part.end() < run.end() {
                self.grants.insert(part.end(), grant);
            }
            taken.push((part.start(), middle));
            if start <= range.start() {
                break;
            }
        }
        taken
    }

    /// Takes back the promises of `range`.
    pub(super) fn release(&mut self, range: BlockRange) {
        self.delalloc.remove(range);
        self.copying.remove(range);
        self.drop_surplus();
    }

    /// Forgets everything about `range`: its data is not wanted any more.
    pub(super) fn forget(&mut self, range: BlockRange) {
        self.recent = None;
        self.delalloc.remove(range);
        self.copying.remove(range);
        drop(self.take_grants(range));
        self.drop_surplus();
    }

    /// Gives back what is promised to no block.
    fn drop_surplus(&mut self) {
        let needed = self.promised_blocks();
        if let Some(promised) = &mut self.promised
            && promised.blocks() > needed
        {
            drop(promised.split(promised.blocks() - needed));
        }
    }

    /// Whether a node is promised for inline data.
    pub(super) const fn has_inline_room(&self) -> bool {
        self.promised.is_some()
    }

    /// Promises a node for inline data.
    pub(super) fn set_inline_room(&mut self, room: Reservation) {
        self.promised = Some(room);
    }

    /// Takes back the promise of a node for inline data, if the data is inline or was until now.
    pub(super) fn take_inline_room(&mut self) -> Option<Reservation> {
        if self.promised_blocks() == 0 {
            self.promised.take()
        } else {
            None
        }
    }
}
