//! Who of a few threads reads the next fault.
//!
//! Owns the hand-over of one job: one thread, the *reader*, sleeps in the system call that reads
//! faults and answers each itself, so that a fault costs one wake-up and nothing else. When its
//! answer waits for something, another thread becomes the reader: at once where the fault code says
//! so ([`about_to_wait`]), and after a moment in any other case, for the *deputy* looks. What a
//! fault is and what answers it are [`engine`](mod@super::engine)'s.
//!
//! Several threads in that system call would all be woken by each fault.
//!
//! # The beat
//!
//! ```text
//! even: the reader sleeps, or looks for a fault     only the reader makes it odd
//! odd:  the reader answers                          it makes it even when it has answered, or
//!                                                   somebody who takes its place does
//! ```

use std::cell::Cell;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, Rank};

/// How often the deputy looks, while there are faults.
const TICK: Duration = Duration::from_millis(1);
/// Looks without a new fault after which the deputy sleeps until there is one.
const IDLE_TICKS: u32 = 64;

/// The job, and who has it.
#[derive(Debug)]
pub(super) struct Relay {
    state: Mutex<State>,
    /// Where the deputy sleeps.
    deputy: Condvar,
    /// Where the others do.
    others: Condvar,
    /// See the module. Moved with `SeqCst`: begun first, `drowsy` read afterwards; the deputy does
    /// it the other way round.
    beat: AtomicU64,
    /// The deputy sleeps until it is woken. Partner of `beat`.
    drowsy: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Nobody has the job.
    vacant: bool,
    /// Somebody is the deputy.
    deputy: bool,
}

thread_local! {
    /// The beat this thread answers in, while it is the reader.
    static MINE: Cell<Option<(&'static Relay, u64)>> = const { Cell::new(None) };
}

/// The thread is about to wait for a device, or for another thread: if it has the job to read
/// faults, somebody else has it from here on. No locks are held.
pub(crate) fn about_to_wait() {
    if let Some((relay, odd)) = MINE.take()
        && relay.end(odd)
    {
        relay.state.lock().vacant = true;
        relay.deputy.notify_one();
    }
}

impl Relay {
    pub(super) fn new() -> Self {
        let state = State {
            vacant: true,
            deputy: false,
        };
        Self {
            state: Mutex::new(Rank::Wait, state),
            deputy: Condvar::new(),
            others: Condvar::new(),
            beat: AtomicU64::new(0),
            drowsy: AtomicBool::new(false),
        }
    }

    /// The body of a thread. `next` waits for a fault, `answer` answers it; `None`: no more.
    pub(super) fn serve<T>(&'static self, next: impl Fn() -> Option<T>, answer: impl Fn(T)) {
        loop {
            self.take_over();
            while let Some(fault) = next() {
                let odd = self.begin();
                MINE.set(Some((self, odd)));
                answer(fault);
                if MINE.take().is_none() || !self.end(odd) {
                    break;
                }
            }
        }
    }

    /// The reader has a fault. Returns the beat.
    fn begin(&self) -> u64 {
        let odd = self.beat.fetch_add(1, Ordering::SeqCst) + 1;
        if self.drowsy.load(Ordering::SeqCst) {
            let _state = self.state.lock();
            self.drowsy.store(false, Ordering::SeqCst);
            self.deputy.notify_one();
        }
        odd
    }

    /// The beat `odd` is over. `false`: somebody else has said so before, and has the job.
    fn end(&self, odd: u64) -> bool {
        let (then, order) = (odd + 1, Ordering::SeqCst);
        self.beat.compare_exchange(odd, then, order, order).is_ok()
    }

    /// Waits until this thread has the job.
    fn take_over(&self) {
        let mut state = self.state.lock();
        while state.deputy && !state.vacant {
            self.others.wait(&mut state);
        }
        if !state.vacant {
            state.deputy = true;
            self.stand_by(&mut state);
            state.deputy = false;
            self.others.notify_one();
        }
        state.vacant = false;
    }

    /// The deputy: until nobody has the job, or the reader has been at one fault for too long.
    fn stand_by(&self, state: &mut MutexGuard<'_, State>) {
        let (mut seen, mut idle) = (self.beat.load(Ordering::SeqCst), 0);
        while !state.vacant {
            if idle < IDLE_TICKS {
                self.deputy.wait_for(state, TICK);
            } else {
                self.drowsy.store(true, Ordering::SeqCst);
                if self.beat.load(Ordering::SeqCst) == seen {
                    self.deputy.wait(state);
                }
                self.drowsy.store(false, Ordering::SeqCst);
                idle = 0;
            }
            let now = self.beat.load(Ordering::SeqCst);
            if now == seen && now % 2 == 1 && self.end(now) {
                return;
            }
            idle = if now == seen { idle + 1 } else { 0 };
            seen = now;
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Barrier};

    type Job = Box<dyn FnOnce() + Send>;

    /// Threads that run what is sent, one reader at a time.
    fn threads(count: usize) -> Sender<Job> {
        let (send, receive) = channel::<Job>();
        let receive: &'static std::sync::Mutex<Receiver<Job>> =
            Box::leak(Box::new(std::sync::Mutex::new(receive)));
        let relay: &'static Relay = Box::leak(Box::new(Relay::new()));
        for _ in 0..count {
            // Two readers at once would be seen: the second finds the queue locked.
            let next = || receive.try_lock().expect("one reader").recv().ok();
            std::thread::spawn(move || relay.serve(next, |job| job()));
        }
        send
    }

    #[test]
    fn who_says_that_it_waits_is_replaced_and_works_again_later() {
        let send = threads(3);
        let (say, said) = channel();
        for round in 0..200 {
            let (one, two) = (Arc::new(Barrier::new(2)), say.clone());
            let other = Arc::clone(&one);
            let waits = move || {
                about_to_wait();
                one.wait();
            };
            let wakes = move || {
                other.wait();
                two.send(round).expect("the test waits");
            };
            send.send(Box::new(waits)).expect("a reader");
            send.send(Box::new(wakes)).expect("a reader");
            assert_eq!(said.recv(), Ok(round));
        }
    }

    #[test]
    fn who_waits_and_does_not_say_so_is_replaced_too() {
        let send = threads(3);
        for _ in 0..20 {
            let one = Arc::new(Barrier::new(2));
            let other = Arc::clone(&one);
            let (say, said) = channel();
            send.send(Box::new(move || {
                one.wait();
            }))
            .expect("a reader");
            send.send(Box::new(move || {
                other.wait();
                say.send(()).expect("the test waits");
            }))
            .expect("a reader");
            assert_eq!(said.recv(), Ok(()));
        }
    }
}
