//! The memory behind pages: of a folio, of a byte-addressable device, or zeroes.
//!
//! Owns how a page table names memory without owning it. The memory of folios is
//! [`folio`](crate::folio)'s, the copies are `folio/bytes.rs`.

use std::fmt;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::folio::{FolioPages, LockedFolio};
use crate::units::{DevAddr, PAGE_SIZE, PageIndex};

/// Storage whose bytes are memory: what a DAX page table shows.
///
/// The bytes are shared with every mapping; copies race byte by byte.
pub trait FrameMemory: Send + Sync + fmt::Debug {
    /// Copies bytes at `addr` out.
    ///
    /// # Panics
    ///
    /// If they do not all lie in the memory.
    fn load(&self, addr: DevAddr, to: &mut [u8]);

    /// Copies bytes in at `addr`.
    ///
    /// # Panics
    ///
    /// If they do not all lie in the memory.
    fn store(&self, addr: DevAddr, from: &[u8]);

    /// Counts a pin of the page at `addr`, until the answer is dropped. Called with the page table
    /// locked, so that whoever unmaps first and looks for pins then finds it: inner locks only.
    fn pin(&self, addr: DevAddr) -> Box<dyn Send + Sync>;

    /// What real mappings of it map. `None`: only the software page table can show it.
    fn backing(&self) -> Option<Backing<'_>> {
        None
    }
}

/// A file with the bytes of a [`FrameMemory`]: the one at offset *n* is the one at address *n*.
#[derive(Clone, Copy, Debug)]
pub struct Backing<'a> {
    /// The file, open for what may be done with the bytes.
    pub fd: BorrowedFd<'a>,
    /// Flushing the lines of the processor's caches makes stores durable, where the file was mapped
    /// with `MAP_SYNC`.
    pub is_synchronous: bool,
}

/// The memory of some pages that lie side by side.
#[derive(Clone, Debug)]
pub struct Frames {
    of: Of,
    pages: u64,
}

#[derive(Clone, Debug)]
enum Of {
    Folio(FolioPages),
    Device(Arc<dyn FrameMemory>, DevAddr),
    Zero,
}

impl Frames {
    /// The pages `pages` of the file, of the part of it the folio holds.
    ///
    /// # Panics
    ///
    /// If they do not all lie in the folio.
    #[must_use]
    pub fn of_folio(folio: &LockedFolio, pages: Range<PageIndex>) -> Self {
        Self {
            pages: pages.end.since(pages.start),
            of: Of::Folio(folio.frames(pages)),
        }
    }

    /// `pages` pages of a device, from `addr` on.
    #[must_use]
    pub fn of_device(memory: Arc<dyn FrameMemory>, addr: DevAddr, pages: u64) -> Self {
        Self {
            of: Of::Device(memory, addr),
            pages,
        }
    }

    /// Pages that read as zeroes and are never writable.
    #[must_use]
    pub const fn zero(pages: u64) -> Self {
        Self {
            of: Of::Zero,
            pages,
        }
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether they may be written: zero pages may not.
    #[must_use]
    pub const fn can_be_written(&self) -> bool {
        !matches!(self.of, Of::Zero)
    }

    /// Where on the device the memory is, if it is a device's.
    #[must_use]
    pub const fn device_addr(&self) -> Option<DevAddr> {
        match self.of {
            Of::Device(_, addr) => Some(addr),
            Of::Folio(_) | Of::Zero => None,
        }
    }

    /// The part from page `first` on, `pages` pages long.
    ///
    /// # Panics
    ///
    /// If it does not lie inside.
    #[must_use]
    pub fn part(&self, first: u64, pages: u64) -> Self {
        assert!(
            first
                .checked_add(pages)
                .is_some_and(|end| end <= self.pages),
            "pages {first}+{pages} of {}",
            self.pages
        );
        let of = match &self.of {
            Of::Folio(folio) => Of::Folio(folio.part(first, pages)),
            Of::Device(memory, addr) => {
                Of::Device(Arc::clone(memory), addr.plus(first * PAGE_SIZE as u64))
            }
            Of::Zero => Of::Zero,
        };
        Self { of, pages }
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Panics
    ///
    /// If they do not all lie inside.
    pub(crate) fn load(&self, offset: usize, to: &mut [u8]) {
        self.check(offset, to.len());
        match &self.of {
            Of::Folio(folio) => folio.read(offset, to),
            Of::Device(memory, addr) => memory.load(addr.plus(offset as u64), to),
            Of::Zero => to.fill(0),
        }
    }

    /// Copies bytes in at `offset`; nothing for zero pages.
    ///
    /// # Panics
    ///
    /// If they do not all lie inside.
    pub(crate) fn store(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        match &self.of {
            Of::Folio(folio) => folio.write(offset, from),
            Of::Device(memory, addr) => memory.store(addr.plus(offset as u64), from),
            Of::Zero => debug_assert!(from.is_empty(), "a store to the zero page"),
        }
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end as u64 <= self.pages * PAGE_SIZE as u64),
            "{len} bytes at {offset} of {} pages",
            self.pages
        );
    }

    /// Keeps the memory what it is, whatever becomes of the file. `None` if a folio is leaving its
    /// cache just now.
    pub(super) fn pin(&self) -> Option<Box<dyn Send + Sync>> {
        Some(match &self.of {
            // The folio may leave the cache; its memory is not used for anything else.
            Of::Folio(folio) => Box::new(folio.get()?),
            Of::Device(memory, addr) => memory.pin(*addr),
            Of::Zero => Box::new(()),
        })
    }
}
