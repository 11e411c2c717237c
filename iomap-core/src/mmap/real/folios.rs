//! The page table of a program's own mapping of a cached file: the folios themselves, in the memory
//! file they lie in, every page of it registered with `userfaultfd`.
//!
//! Owns the addresses of the mapping and what is asked of the kernel about them ([`UffdMmu`]). Who
//! answers its faults is [`engine`](mod@super::engine).

use std::ops::Range;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap};

use super::engine::{Answering, Engine, engine};
use super::{Span, len_of};
use crate::error::Result;
use crate::mmap::{FileMemory, Frames, Mmu, Prot};
use crate::units::{PAGE_SIZE, PageIndex};

/// The page table of a real mapping of folios: the kernel's, asked through `userfaultfd`.
#[derive(Debug)]
pub struct UffdMmu {
    engine: &'static Engine,
    memory: Arc<FileMemory>,
    base: usize,
    first: PageIndex,
}

impl UffdMmu {
    /// Maps the memory of folios, and has its faults reported.
    pub(super) fn map_file(
        memory: Arc<FileMemory>,
        pages: &Range<PageIndex>,
        prot: Prot,
    ) -> Result<Self> {
        let engine = engine()?;
        memory.cover(pages.end.get())?;
        let len = len_of(pages)?;
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
        // SAFETY: the mapping just made. Advice: a child does not get it.
        let prepared = unsafe { madvise(base, len, Advice::LinuxDontFork) }
            .and_then(|()| engine.uffd.register(&(start..start + len)));
        if let Err(errno) = prepared {
            // SAFETY: the mapping just made; nobody has its address.
            let _gone = unsafe { munmap(base, len) };
            return Err(errno.into());
        }
        Ok(Self {
            engine,
            memory,
            base: start,
            first: pages.start,
        })
    }

    /// The first address.
    pub(super) const fn base(&self) -> usize {
        self.base
    }

    /// Whether system calls on memory that is not there fail.
    pub(super) const fn is_user_only(&self) -> bool {
        self.engine.uffd.is_user_only()
    }

    /// Gives addresses back.
    pub(super) fn release(span: &Span) {
        let start = std::ptr::with_exposed_provenance_mut(span.start);
        // SAFETY: addresses of a mapping that were not unmapped before; no page table operation
        // reaches them any more, for they are out of the reverse map.
        let _gone = unsafe { munmap(start, span.len()) };
    }

    /// Gives addresses another permission.
    pub(super) fn permit(span: &Span, prot: Prot) -> Result<()> {
        let start = std::ptr::with_exposed_provenance_mut(span.start);
        let flags = MprotectFlags::from_bits_retain(kernel_prot(prot));
        // SAFETY: addresses of a mapping; no reference to them is ever made.
        Ok(unsafe { mprotect(start, span.len(), flags) }?)
    }

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

/// `PROT_READ` and `PROT_WRITE`.
const fn kernel_prot(prot: Prot) -> u32 {
    prot.bits() as u32 & 3
}
