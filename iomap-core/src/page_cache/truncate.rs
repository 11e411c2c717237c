//! Removing pages: truncate, invalidation for direct I/O, dropping clean folios.
//!
//! Owns what happens to the folios of a range that leaves the cache, and to the bytes of a folio
//! that leaves in part. Does not own the locks that keep the range from being filled again (the
//! caller's inode and invalidate locks), nor the storage behind it.

use std::ops::Range;

use super::PageCache;
use crate::error::FsError;
use crate::folio::{FolioRef, LockedFolio, may_go};
use crate::units::FileRange;

/// Folios of a range could not be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidateError {
    /// A folio is dirty again, or its owner did not let it go. Direct I/O falls back.
    #[error("a folio of the range is dirty or in use")]
    Busy,
    /// It would have to wait.
    #[error("the operation would block")]
    WouldBlock,
}

impl From<InvalidateError> for FsError {
    fn from(error: InvalidateError) -> Self {
        match error {
            InvalidateError::WouldBlock => Self::WouldBlock,
            InvalidateError::Busy => Self::Os {
                errno: crate::error::Errno::BUSY,
            },
        }
    }
}

impl PageCache {
    /// Removes the pages of `range` for good, whatever their state. Waits for folio locks and for
    /// writeback.
    ///
    /// A folio that lies in the range in part is split if that gives memory back. What stays of it
    /// in the range becomes zero, and the blocks wholly in it clean, so that nobody writes them back
    /// to storage the caller is about to free. A block that lies in the range in part keeps its state: to have the zeroes written the
    /// caller zeroes through the cache before.
    ///
    /// The caller holds the invalidate lock exclusively, so that nobody fills the range meanwhile.
    pub fn truncate(&self, range: FileRange) {
        let (mut at, end) = range.pages();
        while let Some(folio) = self.next(at, end) {
            let Some(locked) = self.lock(&folio) else {
                continue;
            };
            // A folio with another reference cannot be split.
            drop(folio);
            at = locked.end_index();
            locked.wait_writeback(&*self.device);
            self.truncate_folio(locked, range);
        }
    }

    /// Removes the part of a folio that lies in `range`: by removing the folio, by splitting it
    /// and removing pieces, or by zeroing.
    fn truncate_folio(&self, mut folio: LockedFolio, range: FileRange) {
        let whole = folio.range();
        if range.covers(whole) {
            self.discard(folio);
            return;
        }
        // A store that needs no fault would dirty a block that is about to be clean and freed.
        folio.unmap();
        let part = bytes_in(whole, range);
        // Splitting pays if a quarter of the memory comes back.
        let split = if part.len() >= folio.len() / 4 {
            folio.halve(self.min_order())
        } else {
            Err(folio)
        };
        match split {
            Ok((lower, upper)) => {
                self.truncate_folio(lower, range);
                self.truncate_folio(upper, range);
            }
            Err(folio) => self.zero_part(folio, part),
        }
    }

    /// Zeroes `part` of a folio that stays, and makes the blocks inside clean.
    fn zero_part(&self, mut folio: LockedFolio, part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        if let Some(owner) = self.owner() {
            owner.invalidate_folio(&mut folio, part.clone());
        }
        folio.zero(part.clone());
        folio.clear_range_dirty(part);
    }

    /// Removes a locked folio with whatever it holds.
    fn discard(&self, mut folio: LockedFolio) {
        folio.unmap();
        if let Some(owner) = self.owner() {
            let all = 0..folio.len();
            owner.invalidate_folio(&mut folio, all);
        }
        folio.cancel_dirty();
        self.remove(&folio);
    }

    /// Takes a locked folio out of the cache. The reference stays good; the memory is freed with
    /// the last.
    fn remove(&self, folio: &LockedFolio) {
        self.with_index_of(folio, |core, index| {
            core.remove(self.pool.get(), index, folio);
        });
    }

    /// Removes the clean folios of `range` for direct I/O. Waits for folio locks and for writeback
    /// unless `nowait`. A folio that only touches the range goes as a whole. The caller has written
    /// the dirty ones before.
    ///
    /// # Errors
    ///
    /// [`InvalidateError::Busy`] if a folio is dirty or refused; the others are gone.
    /// [`InvalidateError::WouldBlock`] if `nowait` and a folio is locked, dirty or under writeback.
    pub fn invalidate(&self, range: FileRange, nowait: bool) -> Result<(), InvalidateError> {
        let (mut at, end) = range.pages();
        let mut result = Ok(());
        while let Some(folio) = self.next(at, end) {
            let Some(locked) = self.lock_to_invalidate(&folio, nowait)? else {
                continue;
            };
            at = locked.end_index();
            if locked.is_dirty() && nowait {
                return Err(InvalidateError::WouldBlock);
            }
            if !self.drop_locked(locked) {
                result = Err(InvalidateError::Busy);
            }
        }
        result
    }

    /// The folio locked and not under writeback; `None` if it has left.
    fn lock_to_invalidate(
        &self,
        folio: &FolioRef,
        nowait: bool,
    ) -> Result<Option<LockedFolio>, InvalidateError> {
        if nowait {
            return match self.try_lock(folio) {
                Some(locked) if locked.is_writeback() => Err(InvalidateError::WouldBlock),
                Some(locked) => Ok(Some(locked)),
                None if folio.is_mapped_in(self) => Err(InvalidateError::WouldBlock),
                None => Ok(None),
            };
        }
        let Some(locked) = self.lock(folio) else {
            return Ok(None);
        };
        locked.wait_writeback(&*self.device);
        Ok(Some(locked))
    }

    /// Removes a locked folio if it is clean and its owner lets it go.
    fn drop_locked(&self, mut folio: LockedFolio) -> bool {
        if folio.is_dirty() || folio.is_writeback() {
            return false;
        }
        // Kept until the folio is unlocked: it may be the last reference to the owner.
        let owner = self.owner();
        if !may_go(owner.as_deref(), &mut folio) || folio.is_dirty() {
            return false;
        }
        tracing::trace!(target: "iomap::page_cache", key = self.key, folio = %folio.range(), "release_folio");
        self.remove(&folio);
        drop(folio);
        true
    }

    /// Removes the folios that lie wholly in `range` and are clean, unlocked and not under
    /// writeback. Never waits. Returns the pages removed.
    pub fn drop_clean(&self, range: FileRange) -> u64 {
        let (mut at, end) = range.pages();
        let mut dropped = 0;
        loop {
            let batch = self.batch(at, end, None, usize::MAX);
            let Some(last) = batch.last() else {
                return dropped;
            };
            at = last.end_index();
            for folio in batch.iter().filter(|folio| range.covers(folio.range())) {
                dropped += self.drop_if_clean(folio);
            }
        }
    }

    fn drop_if_clean(&self, folio: &FolioRef) -> u64 {
        let pages = folio.pages();
        let dropped = self
            .try_lock(folio)
            .is_some_and(|locked| self.drop_locked(locked));
        if dropped { pages } else { 0 }
    }
}

/// The bytes of `range` inside a folio that holds `folio`.
fn bytes_in(folio: FileRange, range: FileRange) -> Range<usize> {
    let part = folio.intersect(range);
    let start = part.start().since(folio.start()) as usize;
    start..start + part.len() as usize
}
