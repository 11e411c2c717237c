//! One node of the index: its slots, its marks, and where it comes from.
//!
//! Owns the encoding of a slot and the type-stable life of a node. The tree made of them is
//! [`index`](super).

use super::{MARKS, SLOTS};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a folio can be marked with in the index of its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Dirty, or taken for writing and not under writeback yet.
    Dirty,
    /// Was dirty when the running writeback began.
    ToWrite,
    /// Under writeback.
    Writeback,
}

impl Mark {
    pub(super) const ALL: [Self; MARKS] = [Self::Dirty, Self::ToWrite, Self::Writeback];

    /// The bit of the mark in [`IndexGuard::marks`](super::IndexGuard::marks).
    pub(crate) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A node of some tree. All zero is an empty node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Partner of lookups: stored with release after what the entry leads to.
    slots: [AtomicU32; SLOTS],
    /// Slots in use. This and the marks change under the index lock and are read there only.
    used: AtomicU64,
    marks: [AtomicU64; MARKS],
}

impl Default for Node {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU32::new(0)),
            used: AtomicU64::new(0),
            marks: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Node {
    #[inline]
    pub(super) fn slot(&self, slot: usize) -> Entry {
        Entry::decode(self.slots[slot].load(Ordering::Acquire))
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Fills or empties the slots of `bits`.
    pub(super) fn put(&self, bits: u64, entry: Entry) {
        let mut left = bits;
        while left != 0 {
            self.slots[left.trailing_zeros() as usize].store(entry.encode(), Ordering::Release);
            left &= left - 1;
        }
        let used = match entry {
            Entry::Empty => self.used() & !bits,
            _ => self.used() | bits,
        };
        self.used.store(used, Ordering::Relaxed);
    }

    pub(super) fn mark(&self, mark: Mark) -> u64 {
        self.marks[mark as usize].load(Ordering::Relaxed)
    }

    pub(super) fn set_mark_word(&self, mark: Mark, word: u64) {
        self.marks[mark as usize].store(word, Ordering::Relaxed);
    }

    /// While the node is free its first slot links to the next free one.
    pub(crate) fn set_free_link(&self, next: u32) {
        self.slots[0].store(next, Ordering::Relaxed);
    }

    /// Reads the link and makes the node empty.
    pub(crate) fn take_free_link(&self) -> u32 {
        self.slots[0].swap(0, Ordering::Relaxed)
    }
}

/// Where nodes come from, and where folios lie. Ids are not 0 and below `1 << 30`.
pub(crate) trait NodeSource {
    /// The node `id`.
    fn node(&self, id: u32) -> &'static Node;
    /// An empty node.
    fn alloc_node(&self) -> Option<u32>;
    /// Takes back an empty node.
    fn free_node(&self, id: u32);
    /// The first page and the order of a folio that is in the tree. Under the lock.
    fn place(&self, id: u32) -> (u64, u32);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Empty,
    Node(u32),
    Folio(u32),
}

impl Entry {
    #[inline]
    pub(super) const fn decode(word: u32) -> Self {
        match (word, word & 1) {
            (0, _) => Self::Empty,
            (_, 0) => Self::Node(word >> 1),
            _ => Self::Folio(word >> 1),
        }
    }

    pub(super) const fn encode(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Node(id) => id << 1,
            Self::Folio(id) => id << 1 | 1,
        }
    }
}
