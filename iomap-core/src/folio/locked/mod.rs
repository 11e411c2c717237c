//! A locked folio: the right to change its contents and its state.
//!
//! Owns the guard: unlocking, handing the lock to a read, bytes, private state. Which blocks are up
//! to date and dirty is [`blocks`]; who gets the lock is
//! [`PageCache`](crate::page_cache::PageCache); the lock of a folio being read is
//! [`ReadingFolio`].

mod blocks;

pub use blocks::DirtyRanges;

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use super::folio_ref::FolioRef;
use super::header::flag;
use super::reading::ReadingFolio;
use super::state::State;
use super::state_ptr::Owned;
use crate::sync::{Rank, rank};

/// A locked folio. Dropping it unlocks, wakes waiters and puts the reference.
///
/// It stays with the thread that locked it; [`LockedFolio::into_reading`] hands the lock to an I/O.
#[must_use = "the folio is unlocked when the guard is dropped"]
pub struct LockedFolio {
    owned: Owned,
    _held: rank::Held,
    _stays_in_thread: PhantomData<*const ()>,
}

impl LockedFolio {
    #[inline]
    pub(super) fn new(owned: Owned, held: rank::Held) -> Self {
        Self {
            owned,
            _held: held,
            _stays_in_thread: PhantomData,
        }
    }

    /// Takes the lock if it is free. Whether the folio is still in the cache it was found in is
    /// for the caller to ask.
    #[inline]
    pub(crate) fn try_lock(folio: FolioRef) -> Result<Self, FolioRef> {
        let owned = Owned::try_claim(folio)?;
        let index = owned.folio().meta().index();
        let held = rank::acquired_by_try(Rank::Folio, index);
        Ok(Self::new(owned, held))
    }

    /// As [`LockedFolio::try_lock`], for a caller that checked the lock order itself.
    #[inline]
    pub(crate) fn try_lock_held(
        folio: FolioRef,
        held: rank::Held,
    ) -> Result<Self, (FolioRef, rank::Held)> {
        match Owned::try_claim(folio) {
            Ok(owned) => Ok(Self::new(owned, held)),
            Err(folio) => Err((folio, held)),
        }
    }

    /// Records the place on the lock ladder of a folio that was born locked and has just got one.
    pub(crate) fn set_held(&mut self, held: rank::Held) {
        self._held = held;
    }

    /// Unlocks and keeps the reference.
    #[must_use]
    pub fn unlock_keep(self) -> FolioRef {
        self.owned.release()
    }

    /// Hands the lock to a read in flight. Threads that wait for the lock wake, and one of them
    /// drives the device.
    pub fn into_reading(self) -> ReadingFolio {
        ReadingFolio::new(self.owned)
    }

    pub(super) fn into_owned(self) -> Owned {
        self.owned
    }

    pub(super) fn owned_mut(&mut self) -> &mut Owned {
        &mut self.owned
    }

    // ---- bytes

    /// Copies `src` into the folio at `offset`.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folio.
    #[inline]
    pub fn copy_in(&mut self, offset: usize, src: &[u8]) {
        self.bytes().write(offset, src);
    }

    /// Copies `len` bytes at `from` of another folio into this one at `offset`.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folios.
    pub fn copy_from_folio(&mut self, offset: usize, other: &FolioRef, from: usize, len: usize) {
        self.bytes().copy(offset, &other.bytes(), from, len);
    }

    /// Writes zeroes to `range`.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folio.
    pub fn zero(&mut self, range: Range<usize>) {
        self.bytes().zero(range.start, range.len());
    }

    // ---- private state of the backend

    /// The backend's state, if there is some of type `T`.
    #[must_use]
    pub fn private<T: Any>(&self) -> Option<&T> {
        self.owned.state()?.private.as_ref()?.downcast_ref()
    }

    /// The backend's state, to change it.
    #[must_use]
    pub fn private_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.owned.state_mut()?.private.as_mut()?.downcast_mut()
    }

    /// Whether the backend keeps state with the folio.
    #[must_use]
    pub fn has_private(&self) -> bool {
        self.owned.state().is_some_and(|s| s.private.is_some())
    }

    /// Attaches state of the backend, in place of what was there. A folio with such state is asked
    /// for (`release_folio`) before it may be reclaimed.
    pub fn set_private(&mut self, private: Box<dyn Any + Send>) {
        match self.owned.state_mut() {
            Some(state) => state.private = Some(private),
            None => {
                self.owned.replace(Some(Box::new(State {
                    blocks: None,
                    private: Some(private),
                })));
            }
        }
    }

    /// Takes the backend's state away.
    #[must_use]
    pub fn take_private(&mut self) -> Option<Box<dyn Any + Send>> {
        let state = self.owned.state_mut()?;
        let private = state.private.take();
        if state.blocks.is_none() {
            self.owned.replace(None);
        }
        private
    }

    // ---- memory mappings

    /// Says whether some memory mapping may show the folio. Set before it is shown; while set, the
    /// folio is taken out of the mappings before it leaves the cache, and write-protected in them
    /// before it is written.
    pub fn set_mapped(&mut self, mapped: bool) {
        let header = &self.meta().header;
        if mapped {
            header.set(flag::MAPPED);
        } else {
            header.clear(flag::MAPPED);
        }
    }
}

impl Deref for LockedFolio {
    type Target = FolioRef;

    #[inline]
    fn deref(&self) -> &FolioRef {
        self.owned.folio()
    }
}

impl fmt::Debug for LockedFolio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
