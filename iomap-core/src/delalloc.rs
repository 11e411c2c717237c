//! Giving back delayed allocation that a failed or short write reserved and did not use.
//!
//! Owns the walk that tells used from unused blocks by the dirty bits of the cache (rules B29, B30,
//! B33). The reservation itself is the backend's ([`MapOps::release_delalloc`]).
//!
//! # Locking
//!
//! ```text
//! Inode (exclusive, by the caller) -> Invalidate (exclusive) -> Folio -> backend mapping lock
//! ```
//!
//! Kernel counterpart: `iomap_write_delalloc_release`.

use crate::iomap::Iomap;
use crate::mutation::{self, Rule};
use crate::ops::MapOps;
use crate::units::{FilePos, FileRange};

/// Releases the reservations of the blocks of `range` that hold no dirty data.
///
/// `iomap` is the mapping the failed write was given, with reservations of its own. The block that
/// `range` begins in belongs to it: if bytes before `range` were written there, it is dirty.
pub fn release_unwritten<B: MapOps + ?Sized>(backend: &B, range: FileRange, iomap: &Iomap) {
    let inode = backend.inode();
    let bits = inode.block_bits();
    let start = range.start().round_down(bits).max(iomap.range.start());
    let range = FileRange::between(start, range.end().round_up(bits));
    if range.is_empty() {
        return;
    }
    let _invalidate = inode.invalidate_lock().write();
    // Dirty data exists up to the end of the file only; what is reserved past it goes whatever the
    // cache holds there.
    let in_file = if mutation::off(Rule::B30) {
        range
    } else {
        range.intersect(FileRange::between(
            FilePos::ZERO,
            inode.size().round_up(bits),
        ))
    };
    let mut done = range.start();
    while done < in_file.end() && !mutation::off(Rule::B29) {
        let Some(folio) = inode.cache().next(done.page(), in_file.end().page_up()) else {
            break;
        };
        let after = folio.range().end();
        if let Some(folio) = inode.cache().lock(&folio) {
            for dirty in dirty_in(&folio, in_file) {
                backend_release(backend, FileRange::between(done, dirty.start()), iomap);
                done = done.max(dirty.end());
            }
            let clean_end = after.min(in_file.end());
            backend_release(backend, FileRange::between(done, clean_end), iomap);
        }
        // A folio that has left the cache meanwhile was clean; the next look starts behind it, or
        // where we are if another one took its place (rule B31).
        done = done.max(after.min(in_file.end()));
    }
    backend_release(backend, FileRange::between(done, range.end()), iomap);
}

fn backend_release<B: MapOps + ?Sized>(backend: &B, range: FileRange, iomap: &Iomap) {
    if !range.is_empty() {
        backend.release_delalloc(range, iomap);
    }
}

/// The runs of dirty blocks of a locked folio inside `range`, as file ranges.
fn dirty_in(folio: &crate::folio::LockedFolio, range: FileRange) -> Vec<FileRange> {
    let start = folio.range().start();
    folio
        .dirty_ranges(folio.len())
        .map(|dirty| {
            let from = start.saturating_add(dirty.start as u64);
            FileRange::at_most(from, dirty.len() as u64).intersect(range)
        })
        .filter(|dirty| !dirty.is_empty())
        .collect()
}
