//! What the kernel knows of: inodes it was told about and has not forgotten.
//!
//! Owns the lookup count of each inode, and the hold that keeps an inode alive while it is counted,
//! so that a file without a name can be looked at while it is open, mapped or somebody's working
//! directory. Also owns the two names an inode has: its number, and what the kernel calls it.
//!
//! The kernel calls the root 1. Every other inode is called by its number, which is why a number is
//! only used again with a larger generation.

use std::collections::HashMap;

use iomap_core::error::Result;
use iomap_core::vfs::{Held, Ino, Vfs};
use parking_lot::Mutex;

use crate::wire::NodeId;

/// Shards of the table: lookups of several threads seldom meet.
const SHARDS: usize = 16;

struct Node {
    lookups: u64,
    _held: Held,
}

/// The inodes the kernel knows of.
pub(crate) struct Nodes {
    root: Ino,
    shards: [Mutex<HashMap<u64, Node>>; SHARDS],
}

/// What the kernel calls `ino` where the root directory is `root`.
pub(crate) fn node_of(root: Ino, ino: Ino) -> NodeId {
    if ino == root {
        NodeId::ROOT
    } else {
        NodeId(ino.0)
    }
}

impl Nodes {
    pub(crate) fn new(root: Ino) -> Self {
        Self {
            root,
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// What the kernel calls the inode.
    pub(crate) fn node(&self, ino: Ino) -> NodeId {
        node_of(self.root, ino)
    }

    /// The inode the kernel calls so.
    pub(crate) fn ino(&self, node: NodeId) -> Ino {
        if node == NodeId::ROOT {
            self.root
        } else {
            Ino(node.0)
        }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<u64, Node>> {
        &self.shards[(ino.0 % SHARDS as u64) as usize]
    }

    /// Counts that the kernel is about to be told of `ino`, and keeps it alive from now on.
    pub(crate) fn remember(&self, fs: &dyn Vfs, ino: Ino) -> Result<()> {
        if ino == self.root {
            return Ok(());
        }
        if let Some(node) = self.shard(ino).lock().get_mut(&ino.0) {
            node.lookups += 1;
            return Ok(());
        }
        let held = fs.hold(ino)?;
        // Without the lock somebody else may have been here: then this hold goes again.
        let mut shard = self.shard(ino).lock();
        let mut spare = Some(held);
        let node = shard.entry(ino.0).or_insert_with(|| Node {
            lookups: 0,
            _held: spare.take().expect("taken at most once"),
        });
        node.lookups += 1;
        drop(shard);
        drop(spare);
        Ok(())
    }

    /// The kernel has forgotten `count` lookups.
    pub(crate) fn forget(&self, ino: Ino, count: u64) {
        let mut shard = self.shard(ino).lock();
        let Some(node) = shard.get_mut(&ino.0) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return;
        }
        let gone = shard.remove(&ino.0);
        drop(shard);
        // Now, without the lock: it may delete a file.
        drop(gone);
    }

    /// The kernel has forgotten everything: the mount is gone.
    pub(crate) fn forget_all(&self) {
        for shard in &self.shards {
            let gone = std::mem::take(&mut *shard.lock());
            drop(gone);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use iomap_core::vfs::{NewInode, Special};
    use testfs::model::MemFs;

    use super::*;

    const NEW: NewInode = NewInode {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };

    #[test]
    fn an_unlinked_file_lives_until_the_last_lookup_is_forgotten() {
        let fs = MemFs::new();
        let nodes = Nodes::new(fs.root());
        let file = fs.mknod(fs.root(), b"f", Special::Regular, &NEW).unwrap();
        for _ in 0..3 {
            nodes.remember(&*fs, file.ino).unwrap();
        }
        fs.unlink(fs.root(), b"f").unwrap();
        nodes.forget(file.ino, 2);
        assert_eq!(fs.getattr(file.ino).unwrap().nlink, 0);
        nodes.forget(file.ino, 1);
        assert!(fs.getattr(file.ino).is_err());
    }

    #[test]
    fn the_root_is_one_to_the_kernel_whatever_its_number() {
        assert_eq!(node_of(Ino(2), Ino(2)), NodeId::ROOT);
        assert_eq!(node_of(Ino(2), Ino(7)), NodeId(7));
    }

    #[test]
    fn forgetting_more_than_was_told_or_the_root_does_no_harm() {
        let fs = MemFs::new();
        let nodes = Nodes::new(fs.root());
        nodes.remember(&*fs, fs.root()).unwrap();
        nodes.forget(fs.root(), 7);
        nodes.forget(Ino(99), 1);
        assert_eq!(nodes.node(fs.root()), NodeId::ROOT);
        assert_eq!(nodes.ino(NodeId::ROOT), fs.root());
        assert!(nodes.remember(&*fs, Ino(99)).is_err());
    }

    #[test]
    fn the_end_of_a_mount_lets_everything_go() {
        let fs = MemFs::new();
        let nodes = Nodes::new(fs.root());
        let file = fs.mknod(fs.root(), b"f", Special::Regular, &NEW).unwrap();
        nodes.remember(&*fs, file.ino).unwrap();
        fs.unlink(fs.root(), b"f").unwrap();
        nodes.forget_all();
        assert!(fs.getattr(file.ino).is_err());
    }
}
