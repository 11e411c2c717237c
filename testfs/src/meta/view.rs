//! Looking at a version of the metadata.
//!
//! Owns the access to items by key with decoding, on which the readers of each noun build:
//! `View::lookup` in [`dir`](super::dir), `View::extent_at` in [`extents`](super::extents) and so on
//! are methods of [`View`] too.

use std::fmt;

use iomap_core::error::{Corrupt, Errno, FsError, Result};

use super::Version;
use super::space::lone::Lone;
use super::store::NodeStore;
use super::tree::Walk;
use crate::format::item::{BadItem, Inode};
use crate::format::{Geometry, Ino, Key};

/// A look at one version, by a reader or inside a transaction.
#[derive(Clone, Copy)]
pub struct View<'a> {
    store: &'a NodeStore,
    version: &'a Version,
    lone: &'a Lone,
    seed: &'a [u8; 16],
}

impl<'a> View<'a> {
    pub(super) const fn new(
        store: &'a NodeStore,
        version: &'a Version,
        lone: &'a Lone,
        seed: &'a [u8; 16],
    ) -> Self {
        Self {
            store,
            version,
            lone,
            seed,
        }
    }

    /// Block size and number of blocks.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.store.geometry()
    }

    /// Inodes in use.
    #[must_use]
    pub const fn inodes(&self) -> u64 {
        self.version.inodes
    }

    /// Blocks with one owner that count as shared.
    pub(super) const fn lone(&self) -> &Lone {
        self.lone
    }

    pub(crate) const fn seed(&self) -> &[u8; 16] {
        self.seed
    }

    /// The attributes of `ino`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such inode.
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        self.get(&Key::inode(ino), Inode::decode)?
            .ok_or(os(Errno::NOENT))
    }

    /// The decoded value of `key`.
    pub(crate) fn get<T>(
        &self,
        key: &Key,
        decode: impl FnOnce(&[u8]) -> Result<T, BadItem>,
    ) -> Result<Option<T>> {
        let found = self.version.tree.get(self.store, key, decode)?;
        found
            .transpose()
            .map_err(|error| corrupt_item(*key, error).into())
    }

    /// The first item from `from` to `to`, both included, decoded.
    pub(crate) fn first<T>(
        &self,
        from: Key,
        to: Key,
        decode: impl Fn(&[u8]) -> Result<T, BadItem>,
    ) -> Result<Option<(Key, T)>> {
        self.version.tree.first(self.store, from, to, |key, value| {
            let item = decode(value).map_err(|error| corrupt_item(key, error))?;
            Ok((key, item))
        })
    }

    /// The last item from `from` to `to`, both included, decoded.
    pub(crate) fn last<T>(
        &self,
        from: Key,
        to: Key,
        decode: impl Fn(&[u8]) -> Result<T, BadItem>,
    ) -> Result<Option<(Key, T)>> {
        self.version.tree.last(self.store, from, to, |key, value| {
            let item = decode(value).map_err(|error| corrupt_item(key, error))?;
            Ok((key, item))
        })
    }

    /// Visits the items from `from` to `to`, both included, decoded.
    pub(crate) fn walk<T>(
        &self,
        from: Key,
        to: Key,
        decode: impl Fn(&[u8]) -> Result<T, BadItem>,
        mut visit: impl FnMut(Key, T) -> Result<Walk>,
    ) -> Result<()> {
        self.version.tree.walk(self.store, from, to, |key, value| {
            let item = decode(value).map_err(|error| corrupt_item(key, error))?;
            visit(key, item)
        })
    }
}

/// Damage of an item, in words.
pub(crate) fn corrupt_item(key: Key, error: BadItem) -> Corrupt {
    Corrupt::new(format!("item {key}: {error}"))
}

/// The error of a system call.
pub(crate) const fn os(errno: Errno) -> FsError {
    FsError::Os { errno }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("inodes", &self.version.inodes)
            .finish_non_exhaustive()
    }
}
