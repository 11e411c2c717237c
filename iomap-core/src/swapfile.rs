//! Where a swap file lives: its extents, if it is fit to be written to behind the file system's
//! back.
//!
//! Owns the checks and the cutting to pages. Who writes there then, and how the file is kept from
//! changing, is the caller's: it holds the file like that while the list is used.
//!
//! Kernel counterpart: `fs/iomap/swapfile.c`.

use crate::error::{FsError, Result};
use crate::fsync;
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::iter::{Flow, for_each_mapping};
use crate::ops::{Intent, MapFlags, WritebackOps};
use crate::units::{DevAddr, FileRange, PAGE_SIZE};

/// Whole pages of a swap file that follow each other on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapExtent {
    /// The number of its first page, counted over the usable pages only.
    pub first: u64,
    /// Pages.
    pub pages: u64,
    /// Where the first page lives; a multiple of the page size.
    pub addr: DevAddr,
}

/// The extents of the file for use as swap space: everything is written back and made durable, every
/// byte below the size has storage of its own; what follows each other on the device is joined, and
/// cut to pages aligned on the device.
///
/// Lock: the caller keeps the file from changing by other means than the inode lock, which this
/// must not be called with (it syncs).
///
/// # Errors
///
/// [`FsError::Invalid`] if the file has holes, shared or inline data, metadata that is not durable,
/// or not one usable page; of writing and syncing; what the backend answers.
pub fn swap_extents<B: WritebackOps + ?Sized>(backend: &B) -> Result<Vec<SwapExtent>> {
    fsync::fsync(backend, FileRange::ALL, false)?;
    let mut list = List::default();
    let range = backend.inode().bytes();
    for_each_mapping(backend, range, Intent::Report, MapFlags::empty(), |step| {
        list.add(check(&step.iomap().cut(step.rest()))?, step.rest().len());
        step.advance(step.rest().len())?;
        Ok(Flow::Continue)
    })
    .all_or_error()?;
    list.finish()
}

/// The address of a mapping that may be swapped to.
fn check(iomap: &Iomap) -> Result<DevAddr> {
    let refused = if iomap.flags.contains(FsFlags::DIRTY) {
        "a swap file whose metadata is not durable"
    } else if iomap.flags.contains(FsFlags::SHARED) {
        "a swap file with shared extents"
    } else {
        match iomap.kind {
            MapKind::Mapped { addr } | MapKind::Unwritten { addr } => return Ok(addr),
            MapKind::Hole => "a swap file with holes",
            MapKind::Delalloc => "a swap file with space that is not allocated",
            MapKind::Inline { .. } => "a swap file in its inode",
        }
    };
    Err(FsError::Invalid(refused))
}

/// Runs of bytes on the device, on their way to pages.
#[derive(Debug, Default)]
struct List {
    extents: Vec<SwapExtent>,
    run: Option<(DevAddr, u64)>,
    pages: u64,
}

impl List {
    /// Adds `len` bytes at `addr`, which follow in the file.
    fn add(&mut self, addr: DevAddr, len: u64) {
        match &mut self.run {
            Some((start, run)) if start.checked_add(*run) == Some(addr) => *run += len,
            _ => {
                self.flush();
                self.run = Some((addr, len));
            }
        }
    }

    /// Cuts the run to whole aligned pages.
    fn flush(&mut self) {
        let Some((start, len)) = self.run.take() else {
            return;
        };
        let page = PAGE_SIZE as u64;
        let Some(first) = start.bytes().checked_next_multiple_of(page) else {
            return;
        };
        let pages = (start.plus(len).bytes() / page).saturating_sub(first / page);
        if pages > 0 {
            self.extents.push(SwapExtent {
                first: self.pages,
                pages,
                addr: DevAddr::new(first),
            });
            self.pages += pages;
        }
    }

    fn finish(mut self) -> Result<Vec<SwapExtent>> {
        self.flush();
        if self.extents.is_empty() {
            return Err(FsError::Invalid("a swap file without a usable page"));
        }
        Ok(self.extents)
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::units::FilePos;

    #[test]
    fn contiguous_runs_are_joined_and_cut_to_pages() {
        let mut list = List::default();
        list.add(DevAddr::new(1024), 1024);
        list.add(DevAddr::new(2048), 3 * 4096);
        list.add(DevAddr::new(1 << 20), 1024);
        list.add(DevAddr::new(2 << 20), 4096);
        let extents = list.finish().unwrap();
        let extent = |first, pages, addr| SwapExtent {
            first,
            pages,
            addr: DevAddr::new(addr),
        };
        assert_eq!(extents, [extent(0, 2, 4096), extent(2, 1, 2 << 20)]);
    }

    #[test]
    fn without_a_usable_page_it_is_refused() {
        let mut list = List::default();
        list.add(DevAddr::new(512), 4096);
        assert!(list.finish().is_err());
    }

    #[test]
    fn only_private_durable_storage_is_accepted() {
        let range = FileRange::at_most(FilePos::ZERO, 4096);
        let addr = DevAddr::new(4096);
        let mapped = Iomap::new(range, MapKind::Mapped { addr });
        assert!(check(&mapped).is_ok());
        assert!(check(&Iomap::new(range, MapKind::Unwritten { addr })).is_ok());
        for kind in [MapKind::Hole, MapKind::Delalloc] {
            assert!(check(&Iomap::new(range, kind)).is_err());
        }
        for flag in [FsFlags::DIRTY, FsFlags::SHARED] {
            assert!(check(&mapped.clone().with_flags(flag)).is_err());
        }
    }
}
