//! What a DAX file has in memory instead of a page cache.
//!
//! Owns [`DaxVolume`], a device with its pins, shared by the files on it; and [`DaxTable`], the
//! entries of one file and the bytes it has written and not made durable. The file's memory mappings
//! are with its page cache ([`PageCache::mappings`](crate::page_cache::PageCache::mappings)), which
//! is empty otherwise. What is done with all this are the operations of [`dax_io`](crate::dax_io).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::DaxDevice;
use super::entries::{Entries, EntryGuard, EntrySize};
use super::pins::Pins;
use crate::mmap::{Backing, FrameMemory, Frames};
use crate::sync::{Mutex, Rank, RwLock, RwLockWriteGuard};
use crate::units::{DevAddr, PageIndex};

/// A byte-addressable device, and who has pinned pages of it.
pub struct DaxVolume {
    device: Arc<dyn DaxDevice>,
    pins: Pins,
}

impl DaxVolume {
    /// A volume with nothing pinned. Every file on the device uses the same.
    #[must_use]
    pub fn new(device: Arc<dyn DaxDevice>) -> Arc<Self> {
        Arc::new(Self {
            device,
            pins: Pins::new(),
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &dyn DaxDevice {
        &*self.device
    }

    /// The device, to keep.
    #[must_use]
    pub const fn shared_device(&self) -> &Arc<dyn DaxDevice> {
        &self.device
    }

    /// The pinned pages.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// `pages` pages from `addr` on, for a page table. They have been seen to lie on the device.
    pub(crate) fn frames(self: &Arc<Self>, addr: DevAddr, pages: u64) -> Frames {
        Frames::of_device(Arc::clone(self) as Arc<dyn FrameMemory>, addr, pages)
    }
}

impl FrameMemory for DaxVolume {
    fn load(&self, addr: DevAddr, to: &mut [u8]) {
        let loaded = self.device.memory().read(addr, to);
        loaded.expect("a page that is mapped lies on the device");
    }

    fn store(&self, addr: DevAddr, from: &[u8]) {
        let stored = self.device.memory().write(addr, from);
        stored.expect("a page that is mapped writable lies on a writable device");
    }

    fn pin(&self, addr: DevAddr) -> Box<dyn Send + Sync> {
        Box::new(self.pins.pin(addr))
    }

    fn backing(&self) -> Option<Backing<'_>> {
        Some(Backing {
            fd: self.device.backing()?,
            is_synchronous: self.device.memory().is_synchronous(),
        })
    }
}

impl fmt::Debug for DaxVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaxVolume")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// The DAX state of one file.
pub struct DaxTable {
    volume: Arc<DaxVolume>,
    entries: Entries,
    /// Bytes of the device that were written by calls, or lost their entry while they were dirty, and
    /// are not durable: first byte to one past the last. Neighbours are merged.
    unpersisted: Mutex<BTreeMap<DevAddr, DevAddr>>,
    /// Held from the question where shared blocks are copied to until the copy is the file's: two
    /// copies of one block at the same time would undo each other's changes. Taken after an entry.
    copying: RwLock<()>,
}

impl DaxTable {
    /// A file nobody has used yet.
    #[must_use]
    pub fn new(volume: &Arc<DaxVolume>) -> Self {
        Self {
            volume: Arc::clone(volume),
            entries: Entries::new(),
            unpersisted: Mutex::new(Rank::InodeState, BTreeMap::new()),
            copying: RwLock::new(Rank::Folio, u64::MAX, ()),
        }
    }

    /// The device and its pins.
    #[must_use]
    pub const fn volume(&self) -> &Arc<DaxVolume> {
        &self.volume
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &dyn DaxDevice {
        self.volume.device()
    }

    /// Whether something in `pages` was stored to through a memory mapping and is not durable.
    #[must_use]
    pub fn has_dirty(&self, pages: &Range<PageIndex>) -> bool {
        self.entries.has_dirty(pages)
    }

    /// Whether no page has an entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn lock(&self, page: PageIndex, size: EntrySize) -> Option<EntryGuard<'_>> {
        self.entries.lock(page, size)
    }

    pub(crate) const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Takes the lock of whoever copies shared blocks.
    pub(crate) fn copy_lock(&self) -> RwLockWriteGuard<'_, ()> {
        self.copying.write()
    }

    /// Notes bytes that were written and are not durable.
    pub(crate) fn note_unpersisted(&self, addr: DevAddr, len: u64) {
        let (mut start, mut end) = (addr, addr.plus(len));
        let mut map = self.unpersisted.lock();
        while let Some((&from, &to)) = map.range(..=end).next_back()
            && to >= start
        {
            map.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        map.insert(start, end);
    }

    /// Takes the notes: the caller makes the bytes durable, or puts them back.
    pub(crate) fn take_unpersisted(&self) -> BTreeMap<DevAddr, DevAddr> {
        std::mem::take(&mut *self.unpersisted.lock())
    }
}

impl fmt::Debug for DaxTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaxTable")
            .field("volume", &self.volume)
            .finish_non_exhaustive()
    }
}
