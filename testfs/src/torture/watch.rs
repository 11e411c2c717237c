//! Notices threads that hang.
//!
//! Owns the record of what each thread is doing. A run in which no operation ends for too long is
//! over: nothing can be done about a stuck thread but to say where everybody is and leave.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::op::Op;

/// The exit code of a process that hung.
pub const EXIT_HANG: i32 = 5;

#[derive(Debug)]
enum Doing {
    Nothing,
    Op { number: u64, op: Op, since: Instant },
    Ended,
}

/// Who is doing what since when.
#[derive(Debug)]
pub struct Watch {
    threads: Vec<Mutex<Doing>>,
    patience: Duration,
    ended: (Mutex<usize>, Condvar),
}

impl Watch {
    /// Watches this many threads.
    #[must_use]
    pub fn new(threads: u8, patience: Duration) -> Self {
        Self {
            threads: (0..threads).map(|_| Mutex::new(Doing::Nothing)).collect(),
            patience,
            ended: (Mutex::new(0), Condvar::new()),
        }
    }

    /// A thread begins an operation.
    pub fn begin(&self, thread: u8, number: u64, op: &Op) {
        *self.threads[usize::from(thread)].lock() = Doing::Op {
            number,
            op: op.clone(),
            since: Instant::now(),
        };
    }

    /// A thread has done all it had to.
    pub fn end(&self, thread: u8) {
        *self.threads[usize::from(thread)].lock() = Doing::Ended;
        *self.ended.0.lock() += 1;
        self.ended.1.notify_all();
    }

    /// Waits for every thread, calling `tick` a few times a second.
    ///
    /// Ends the process with [`EXIT_HANG`] if all threads that have not ended have been at the same
    /// operation for too long.
    pub fn until_all_ended(&self, seed: u64, mut tick: impl FnMut()) {
        let mut ended = self.ended.0.lock();
        while *ended < self.threads.len() {
            self.ended
                .1
                .wait_for(&mut ended, Duration::from_millis(200));
            tick();
            if self.hangs() {
                eprintln!(
                    "testfs: hang: nothing moved for {} s (seed {seed}); the threads are at:\n{}",
                    self.patience.as_secs(),
                    self.report()
                );
                std::process::exit(EXIT_HANG);
            }
        }
    }

    /// Whether the youngest operation is too old.
    fn hangs(&self) -> bool {
        let ages = self.threads.iter().filter_map(|t| match &*t.lock() {
            Doing::Op { since, .. } => Some(since.elapsed()),
            Doing::Nothing => Some(Duration::ZERO),
            Doing::Ended => None,
        });
        ages.min().is_some_and(|age| age > self.patience)
    }

    /// What every thread is doing, a line each.
    #[must_use]
    pub fn report(&self) -> String {
        let line = |(n, thread): (usize, &Mutex<Doing>)| match &*thread.lock() {
            Doing::Nothing => format!("  thread {n}: not started"),
            Doing::Ended => format!("  thread {n}: ended"),
            Doing::Op { number, op, since } => {
                format!("  thread {n}: op {number}, {:?} ago: {op}", since.elapsed())
            }
        };
        self.threads
            .iter()
            .enumerate()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
    }
}
