//! Changing the tree: copy the path, edit the leaf, split and merge on the way back.
//!
//! Owns insert and remove, and the placing of changed nodes at commit. A node on disk is never
//! changed: its copy in memory takes its place, and its block is reported as freed.

use std::sync::Arc;

use iomap_core::error::{Corrupt, Result};

use super::super::node::{Branch, Child, Entry, Node};
use super::super::store::{Bounds, NodeStore};
use super::{Tree, child_bounds};
use crate::format::{DiskBlock, Geometry, Key, LEVEL_MAX, NodePtr};

/// Changes one tree. On an error the tree may be half changed: the caller puts its clone back.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) store: &'a NodeStore,
    /// Blocks of nodes that this tree does not refer to any more.
    pub(crate) freed: &'a mut Vec<DiskBlock>,
}

/// The upper part of a node that was split.
type Split = Option<(Key, Arc<Node>)>;

/// What recursion needs apart from the node at hand.
struct Path<'a> {
    store: &'a NodeStore,
    geometry: Geometry,
    freed: &'a mut Vec<DiskBlock>,
    dirty: &'a mut u64,
}

impl Edit<'_> {
    /// Sets the value of `key`; `value` is at most [`Geometry::value_max`] bytes long.
    ///
    /// # Errors
    ///
    /// Reading a node.
    pub(crate) fn insert(&mut self, key: Key, value: &[u8]) -> Result<()> {
        debug_assert!(value.len() <= self.store.geometry().value_max());
        let level = self.tree.level;
        let mut path = Path {
            store: self.store,
            geometry: self.store.geometry(),
            freed: self.freed,
            dirty: &mut self.tree.dirty,
        };
        let root = path.own(&mut self.tree.root, level, Bounds::ALL)?;
        let first = root.key_span().map_or(Key::MIN, |span| span.0);
        let Some((split_key, right)) = path.insert(root, level, Bounds::ALL, key, value)? else {
            return Ok(());
        };
        if level >= LEVEL_MAX {
            return Err(Corrupt::new("tree: higher than any device can need").into());
        }
        let left = std::mem::replace(&mut self.tree.root, Child::Mem(Arc::clone(&right)));
        let entries = vec![
            Entry {
                key: first.min(key),
                child: left,
            },
            Entry {
                key: split_key,
                child: Child::Mem(right),
            },
        ];
        self.tree.root = Child::Mem(Arc::new(Node::Branch(Branch { entries })));
        self.tree.level += 1;
        self.tree.dirty += 1;
        Ok(())
    }

    /// Removes `key`. Returns whether it was there; if not, nothing has changed.
    ///
    /// # Errors
    ///
    /// Reading a node.
    pub(crate) fn remove(&mut self, key: &Key) -> Result<bool> {
        if self.tree.get(self.store, key, |_| ())?.is_none() {
            return Ok(false);
        }
        let level = self.tree.level;
        let mut path = Path {
            store: self.store,
            geometry: self.store.geometry(),
            freed: self.freed,
            dirty: &mut self.tree.dirty,
        };
        let root = path.own(&mut self.tree.root, level, Bounds::ALL)?;
        path.remove(root, level, Bounds::ALL, key)?;
        self.drop_lone_roots();
        Ok(true)
    }

    /// A root with one child is no use: the child becomes the root.
    fn drop_lone_roots(&mut self) {
        while self.tree.level > 0 {
            let Child::Mem(root) = &self.tree.root else {
                return;
            };
            let Node::Branch(branch) = &**root else {
                return;
            };
            let [only] = branch.entries.as_slice() else {
                return;
            };
            self.tree.root = only.child.clone();
            self.tree.level -= 1;
            self.tree.dirty -= 1;
        }
    }
}

impl Path<'_> {
    /// Makes `child` a node of the running generation, and gives access to it.
    fn own<'c>(&mut self, child: &'c mut Child, level: u8, bounds: Bounds) -> Result<&'c mut Node> {
        if let Child::Disk(ptr) = child {
            let node = self.store.load(*ptr, level, bounds)?;
            self.freed.push(ptr.addr);
            *self.dirty += 1;
            *child = Child::Mem(node);
        }
        match child {
            Child::Mem(node) => Ok(Arc::make_mut(node)),
            Child::Disk(_) => unreachable!("replaced above"),
        }
    }

    fn insert(
        &mut self,
        node: &mut Node,
        level: u8,
        bounds: Bounds,
        key: Key,
        value: &[u8],
    ) -> Result<Split> {
        let appended = match node {
            Node::Leaf(leaf) => leaf.insert(key, value),
            Node::Branch(branch) => {
                let at = branch.child_for(&key);
                let entry = &mut branch.entries[at];
                entry.key = entry.key.min(key);
                let bounds = child_bounds(branch, at, bounds);
                let child = self.own(&mut branch.entries[at].child, level - 1, bounds)?;
                let Some((key, right)) = self.insert(child, level - 1, bounds, key, value)? else {
                    return Ok(None);
                };
                let child = Child::Mem(right);
                branch.entries.insert(at + 1, Entry { key, child });
                at + 2 == branch.entries.len()
            }
        };
        if node.bytes() <= self.geometry.block_size() {
            return Ok(None);
        }
        let (key, right) = node.split(appended);
        *self.dirty += 1;
        Ok(Some((key, Arc::new(right))))
    }

    /// Removes `key`, which is there.
    fn remove(&mut self, node: &mut Node, level: u8, bounds: Bounds, key: &Key) -> Result<()> {
        let branch = match node {
            Node::Leaf(leaf) => {
                leaf.remove(key);
                return Ok(());
            }
            Node::Branch(branch) => branch,
        };
        let at = branch.child_for(key);
        let below = child_bounds(branch, at, bounds);
        let child = self.own(&mut branch.entries[at].child, level - 1, below)?;
        self.remove(child, level - 1, below, key)?;
        if child.len() == 0 {
            branch.entries.remove(at);
            *self.dirty -= 1;
        } else if child.bytes() < self.geometry.block_size() / 4 {
            self.merge_with_neighbour(branch, at, level - 1, bounds)?;
        }
        Ok(())
    }

    /// Merges child `at`, which is nearly empty, with the one before or after it, if both fill a
    /// node to three quarters at most.
    fn merge_with_neighbour(
        &mut self,
        branch: &mut Branch,
        at: usize,
        level: u8,
        bounds: Bounds,
    ) -> Result<()> {
        let pairs = [at.checked_sub(1), Some(at)];
        for left in pairs.into_iter().flatten() {
            if left + 1 >= branch.entries.len() {
                continue;
            }
            let a = self.peek(branch, left, level, bounds)?;
            let b = self.peek(branch, left + 1, level, bounds)?;
            if a.bytes() + b.bytes() > self.geometry.block_size() / 4 * 3 {
                continue;
            }
            drop(a);
            let below = child_bounds(branch, left, bounds);
            let node = self.own(&mut branch.entries[left].child, level, below)?;
            node.absorb(&b);
            match branch.entries.remove(left + 1).child {
                Child::Mem(_) => *self.dirty -= 1,
                Child::Disk(ptr) => self.freed.push(ptr.addr),
            }
            return Ok(());
        }
        Ok(())
    }

    fn peek(&self, branch: &Branch, at: usize, level: u8, bounds: Bounds) -> Result<Arc<Node>> {
        match &branch.entries[at].child {
            Child::Mem(node) => Ok(Arc::clone(node)),
            Child::Disk(ptr) => self
                .store
                .load(*ptr, level, child_bounds(branch, at, bounds)),
        }
    }
}

/// Gives every changed node of `tree` an address and turns it into bytes, children first.
///
/// `allocate` gives an address; it is asked [`Tree::dirty`] times. Afterwards the whole tree is on
/// disk as far as it knows: the nodes stay pinned in `store` until the caller has written the
/// blocks returned and unpins them.
pub(crate) fn place(
    tree: &mut Tree,
    store: &NodeStore,
    generation: u64,
    allocate: &mut dyn FnMut() -> Result<DiskBlock>,
) -> Result<Vec<(DiskBlock, Vec<u8>)>> {
    let mut blocks = Vec::new();
    let mut placer = Placer {
        store,
        generation,
        allocate,
        blocks: &mut blocks,
    };
    placer.place(&mut tree.root, tree.level)?;
    tree.dirty = 0;
    Ok(blocks)
}

struct Placer<'a> {
    store: &'a NodeStore,
    generation: u64,
    allocate: &'a mut dyn FnMut() -> Result<DiskBlock>,
    blocks: &'a mut Vec<(DiskBlock, Vec<u8>)>,
}

impl Placer<'_> {
    fn place(&mut self, child: &mut Child, level: u8) -> Result<()> {
        let Child::Mem(node) = child else {
            return Ok(());
        };
        if let Node::Branch(branch) = Arc::make_mut(node) {
            for entry in &mut branch.entries {
                self.place(&mut entry.child, level - 1)?;
            }
        }
        let addr = (self.allocate)()?;
        let (block, ptr): (_, NodePtr) =
            node.encode(self.store.geometry(), addr, self.generation, level);
        self.blocks.push((addr, block));
        self.store.pin(ptr, Arc::clone(node));
        *child = Child::Disk(ptr);
        Ok(())
    }
}
