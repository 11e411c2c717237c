//! A page table in software: loads, stores and pins as steps that a test can put in any order.
//!
//! Owns the entries with their writable, dirty and accessed bits, the walk of an access through
//! them, and pins. A real program's loads and stores cannot come here: this one exists for
//! schedules, and for programs that reach their mappings by call.
//!
//! An access within one page is one step: it is done under the table's lock, as hardware that takes
//! a permission away waits for the accesses under way.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{Access, FaultHandler, Frames, MapOptions, MappedRange, MappingId, Mmu, Prot};
use crate::error::{FaultError, Result};
use crate::sync::{Mutex, Rank};
use crate::units::{FilePos, FileRange, PAGE_SIZE, PageIndex};

/// The page table of one mapping.
#[derive(Debug)]
pub struct SoftMmu {
    entries: Mutex<BTreeMap<PageIndex, Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    frame: Frames,
    bits: PageBits,
}

/// What a page table knows of a page it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageBits {
    /// Stores do not fault.
    pub writable: bool,
    /// Stored to since it became writable.
    pub dirty: bool,
    /// Loaded or stored to since it is shown.
    pub accessed: bool,
}

impl SoftMmu {
    /// An empty page table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Mutex::new(Rank::PageTable, BTreeMap::new()),
        }
    }

    /// The bits of a page, `None` if it is not shown.
    #[must_use]
    pub fn bits(&self, page: PageIndex) -> Option<PageBits> {
        self.entries.lock().get(&page).map(|entry| entry.bits)
    }

    /// One access to one page: `run` with its memory, if the page table permits it. `None`: it
    /// faults.
    fn access<T>(
        &self,
        page: PageIndex,
        access: Access,
        run: impl FnOnce(&Frames) -> T,
    ) -> Option<T> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&page)?;
        if access.is_store() && !entry.bits.writable {
            return None;
        }
        entry.bits.accessed = true;
        entry.bits.dirty |= access.is_store();
        Some(run(&entry.frame))
    }
}

impl Default for SoftMmu {
    fn default() -> Self {
        Self::new()
    }
}

impl Mmu for SoftMmu {
    fn map(&self, at: PageIndex, frames: &Frames, writable: bool) -> Result<()> {
        let mut entries = self.entries.lock();
        for n in 0..frames.pages() {
            let entry = Entry {
                frame: frames.part(n, 1),
                bits: PageBits {
                    writable,
                    ..PageBits::default()
                },
            };
            entries.insert(at.plus(n), entry);
        }
        Ok(())
    }

    fn write_protect(&self, pages: Range<PageIndex>) {
        for (_, entry) in self.entries.lock().range_mut(pages) {
            entry.bits.writable = false;
            entry.bits.dirty = false;
        }
    }

    fn unmap(&self, pages: Range<PageIndex>) {
        self.entries.lock().retain(|page, _| !pages.contains(page));
    }
}

/// A program's mapping of a file, with the soft page table. Addresses are positions in the file.
/// Dropping it unmaps.
pub struct SoftMapping {
    handler: Arc<dyn FaultHandler>,
    mmu: Arc<SoftMmu>,
    mapping: MappingId,
}

impl SoftMapping {
    /// Maps `pages` of a file.
    #[must_use]
    pub fn new(
        handler: Arc<dyn FaultHandler>,
        pages: Range<PageIndex>,
        prot: Prot,
        options: MapOptions,
    ) -> Self {
        let mmu = Arc::new(SoftMmu::new());
        let range = MappedRange::new(pages, prot, options, Arc::clone(&mmu) as Arc<dyn Mmu>);
        let mapping = range.mapping();
        handler.cache().mappings().insert(Arc::new(range));
        Self {
            handler,
            mmu,
            mapping,
        }
    }

    /// The page table.
    #[must_use]
    pub const fn mmu(&self) -> &Arc<SoftMmu> {
        &self.mmu
    }

    /// Takes `pages` out of the mapping.
    pub fn unmap(&self, pages: Range<PageIndex>) {
        self.handler.cache().mappings().remove(self.mapping, &pages);
    }

    /// Gives `pages` another permission.
    pub fn protect(&self, pages: Range<PageIndex>, prot: Prot) {
        let mappings = self.handler.cache().mappings();
        mappings.protect(self.mapping, &pages, prot);
    }

    // ---- accesses

    /// Loads bytes, faulting where needed; page by page.
    ///
    /// # Errors
    ///
    /// The signal the program gets; the pages before it were loaded.
    pub fn load(&self, pos: FilePos, to: &mut [u8]) -> Result<(), FaultError> {
        self.each_page(pos, to.len(), |from, bytes| {
            while !self.try_load(from, &mut to[bytes.clone()]) {
                self.fault(from.page(), Access::Load)?;
            }
            Ok(())
        })
    }

    /// Stores bytes, faulting where needed; page by page.
    ///
    /// # Errors
    ///
    /// The signal the program gets; the pages before it were stored.
    pub fn store(&self, pos: FilePos, from: &[u8]) -> Result<(), FaultError> {
        self.each_page(pos, from.len(), |to, bytes| {
            while !self.try_store(to, &from[bytes.clone()]) {
                self.fault(to.page(), Access::Store)?;
            }
            Ok(())
        })
    }

    /// One load within one page. `false`: it would fault.
    ///
    /// # Panics
    ///
    /// If the bytes lie in two pages.
    #[must_use]
    pub fn try_load(&self, pos: FilePos, to: &mut [u8]) -> bool {
        let run = |frame: &Frames| frame.load(pos.offset_in_page(), to);
        self.mmu.access(pos.page(), Access::Load, run).is_some()
    }

    /// One store within one page. `false`: it would fault.
    ///
    /// # Panics
    ///
    /// If the bytes lie in two pages.
    #[must_use]
    pub fn try_store(&self, pos: FilePos, from: &[u8]) -> bool {
        let run = |frame: &Frames| frame.store(pos.offset_in_page(), from);
        self.mmu.access(pos.page(), Access::Store, run).is_some()
    }

    /// Resolves one fault, whether the page table needs it or not.
    ///
    /// # Errors
    ///
    /// The signal the program gets.
    pub fn fault(&self, page: PageIndex, access: Access) -> Result<(), FaultError> {
        let mappings = self.handler.cache().mappings();
        let Some(range) = mappings.find(self.mapping, page) else {
            return Err(FaultError::NotMapped { page });
        };
        if !range.prot().contains(access.needs()) {
            return Err(FaultError::Denied { page });
        }
        self.handler.fault(&range, page, access)
    }

    /// Pins a page, as a device does that will access its memory by itself: faults it in for the
    /// access, then keeps its memory.
    ///
    /// # Errors
    ///
    /// As a load or a store.
    pub fn pin(&self, page: PageIndex, access: Access) -> Result<Pin, FaultError> {
        loop {
            let pinned = self.mmu.access(page, access, |frame| {
                let kept = frame.pin()?;
                let frame = frame.clone();
                Some(Pin {
                    frame,
                    access,
                    _kept: kept,
                })
            });
            if let Some(pin) = pinned.flatten() {
                return Ok(pin);
            }
            self.fault(page, access)?;
        }
    }

    fn each_page(
        &self,
        pos: FilePos,
        len: usize,
        mut step: impl FnMut(FilePos, Range<usize>) -> Result<(), FaultError>,
    ) -> Result<(), FaultError> {
        let range = FileRange::at_most(pos, len as u64);
        if range.len() < len as u64 {
            return Err(FaultError::NotMapped {
                page: PageIndex::END,
            });
        }
        let mut at = 0;
        while at < len {
            let pos = pos.saturating_add(at as u64);
            let end = len.min(at + PAGE_SIZE - pos.offset_in_page());
            step(pos, at..end)?;
            at = end;
        }
        Ok(())
    }
}

impl Drop for SoftMapping {
    fn drop(&mut self) {
        self.unmap(PageIndex::ZERO..PageIndex::END);
    }
}

impl fmt::Debug for SoftMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftMapping")
            .field("mapping", &self.mapping)
            .field("mmu", &self.mmu)
            .finish_non_exhaustive()
    }
}

/// A page pinned for a device. Reading and writing through it asks no page table: it passes by
/// write protection, and goes on when the page is not mapped any more.
pub struct Pin {
    frame: Frames,
    access: Access,
    _kept: Box<dyn Send + Sync>,
}

impl Pin {
    /// What the device reads.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the page.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.frame.load(offset, to);
    }

    /// What the device writes.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the page, or the page was pinned for loads.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(self.access.is_store(), "a page pinned for reading");
        self.frame.store(offset, from);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("frame", &self.frame)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
