//! Small files whose bytes live in the inode.
//!
//! Owns the bytes in memory and the way out, when a file grows past what its inode holds. The way
//! into the tree is that of the other attributes ([`attr`](super::attr)).

use iomap_core::error::Result;
use iomap_core::iomap::InlineBuffer;
use iomap_core::sync::atomic::{AtomicBool, Ordering};
use iomap_core::sync::{Mutex, Rank};

use super::inode::TestInode;

/// The bytes of an inline file.
pub(super) struct InlineData {
    bytes: Mutex<Vec<u8>>,
    capacity: usize,
    /// Whether the file's data is here. Goes from true to false, once, under the mapping lock
    /// (`Release`): who reads false (`Acquire`) without it finds the block that has the data.
    used: AtomicBool,
}

impl InlineData {
    pub(super) fn new(bytes: Option<Vec<u8>>, capacity: usize) -> Self {
        let used = bytes.is_some();
        let bytes = bytes.unwrap_or_default();
        Self {
            bytes: Mutex::new(Rank::InodeState, bytes),
            capacity,
            used: AtomicBool::new(used),
        }
    }

    /// Whether the data of the file is here.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// The data is in a block from here on. The mapping lock is held.
    fn leave(&self) {
        self.used.store(false, Ordering::Release);
    }

    /// The first `len` bytes.
    pub(super) fn prefix(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_at(0, &mut bytes);
        bytes
    }

    /// Drops what lies past `len`: it reads as zeroes if the file grows again.
    pub(super) fn cut(&self, len: usize) {
        self.bytes.lock().truncate(len);
    }
}

impl InlineBuffer for InlineData {
    fn read_at(&self, offset: usize, to: &mut [u8]) {
        let bytes = self.bytes.lock();
        let have = bytes.get(offset..).unwrap_or_default();
        let len = have.len().min(to.len());
        to[..len].copy_from_slice(&have[..len]);
        to[len..].fill(0);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        let mut bytes = self.bytes.lock();
        let end = offset.saturating_add(from.len()).min(self.capacity);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(to) = bytes.get_mut(offset..end) {
            to.copy_from_slice(&from[..to.len()]);
        }
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

impl TestInode {
    /// Moves inline data out into a block. Nothing for other files.
    ///
    /// Nobody changes the data meanwhile: the caller holds the inode lock exclusively, or the lock
    /// of the first folio. The folio stays as it is: what is on the device now is what it holds.
    pub(super) fn leave_inline(&self) -> Result<()> {
        if !self.inline.is_used() {
            return Ok(());
        }
        self.volume.check_writable()?;
        self.flush_attributes()?;
        self.volume.run(|meta| meta.spill_inline(self.ino))?;
        let room = {
            let mut map = self.mapping.write();
            self.inline.leave();
            map.recent = None;
            self.invalidate_mappings(&map);
            map.take_inline_room()
        };
        drop(room);
        self.note_changed();
        Ok(())
    }
}
