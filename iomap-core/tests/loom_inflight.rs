//! The pair of direct I/O against writeback and write faults, on the shipped functions: at least one
//! side sees the other (rules O2, O3).
//!
//! Each fence has a twin without it, which the model must catch. The mark stands for whatever the
//! cache is asked: a page inserted, dirty, or under writeback.

#![cfg(iomap_loom)]
#![expect(clippy::unwrap_used, reason = "tests")]

use iomap_core::device::{Bio, BlockDevice, Limits};
use iomap_core::inode::{InFlight, raise, sees_raised};
use iomap_core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use iomap_core::sync::{smp_mb, thread};
use loom::cell::UnsafeCell;
use loom::sync::Arc;

/// The counter of direct I/O and the mark of the cache.
#[derive(Default)]
struct Pair {
    count: AtomicU32,
    mark: AtomicBool,
}

impl Pair {
    fn mark(&self) {
        self.mark.store(true, Ordering::Relaxed);
    }

    fn sees_mark(&self) -> bool {
        self.mark.load(Ordering::Relaxed)
    }
}

/// Runs a direct I/O beside a writeback. Each answers whether it saw the other; both blind is the
/// race in which somebody reads another's old bytes.
fn never_both_blind(direct: fn(&Pair) -> bool, writeback: fn(&Pair) -> bool) {
    loom::model(move || {
        let pair = Arc::new(Pair::default());
        let other = Arc::clone(&pair);
        let writeback = thread::spawn(move || writeback(&other));
        let saw_mark = direct(&pair);
        let saw_count = writeback.join().unwrap();
        assert!(saw_mark || saw_count, "both are blind");
    });
}

fn direct(pair: &Pair) -> bool {
    raise(&pair.count);
    pair.sees_mark()
}

fn writeback(pair: &Pair) -> bool {
    pair.mark();
    sees_raised(&pair.count)
}

#[test]
fn one_of_the_two_sees_the_other() {
    never_both_blind(direct, writeback);
}

#[test]
#[should_panic(expected = "both are blind")]
fn without_the_fence_of_direct_io_both_can_be_blind() {
    fn direct(pair: &Pair) -> bool {
        pair.count.fetch_add(1, Ordering::Relaxed);
        pair.sees_mark()
    }
    never_both_blind(direct, writeback);
}

#[test]
#[should_panic(expected = "both are blind")]
fn without_the_fence_of_writeback_both_can_be_blind() {
    fn writeback(pair: &Pair) -> bool {
        pair.mark();
        pair.count.load(Ordering::Relaxed) != 0
    }
    never_both_blind(direct, writeback);
}

#[test]
#[should_panic(expected = "both are blind")]
fn a_count_raised_after_the_look_is_no_good() {
    fn direct(pair: &Pair) -> bool {
        smp_mb();
        let saw = pair.sees_mark();
        raise(&pair.count);
        saw
    }
    never_both_blind(direct, writeback);
}

#[test]
#[should_panic(expected = "both are blind")]
fn a_count_looked_at_before_the_mark_is_no_good() {
    fn writeback(pair: &Pair) -> bool {
        let saw = sees_raised(&pair.count);
        pair.mark();
        smp_mb();
        saw
    }
    never_both_blind(direct, writeback);
}

/// A device that has nothing to do.
#[derive(Debug)]
struct Idle;

impl BlockDevice for Idle {
    fn size(&self) -> u64 {
        0
    }
    fn limits(&self) -> &Limits {
        &Limits::PLAIN
    }
    fn submit(&self, bio: Bio) {
        bio.complete(Ok(()));
    }
    fn poll(&self) {}
    fn wait(&self, _done: &mut dyn FnMut() -> bool) {}
    fn wake(&self) {}
    fn in_flight(&self) -> usize {
        0
    }
}

/// Two direct I/Os, each ends in its own thread; who finds the count at zero sees what both did.
#[test]
fn who_finds_the_count_at_zero_sees_what_was_done() {
    loom::model(|| {
        let in_flight = InFlight::new();
        let storage = Arc::new((UnsafeCell::new(0), UnsafeCell::new(0)));
        let (first, second) = (in_flight.begin(), in_flight.begin());
        let left = Arc::clone(&storage);
        let one = thread::spawn(move || {
            // SAFETY: loom fails the run if this access overlaps another.
            left.0.with_mut(|byte| unsafe { *byte = 1 });
            drop(first);
        });
        let right = Arc::clone(&storage);
        let two = thread::spawn(move || {
            // SAFETY: loom fails the run if this access overlaps another.
            right.1.with_mut(|byte| unsafe { *byte = 2 });
            drop(second);
        });
        in_flight.wait_idle(&Idle);
        // SAFETY: loom fails the run if this access overlaps another.
        storage.0.with(|byte| assert_eq!(unsafe { *byte }, 1));
        // SAFETY: loom fails the run if this access overlaps another.
        storage.1.with(|byte| assert_eq!(unsafe { *byte }, 2));
        one.join().unwrap();
        two.join().unwrap();
    });
}
