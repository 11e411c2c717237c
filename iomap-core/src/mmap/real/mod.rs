//! Real memory mappings: a program's own loads and stores, and its faults.
//!
//! Owns [`Mapping`], what [`File::mmap`](crate::file::File::mmap) gives, and its two page tables. No
//! page appears in a mapping, and none becomes writable, before the fault code has run.
//!
//! - [`UffdMmu`], for a file with a page cache: the memory is [`FileMemory`], and the mapping shows
//!   the folios of the cache themselves. Every page is registered with `userfaultfd` for all three
//!   kinds of fault.
//! - [`DeviceMmu`], for a DAX file: the memory is the device's, mapped over a reservation page by
//!   page. A fault is a `SIGSEGV`, which a handler of the library takes. It needs no right that a
//!   process may lack; what a program has to leave alone for it is told in `segv`.
//!
//! | Module | Owns |
//! |---|---|
//! | `live` | what is mapped where, and the end of a fault |
//! | `folios` | what a mapping of folios shows |
//! | `uffd`, `engine` | the system calls of `userfaultfd`, and the threads that answer |
//! | `relay` | which of them reads the next fault |
//! | `device`, `runs` | what a mapping of a DAX file shows |
//! | `segv` | the signal, and the threads that answer |
//!
//! # What a program sees
//!
//! - An access past the page with the last byte of the file, one that finds no space, and one whose
//!   page cannot be read, raise `SIGBUS`. The page goes on doing so until it is synced
//!   ([`Mapping::forgive`]) or the file grows over it.
//! - An access that the mapping does not permit, and one to a part that was unmapped, raise
//!   `SIGSEGV`.
//! - A child after `fork` does not have the mapping.
//! - Where the process may only have faults of its own code reported, and in every mapping of a DAX
//!   file, system calls that are given memory of the mapping which is not there get `EFAULT`:
//!   [`Mapping::prefault`]. Calls of this library copy such memory before they take a lock.
//! - A page that a device was told of by address (`O_DIRECT`, registered buffers) is written past
//!   every protection, as with a mapping of the kernel's. Journalled data has to be copied before it
//!   is logged. The page of a DAX file is not even the file's any more once it was truncated, unless
//!   it is pinned first: [`Mapping::pin`].

mod device;
mod engine;
mod folios;
mod live;
mod relay;
mod runs;
#[cfg(all(target_arch = "x86_64", not(any(iomap_shuttle, iomap_loom))))]
mod segv;
#[cfg(not(all(target_arch = "x86_64", not(any(iomap_shuttle, iomap_loom)))))]
#[path = "segv_none.rs"]
mod segv;
mod uffd;

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::{
    Access, FaultHandler, FileMemory, FrameMemory, MapOptions, MappedRange, MappingId, Mmu, Prot,
};
use crate::error::{Errno, FaultError, FsError, Result};
use crate::folio::bytes::{copy_from_shared, copy_to_shared};
use crate::units::{FilePos, FileRange, PAGE_SIZE, PageIndex};

pub use device::DeviceMmu;
pub use folios::UffdMmu;
pub use live::is_ours;
pub(crate) use relay::about_to_wait;

/// Addresses, page aligned.
type Span = Range<usize>;

/// Memory that shows a file. Dropping it unmaps what is left.
pub struct Mapping {
    handler: Arc<dyn FaultHandler>,
    table: Table,
    mapping: MappingId,
    base: NonNull<u8>,
    first: PageIndex,
    len: usize,
    /// Last: goes when everything is unmapped.
    kept: Option<Arc<dyn Send + Sync>>,
}

/// Whose pages it shows.
enum Table {
    Folios(Arc<UffdMmu>),
    Device(Arc<DeviceMmu>, Option<segv::Watch>),
}

// SAFETY: an address range that belongs to the mapping; its bytes are shared memory, which this type
// touches through the copies of `folio/bytes.rs` only.
unsafe impl Send for Mapping {}
// SAFETY: as above; every method takes care of threads by itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `pages` of the file behind `handler`, whose folios lie in `memory`.
    ///
    /// # Errors
    ///
    /// [`FsError::Unsupported`] where the process may not have this; no address space or
    /// descriptors left.
    pub fn new(
        handler: Arc<dyn FaultHandler>,
        memory: Arc<FileMemory>,
        pages: Range<PageIndex>,
        prot: Prot,
    ) -> Result<Self> {
        let mmu = Arc::new(UffdMmu::map_file(memory, &pages, prot)?);
        let base = mmu.base();
        let table = Table::Folios(mmu);
        Self::show(handler, table, base, (pages, prot, MapOptions::empty()))
    }

    /// Maps `pages` of the DAX file behind `handler`, whose blocks lie in `memory`.
    ///
    /// # Errors
    ///
    /// [`FsError::Unsupported`] for a device, or a processor, that this cannot be done with; no
    /// address space or descriptors left.
    pub fn of_device(
        handler: Arc<dyn FaultHandler>,
        memory: Arc<dyn FrameMemory>,
        pages: Range<PageIndex>,
        prot: Prot,
        options: MapOptions,
    ) -> Result<Self> {
        let len = len_of(&pages)?;
        let mmu = Arc::new(DeviceMmu::reserve(memory, pages.start, len)?);
        let base = mmu.base();
        let mut made = Self::show(
            handler,
            Table::Device(mmu, None),
            base,
            (pages, prot, options),
        )?;
        let watch = segv::watch(&(base..base + len))?;
        if let Table::Device(_, watched) = &mut made.table {
            *watched = Some(watch);
        }
        Ok(made)
    }

    /// Lets the page table show the file.
    fn show(
        handler: Arc<dyn FaultHandler>,
        table: Table,
        base: usize,
        (pages, prot, options): (Range<PageIndex>, Prot, MapOptions),
    ) -> Result<Self> {
        let mmu: Arc<dyn Mmu> = match &table {
            Table::Folios(mmu) => mmu.clone(),
            Table::Device(mmu, _) => mmu.clone(),
        };
        let (first, len) = (pages.start, len_of(&pages)?);
        let mapping = MappingId::of(&mmu);
        let start = std::ptr::with_exposed_provenance_mut(base);
        let range = MappedRange::new(pages, prot, options, mmu);
        handler.cache().mappings().insert(Arc::new(range));
        live::add(&(base..base + len), first, mapping, Arc::clone(&handler));
        Ok(Self {
            handler,
            table,
            mapping,
            // The kernel maps nothing at address zero.
            base: NonNull::new(start).ok_or(Errno::NOMEM)?,
            first,
            len,
            kept: None,
        })
    }

    /// Keeps something until the mapping is gone: what makes the file stay.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Send + Sync>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// The first address. What is read and written through it races with everybody else who uses
    /// the file: it must not be turned into a reference.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes, whatever was unmapped since.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The position in the file of its first byte.
    #[must_use]
    pub fn start(&self) -> FilePos {
        self.first.pos()
    }

    /// Whether system calls that are given memory of the mapping fail with `EFAULT` where it is not
    /// there.
    #[must_use]
    pub fn needs_prefault(&self) -> bool {
        match &self.table {
            Table::Folios(mmu) => mmu.is_user_only(),
            Table::Device(..) => true,
        }
    }

    /// Copies bytes of the file out by loads from the mapping.
    ///
    /// # Errors
    ///
    /// [`FaultError::NotMapped`] if they do not all lie in it. What cannot be loaded otherwise
    /// raises the signal, as any load does.
    pub fn load(&self, pos: FilePos, to: &mut [u8]) -> Result<(), FaultError> {
        let from = self.address(pos, to.len())?;
        // SAFETY: inside the mapping, which lives as long as `self`; a part that was unmapped since
        // raises the signal. `to` is an exclusive reference, and nobody makes one to a mapping.
        unsafe { copy_from_shared(to.as_mut_ptr(), from, to.len()) };
        Ok(())
    }

    /// Copies bytes of the file in by stores to the mapping.
    ///
    /// # Errors
    ///
    /// As [`Mapping::load`].
    pub fn store(&self, pos: FilePos, from: &[u8]) -> Result<(), FaultError> {
        let to = self.address(pos, from.len())?;
        // SAFETY: as for `load`.
        unsafe { copy_to_shared(to, from.as_ptr(), from.len()) };
        Ok(())
    }

    fn address(&self, pos: FilePos, len: usize) -> Result<*mut u8, FaultError> {
        let outside = FaultError::NotMapped { page: pos.page() };
        let offset = pos.since(self.start());
        let inside = pos >= self.start()
            && offset
                .checked_add(len as u64)
                .is_some_and(|end| end <= self.len as u64);
        let spans = live::spans(self.mapping);
        let start = self.base.addr().get().wrapping_add(offset as usize);
        let left = spans
            .iter()
            .any(|span| span.start <= start && start + len <= span.end);
        if !inside || !left {
            return Err(outside);
        }
        // SAFETY: just seen to lie in the mapping.
        Ok(unsafe { self.base.as_ptr().add(offset as usize) })
    }

    /// The addresses of pages of the mapping, whatever was unmapped since.
    fn span(&self, pages: &Range<PageIndex>) -> Span {
        // Pages of the mapping: they fit the address space.
        let base = self.base.addr().get();
        let at = |page: PageIndex| base + page.since(self.first) as usize * PAGE_SIZE;
        at(pages.start)..at(pages.end)
    }

    /// The pages of a part of the mapping.
    fn pages(&self, range: FileRange) -> Range<PageIndex> {
        let (start, end) = range.pages();
        let first = self.first;
        let last = first.plus((self.len / PAGE_SIZE) as u64);
        let start = start.max(first).min(last);
        start..end.min(last).max(start)
    }

    /// Faults the pages of `range` in now, in this thread, so that a system call finds them.
    /// Reclaim may take them again.
    ///
    /// # Errors
    ///
    /// As the access; no signal is raised.
    pub fn prefault(&self, range: FileRange, access: Access) -> Result<(), FaultError> {
        let pages = self.pages(range);
        let mut page = pages.start;
        while page < pages.end {
            let mappings = self.handler.cache().mappings();
            let Some(range) = mappings.find(self.mapping, page) else {
                return Err(FaultError::NotMapped { page });
            };
            if !range.prot().contains(access.needs()) {
                return Err(FaultError::Denied { page });
            }
            self.handler.fault(&range, page, access)?;
            page = page.plus(1);
        }
        Ok(())
    }

    /// Pins the page with the byte at `pos`, for a device that is told of it by address: until the
    /// pin is dropped its block is neither freed nor moved, and it counts as stored to. Faults it
    /// in for the access.
    ///
    /// # Errors
    ///
    /// As the access; no signal is raised. `Unsupported` for a file with a page cache, whose pages
    /// need no pin.
    pub fn pin(&self, pos: FilePos, access: Access) -> Result<MappedPin, FaultError> {
        let Table::Device(mmu, _) = &self.table else {
            return Err(FsError::Unsupported("pins of pages that are not a device's").into());
        };
        let page = pos.page();
        loop {
            self.prefault(FileRange::at_most(page.pos(), 1), access)?;
            let inside =
                page >= self.first && page.since(self.first) < (self.len / PAGE_SIZE) as u64;
            if !inside {
                return Err(FaultError::NotMapped { page });
            }
            if let Some(kept) = mmu.pin(page, access) {
                return Ok(MappedPin { _kept: kept });
            }
        }
    }

    /// Lets pages that raised the signal try again.
    pub fn forgive(&self, range: FileRange) {
        let mappings = self.handler.cache().mappings();
        mappings.for_each(&self.pages(range), |range, pages| {
            if range.mapping() == self.mapping {
                range.mmu().forgive(pages);
            }
        });
    }

    /// Takes the whole pages that `range` touches out of the mapping. Their addresses may become
    /// anybody's.
    pub fn unmap(&self, range: FileRange) {
        let pages = self.pages(range);
        self.handler.cache().mappings().remove(self.mapping, &pages);
        live::remove(self.mapping, &self.span(&pages), |span| match &self.table {
            Table::Folios(_) => UffdMmu::release(span),
            Table::Device(..) => DeviceMmu::release(span),
        });
    }

    /// Gives the whole pages that `range` touches another permission.
    ///
    /// # Errors
    ///
    /// What the kernel answers: the permission is then what it was.
    pub fn protect(&self, range: FileRange, prot: Prot) -> Result<()> {
        let pages = self.pages(range);
        let wanted = self.span(&pages);
        for span in live::spans(self.mapping) {
            let cut = span.start.max(wanted.start)..span.end.min(wanted.end);
            if let Table::Folios(_) = &self.table
                && !cut.is_empty()
            {
                UffdMmu::permit(&cut, prot)?;
            }
        }
        let mappings = self.handler.cache().mappings();
        mappings.protect(self.mapping, &pages, prot);
        Ok(())
    }
}

/// Keeps the block of a page of a DAX file what it is. See [`Mapping::pin`].
#[must_use = "the page is released when the pin is dropped"]
pub struct MappedPin {
    _kept: Box<dyn Send + Sync>,
}

impl fmt::Debug for MappedPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedPin").finish_non_exhaustive()
    }
}

/// The bytes of `pages`, as addresses count.
fn len_of(pages: &Range<PageIndex>) -> Result<usize> {
    let bytes = pages.end.pos().since(pages.start.pos());
    usize::try_from(bytes).map_err(|_| FsError::TooBig)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Not watched any more before somebody else can have the addresses.
        if let Table::Device(_, watch) = &mut self.table {
            drop(watch.take());
        }
        self.unmap(FileRange::ALL);
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("start", &self.start())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
