//! Buffered write: bytes into the page cache.
//!
//! Owns the loop over mappings and folios, the size of a chunk, the retry after a short copy, and
//! the clean-up of what a failed write reserved. One folio's part is
//! [`folio_write`](crate::folio_write); making the bytes durable is
//! [`writeback`](crate::writeback) and `fsync`.
//!
//! # Locking
//!
//! The caller holds the inode lock exclusively and no folio lock, and has waited for direct I/O in
//! flight. Throttling and faulting in happen before a folio is locked.
//!
//! Kernel counterpart: `iomap_file_buffered_write`.

use smallvec::SmallVec;

use crate::delalloc;
use crate::error::{FsError, Result};
use crate::flusher;
use crate::folio_write::{CHUNK_MAX, Change, Changed, How, change_folio};
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::iter::{Flow, Step, for_each_mapping};
use crate::mutation::{self, Rule};
use crate::ops::{FolioOps, Intent, MapFlags};
use crate::resize;
use crate::stats::Event;
use crate::units::{FilePos, FileRange};
use crate::user::UserSource;

/// How a buffered write is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Answer `WouldBlock` instead of waiting: for memory, a folio lock, a read, a mapping, or
    /// because too much is dirty.
    pub nowait: bool,
    /// Keep no folio in the cache that was not there before; the caller starts writeback.
    pub dontcache: bool,
}

/// Writes what `source` has left to `pos`. Returns the bytes accepted, in order, from `pos` on.
///
/// The size of the file grows as bytes beyond it are accepted. What lies between the old end and
/// `pos` must have been made zero by the caller
/// ([`resize::zero_old_end`]).
///
/// # Errors
///
/// Only if nothing was accepted: `TooBig` past the largest position, what the backend's hooks or
/// the device answer, `Fault` if the first byte of the source cannot be read, `WouldBlock` with
/// `nowait`.
pub fn buffered_write<B: FolioOps + ?Sized, S: UserSource>(
    backend: &B,
    pos: FilePos,
    source: &mut S,
    options: WriteOptions,
) -> Result<u64> {
    let Some(range) = FileRange::at(pos, source.remaining() as u64) else {
        return Err(FsError::TooBig);
    };
    let mut write = Write {
        backend,
        source,
        options,
        leftovers: SmallVec::new(),
    };
    let mut flags = MapFlags::empty();
    flags.set(MapFlags::NOWAIT, options.nowait);
    flags.set(MapFlags::DONTCACHE, options.dontcache);
    let outcome = for_each_mapping(backend, range, Intent::Write, flags, |step| {
        write.mapping(step)
    });
    for (left, iomap) in write.leftovers {
        delalloc::release_unwritten(backend, left, &iomap);
    }
    backend
        .inode()
        .counters()
        .add(Event::buffered_write_bytes, outcome.done);
    if outcome.result.is_err() && mutation::off(Rule::B36) {
        return outcome.all_or_error().map(|()| 0);
    }
    outcome.bytes_or_error()
}

/// A buffered write under way.
struct Write<'a, B: FolioOps + ?Sized, S> {
    backend: &'a B,
    source: &'a mut S,
    options: WriteOptions,
    /// Reservations made for this write that it did not use.
    leftovers: SmallVec<[(FileRange, Iomap); 1]>,
}

impl<B: FolioOps + ?Sized, S: UserSource> Write<'_, B, S> {
    /// The body for one mapping.
    #[inline]
    fn mapping(&mut self, step: &mut Step<'_>) -> Result<Flow> {
        let result = self.folios(step);
        let reserved = matches!(step.iomap().kind, MapKind::Delalloc);
        if reserved && step.iomap().flags.contains(FsFlags::NEW) && !step.rest().is_empty() {
            self.leftovers.push((step.rest(), step.iomap().clone()));
        }
        result?;
        Ok(Flow::Continue)
    }

    /// Folio by folio, until the mapping is used up, stale, or nothing moves.
    #[inline]
    fn folios(&mut self, step: &mut Step<'_>) -> Result<()> {
        let inode = self.backend.inode();
        let mut chunk_max = CHUNK_MAX;
        while !step.rest().is_empty() {
            flusher::balance_dirty_pages(inode, self.options.nowait)?;
            let wanted = step.rest().len().min(chunk_max);
            let readable = self.source.fault_in(wanted as usize) as u64;
            if readable == 0 {
                return Err(FsError::Fault);
            }
            let old_size = inode.size();
            let range = step.rest().take(readable);
            let how = How {
                iomap: step.iomap(),
                source: step.source(),
                nowait: self.options.nowait,
                dontcache: self.options.dontcache,
            };
            let changed = change_folio(self.backend, range, &how, &mut Change::Copy(self.source))?;
            let Changed::Bytes { done, grew } = changed else {
                if mutation::off(Rule::V2) {
                    self.source.consume(range.len() as usize);
                    step.advance(range.len())?;
                }
                step.set_stale();
                return Ok(());
            };
            if done == 0 {
                // The memory went away between faulting in and copying: try with less, down to
                // the one byte that is certain to make progress (rule B35).
                inode.counters().count(Event::short_copies);
                chunk_max = readable.div_ceil(2);
                continue;
            }
            // Accepted bytes are never taken back (rule B36).
            self.source.consume(done as usize);
            step.advance(done)?;
            flusher::write_behind(inode, range.take(done));
            if grew && mutation::off(Rule::F6) {
                crate::sync::thread::yield_now();
                inode.set_size(range.take(done).end());
            }
            if grew {
                step.set_size_changed();
            }
            if grew && range.start() > old_size && !mutation::off(Rule::F5) {
                // Locks the folio at the old end, so not before this one is unlocked (rule F5).
                resize::isize_extended(inode, old_size, range.start());
            }
        }
        Ok(())
    }
}
