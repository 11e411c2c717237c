//! The inode behind a page cache, as folios see it.
//!
//! Owns the contract only: who is asked before a folio leaves, and told to write.

use std::ops::Range;

use super::LockedFolio;
use crate::error::Result;
use crate::units::FileRange;

/// The inode behind a page cache: asked before a folio leaves, told to write.
///
/// The hooks with a folio run with it locked, in any thread that allocates memory or removes pages,
/// possibly with a transaction and other folios' locks held: they take inner locks only, and wait
/// for nothing.
pub trait CacheOwner: Send + Sync {
    /// Whether a clean folio may leave the cache (reclaim, or invalidation before direct I/O). Drop
    /// the private state when it may. By default a folio with private state stays.
    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        !folio.has_private()
    }

    /// The bytes `range` of the folio are being truncated or punched: forget what belongs to them.
    /// By default, if the range is the whole folio, the private state is dropped with it.
    fn invalidate_folio(&self, folio: &mut LockedFolio, range: Range<usize>) {
        let _ = (folio, range);
    }

    /// The cache was clean and has its first dirty folio, which is locked: note that the inode has
    /// to be written some time.
    fn became_dirty(&self) {}

    /// Starts writing dirty folios of `range`, about `nr_to_write` pages, without waiting for the
    /// I/O to end. Returns the pages handed to the device. Called by the flusher with no locks held.
    ///
    /// # Errors
    ///
    /// What made it stop.
    fn write_dirty(&self, range: FileRange, nr_to_write: usize) -> Result<usize>;
}
