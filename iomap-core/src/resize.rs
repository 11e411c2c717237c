//! What a change of size asks of the cache.
//!
//! Owns the zeroing of the block at the old end before a file grows, and the hand-over of the folio
//! there to the new size. Does not move the size and frees no blocks: a backend's truncate does,
//! in the order `docs/LOCKING.md` gives.

use crate::error::Result;
use crate::inode::Inode;
use crate::ops::FolioOps;
use crate::units::{FilePos, FileRange};
use crate::zero;

/// Makes the bytes from the end of the file to the end of its block zero, up to `to`, before the
/// file grows to or past `to`.
///
/// Only the block of the old end can hold other bytes: writeback writes zeroes past the end, and
/// no block beyond holds written data.
///
/// Holding: the inode lock exclusively, no folio lock.
///
/// # Errors
///
/// What zeroing gives; the size must then stay.
pub fn zero_old_end<B: FolioOps + ?Sized>(backend: &B, to: FilePos) -> Result<()> {
    let inode = backend.inode();
    let size = inode.size();
    let end = size.round_up(inode.block_bits()).min(to);
    if end > size {
        zero::zero_range(backend, FileRange::between(size, end))?;
    }
    Ok(())
}

/// Tells the cache that the size moved from `from` to at least `to`. The folio at the old end is
/// write-protected in the memory mappings, because a page that was made writable there has storage
/// for the blocks up to the old end only: the next store faults and gets the others theirs. Bytes
/// that were dirtied past the old end become zero up to `to` (rule B16).
///
/// Called after the size was stored, with the inode lock held exclusively and no folio locked (rule
/// F5).
///
/// Kernel counterpart: `pagecache_isize_extended`.
pub fn isize_extended(inode: &Inode, from: FilePos, to: FilePos) {
    if to <= from || from.offset_in_page() == 0 {
        return;
    }
    let Some(folio) = inode.cache().find(from.page()) else {
        return;
    };
    let Some(mut folio) = inode.cache().lock(&folio) else {
        return;
    };
    if !folio.is_dirty() {
        // Then it is writable nowhere.
        return;
    }
    folio.write_protect();
    let range = FileRange::between(from, to).intersect(folio.range());
    let start = range.start().since(folio.range().start()) as usize;
    folio.zero(start..start + range.len() as usize);
}
