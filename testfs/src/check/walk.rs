//! The nodes, top down, and their items in key order.
//!
//! Owns reading and judging nodes. A bad node is reported once and nothing below it is looked at; its
//! neighbours are. No node is visited twice, whatever pointers say: a node's keys must lie in the
//! range its parent gives it, ranges do not overlap, and no node is empty.

use std::sync::Arc;

use iomap_core::device::BlockDevice;

use super::{Finding, Findings};
use crate::format::{DiskBlock, Geometry, Key, NodePtr, Superblock};
use crate::meta::node::{Child, Node};
use crate::meta::store::{Bounds, NodeStore};
use crate::meta::tree::child_bounds;

/// What the walk comes to.
pub(super) enum Event<'a> {
    /// A good node.
    Node(DiskBlock),
    /// An item of it.
    Item(Key, &'a [u8]),
}

pub(super) struct Walk {
    store: NodeStore,
}

impl Walk {
    pub(super) fn new(device: Arc<dyn BlockDevice>, geometry: Geometry) -> Self {
        Self {
            store: NodeStore::new(device, geometry, 0),
        }
    }

    /// Visits every node that can be reached, and every item in them.
    pub(super) fn run(
        &self,
        superblock: &Superblock,
        findings: &mut Findings,
        mut visit: impl FnMut(Event<'_>, &mut Findings),
    ) {
        self.node(
            superblock.root,
            superblock.root_level,
            Bounds::ALL,
            findings,
            &mut visit,
        );
    }

    fn node(
        &self,
        ptr: NodePtr,
        level: u8,
        bounds: Bounds,
        findings: &mut Findings,
        visit: &mut dyn FnMut(Event<'_>, &mut Findings),
    ) {
        let node = match self.store.read(ptr, level) {
            Ok(node) if bounds.admit(&node) => node,
            Ok(_) => {
                return findings.add(Finding::Node {
                    block: ptr.addr,
                    error: "keys outside of its parent's range".to_owned(),
                });
            }
            Err(error) => {
                return findings.add(Finding::Node {
                    block: ptr.addr,
                    error: error.to_string(),
                });
            }
        };
        visit(Event::Node(ptr.addr), findings);
        match &node {
            Node::Leaf(leaf) => {
                for (key, value) in leaf.iter() {
                    visit(Event::Item(key, value), findings);
                }
            }
            Node::Branch(branch) => {
                for (at, entry) in branch.entries.iter().enumerate() {
                    let bounds = child_bounds(branch, at, bounds);
                    if let Child::Disk(ptr) = entry.child {
                        self.node(ptr, level - 1, bounds, findings, visit);
                    }
                }
            }
        }
    }
}
