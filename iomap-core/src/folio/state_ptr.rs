//! The owner of a folio's lock bit, and the state only it may touch.
//!
//! Owns the one pointer of a folio to heap memory. It is sound because the only ways to the state
//! are an [`Owned`], of which there is at most one for a folio (it is made by taking the lock bit
//! and unmade by releasing it, both here), and [`StatePtr::take_free`], when no reference to the
//! folio is left.

use std::mem::ManuallyDrop;
use std::ptr;

use super::folio_ref::FolioRef;
use super::meta::Folio;
use super::state::State;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// A pointer to a folio's state, null for none.
#[derive(Debug)]
pub(super) struct StatePtr(AtomicPtr<State>);

impl StatePtr {
    /// Takes the state of a folio that is being freed. Nothing if somebody still has a reference.
    pub(super) fn take_free(folio: &Folio) -> Option<Box<State>> {
        if folio.header.refs() != 0 {
            return None;
        }
        // Acquire: the last reference was put with release by whoever changed the state.
        let state = folio.state.0.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: not null, so made by `Box::into_raw` in `replace`; swapped out, so only here. No
        // reference to it is in use: `Owned` holds a reference to the folio, and there is none.
        (!state.is_null()).then(|| unsafe { Box::from_raw(state) })
    }
}

impl Default for StatePtr {
    fn default() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

/// Owns the lock bit of a folio. Dropping it releases the lock, wakes waiters and puts the
/// reference.
#[derive(Debug)]
pub(super) struct Owned {
    /// Taken out once, by [`Owned::release`] or when dropped.
    folio: ManuallyDrop<FolioRef>,
}

impl Owned {
    /// Takes the lock bit if it is clear.
    #[inline]
    pub(super) fn try_claim(folio: FolioRef) -> Result<Self, FolioRef> {
        if folio.meta().header.try_lock() {
            Ok(Self {
                folio: ManuallyDrop::new(folio),
            })
        } else {
            Err(folio)
        }
    }

    /// The folio.
    #[inline]
    pub(super) fn folio(&self) -> &FolioRef {
        &self.folio
    }

    /// The state, if there is one.
    #[inline]
    pub(super) fn state(&self) -> Option<&State> {
        let state = self.folio().meta().state.0.load(Ordering::Relaxed);
        // SAFETY: not null, so it points to a live `Box`: it is replaced through `&mut Owned` and
        // freed with no reference left only. `&self` keeps both away, and this is the only `Owned`
        // of the folio: the lock bit is set. Relaxed will do: taking the bit acquired what the
        // owner before released.
        unsafe { state.as_ref() }
    }

    /// The state, to change it.
    pub(super) fn state_mut(&mut self) -> Option<&mut State> {
        let state = self.folio().meta().state.0.load(Ordering::Relaxed);
        // SAFETY: as for `state`, with `&mut self` keeping every other access away.
        unsafe { state.as_mut() }
    }

    /// Installs or removes the state; returns the one before.
    pub(super) fn replace(&mut self, state: Option<Box<State>>) -> Option<Box<State>> {
        let new = state.map_or(ptr::null_mut(), Box::into_raw);
        let old = self.folio().meta().state.0.swap(new, Ordering::AcqRel);
        // SAFETY: not null, so made by `Box::into_raw` above; swapped out, so only here. `&mut
        // self` means no reference to it is in use.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    }

    /// Releases the lock and keeps the reference.
    #[inline]
    pub(super) fn release(self) -> FolioRef {
        let mut this = ManuallyDrop::new(self);
        Self::unlock(&this.folio);
        // SAFETY: `this` is neither used again nor dropped.
        unsafe { ManuallyDrop::take(&mut this.folio) }
    }

    #[inline]
    fn unlock(folio: &FolioRef) {
        if folio.meta().header.unlock() {
            folio.wake_waiters();
        }
    }
}

impl Drop for Owned {
    #[inline]
    fn drop(&mut self) {
        Self::unlock(&self.folio);
        // SAFETY: not used again: `self` is gone after this.
        unsafe { ManuallyDrop::drop(&mut self.folio) }
    }
}
