//! A node of the tree in memory.
//!
//! Owns leaves and branches, their sizes, and the edits of one node: insert, remove, split, merge.
//! Owns neither the paths through the tree ([`tree`](super::tree)) nor the bytes of a block
//! ([`format::node`](crate::format::node)).

use std::sync::Arc;

use crate::format::node::{self, ENTRY_BYTES, HEADER_BYTES, NodeError, SLOT_BYTES};
use crate::format::{DiskBlock, Geometry, Key, NodePtr};

/// A node.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// Items.
    Leaf(Leaf),
    /// Children.
    Branch(Branch),
}

/// Where a child is.
#[derive(Clone, Debug)]
pub(crate) enum Child {
    /// On disk, unchanged since.
    Disk(NodePtr),
    /// In memory only: changed in the running generation, without an address yet.
    Mem(Arc<Node>),
}

/// Items in key order. Values lie in one heap; removed ones leave gaps until it is packed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaf {
    slots: Vec<Slot>,
    heap: Vec<u8>,
    live: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    at: usize,
    len: usize,
}

/// Children in key order. A child holds the keys from its own up to the next one's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branch {
    pub(crate) entries: Vec<Entry>,
}

/// A child and the lowest key it may hold.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) child: Child,
}

impl Node {
    /// Reads the node `ptr` points to from its block.
    pub(crate) fn decode(block: &[u8], ptr: NodePtr, level: u8) -> Result<Self, NodeError> {
        let header = node::verify(block, ptr, level)?;
        if level > 0 {
            let entries = node::decode_branch(block, &header)?
                .into_iter()
                .map(|(key, ptr)| Entry {
                    key,
                    child: Child::Disk(ptr),
                })
                .collect();
            return Ok(Self::Branch(Branch { entries }));
        }
        let mut leaf = Leaf::default();
        for (key, value) in node::decode_leaf(block, &header)? {
            leaf.push(key, &block[value]);
        }
        Ok(Self::Leaf(leaf))
    }

    /// The block of this node at `addr`, and the pointer to it. Every child is on disk.
    pub(crate) fn encode(
        &self,
        geometry: Geometry,
        addr: DiskBlock,
        generation: u64,
        level: u8,
    ) -> (Vec<u8>, NodePtr) {
        let mut block = vec![0; geometry.block_size()];
        match self {
            Self::Leaf(leaf) => node::encode_leaf(&mut block, leaf.len(), leaf.iter()),
            Self::Branch(branch) => {
                let placed = branch.entries.iter().map(|entry| match &entry.child {
                    Child::Disk(ptr) => (entry.key, *ptr),
                    Child::Mem(_) => unreachable!("children are placed before their parent"),
                });
                node::encode_branch(&mut block, placed);
            }
        }
        let ptr = node::seal(&mut block, addr, generation, level, self.len());
        (block, ptr)
    }

    /// Slots or entries.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.len(),
            Self::Branch(branch) => branch.entries.len(),
        }
    }

    /// Bytes it takes in a block.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => HEADER_BYTES + leaf.len() * SLOT_BYTES + leaf.live,
            Self::Branch(branch) => HEADER_BYTES + branch.entries.len() * ENTRY_BYTES,
        }
    }

    /// The lowest and the highest key in it; for a branch, the highest of an entry.
    pub(crate) fn key_span(&self) -> Option<(Key, Key)> {
        match self {
            Self::Leaf(leaf) => Some((leaf.slots.first()?.key, leaf.slots.last()?.key)),
            Self::Branch(branch) => Some((branch.entries.first()?.key, branch.entries.last()?.key)),
        }
    }

    /// Moves the upper part into a new node, so that both fit a block. `appended`: the newest entry
    /// is the last one, more will follow, so the lower part stays full.
    ///
    /// Returns the lowest key of the new node as well.
    pub(crate) fn split(&mut self, appended: bool) -> (Key, Self) {
        match self {
            Self::Leaf(leaf) => {
                let (key, right) = leaf.split(appended);
                (key, Self::Leaf(right))
            }
            Self::Branch(branch) => {
                let len = branch.entries.len();
                let entries = branch
                    .entries
                    .split_off(if appended { len - 1 } else { len / 2 });
                (entries[0].key, Self::Branch(Branch { entries }))
            }
        }
    }

    /// Takes over everything in `right`, which holds higher keys and is of the same level.
    pub(crate) fn absorb(&mut self, right: &Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => {
                for (key, value) in right.iter() {
                    left.push(key, value);
                }
            }
            (Self::Branch(left), Self::Branch(right)) => {
                left.entries.extend_from_slice(&right.entries);
            }
            _ => unreachable!("siblings are of one level"),
        }
    }
}

impl Leaf {
    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The items in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (Key, &[u8])> {
        self.slots.iter().map(|slot| (slot.key, self.value(slot)))
    }

    /// The items from `from` on, in order.
    pub(crate) fn iter_from(&self, from: &Key) -> impl Iterator<Item = (Key, &[u8])> {
        let at = self.slots.partition_point(|slot| slot.key < *from);
        self.slots[at..]
            .iter()
            .map(|slot| (slot.key, self.value(slot)))
    }

    /// The items up to `to`, that one included, backwards.
    pub(crate) fn iter_back_from(&self, to: &Key) -> impl Iterator<Item = (Key, &[u8])> {
        let end = self.slots.partition_point(|slot| slot.key <= *to);
        self.slots[..end]
            .iter()
            .rev()
            .map(|slot| (slot.key, self.value(slot)))
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &Key) -> Option<&[u8]> {
        let at = self.find(key).ok()?;
        Some(self.value(&self.slots[at]))
    }

    fn value(&self, slot: &Slot) -> &[u8] {
        &self.heap[slot.at..slot.at + slot.len]
    }

    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.slots.binary_search_by(|slot| slot.key.cmp(key))
    }

    /// Sets the value of `key`. Returns whether the key is the last one.
    pub(crate) fn insert(&mut self, key: Key, value: &[u8]) -> bool {
        self.pack_if_wasteful();
        let at = match self.find(&key) {
            Ok(at) => {
                let slot = self.slots[at];
                if slot.len == value.len() {
                    self.heap[slot.at..slot.at + slot.len].copy_from_slice(value);
                    return at + 1 == self.slots.len();
                }
                self.live -= slot.len;
                at
            }
            Err(at) => {
                self.slots.insert(at, Slot { key, at: 0, len: 0 });
                at
            }
        };
        self.slots[at].at = self.heap.len();
        self.slots[at].len = value.len();
        self.heap.extend_from_slice(value);
        self.live += value.len();
        at + 1 == self.slots.len()
    }

    /// Removes `key`. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Ok(at) = self.find(key) else {
            return false;
        };
        self.live -= self.slots.remove(at).len;
        true
    }

    /// Adds an item whose key is higher than every other.
    fn push(&mut self, key: Key, value: &[u8]) {
        self.slots.push(Slot {
            key,
            at: self.heap.len(),
            len: value.len(),
        });
        self.heap.extend_from_slice(value);
        self.live += value.len();
    }

    fn pack_if_wasteful(&mut self) {
        if self.heap.len() < 512 + 2 * self.live {
            return;
        }
        let mut packed = Self::default();
        for (key, value) in self.iter() {
            packed.push(key, value);
        }
        *self = packed;
    }

    /// As [`Node::split`]. The halves differ by as few bytes as possible: as no item is larger than
    /// half of a node, both then fit.
    fn split(&mut self, appended: bool) -> (Key, Self) {
        let cut = if appended {
            self.slots.len() - 1
        } else {
            self.middle()
        };
        let mut right = Self::default();
        for slot in &self.slots[cut..] {
            right.push(slot.key, &self.heap[slot.at..slot.at + slot.len]);
        }
        self.slots.truncate(cut);
        self.live -= right.live;
        (right.slots[0].key, right)
    }

    fn middle(&self) -> usize {
        let total = self.slots.len() * SLOT_BYTES + self.live;
        let mut left = 0;
        let mut best = (usize::MAX, 1);
        for n in 1..self.slots.len() {
            left += SLOT_BYTES + self.slots[n - 1].len;
            best = best.min((left.abs_diff(total - left), n));
        }
        best.1
    }
}

impl Branch {
    /// The child that holds `key`, or would.
    pub(crate) fn child_for(&self, key: &Key) -> usize {
        self.entries
            .partition_point(|entry| entry.key <= *key)
            .saturating_sub(1)
    }
}
