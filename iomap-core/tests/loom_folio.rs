//! Orderings of the two words of a folio, on the shipped types: taking a reference beside freeing
//! and using again, the hand-over of the lock, and its wake-up.
//!
//! Each rule has a twin with the rule left out, which the model must catch.

#![cfg(iomap_loom)]
#![expect(clippy::unwrap_used, reason = "tests")]

use iomap_core::folio::header::{self, Header};
use iomap_core::folio::meta::Folio;
use iomap_core::folio::wait::WaitTable;
use iomap_core::sync::atomic::{AtomicU32, Ordering};
use iomap_core::sync::{smp_mb, thread};
use iomap_core::units::BlockBits;
use loom::sync::Arc;

const CACHE: u64 = 1 << 28;
const OTHER: u64 = 2 << 28;

/// Plain memory: an access that nothing orders is an error of the model.
struct Plain(loom::cell::UnsafeCell<u32>);

impl Plain {
    fn new(value: u32) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    fn get(&self) -> u32 {
        // SAFETY: the model panics if another thread writes meanwhile.
        self.0.with(|value| unsafe { *value })
    }

    fn set(&self, new: u32) {
        // SAFETY: the model panics if another thread reads or writes meanwhile.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// A lookup catches a folio while its owner frees it and gives it to another cache. What it gets
/// is the folio it looked for, with the contents of that time, or nothing.
#[test]
fn a_lookup_never_gets_a_folio_that_was_used_again() {
    model(|| {
        let folio = Arc::new(Folio::default());
        let bytes = Arc::new(Plain::new(1));
        folio.header.revive(1);
        folio.join(CACHE, 8, BlockBits::PAGE);

        let lookup = {
            let (folio, bytes) = (Arc::clone(&folio), Arc::clone(&bytes));
            thread::spawn(move || {
                if !folio.header.try_get() {
                    return;
                }
                if folio.is_at(CACHE, 8) {
                    assert_eq!(bytes.get(), 1, "somebody else's bytes");
                }
                if folio.header.put() {
                    bytes.set(3);
                }
            })
        };
        // Remove, put, and if that was the last reference use it again.
        folio.leave();
        if folio.header.put() {
            bytes.set(2);
            folio.header.revive(1);
            folio.join(OTHER, 8, BlockBits::PAGE);
        }
        lookup.join().unwrap();
    });
}

/// The twin: a lookup that does not look again after it got its reference.
#[test]
#[should_panic(expected = "somebody else's bytes")]
fn without_the_second_look_the_lookup_gets_the_wrong_folio() {
    model(|| {
        let folio = Arc::new(Folio::default());
        let bytes = Arc::new(AtomicU32::new(1));
        folio.header.revive(1);
        folio.join(CACHE, 8, BlockBits::PAGE);
        let lookup = {
            let (folio, bytes) = (Arc::clone(&folio), Arc::clone(&bytes));
            thread::spawn(move || {
                if folio.header.try_get() {
                    let seen = bytes.load(Ordering::Relaxed);
                    assert_eq!(seen, 1, "somebody else's bytes");
                    let _ = folio.header.put();
                }
            })
        };
        folio.leave();
        if folio.header.put() {
            bytes.store(2, Ordering::Relaxed);
            folio.header.revive(1);
            folio.join(OTHER, 8, BlockBits::PAGE);
        }
        lookup.join().unwrap();
    });
}

/// Freezing for reclaim and a lookup exclude each other: exactly one of them wins.
#[test]
fn a_frozen_folio_is_not_found_and_a_found_folio_is_not_frozen() {
    model(|| {
        let header = Arc::new(Header::new());
        header.revive(2); // the index and reclaim
        let lookup = {
            let header = Arc::clone(&header);
            thread::spawn(move || header.try_get())
        };
        let frozen = header.freeze(2);
        let found = lookup.join().unwrap();
        assert!(!(frozen && found), "found although frozen");
        assert!(frozen || found, "neither won");
    });
}

/// The lock bit orders what its owners do.
#[test]
fn the_lock_bit_hands_over_what_was_written() {
    model(|| {
        let header = Arc::new(Header::new());
        let state = Arc::new(Plain::new(0));
        let add = |header: &Header, state: &Plain| {
            if header.try_lock() {
                state.set(state.get() + 1);
                let _ = header.unlock();
            }
        };
        let other = {
            let (header, state) = (Arc::clone(&header), Arc::clone(&state));
            thread::spawn(move || add(&header, &state))
        };
        add(&header, &state);
        other.join().unwrap();
        assert!(header.try_lock());
        assert!(state.get() >= 1);
    });
}

fn lock(header: &Header, waits: &WaitTable) {
    while !header.try_lock() {
        let seen = header.flags();
        if seen & header::flag::LOCKED != 0 {
            waits.sleep(1, header, seen);
        }
    }
}

fn unlock(header: &Header, waits: &WaitTable) {
    if header.unlock() {
        waits.wake(1);
    }
}

/// A waiter that goes to sleep while the lock is released is woken, or does not sleep. The model
/// reports a lost wake-up as a deadlock.
#[test]
fn no_wake_up_is_lost_between_three_threads() {
    model(|| {
        let shared = Arc::new((Header::new(), WaitTable::new()));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    lock(&shared.0, &shared.1);
                    unlock(&shared.0, &shared.1);
                })
            })
            .collect();
        lock(&shared.0, &shared.1);
        unlock(&shared.0, &shared.1);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Who has announced itself as a waiter is known to the one who unlocks.
fn announce_beside_unlock(announce: impl Fn(&Header) -> bool + Copy + Send + Sync + 'static) {
    model(move || {
        let header = Arc::new(Header::new());
        assert!(header.try_lock());
        let waiter = {
            let header = Arc::clone(&header);
            thread::spawn(move || announce(&header))
        };
        let told = header.unlock();
        let announced = waiter.join().unwrap();
        assert!(told || !announced, "a sleeper nobody wakes");
    });
}

#[test]
fn an_announced_waiter_is_woken() {
    announce_beside_unlock(|header| {
        let seen = header.flags();
        seen & header::flag::LOCKED != 0 && header.announce(seen)
    });
}

/// The twin: the waiter does not look again when it announces itself.
#[test]
#[should_panic(expected = "a sleeper nobody wakes")]
fn a_waiter_that_does_not_look_again_is_not_woken() {
    announce_beside_unlock(|header| {
        let seen = header.flags();
        if seen & header::flag::LOCKED == 0 {
            return false;
        }
        header.set(header::flag::WAITERS);
        true
    });
}

/// A folio handed to a read wakes the sleepers, so that one of them drives the device.
#[test]
fn handing_the_lock_to_a_read_wakes_the_sleepers() {
    model(|| {
        let shared = Arc::new((Header::new(), WaitTable::new()));
        assert!(shared.0.try_lock());
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                // Ends when it sees the read; never asleep for good.
                loop {
                    let seen = shared.0.flags();
                    if seen & header::flag::READING != 0 {
                        return;
                    }
                    shared.1.sleep(1, &shared.0, seen);
                }
            })
        };
        if shared.0.start_reading() {
            shared.1.wake(1);
        }
        waiter.join().unwrap();
    });
}

/// An up-to-date flag publishes the bytes written before it.
#[test]
fn the_uptodate_flag_publishes_the_bytes() {
    model(|| {
        let shared = Arc::new((Header::new(), Plain::new(0)));
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.0.flags() & header::flag::UPTODATE != 0 {
                    assert_eq!(shared.1.get(), 7);
                }
            })
        };
        shared.1.set(7);
        shared.0.set(header::flag::UPTODATE);
        reader.join().unwrap();
    });
}

/// Direct I/O against a writer of the cache (rules O1 to O3): with a fence on both sides one of
/// them sees the other. `marks` stands for the word [`PageCache::has_dirty`] reads.
fn count_and_mark(writer_fence: bool, dio_fence: bool) {
    model(move || {
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.store(1, Ordering::Release); // marks
                if writer_fence {
                    smp_mb();
                }
                shared.1.load(Ordering::Relaxed) // the count
            })
        };
        shared.1.store(1, Ordering::Relaxed);
        if dio_fence {
            smp_mb();
        }
        let marks = shared.0.load(Ordering::Acquire);
        let count = writer.join().unwrap();
        assert!(marks == 1 || count == 1, "neither saw the other");
    });
}

#[test]
fn a_mark_and_the_direct_io_count_see_each_other() {
    count_and_mark(true, true);
}

#[test]
#[should_panic(expected = "neither saw the other")]
fn without_the_writers_fence_they_may_not() {
    count_and_mark(false, true);
}

#[test]
#[should_panic(expected = "neither saw the other")]
fn without_the_fence_of_direct_io_they_may_not() {
    count_and_mark(true, false);
}
