//! Making a file system.
//!
//! Owns the options and the order in which a device becomes a testfs: nothing that was there before
//! may be taken for part of it, and halfway it is no file system at all.

use std::sync::Arc;

use iomap_core::device::{BlockDevice, bytes};
use iomap_core::error::{FsError, Result};
use iomap_core::sync::{Rank, RwLock};
use iomap_core::units::DevAddr;

use super::commit::Committer;
use super::open::free_map_without;
use super::space::{Limits, Space};
use super::store::NodeStore;
use super::tree::Tree;
use super::tree::edit::Edit;
use super::{Identity, Meta, State, Version};
use crate::format::item::{Body, FileType, Inode, Time};
use crate::format::superblock::{LABEL_BYTES, SLOT_ADDRS, SLOT_BYTES};
use crate::format::{Features, Geometry, Ino, Key};

/// What a new file system is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MkfsOptions {
    /// Bytes of a block: a power of two from 1024 to 65536.
    pub block_size: u32,
    /// Volume label, at most 64 bytes.
    pub label: String,
    /// Identity.
    pub uuid: [u8; 16],
    /// Seed of the name hashes.
    pub hash_seed: [u8; 16],
    /// When it is made: also the times of the root directory.
    pub now: Time,
    /// Owner and group of the root directory.
    pub root_owner: (u32, u32),
    /// Permission bits of the root directory.
    pub root_mode: u32,
    /// Bytes to use of the device; all of it if `None`.
    pub size: Option<u64>,
}

impl Default for MkfsOptions {
    /// 4 KiB blocks, random identity and seed, root's own.
    fn default() -> Self {
        let mut uuid = fastrand::u128(..).to_le_bytes();
        // Version 4, variant 1, as RFC 9562 has it.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self {
            block_size: 4096,
            label: String::new(),
            uuid,
            hash_seed: fastrand::u128(..).to_le_bytes(),
            now: Time::now(),
            root_owner: (0, 0),
            root_mode: 0o755,
            size: None,
        }
    }
}

impl MkfsOptions {
    fn geometry(&self, device: &dyn BlockDevice) -> Result<Geometry> {
        if !self.block_size.is_power_of_two() {
            return Err(FsError::Invalid("block size: not a power of two"));
        }
        if self.label.len() > LABEL_BYTES || self.label.contains('\0') {
            return Err(FsError::Invalid("label: longer than 64 bytes"));
        }
        if u64::from(self.block_size) < device.limits().block_size {
            return Err(FsError::Invalid("block size: smaller than the device's"));
        }
        let size = self.size.unwrap_or(device.size());
        if size > device.size() {
            return Err(FsError::Invalid("size: larger than the device"));
        }
        let bits = self.block_size.trailing_zeros();
        let geometry = Geometry::new(bits, size >> bits).ok_or(FsError::Invalid(
            "block size: not 1 KiB to 64 KiB, or fewer than 128 blocks",
        ))?;
        Ok(geometry)
    }

    fn root_inode(&self) -> Inode {
        Inode {
            mode: FileType::Directory.mode_bits() | (self.root_mode & 0o7777),
            uid: self.root_owner.0,
            gid: self.root_owner.1,
            nlink: 2,
            size: 0,
            blocks: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
            flags: 0,
            rdev: 0,
            generation: 1,
            parent: Ino::ROOT,
            entries: 0,
            body: Body::Extents,
        }
    }
}

impl Meta {
    /// Makes a file system on `device`, and mounts it. Everything that was there is lost.
    ///
    /// # Errors
    ///
    /// [`FsError::Invalid`] for options the format does not have; what the device says.
    pub fn mkfs(device: Arc<dyn BlockDevice>, options: &MkfsOptions) -> Result<Self> {
        let geometry = options.geometry(&*device)?;
        // Nothing older may win over, or be mistaken for, what is written now.
        for addr in SLOT_ADDRS {
            bytes::write_bytes(&*device, DevAddr::new(addr), &[0; SLOT_BYTES], false)?;
        }
        device.flush()?;
        let identity = Identity {
            features: Features::KNOWN,
            uuid: options.uuid,
            label: options.label.clone(),
            created: options.now.sec,
            hash_seed: options.hash_seed,
            geometry,
        };
        let store = NodeStore::new(device, geometry, super::open::DEFAULT_NODES);
        let mut tree = Tree::empty();
        Edit {
            tree: &mut tree,
            store: &store,
            freed: &mut Vec::new(),
        }
        .insert(Key::inode(Ino::ROOT), &options.root_inode().encode())?;
        let version = Version {
            tree,
            next_ino: Ino::new(Ino::ROOT.get() + 1),
            inodes: 1,
        };
        let map = free_map_without(geometry, Vec::new(), &[])?;
        // The first commit writes the slot that is not 1: byte 0, where programs look.
        let meta = Self::assemble(identity, store, version, map, 1, (0, 1), false);
        meta.commit()?;
        // And the second one the other slot, so that either may be lost.
        meta.state.write().changed = true;
        meta.commit()?;
        Ok(meta)
    }

    /// Puts a mounted file system together. `running` is the first generation to be written,
    /// `durable` the newest on the device and its slot.
    pub(super) fn assemble(
        identity: Identity,
        store: NodeStore,
        version: Version,
        map: super::FreeMap,
        running: u64,
        durable: (u64, usize),
        read_only: bool,
    ) -> Self {
        let geometry = identity.geometry;
        let space = Space::new(Limits::new(geometry));
        space.publish(map.free(), 0, version.tree.dirty());
        let state = State {
            changed: version.tree.dirty() > 0,
            version,
            generation: running,
            map,
            freed: Vec::new(),
            pinned: 0,
            lone: super::Lone::default(),
            // Nodes gather at the end of the device, data at its beginning.
            node_cursor: crate::format::DiskBlock::new(geometry.blocks() / 16 * 15),
        };
        Self {
            identity,
            store,
            space: Arc::new(space),
            state: RwLock::new(Rank::TransactionInFolio, 0, state),
            committer: Committer::new(durable.0, durable.1),
            read_only,
        }
    }
}
