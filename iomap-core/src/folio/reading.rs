//! A folio whose lock belongs to a read in flight.
//!
//! Owns the end of such a read: which blocks became up to date, and the unlock. The read itself,
//! and the count of its pieces, is the read path's. While it lasts nobody else can lock the folio,
//! so the reader alone decides when the folio becomes up to date (rule B23).

use std::ops::Range;

use super::folio_ref::FolioRef;
use super::header::flag;
use super::locked::LockedFolio;
use super::state_ptr::Owned;
use crate::mutation::{self, Rule};
use crate::sync::rank;

/// A locked folio that is being read, owned by the I/O. Dropping it unlocks and wakes waiters:
/// what was not said to be up to date is not.
///
/// Unlike a [`LockedFolio`] it may go to another thread, and holds no place on the lock ladder.
#[must_use = "the folio is unlocked when it is dropped"]
#[derive(Debug)]
pub struct ReadingFolio {
    owned: Owned,
}

impl ReadingFolio {
    pub(super) fn new(owned: Owned) -> Self {
        if owned.folio().meta().header.start_reading() {
            owned.folio().wake_waiters();
        }
        if mutation::off(Rule::B23) {
            owned.folio().meta().header.clear(flag::LOCKED);
        }
        Self { owned }
    }

    /// The folio.
    #[must_use]
    pub fn folio(&self) -> &FolioRef {
        self.owned.folio()
    }

    /// Says that the blocks `uptodate` touches hold the contents of the file now.
    pub fn set_range_uptodate(self, uptodate: Range<usize>) -> Self {
        let mut locked = LockedFolio::new(self.owned, rank::Held::none());
        locked.set_range_uptodate(uptodate);
        Self {
            owned: locked.into_owned(),
        }
    }

    /// Ends the read: the blocks `uptodate` touches hold the contents of the file. Empty for a read
    /// that failed.
    pub fn finish(self, uptodate: Range<usize>) {
        drop(self.set_range_uptodate(uptodate));
    }

    /// Ends the read of the whole folio.
    pub fn finish_all(self) {
        let all = 0..self.folio().len();
        self.finish(all);
    }
}
