//! What all requests of a mount share.

use std::sync::{Arc, OnceLock};

use iomap_core::error::Result;
use iomap_core::vfs::{Attr, Ino, NewInode, Vfs};

use super::interrupt::Interrupts;
use crate::convert;
use crate::handles::Handles;
use crate::nodes::Nodes;
use crate::options::{AccessTimes, CachePolicy, MountOptions};
use crate::transport::Notifier;
use crate::wire::{self, Caller, EntryOut, FileHandle, FopenFlags, NodeId};

/// Seconds the kernel may keep names and attributes.
pub(super) const TTL: u64 = 3600;

/// What the serving threads and the mount share.
pub(crate) struct Shared {
    fs: Arc<dyn Vfs>,
    pub(super) cache: CachePolicy,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
    pub(super) interrupts: Interrupts,
    pub(super) access_times: AccessTimes,
    pub(super) dir_access_times: bool,
    /// Set once the kernel has agreed to enforce access control lists.
    acl: OnceLock<()>,
    /// For telling the kernel what it cannot know. Set when the mount is made.
    notifier: OnceLock<Notifier>,
}

impl Shared {
    pub(crate) fn new(fs: Arc<dyn Vfs>, options: &MountOptions) -> Self {
        Self {
            cache: options.cache,
            nodes: Nodes::new(fs.root()),
            handles: Handles::default(),
            interrupts: Interrupts::default(),
            access_times: if options.read_only {
                AccessTimes::Never
            } else {
                options.access_times
            },
            dir_access_times: options.dir_access_times,
            acl: OnceLock::new(),
            notifier: OnceLock::new(),
            fs,
        }
    }

    /// The file system.
    pub(crate) fn fs(&self) -> &dyn Vfs {
        &*self.fs
    }

    /// From here on access control lists are kept.
    pub(crate) fn keep_acl(&self) {
        let _ = self.acl.set(());
    }

    /// Whether access control lists are kept.
    pub(super) fn acl(&self) -> bool {
        self.acl.get().is_some()
    }

    /// From here on the kernel can be told of changes.
    pub(crate) fn set_notifier(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Tells the kernel that the attributes it has of `ino` are old. Waits for nobody.
    pub(super) fn attributes_changed(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get() {
            // A negative position: attributes only, no pages.
            if let Err(error) = notifier.inval_inode(self.nodes.node(ino), -1, 0) {
                tracing::warn!(target: "iomap_fuse", ino = ino.0, %error, "old attributes stay");
            }
        }
    }

    /// Closes every file and lets every inode go: the kernel does not ask any more.
    pub(crate) fn forget_all(&self) {
        self.handles.clear();
        self.nodes.forget_all();
    }

    /// What the kernel may do with an open file.
    pub(super) fn open_flags(&self, handle: FileHandle) -> FopenFlags {
        match self.handles.get(handle) {
            Ok(file) if file.is_volatile() => FopenFlags::DIRECT_IO,
            _ => self.cache.open_flags(),
        }
    }

    pub(super) fn ino(&self, node: NodeId) -> Ino {
        self.nodes.ino(node)
    }

    pub(super) fn file_attr(&self, attr: &Attr) -> wire::Attr {
        convert::attr(self.nodes.node(attr.ino), attr)
    }

    /// What tells the kernel of an inode, which is counted.
    pub(super) fn entry(&self, attr: &Attr) -> Result<EntryOut> {
        self.nodes.remember(self.fs(), attr.ino)?;
        Ok(EntryOut {
            nodeid: self.nodes.node(attr.ino).0,
            generation: attr.generation,
            entry_valid: TTL,
            attr_valid: TTL,
            entry_valid_nsec: 0,
            attr_valid_nsec: 0,
            attr: self.file_attr(attr),
        })
    }
}

pub(super) fn new_inode(caller: Caller, mode: u32) -> NewInode {
    NewInode {
        mode: convert::permissions(mode),
        uid: caller.uid,
        gid: caller.gid,
    }
}
