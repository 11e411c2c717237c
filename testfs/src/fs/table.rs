//! Which files are in memory, and for how long.
//!
//! Owns the table of [`TestInode`]s and their users. A file stays while it is used, that is looked
//! at by a system call or open; after that for as long as there is room, so that its cache is there
//! when it is opened again. What leaves is written first. An inode of any type can be held as well:
//! somebody knows its number. An inode without a name is deleted when its last user and its last
//! holder have gone.
//!
//! # Locking
//!
//! The table's lock is a leaf for everybody else; nothing is called with it held.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use iomap_core::dax_io::{Content, unmap_and_wait_for_pins};
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::fsync::{SyncRange, sync_file_range};
use iomap_core::sync::atomic::Ordering;
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::writeback;

use super::inode::TestInode;
use super::volume::Volume;
use crate::format::item::FileType;
use crate::format::{BlockRange, Ino};

/// The files in memory.
pub(super) struct InodeTable {
    pub(super) volume: Arc<Volume>,
    state: Mutex<State>,
    /// Files without users to keep.
    max_idle: usize,
}

#[derive(Default)]
struct State {
    entries: HashMap<Ino, Entry>,
    /// Files without users, the one that is so for the longest first.
    idle: BTreeMap<u64, Ino>,
    next_idle: u64,
    /// How often inodes are held.
    held: HashMap<Ino, u64>,
    /// Inodes whose last name is gone: to be deleted with their last user and holder.
    nameless: HashSet<Ino>,
    /// Changes whenever a file leaves, or loses its last name: what was read from the tree before
    /// must not be put into the table after.
    epoch: u64,
}

struct Entry {
    inode: Arc<TestInode>,
    users: u32,
    /// Its place among the idle ones.
    idle: Option<u64>,
}

impl State {
    /// One user more.
    fn enter(&mut self, ino: Ino) -> Option<Arc<TestInode>> {
        let entry = self.entries.get_mut(&ino)?;
        entry.users += 1;
        if let Some(place) = entry.idle.take() {
            self.idle.remove(&place);
        }
        Some(Arc::clone(&entry.inode))
    }

    /// One user less. Returns the file if it has to be deleted now.
    fn leave(&mut self, ino: Ino) -> Option<Arc<TestInode>> {
        let entry = self.entries.get_mut(&ino)?;
        entry.users -= 1;
        if entry.users > 0 {
            return None;
        }
        if !self.held.contains_key(&ino) && self.nameless.remove(&ino) {
            return self.remove(ino);
        }
        let entry = self.entries.get_mut(&ino)?;
        entry.idle = Some(self.next_idle);
        self.idle.insert(self.next_idle, ino);
        self.next_idle += 1;
        None
    }

    fn remove(&mut self, ino: Ino) -> Option<Arc<TestInode>> {
        let entry = self.entries.remove(&ino)?;
        if let Some(place) = entry.idle {
            self.idle.remove(&place);
        }
        self.epoch += 1;
        Some(entry.inode)
    }
}

impl InodeTable {
    pub(super) fn new(volume: Arc<Volume>, max_idle: usize) -> Arc<Self> {
        Arc::new(Self {
            volume,
            state: Mutex::new(Rank::InodeTable, State::default()),
            max_idle,
        })
    }

    /// The file `ino`, brought in from the tree if it is not in memory.
    ///
    /// `ENOENT` if there is none or it has been deleted; [`FsError::Invalid`] for anything that is
    /// no regular file.
    pub(super) fn get(self: &Arc<Self>, ino: Ino) -> Result<InodeRef> {
        loop {
            if let Some(found) = self.peek(ino) {
                return Ok(found);
            }
            let epoch = self.state.lock().epoch;
            let item = self.volume.meta().read(|view| view.inode(ino))?;
            if item.nlink == 0 && !self.is_held(ino) {
                return Err(Errno::NOENT.into());
            }
            if item.file_type() != FileType::Regular {
                return Err(FsError::Invalid("not a regular file"));
            }
            let inode = TestInode::new(&self.volume, ino, &item);
            writeback::attach(&inode, &self.volume.flusher);
            let mut state = self.state.lock();
            if state.epoch == epoch && !state.entries.contains_key(&ino) {
                let entry = Entry {
                    inode: Arc::clone(&inode),
                    users: 1,
                    idle: None,
                };
                state.entries.insert(ino, entry);
                drop(state);
                return Ok(self.reference(inode));
            }
        }
    }

    /// The file `ino`, if it is in memory.
    pub(super) fn peek(self: &Arc<Self>, ino: Ino) -> Option<InodeRef> {
        let inode = self.state.lock().enter(ino)?;
        Some(self.reference(inode))
    }

    /// Every file in memory.
    pub(super) fn all(self: &Arc<Self>) -> Vec<InodeRef> {
        self.pick(|_| true)
    }

    /// Brings the tree up to date with what is in memory of attributes, and commits if that or
    /// anything else has changed it.
    pub(super) fn commit_pending(self: &Arc<Self>) -> Result<()> {
        if self.volume.check_writable().is_err() {
            return Ok(());
        }
        let mut result = Ok(());
        for inode in self.pick(|inode| !inode.has_no_pending()) {
            result = result.and(inode.flush_attributes());
        }
        let newest = self.volume.meta().newest_generation();
        if newest > self.volume.meta().durable_generation() {
            result = result.and(self.volume.make_durable(newest));
        }
        result
    }

    fn pick(self: &Arc<Self>, wanted: impl Fn(&TestInode) -> bool) -> Vec<InodeRef> {
        let mut state = self.state.lock();
        let wanted = |entry: &&Entry| wanted(&entry.inode);
        let inos: Vec<Ino> = state
            .entries
            .values()
            .filter(wanted)
            .map(|entry| entry.inode.ino)
            .collect();
        let inodes: Vec<_> = inos
            .into_iter()
            .filter_map(|ino| state.enter(ino))
            .collect();
        drop(state);
        inodes
            .into_iter()
            .map(|inode| self.reference(inode))
            .collect()
    }

    fn reference(self: &Arc<Self>, inode: Arc<TestInode>) -> InodeRef {
        InodeRef {
            table: Arc::clone(self),
            inode,
        }
    }

    /// Keeps the inode `ino`, of any type, until the answer is dropped.
    ///
    /// `ENOENT` if there is none or it has been deleted.
    pub(super) fn hold(self: &Arc<Self>, ino: Ino) -> Result<InodeHold> {
        *self.state.lock().held.entry(ino).or_default() += 1;
        // From here on it is not deleted any more, unless that has begun.
        let hold = InodeHold {
            table: Arc::clone(self),
            ino,
        };
        let item = self.volume.meta().read(|view| view.inode(ino))?;
        if item.nlink > 0 || self.state.lock().nameless.contains(&ino) {
            return Ok(hold);
        }
        Err(Errno::NOENT.into())
    }

    /// Whether somebody holds the inode `ino`.
    pub(super) fn is_held(&self, ino: Ino) -> bool {
        self.state.lock().held.contains_key(&ino)
    }

    /// One holder of `ino` less.
    fn let_go(&self, ino: Ino) {
        let mut state = self.state.lock();
        let Some(count) = state.held.get_mut(&ino) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.held.remove(&ino);
        let used = state.entries.get(&ino).is_some_and(|e| e.users > 0);
        if used || !state.nameless.remove(&ino) {
            return;
        }
        state.epoch += 1;
        let gone = state.remove(ino);
        drop(state);
        self.delete(ino, gone.as_deref());
    }

    /// The inode `ino`, of any type, has lost its last name: deletes it now, or with its last user
    /// and holder.
    pub(super) fn unlinked(&self, ino: Ino) {
        let mut state = self.state.lock();
        state.epoch += 1;
        let used = state.entries.get(&ino).is_some_and(|e| e.users > 0);
        if used || state.held.contains_key(&ino) {
            state.nameless.insert(ino);
            return;
        }
        let gone = state.remove(ino);
        drop(state);
        self.delete(ino, gone.as_deref());
    }

    /// Deletes an inode nobody can reach any more. What fails is finished at the next mount.
    fn delete(&self, ino: Ino, inode: Option<&TestInode>) {
        if let Some(inode) = inode
            && let Err(error) = inode.discard()
        {
            tracing::warn!(target: "testfs", %ino, %error, "deletion is left to the next mount");
            return;
        }
        if let Err(error) = self.volume.run(|meta| meta.evict(ino)) {
            tracing::warn!(target: "testfs", %ino, %error, "deletion is left to the next mount");
        }
    }

    fn release(&self, ino: Ino) {
        let mut state = self.state.lock();
        let gone = state.leave(ino);
        drop(state);
        if let Some(inode) = gone {
            self.delete(ino, Some(&inode));
            return;
        }
        self.shrink(self.max_idle);
    }

    /// Lets files without users go until `keep` are left, or one cannot be written.
    fn shrink(&self, keep: usize) {
        while self.evict_one(keep) {}
    }

    /// Lets the file go that had no users for the longest, if there are more than `keep`. Returns
    /// whether it went.
    fn evict_one(&self, keep: usize) -> bool {
        let mut state = self.state.lock();
        if state.idle.len() <= keep {
            return false;
        }
        let oldest = state.idle.first_key_value().map(|(_, ino)| *ino);
        let Some((ino, inode)) = oldest.and_then(|ino| Some((ino, state.enter(ino)?))) else {
            return false;
        };
        drop(state);
        let written = inode.write_everything();
        let mut state = self.state.lock();
        if let Some(gone) = state.leave(ino) {
            drop(state);
            self.delete(ino, Some(&gone));
            return true;
        }
        let unused = state.entries.get(&ino).is_some_and(|e| e.users == 0);
        let went = unused && written.is_ok() && inode.is_clean() && state.remove(ino).is_some();
        // Before the file itself, which gives back what it was promised.
        drop(state);
        if let Err(error) = written {
            tracing::warn!(target: "testfs", %ino, %error, "a file that is to leave stays");
        }
        went
    }

    /// Lets every file without users go that can be written.
    pub(super) fn clear(&self) {
        self.shrink(0);
    }

    /// Files in memory.
    pub(super) fn len(&self) -> usize {
        self.state.lock().entries.len()
    }
}

impl TestInode {
    /// Writes what the tree or the device does not have. Nothing becomes durable by it.
    pub(super) fn write_everything(&self) -> Result<()> {
        sync_file_range(self, FileRange::ALL, SyncRange::all())?;
        self.settle_cut()?;
        self.flush_attributes()
    }

    /// Whether nothing is lost if the file leaves memory: no data, no attributes, and no error that
    /// somebody must hear of.
    fn is_clean(&self) -> bool {
        let cache = self.core.cache();
        let (first, last) = FileRange::ALL.pages();
        let dax = self.core.dax();
        !cache.has_dirty_or_writeback(FileRange::ALL)
            && !dax.is_some_and(|dax| dax.has_dirty(&(first..last)))
            && self.has_no_pending()
            && !self.uncut.load(Ordering::Relaxed)
            && !self.has_unreported_error()
    }

    /// Drops the content: nobody will see it again. Fails if somebody still has pinned a page of it
    /// by address: there is nobody left to wait for that (rule D1).
    fn discard(&self) -> Result<()> {
        let guard = self.core.lock_exclusive();
        self.core.wait_for_direct(&guard);
        let part = self.part(FileRange::ALL, Content::Dropped);
        let _locks = unmap_and_wait_for_pins(&[part], [guard], Some(Duration::ZERO))?;
        self.core.set_size(FilePos::ZERO);
        self.core.cache().truncate(FileRange::ALL);
        self.forget(BlockRange::ALL);
        Ok(())
    }
}

/// A file in use.
pub(super) struct InodeRef {
    table: Arc<InodeTable>,
    inode: Arc<TestInode>,
}

impl InodeRef {
    /// The file, for the framework's open file. It lives as long as this reference.
    pub(super) const fn inode(&self) -> &Arc<TestInode> {
        &self.inode
    }

    /// Whether both are files of one mount.
    pub(super) fn same_mount(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }
}

impl Deref for InodeRef {
    type Target = TestInode;

    fn deref(&self) -> &TestInode {
        &self.inode
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        self.table.release(self.inode.ino);
    }
}

/// An inode that somebody knows by its number.
pub(super) struct InodeHold {
    table: Arc<InodeTable>,
    ino: Ino,
}

impl Drop for InodeHold {
    fn drop(&mut self) {
        self.table.let_go(self.ino);
    }
}
