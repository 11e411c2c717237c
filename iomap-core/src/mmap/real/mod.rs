//! Real memory mappings: a program's own loads and stores, and its faults.
//!
//! Owns [`Mapping`], what [`File::mmap`](crate::file::File::mmap) gives, and its page table
//! [`UffdMmu`]. The memory is [`FileMemory`]: the mapping shows the folios of the cache themselves.
//! Every page is registered with `userfaultfd` for all three kinds of fault, so none appears, and
//! none becomes writable, before the fault code has run.
//!
//! | Module | Owns |
//! |---|---|
//! | `uffd` | the system calls |
//! | `engine` | the threads that answer, and what is mapped where |
//! | `relay` | which of them reads the next fault |
//!
//! # What a program sees
//!
//! - An access past the page with the last byte of the file, one that finds no space, and one whose
//!   page cannot be read, raise `SIGBUS`. The page goes on doing so until it is synced
//!   ([`Mapping::forgive`]) or the file grows over it.
//! - A child after `fork` does not have the mapping.
//! - Where the process may only have faults of its own code reported, system calls that are given
//!   memory of the mapping which is not there get `EFAULT`: [`Mapping::prefault`]. Calls of this
//!   library copy such memory before they take a lock.
//! - A page that a device was told of by address (`O_DIRECT`, registered buffers) is written past
//!   every protection, as with a mapping of the kernel's. Journalled data has to be copied before it
//!   is logged.

mod engine;
mod relay;
mod uffd;

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap};

use super::{
    Access, FaultHandler, FileMemory, Frames, MapOptions, MappedRange, MappingId, Mmu, Prot,
};
use crate::error::{Errno, FaultError, FsError, Result};
use crate::folio::bytes::{copy_from_shared, copy_to_shared};
use crate::units::{FilePos, FileRange, PAGE_SIZE, PageIndex};
use engine::{Answering, Engine, engine};
use uffd::Span;

pub use engine::is_ours;
pub(crate) use relay::about_to_wait;

/// The page table of a real mapping: the kernel's, asked through `userfaultfd`.
#[derive(Debug)]
pub struct UffdMmu {
    engine: &'static Engine,
    memory: Arc<FileMemory>,
    base: usize,
    first: PageIndex,
}

impl UffdMmu {
    /// The addresses of pages of the mapping.
    fn span(&self, pages: &Range<PageIndex>) -> Span {
        // Pages of the mapping: they fit the address space.
        let at = |page: PageIndex| self.base + page.since(self.first) as usize * PAGE_SIZE;
        at(pages.start)..at(pages.end)
    }

    fn discard(&self, span: &Span) {
        let start = std::ptr::with_exposed_provenance_mut(span.start);
        // SAFETY: our own shared mapping, which is in the reverse map and so not unmapped yet: the
        // bytes stay in the memory file, only the page table forgets them.
        let _ours = unsafe { madvise(start, span.len(), Advice::LinuxDontNeed) };
    }
}

impl Mmu for UffdMmu {
    fn map(&self, at: PageIndex, frames: &Frames, writable: bool) -> Result<()> {
        let span = self.span(&(at..at.plus(frames.pages())));
        let uffd = &self.engine.uffd;
        // The page that lacks the permission only gets it. Should it have gone since, nothing
        // happens to it, and the store faults again.
        let there = writable && Answering::is_protected(&span);
        let met = there || uffd.show(&span, writable, PAGE_SIZE)?;
        if met && writable {
            uffd.write_protect(&span, false)?;
        }
        if !met || writable {
            // Both requests wake.
            Answering::woken(&span);
        }
        Ok(())
    }

    fn write_protect(&self, pages: Range<PageIndex>) {
        let span = self.span(&pages);
        if self.engine.uffd.write_protect(&span, true).is_err() {
            // What cannot be protected is taken away.
            self.discard(&span);
        }
    }

    fn unmap(&self, pages: Range<PageIndex>) {
        self.discard(&self.span(&pages));
    }

    fn memory(&self) -> Option<&Arc<FileMemory>> {
        Some(&self.memory)
    }

    fn refuse(&self, page: PageIndex) {
        let span = self.span(&(page..page.plus(1)));
        self.discard(&span);
        // The mark of the protection stays behind a page, and would be in the way.
        let _nothing = self.engine.uffd.write_protect(&span, false);
        let _mapped = self.engine.uffd.poison(&span);
    }
}

/// Memory that shows a file. Dropping it unmaps what is left.
pub struct Mapping {
    handler: Arc<dyn FaultHandler>,
    mmu: Arc<UffdMmu>,
    mapping: MappingId,
    base: NonNull<u8>,
    len: usize,
    /// Last: goes when everything is unmapped.
    kept: Option<Arc<dyn Send + Sync>>,
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
        let engine = engine()?;
        memory.cover(pages.end.get())?;
        let bytes = pages.end.pos().since(pages.start.pos());
        let len = usize::try_from(bytes).map_err(|_| FsError::TooBig)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::from_bits_retain(kernel_prot(prot)),
                MapFlags::SHARED | MapFlags::NORESERVE,
                memory.fd(),
                pages.start.pos().bytes(),
            )
        }?;
        let start = base.expose_provenance();
        let span = start..start + len;
        let prepared =
            NonNull::new(base.cast())
                .ok_or(Errno::NOMEM)
                .and_then(|base: NonNull<u8>| {
                    // SAFETY: the mapping just made. Advice: a child does not get it.
                    unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxDontFork) }?;
                    engine.uffd.register(&span)?;
                    Ok(base)
                });
        let base = match prepared {
            Ok(base) => base,
            Err(errno) => {
                // SAFETY: the mapping just made; nobody has its address.
                let _gone = unsafe { munmap(base, len) };
                return Err(errno.into());
            }
        };
        let first = pages.start;
        let mmu = Arc::new(UffdMmu {
            engine,
            memory,
            base: start,
            first,
        });
        let as_mmu: Arc<dyn Mmu> = mmu.clone();
        let mapping = MappingId::of(&as_mmu);
        let range = MappedRange::new(pages, prot, MapOptions::empty(), as_mmu);
        handler.cache().mappings().insert(Arc::new(range));
        engine.add(&span, first, mapping, Arc::clone(&handler));
        Ok(Self {
            handler,
            mmu,
            mapping,
            base,
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
        self.mmu.first.pos()
    }

    /// Whether system calls that are given memory of the mapping fail with `EFAULT` where it is not
    /// there.
    #[must_use]
    pub fn needs_prefault(&self) -> bool {
        self.mmu.engine.uffd.is_user_only()
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
        let spans = self.mmu.engine.spans(self.mapping);
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

    /// The pages of a part of the mapping.
    fn pages(&self, range: FileRange) -> Range<PageIndex> {
        let (start, end) = range.pages();
        let first = self.mmu.first;
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

    /// Lets pages that raised the signal try again.
    pub fn forgive(&self, range: FileRange) {
        let mappings = self.handler.cache().mappings();
        mappings.for_each(&self.pages(range), |range, pages| {
            if range.mapping() == self.mapping {
                range.mmu().unmap(pages);
            }
        });
    }

    /// Takes the whole pages that `range` touches out of the mapping. Their addresses may become
    /// anybody's.
    pub fn unmap(&self, range: FileRange) {
        let pages = self.pages(range);
        self.handler.cache().mappings().remove(self.mapping, &pages);
        let engine = self.mmu.engine;
        engine.remove(self.mapping, &self.mmu.span(&pages), |span| {
            let start = std::ptr::with_exposed_provenance_mut(span.start);
            // SAFETY: addresses of this mapping that were not unmapped before; no page table
            // operation reaches them any more, for they are out of the reverse map.
            let _gone = unsafe { munmap(start, span.len()) };
        });
    }

    /// Gives the whole pages that `range` touches another permission.
    ///
    /// # Errors
    ///
    /// What the kernel answers: the permission is then what it was.
    pub fn protect(&self, range: FileRange, prot: Prot) -> Result<()> {
        let pages = self.pages(range);
        let wanted = self.mmu.span(&pages);
        for span in self.mmu.engine.spans(self.mapping) {
            let cut = span.start.max(wanted.start)..span.end.min(wanted.end);
            if cut.start >= cut.end {
                continue;
            }
            let start = std::ptr::with_exposed_provenance_mut(cut.start);
            let flags = MprotectFlags::from_bits_retain(kernel_prot(prot));
            // SAFETY: addresses of this mapping; no reference to them is ever made.
            unsafe { mprotect(start, cut.len(), flags) }?;
        }
        let mappings = self.handler.cache().mappings();
        mappings.protect(self.mapping, &pages, prot);
        Ok(())
    }
}

/// `PROT_READ` and `PROT_WRITE`.
const fn kernel_prot(prot: Prot) -> u32 {
    prot.bits() as u32 & 3
}

impl Drop for Mapping {
    fn drop(&mut self) {
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
