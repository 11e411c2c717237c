//! Memory mappings of files: who shows which pages of a file, and what may be done through it.
//!
//! Owns the contract of a page table ([`Mmu`]), the ranges that show a file ([`MappedRange`]), the
//! way back from a file to them ([`ReverseMap`], one in every
//! [`PageCache`]), and a page table that tests can schedule
//! ([`soft`]). Does not own what a fault does: that is [`fault`](crate::fault) for the page cache and
//! the DAX operations for mapped devices, behind [`FaultHandler`]. Knows nothing of sizes, mappings
//! of blocks and journals.
//!
//! | Module | Owns |
//! |---|---|
//! | [`range`](MappedRange) | one range of a file in one address space |
//! | [`frames`](Frames) | the memory behind pages |
//! | [`reverse`](ReverseMap) | from pages of a file to the ranges that show them |
//! | `real` | a program's own loads and stores |
//! | [`soft`] | loads, stores and pins as steps of a program |
//!
//! # What holds
//!
//! - A page appears in a page table through [`ReverseMap::map`] alone, called by the fault code with
//!   the folio (or the DAX entry) locked. So a thread that holds that lock and has taken the page
//!   out of every table knows that it stays out until it unlocks.
//! - A page of the cache is writable somewhere only while its folio is dirty: the fault dirties
//!   first, and whoever takes the dirty flag write-protects first.
//! - Page tables hold no reference to a folio. A folio with the mapped flag is taken out of every
//!   table before it leaves the cache.
//!
//! # Locking
//!
//! ```text
//! Folio -> ReverseMap -> PageTable
//! ```

mod frames;
mod range;
pub mod real;
mod reverse;
pub mod soft;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{FaultError, Result};
use crate::page_cache::PageCache;
use crate::units::PageIndex;

pub use crate::folio::FileMemory;
pub use frames::{Backing, FrameMemory, Frames};
pub use range::{Access, MapOptions, MappedRange, MappingId, Prot};
pub use reverse::{Gone, ReverseMap};

/// The page table of one memory mapping: what the core asks of a memory management unit.
///
/// Pages are named by their place in the file; a mapping shows each page of the file once at most.
/// Called with the reverse map locked: takes inner locks only, waits for nothing, does not fault.
pub trait Mmu: Send + Sync + fmt::Debug {
    /// Shows `frames` from page `at` on, writable or for reading only. What was shown there before
    /// is replaced, in one step for each page.
    ///
    /// # Errors
    ///
    /// The page table cannot grow. Pages before the one that failed may be shown.
    fn map(&self, at: PageIndex, frames: &Frames, writable: bool) -> Result<()>;

    /// Takes write permission away. On return no store that did not fault can reach the pages;
    /// those that did not need to fault are in memory.
    fn write_protect(&self, pages: Range<PageIndex>);

    /// Takes the pages away. On return nothing reaches them without a fault.
    fn unmap(&self, pages: Range<PageIndex>);

    /// The memory in which folios must lie to be shown. `None`: they may lie anywhere.
    fn memory(&self) -> Option<&Arc<FileMemory>> {
        None
    }

    /// Has the accesses to a page raise the signal, until it is unmapped. Called with the reverse
    /// map locked exclusively: nobody shows the page meanwhile.
    fn refuse(&self, page: PageIndex) {
        let _ = page;
    }

    /// Lets pages that were refused fault again. Others may have to fault again as well.
    fn forgive(&self, pages: Range<PageIndex>) {
        self.unmap(pages);
    }
}

/// Who resolves the faults of a mapping of one file.
pub trait FaultHandler: Send + Sync {
    /// The page cache whose reverse map names the mapping.
    fn cache(&self) -> &PageCache;

    /// Makes `page` accessible in `range`, or says why not. On success the caller tries its access
    /// again; somebody may have taken the permission away meanwhile, then it faults again.
    ///
    /// Called with no locks held.
    ///
    /// # Errors
    ///
    /// What the program is told: a signal, or the failure of its system call.
    fn fault(
        &self,
        range: &Arc<MappedRange>,
        page: PageIndex,
        access: Access,
    ) -> Result<(), FaultError>;

    /// Whether the file has a byte in `page`, at this moment. Called with the reverse map locked.
    fn reaches(&self, page: PageIndex) -> bool {
        let _ = page;
        true
    }
}

/// The pages that lie in both.
pub(crate) fn intersect(a: &Range<PageIndex>, b: &Range<PageIndex>) -> Range<PageIndex> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
