//! The copy-on-write B+tree: looking up and walking.
//!
//! Owns paths through the tree. Changing it is [`edit`]; a single node is
//! [`node`](super::node), reading one from the device [`store`](super::store).
//!
//! A tree value is a snapshot: cloning it costs one reference, and a clone keeps its contents
//! whatever is done to the original. Nodes changed since the last commit are owned by the tree
//! ([`Child::Mem`]); all others are pointers to blocks which no commit ever overwrites while a
//! durable tree refers to them.

pub(crate) mod edit;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::sync::Arc;

use iomap_core::error::Result;

use super::node::{Branch, Child, Leaf, Node};
use super::store::{Bounds, NodeStore};
use crate::format::{Key, NodePtr};

/// A version of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(super) root: Child,
    /// The level of the root; leaves are level 0.
    pub(super) level: u8,
    /// Nodes without an address: the blocks a commit of this version needs.
    pub(super) dirty: u64,
}

/// Whether a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// To the next item.
    On,
    /// No further.
    Stop,
}

type Visit<'v> = dyn FnMut(Key, &[u8]) -> Result<Walk> + 'v;

impl Tree {
    /// The tree a superblock points to.
    pub(crate) const fn on_disk(root: NodePtr, level: u8) -> Self {
        Self {
            root: Child::Disk(root),
            level,
            dirty: 0,
        }
    }

    /// A tree of one leaf in memory, which must get an item before the first commit.
    pub(crate) fn empty() -> Self {
        Self {
            root: Child::Mem(Arc::new(Node::Leaf(Leaf::default()))),
            level: 0,
            dirty: 1,
        }
    }

    /// Where the root is, if it has not changed since the last commit.
    pub(crate) const fn root_ptr(&self) -> Option<NodePtr> {
        match self.root {
            Child::Disk(ptr) => Some(ptr),
            Child::Mem(_) => None,
        }
    }

    /// The level of the root.
    pub(crate) const fn level(&self) -> u8 {
        self.level
    }

    /// Blocks a commit of this version needs.
    pub(crate) const fn dirty(&self) -> u64 {
        self.dirty
    }

    /// What `f` makes of the value of `key`.
    pub(crate) fn get<T>(
        &self,
        store: &NodeStore,
        key: &Key,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>> {
        let mut held: Arc<Node>;
        let (mut node, mut level, mut bounds) = match &self.root {
            Child::Mem(node) => (&**node, self.level, Bounds::ALL),
            Child::Disk(ptr) => {
                held = store.load(*ptr, self.level, Bounds::ALL)?;
                (&*held, self.level, Bounds::ALL)
            }
        };
        loop {
            let branch = match node {
                Node::Leaf(leaf) => return Ok(leaf.get(key).map(f)),
                Node::Branch(branch) => branch,
            };
            let at = branch.child_for(key);
            bounds = child_bounds(branch, at, bounds);
            level -= 1;
            let child = match &branch.entries[at].child {
                Child::Mem(node) => Arc::clone(node),
                Child::Disk(ptr) => store.load(*ptr, level, bounds)?,
            };
            held = child;
            node = &held;
        }
    }

    /// Visits the items from `from` to `to`, both included, in order.
    pub(crate) fn walk(
        &self,
        store: &NodeStore,
        from: Key,
        to: Key,
        mut visit: impl FnMut(Key, &[u8]) -> Result<Walk>,
    ) -> Result<()> {
        let walker = Walker { store, from, to };
        walker
            .forward(&self.root, self.level, Bounds::ALL, &mut visit)
            .map(|_| ())
    }

    /// Visits the items from `to` back to `from`, both included.
    pub(crate) fn walk_back(
        &self,
        store: &NodeStore,
        from: Key,
        to: Key,
        mut visit: impl FnMut(Key, &[u8]) -> Result<Walk>,
    ) -> Result<()> {
        let walker = Walker { store, from, to };
        walker
            .backward(&self.root, self.level, Bounds::ALL, &mut visit)
            .map(|_| ())
    }

    /// What `f` makes of the first item from `from` to `to`, both included.
    pub(crate) fn first<T>(
        &self,
        store: &NodeStore,
        from: Key,
        to: Key,
        mut f: impl FnMut(Key, &[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        self.walk(store, from, to, |key, value| {
            found = Some(f(key, value)?);
            Ok(Walk::Stop)
        })?;
        Ok(found)
    }

    /// What `f` makes of the last item from `from` to `to`, both included.
    pub(crate) fn last<T>(
        &self,
        store: &NodeStore,
        from: Key,
        to: Key,
        mut f: impl FnMut(Key, &[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        self.walk_back(store, from, to, |key, value| {
            found = Some(f(key, value)?);
            Ok(Walk::Stop)
        })?;
        Ok(found)
    }

    /// Visits the pointer of every node on disk, parents first. Each is visited once: the ranges
    /// of keys a node's children may hold do not overlap.
    pub(crate) fn walk_nodes(
        &self,
        store: &NodeStore,
        visit: &mut dyn FnMut(NodePtr, &Node) -> Result<()>,
    ) -> Result<()> {
        visit_nodes(store, &self.root, self.level, Bounds::ALL, visit)
    }
}

/// The keys child `at` of `branch` may hold.
pub(crate) fn child_bounds(branch: &Branch, at: usize, bounds: Bounds) -> Bounds {
    Bounds {
        lo: branch.entries[at].key,
        hi: branch.entries.get(at + 1).map(|e| e.key).or(bounds.hi),
    }
}

fn visit_nodes(
    store: &NodeStore,
    child: &Child,
    level: u8,
    bounds: Bounds,
    visit: &mut dyn FnMut(NodePtr, &Node) -> Result<()>,
) -> Result<()> {
    let node = held(store, child, level, bounds)?;
    if let Child::Disk(ptr) = child {
        visit(*ptr, &node)?;
    }
    if let Node::Branch(branch) = &*node {
        for (at, entry) in branch.entries.iter().enumerate() {
            let bounds = child_bounds(branch, at, bounds);
            visit_nodes(store, &entry.child, level - 1, bounds, visit)?;
        }
    }
    Ok(())
}

/// A node of the tree, or one read from the device, while it is looked at.
enum Held<'c> {
    Mem(&'c Node),
    Disk(Arc<Node>),
}

impl std::ops::Deref for Held<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        match self {
            Self::Mem(node) => node,
            Self::Disk(node) => node,
        }
    }
}

fn held<'c>(store: &NodeStore, child: &'c Child, level: u8, bounds: Bounds) -> Result<Held<'c>> {
    Ok(match child {
        Child::Mem(node) => Held::Mem(node),
        Child::Disk(ptr) => Held::Disk(store.load(*ptr, level, bounds)?),
    })
}

struct Walker<'a> {
    store: &'a NodeStore,
    from: Key,
    to: Key,
}

impl Walker<'_> {
    fn forward(
        &self,
        child: &Child,
        level: u8,
        bounds: Bounds,
        visit: &mut Visit<'_>,
    ) -> Result<Walk> {
        match &*held(self.store, child, level, bounds)? {
            Node::Leaf(leaf) => {
                for (key, value) in leaf.iter_from(&self.from) {
                    if key > self.to || visit(key, value)? == Walk::Stop {
                        return Ok(Walk::Stop);
                    }
                }
            }
            Node::Branch(branch) => {
                for at in branch.child_for(&self.from)..branch.entries.len() {
                    let entry = &branch.entries[at];
                    let bounds = child_bounds(branch, at, bounds);
                    if entry.key > self.to
                        || self.forward(&entry.child, level - 1, bounds, visit)? == Walk::Stop
                    {
                        return Ok(Walk::Stop);
                    }
                }
            }
        }
        Ok(Walk::On)
    }

    fn backward(
        &self,
        child: &Child,
        level: u8,
        bounds: Bounds,
        visit: &mut Visit<'_>,
    ) -> Result<Walk> {
        match &*held(self.store, child, level, bounds)? {
            Node::Leaf(leaf) => {
                for (key, value) in leaf.iter_back_from(&self.to) {
                    if key < self.from || visit(key, value)? == Walk::Stop {
                        return Ok(Walk::Stop);
                    }
                }
            }
            Node::Branch(branch) => {
                for at in (0..=branch.child_for(&self.to)).rev() {
                    let entry = &branch.entries[at];
                    let bounds = child_bounds(branch, at, bounds);
                    if self.backward(&entry.child, level - 1, bounds, visit)? == Walk::Stop {
                        return Ok(Walk::Stop);
                    }
                    if entry.key <= self.from {
                        return Ok(Walk::Stop);
                    }
                }
            }
        }
        Ok(Walk::On)
    }
}
