//! Deadlocks that no order of ranks shows, because one side waits for something that is not a lock:
//! the scheduler finds each with its rule off, and nothing with the rule on. docs/TESTING.md has the
//! list.

#![cfg(iomap_shuttle)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Mode, OrderB, Volume};
use iomap_core::ops::{MapOps, TransactionOrder};
use iomap_core::sync::{Condvar, Mutex, Rank, thread};
use iomap_core::units::PageIndex;

const PAGE: usize = 4096;

fn file() -> Arc<OrderB> {
    let file = Volume::new(64 * PAGE as u64, 12, 16 * PAGE as u64, Mode::Lazy).file(None);
    file.write(0, &[1; PAGE]).unwrap();
    file
}

/// As much of a journal as a deadlock needs: a commit lets nobody in until all are out.
struct Journal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    handles: u32,
}

impl Journal {
    fn open(&self) {
        let mut state = self.state.lock();
        while state.closed {
            self.changed.wait(&mut state);
        }
        state.handles += 1;
    }

    fn close(&self) {
        self.state.lock().handles -= 1;
        self.changed.notify_all();
    }

    /// Waits for every handle, then for the ordered data, which has its folio locked meanwhile.
    fn commit(&self, file: &OrderB) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.handles > 0 {
            self.changed.wait(&mut state);
        }
        drop(state);
        drop(lock_folio(file));
        self.state.lock().closed = false;
        self.changed.notify_all();
    }
}

fn lock_folio(file: &OrderB) -> Option<iomap_core::folio::LockedFolio> {
    let cache = file.inode().cache();
    cache.lock(&cache.find(PageIndex::ZERO)?)
}

/// Writeback of ordered data beside the commit that waits for it.
fn writeback_beside_a_commit(order: TransactionOrder) {
    let file = file();
    let journal = Arc::new(Journal {
        state: Mutex::new(Rank::Journal, State::default()),
        changed: Condvar::new(),
    });
    let committer = {
        let (file, journal) = (Arc::clone(&file), Arc::clone(&journal));
        thread::spawn(move || journal.commit(&file))
    };
    match order {
        TransactionOrder::BeforeFolio => {
            journal.open();
            drop(lock_folio(&file));
            journal.close();
        }
        TransactionOrder::InFolio => {
            let folio = lock_folio(&file);
            journal.open();
            journal.close();
            drop(folio);
        }
    }
    committer.join().unwrap();
}

#[test]
fn entry_3_ordered_data_with_the_transaction_before_the_folio_ends() {
    shuttle::check_random(
        || writeback_beside_a_commit(TransactionOrder::BeforeFolio),
        2_000,
    );
}

/// Why a journal with ordered data cannot open its transaction inside the folio lock.
#[test]
#[should_panic(expected = "deadlock")]
fn entry_3_ordered_data_with_the_transaction_inside_the_folio_lock_does_not_end() {
    shuttle::check_random(
        || writeback_beside_a_commit(TransactionOrder::InFolio),
        2_000,
    );
}

/// A direct write that goes on through the cache waits for direct I/O in flight.
fn fall_back(lowers_its_own_count_first: bool) {
    let once = move || {
        let file = file();
        let other = {
            let file = Arc::clone(&file);
            thread::spawn(move || drop(file.inode().direct().begin()))
        };
        let mine = file.inode().direct().begin();
        let mut kept = Some(mine);
        if lowers_its_own_count_first {
            kept.take();
        }
        let lock = file.inode().lock_exclusive();
        file.inode().wait_for_direct(&lock);
        drop((lock, kept));
        other.join().unwrap();
    };
    shuttle::check_random(once, 200);
}

#[test]
fn entry_5_a_fall_back_that_is_not_in_flight_any_more_ends() {
    fall_back(true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn entry_5_a_fall_back_that_waits_for_its_own_count_does_not_end() {
    fall_back(false);
}
