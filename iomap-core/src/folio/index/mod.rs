//! The index of one page cache: a 64-way radix tree from page numbers to folio ids, with marks.
//!
//! Owns the tree and its invariants; knows ids and places, not folios: what an id means, and whether
//! the folio is still the one looked for, is the caller's check. Lookups take no lock. Nodes come
//! from a type-stable table ([`NodeSource`]), so a lookup that follows a stale link ends in *some* slot of
//! *some* tree after at most [`MAX_HEIGHT`] steps, and the caller finds out.
//!
//! # Shape
//!
//! A slot is 0 (empty), a node or a folio. A folio of order 0 to 5 fills `1 << order` slots of a
//! leaf, one of order 6 to 9 fills `1 << (order - 6)` slots of a node one level up. A folio that
//! comes alone to the span of a slot further up stays there, in that one slot, until a second one
//! comes: so few folios far apart are as near to the root as many side by side, and cost no nodes. The
//! tree is as high as its largest index needs. Empty nodes are freed at once.
//!
//! # Marks
//!
//! One word for each mark and node; the bits of all slots of a folio are alike, and the bit of a
//! node in its parent is set exactly if its word is not 0.

mod node;
#[cfg(test)]
mod tests;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Rank};
use node::Entry;

pub use node::Mark;
pub(crate) use node::{Node, NodeSource};

/// Bits of an index that one level decides.
const BITS: u32 = 6;
/// Slots of a node.
const SLOTS: usize = 1 << BITS;
/// Levels needed for the largest page index (2^51).
pub(crate) const MAX_HEIGHT: u32 = 9;
/// Marks.
const MARKS: usize = 3;

/// Why a folio could not be put into the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsertError {
    /// Something is there.
    Occupied,
    /// No node is left.
    NoMemory,
}

/// A tree. Created empty.
#[derive(Debug)]
pub(crate) struct Index {
    /// Height in the upper half, entry in the lower: one word, so that a lookup takes both.
    root: AtomicU64,
    /// Serialises all changes.
    lock: Mutex<()>,
}

fn pack(height: u32, entry: Entry) -> u64 {
    u64::from(height) << 32 | u64::from(entry.encode())
}

#[inline]
fn unpack(root: u64) -> (u32, Entry) {
    ((root >> 32) as u32, Entry::decode(root as u32))
}

/// The slot of `index` in a node of `level`; leaves are level 0.
#[inline]
fn slot_of(index: u64, level: u32) -> usize {
    (index >> (BITS * level)) as usize % SLOTS
}

/// Pages a node of `level` covers, at most `u64::MAX`.
#[inline]
fn span(level: u32) -> u64 {
    1 << (BITS * (level + 1))
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            root: AtomicU64::new(0),
            lock: Mutex::new(Rank::PageCacheIndex, ()),
        }
    }

    /// The id found on the way to `index` at some moment. Takes no lock, may be that of a folio
    /// elsewhere, and wrong both ways while the tree changes: the caller checks a hit, and asks again
    /// with the lock after a miss.
    #[inline]
    pub(crate) fn lookup(&self, nodes: &impl NodeSource, index: u64) -> Option<u32> {
        let (height, mut entry) = unpack(self.root.load(Ordering::Acquire));
        if height == 0 || height > MAX_HEIGHT || index >= span(height - 1) {
            return None;
        }
        for level in (0..height).rev() {
            match entry {
                Entry::Empty => return None,
                Entry::Folio(id) => return Some(id),
                Entry::Node(id) => entry = nodes.node(id).slot(slot_of(index, level)),
            }
        }
        match entry {
            Entry::Folio(id) => Some(id),
            _ => None,
        }
    }

    /// Takes the lock.
    pub(crate) fn lock<'a, S: NodeSource>(&'a self, nodes: &'a S) -> IndexGuard<'a, S> {
        IndexGuard {
            _guard: self.lock.lock(),
            index: self,
            nodes,
        }
    }
}

/// A locked tree.
pub(crate) struct IndexGuard<'a, S = crate::folio::Pool> {
    _guard: MutexGuard<'a, ()>,
    index: &'a Index,
    nodes: &'a S,
}

/// The nodes on the way to a folio, from the root down, each with the slots taken.
struct Path {
    steps: [(u32, u64); MAX_HEIGHT as usize],
    len: usize,
}

impl Path {
    fn new() -> Self {
        Self {
            steps: [(0, 0); MAX_HEIGHT as usize],
            len: 0,
        }
    }

    fn push(&mut self, node: u32, slots: u64) {
        self.steps[self.len] = (node, slots);
        self.len += 1;
    }

    /// From the folio up to the root.
    fn upwards(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.steps[..self.len].iter().rev().copied()
    }
}

/// The level at which a folio of `order` sits.
const fn level_of(order: u32) -> u32 {
    order / BITS
}

/// The slots of a folio of `order` at `index` in its node.
fn slots_of(index: u64, order: u32) -> u64 {
    let level = level_of(order);
    let count = 1u32 << (order - BITS * level);
    (!0u64 >> (64 - count)) << slot_of(index, level)
}

/// The height of a tree that only holds a folio of `order` at `index`.
fn height_for(index: u64, order: u32) -> u32 {
    let mut height = level_of(order) + 1;
    while index >= span(height - 1) {
        height += 1;
    }
    height
}

impl<S: NodeSource> IndexGuard<'_, S> {
    fn root(&self) -> (u32, Entry) {
        unpack(self.index.root.load(Ordering::Relaxed))
    }

    fn set_root(&self, height: u32, entry: Entry) {
        let root = if entry == Entry::Empty {
            0
        } else {
            pack(height, entry)
        };
        self.index.root.store(root, Ordering::Release);
    }

    fn node(&self, id: u32) -> &'static Node {
        self.nodes.node(id)
    }

    /// The id at `index`.
    pub(crate) fn get(&self, index: u64) -> Option<u32> {
        let id = self.index.lookup(self.nodes, index)?;
        let (first, order) = self.nodes.place(id);
        (first <= index && index - first < 1 << order).then_some(id)
    }

    /// Puts folio `id` at `index`, a multiple of `1 << order`.
    pub(crate) fn insert(&mut self, index: u64, order: u32, id: u32) -> Result<(), InsertError> {
        debug_assert_eq!(index % (1 << order), 0);
        self.grow(index, order)?;
        let target = level_of(order);
        let bits = slots_of(index, order);
        let (height, Entry::Node(mut at)) = self.root() else {
            return Err(InsertError::NoMemory);
        };
        for level in (target + 1..height).rev() {
            let slot = slot_of(index, level);
            at = match self.node(at).slot(slot) {
                Entry::Node(child) => child,
                Entry::Folio(other) => self.expand(at, level, other, (index, order))?,
                Entry::Empty => {
                    self.node(at).put(1 << slot, Entry::Folio(id));
                    return Ok(());
                }
            };
        }
        if self.node(at).used() & bits != 0 {
            return Err(InsertError::Occupied);
        }
        self.node(at).put(bits, Entry::Folio(id));
        Ok(())
    }

    /// Makes room for a folio of `order` at `index` in a slot of node `at` that another has for
    /// itself: a node between them, which is returned. Lookups find the other all the time.
    fn expand(
        &mut self,
        at: u32,
        level: u32,
        other: u32,
        (index, order): (u64, u32),
    ) -> Result<u32, InsertError> {
        let (first, other_order) = self.nodes.place(other);
        if first < index + (1 << order) && index < first + (1 << other_order) {
            return Err(InsertError::Occupied);
        }
        let child = self.nodes.alloc_node().ok_or(InsertError::NoMemory)?;
        let bits = if level_of(other_order) == level - 1 {
            slots_of(first, other_order)
        } else {
            1 << slot_of(first, level - 1)
        };
        self.node(child).put(bits, Entry::Folio(other));
        let slot = 1 << slot_of(index, level);
        for mark in Mark::ALL {
            let marked = self.node(at).mark(mark) & slot != 0;
            self.node(child)
                .set_mark_word(mark, if marked { bits } else { 0 });
        }
        self.node(at).put(slot, Entry::Node(child));
        Ok(child)
    }

    /// Makes the tree high enough for a folio of `order` at `index`.
    fn grow(&mut self, index: u64, order: u32) -> Result<(), InsertError> {
        loop {
            let (height, entry) = self.root();
            if height > level_of(order) && index < span(height - 1) {
                return Ok(());
            }
            let id = self.nodes.alloc_node().ok_or(InsertError::NoMemory)?;
            let Entry::Node(child) = entry else {
                self.set_root(height_for(index, order), Entry::Node(id));
                return Ok(());
            };
            self.node(id).put(1, entry);
            for mark in Mark::ALL {
                let any = self.node(child).mark(mark) != 0;
                self.node(id).set_mark_word(mark, u64::from(any));
            }
            self.set_root(height + 1, Entry::Node(id));
        }
    }

    /// The way to the folio of `order` at `index`. `None` if there is no such folio.
    fn path(&self, index: u64, order: u32) -> Option<Path> {
        let (height, mut entry) = self.root();
        if height <= level_of(order) || index >= span(height - 1) {
            return None;
        }
        let mut path = Path::new();
        for level in (level_of(order)..height).rev() {
            let Entry::Node(id) = entry else { break };
            let slot = slot_of(index, level);
            entry = self.node(id).slot(slot);
            let bits = if level == level_of(order) {
                slots_of(index, order)
            } else {
                1 << slot
            };
            path.push(id, bits);
        }
        let Entry::Folio(id) = entry else { return None };
        // One alone in its slot may be another one. The order may change just now: a split.
        (self.nodes.place(id).0 == index).then_some(path)
    }

    /// Takes the folio of `order` at `index` out, with its marks.
    pub(crate) fn remove(&mut self, index: u64, order: u32) {
        for mark in Mark::ALL {
            self.clear_mark(index, order, mark);
        }
        let Some(path) = self.path(index, order) else {
            return;
        };
        for (id, bits) in path.upwards() {
            self.node(id).put(bits, Entry::Empty);
            if self.node(id).used() != 0 {
                break;
            }
            if id == path.steps[0].0 {
                self.set_root(0, Entry::Empty);
            }
            self.nodes.free_node(id);
        }
        self.shrink();
    }

    /// Takes away root nodes that only lead to their first slot.
    fn shrink(&mut self) {
        while let (height @ 2.., Entry::Node(id)) = self.root() {
            let (1, child @ Entry::Node(_)) = (self.node(id).used(), self.node(id).slot(0)) else {
                return;
            };
            self.set_root(height - 1, child);
            let node = self.node(id);
            node.put(1, Entry::Empty);
            for mark in Mark::ALL {
                node.set_mark_word(mark, 0);
            }
            self.nodes.free_node(id);
        }
    }

    /// Marks the folio of `order` at `index`, if it is there.
    pub(crate) fn set_mark(&mut self, index: u64, order: u32, mark: Mark) {
        let Some(path) = self.path(index, order) else {
            return;
        };
        for (id, bits) in path.upwards() {
            let word = self.node(id).mark(mark);
            if word & bits == bits {
                return;
            }
            self.node(id).set_mark_word(mark, word | bits);
        }
    }

    /// Takes the mark of the folio of `order` at `index` away.
    pub(crate) fn clear_mark(&mut self, index: u64, order: u32, mark: Mark) {
        let Some(path) = self.path(index, order) else {
            return;
        };
        for (id, bits) in path.upwards() {
            let word = self.node(id).mark(mark);
            if word & bits == 0 {
                return;
            }
            self.node(id).set_mark_word(mark, word & !bits);
            if word & !bits != 0 {
                return;
            }
        }
    }

    /// Whether the folio of `order` at `index` has the mark.
    pub(crate) fn has_mark(&self, index: u64, order: u32, mark: Mark) -> bool {
        self.path(index, order).is_some_and(|path| {
            let (id, bits) = path.steps[path.len - 1];
            self.node(id).mark(mark) & bits != 0
        })
    }

    /// Which marks some folio has: [`Mark::bit`]s.
    pub(crate) fn marks(&self) -> u32 {
        let (_, Entry::Node(root)) = self.root() else {
            return 0;
        };
        Mark::ALL
            .into_iter()
            .filter(|mark| self.node(root).mark(*mark) != 0)
            .fold(0, |bits, mark| bits | mark.bit())
    }

    /// The first page from `from` on, before `end`, that a folio covers (one with `mark`, if
    /// given), and the folio's id.
    pub(crate) fn next(&self, from: u64, end: u64, mark: Option<Mark>) -> Option<(u64, u32)> {
        let (height, Entry::Node(root)) = self.root() else {
            return None;
        };
        if from >= end || from >= span(height - 1) {
            return None;
        }
        let (at, id) = self.search(root, (height - 1, 0), from, mark)?;
        (at < end).then_some((at, id))
    }

    /// As [`IndexGuard::next`] inside a node of `level` whose first page is `base`.
    fn search(
        &self,
        id: u32,
        (level, base): (u32, u64),
        from: u64,
        mark: Option<Mark>,
    ) -> Option<(u64, u32)> {
        let node = self.node(id);
        let word = mark.map_or_else(|| node.used(), |mark| node.mark(mark));
        let mut left = word & (!0 << (from.saturating_sub(base) >> (BITS * level)));
        while left != 0 {
            let slot = left.trailing_zeros() as usize;
            match node.slot(slot) {
                Entry::Folio(id) => {
                    let (first, order) = self.nodes.place(id);
                    if from < first + (1 << order) {
                        return Some((first.max(from), id));
                    }
                }
                Entry::Node(child) => {
                    let start = base + ((slot as u64) << (BITS * level));
                    let found = self.search(child, (level - 1, start), from, mark);
                    if found.is_some() {
                        return found;
                    }
                }
                Entry::Empty => {}
            }
            left &= left - 1;
        }
        None
    }

    /// The largest order up to `max` of a naturally aligned folio around `index` that meets no
    /// other. `None` if the page itself is taken.
    pub(crate) fn fit(&self, index: u64, max: u32) -> Option<u32> {
        (0..=max).rev().find(|order| {
            let start = index >> order << order;
            self.next(start, start + (1 << order), None).is_none()
        })
    }
}
