//! Nodes on the device and the cache of them.
//!
//! Owns reading a node with every check that needs no other item, and the budget of clean nodes in
//! memory. Nodes of a commit that is not durable yet stay pinned: their blocks may not have been
//! written. Owns no tree: whose child a node is, the callers know.
//!
//! # Locking
//!
//! The cache lock ([`Rank::Journal`]) is a leaf and never held across I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use iomap_core::device::{BlockDevice, bytes};
use iomap_core::error::{Corrupt, FsError};
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::DevAddr;

use super::node::Node;
use crate::format::{DiskBlock, DiskRun, Geometry, Key, NodePtr};

/// The keys a node may hold: from the first on, before the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) lo: Key,
    pub(crate) hi: Option<Key>,
}

impl Bounds {
    /// Every key.
    pub(crate) const ALL: Self = Self {
        lo: Key::MIN,
        hi: None,
    };

    /// Whether `node` keeps to them.
    pub(crate) fn admit(&self, node: &Node) -> bool {
        match node.key_span() {
            Some((first, last)) => first >= self.lo && self.hi.is_none_or(|hi| last < hi),
            None => true,
        }
    }
}

/// Reads nodes and remembers them.
#[derive(Debug)]
pub(crate) struct NodeStore {
    device: Arc<dyn BlockDevice>,
    geometry: Geometry,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Cache {
    clean: HashMap<DiskBlock, Clean>,
    /// The clean nodes by arrival; may name nodes that are gone.
    queue: VecDeque<(DiskBlock, u64)>,
    pinned: HashMap<DiskBlock, (u64, Arc<Node>)>,
    budget: usize,
}

#[derive(Debug)]
struct Clean {
    generation: u64,
    node: Arc<Node>,
    /// Looked up since it was last spared.
    used: bool,
}

impl NodeStore {
    /// Keeps at most `budget` clean nodes.
    pub(crate) fn new(device: Arc<dyn BlockDevice>, geometry: Geometry, budget: usize) -> Self {
        let cache = Cache {
            clean: HashMap::new(),
            queue: VecDeque::new(),
            pinned: HashMap::new(),
            budget: budget.max(16),
        };
        Self {
            device,
            geometry,
            cache: Mutex::new(Rank::Journal, cache),
        }
    }

    pub(crate) fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The node `ptr` points to, from memory or from the device.
    ///
    /// # Errors
    ///
    /// What the device answers; [`FsError::Corrupt`] if the block is not that node, or holds keys
    /// outside of `bounds`.
    pub(crate) fn load(
        &self,
        ptr: NodePtr,
        level: u8,
        bounds: Bounds,
    ) -> Result<Arc<Node>, FsError> {
        let cached = self.cache.lock().get(ptr);
        let node = match cached {
            Some(node) => node,
            None => {
                let node = Arc::new(self.read(ptr, level)?);
                self.cache.lock().insert(ptr, &node);
                node
            }
        };
        let is_level = matches!(*node, Node::Leaf(_)) == (level == 0);
        if !is_level || !bounds.admit(&node) {
            return Err(corrupt_node(ptr.addr, "keys outside of its parent's range").into());
        }
        Ok(node)
    }

    /// Reads the node `ptr` points to, past the cache.
    pub(crate) fn read(&self, ptr: NodePtr, level: u8) -> Result<Node, FsError> {
        let run = DiskRun::new(ptr.addr, 1);
        if !self.geometry.contains(run) {
            return Err(corrupt_node(ptr.addr, "outside of the file system").into());
        }
        let mut block = vec![0; self.geometry.block_size()];
        bytes::read_bytes(self.device(), self.addr(ptr.addr), &mut block)?;
        let node = Node::decode(&block, ptr, level)
            .map_err(|error| corrupt_node(ptr.addr, &error.to_string()))?;
        if node.len() == 0 {
            return Err(corrupt_node(ptr.addr, "empty").into());
        }
        Ok(node)
    }

    /// The device address of a block.
    pub(crate) fn addr(&self, block: DiskBlock) -> DevAddr {
        DevAddr::new(block.get() << self.geometry.bits())
    }

    /// Keeps a node that is about to be written, until [`NodeStore::unpin`].
    pub(crate) fn pin(&self, ptr: NodePtr, node: Arc<Node>) {
        let mut cache = self.cache.lock();
        cache.clean.remove(&ptr.addr);
        cache.pinned.insert(ptr.addr, (ptr.generation, node));
    }

    /// Nodes in memory.
    #[cfg(test)]
    pub(crate) fn cached(&self) -> usize {
        self.cache.lock().clean.len()
    }

    /// Makes the pinned nodes of generations up to `generation` ordinary clean ones.
    pub(crate) fn unpin(&self, generation: u64) {
        let mut cache = self.cache.lock();
        let durable: Vec<_> = cache
            .pinned
            .extract_if(|_, (written, _)| *written <= generation)
            .collect();
        for (addr, (generation, node)) in durable {
            cache.add(addr, generation, node);
        }
    }
}

/// Damage of a node, in words.
pub(crate) fn corrupt_node(addr: DiskBlock, what: &str) -> Corrupt {
    Corrupt::new(format!("tree node at block {addr}: {what}"))
}

impl Cache {
    fn get(&mut self, ptr: NodePtr) -> Option<Arc<Node>> {
        if let Some((generation, node)) = self.pinned.get(&ptr.addr) {
            return (*generation == ptr.generation).then(|| Arc::clone(node));
        }
        let clean = self.clean.get_mut(&ptr.addr)?;
        clean.used = true;
        (clean.generation == ptr.generation).then(|| Arc::clone(&clean.node))
    }

    fn insert(&mut self, ptr: NodePtr, node: &Arc<Node>) {
        if !self.pinned.contains_key(&ptr.addr) {
            self.add(ptr.addr, ptr.generation, Arc::clone(node));
        }
    }

    fn add(&mut self, addr: DiskBlock, generation: u64, node: Arc<Node>) {
        let clean = Clean {
            generation,
            node,
            used: false,
        };
        self.clean.insert(addr, clean);
        self.queue.push_back((addr, generation));
        self.shrink();
    }

    /// Forgets the oldest clean nodes; those looked up meanwhile, or in use, get another round.
    fn shrink(&mut self) {
        let mut tries = 2 * self.queue.len();
        while self.clean.len() > self.budget && tries > 0 {
            tries -= 1;
            let Some((addr, generation)) = self.queue.pop_front() else {
                return;
            };
            match self.clean.get_mut(&addr) {
                Some(clean) if clean.generation != generation => {}
                Some(clean) if clean.used || Arc::strong_count(&clean.node) > 1 => {
                    clean.used = false;
                    self.queue.push_back((addr, generation));
                }
                Some(_) => {
                    self.clean.remove(&addr);
                }
                None => {}
            }
        }
        if self.queue.len() > 4 * self.budget + self.clean.len() {
            let clean = &self.clean;
            self.queue
                .retain(|(addr, g)| clean.get(addr).is_some_and(|have| have.generation == *g));
        }
    }
}
