//! The threads that end direct I/O nobody waits for.
//!
//! Owns a few threads for the whole process, started when there is work, and its queue: what the end
//! of a request may not do in a completion (a conversion, a sync, letting go of a backend) is done
//! here. Does not own that work, nor the choice who does it: that is [`ticket`](super::ticket).
//!
//! A job may block, on the device or on locks, but not on another job: there are [`THREADS`] of them
//! at most. A job that nobody can be found for runs in the thread that brings it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, Rank, thread};

/// Work for task context.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The most threads that do jobs at one time.
const THREADS: usize = 8;
/// How long a thread without work stays.
const LINGER: Duration = Duration::from_secs(5);

/// The queue and who works on it.
struct Tasks {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that look at the queue before they sleep or end.
    threads: usize,
    /// Those of them asleep.
    idle: usize,
}

impl Tasks {
    fn new() -> Self {
        Self {
            state: Mutex::new(Rank::Wait, State::default()),
            wake: Condvar::new(),
        }
    }

    fn run(&'static self, job: Job) {
        let mut state = self.state.lock();
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            return self.wake.notify_one();
        }
        if state.threads == THREADS {
            return;
        }
        state.threads += 1;
        drop(state);
        let thread = thread::Builder::new().name("iomap-direct".into());
        if thread.spawn(|| self.work()).is_err() {
            self.without_thread();
        }
    }

    /// A thread could not be started: what is queued is done here, unless others do it.
    fn without_thread(&self) {
        let mut state = self.state.lock();
        state.threads -= 1;
        while state.threads == 0
            && let Some(job) = state.queue.pop_front()
        {
            drop(state);
            job();
            state = self.state.lock();
        }
    }

    /// A thread's life.
    fn work(&'static self) {
        crate::affinity::unbind();
        let leave = Leave(self);
        while let Some(job) = self.next() {
            job();
        }
        // `next` has counted this thread out.
        std::mem::forget(leave);
    }

    /// The next job, waiting for one; `None` after a while without any.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let mut late = false;
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if late {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            late = self.wake.wait_for(&mut state, LINGER);
            state.idle -= 1;
        }
    }
}

/// Counts a thread out whose job has panicked, and leaves its queue to another.
struct Leave(&'static Tasks);

impl Drop for Leave {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.threads -= 1;
        let job = state.queue.pop_front();
        drop(state);
        if let Some(job) = job {
            self.0.run(job);
        }
    }
}

/// Does `job` in task context, soon.
pub(super) fn run(job: Job) {
    static TASKS: std::sync::OnceLock<Tasks> = std::sync::OnceLock::new();
    TASKS.get_or_init(Tasks::new).run(job);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;

    use super::*;

    fn tasks() -> &'static Tasks {
        Box::leak(Box::new(Tasks::new()))
    }

    #[test]
    fn many_jobs_share_few_threads() {
        let (send, receive) = mpsc::channel();
        let tasks = tasks();
        for n in 0..500 {
            let send = send.clone();
            tasks.run(Box::new(move || {
                send.send((n, thread::current().id())).unwrap();
            }));
        }
        drop(send);
        let (jobs, threads): (HashSet<_>, HashSet<_>) = receive.iter().unzip();
        assert_eq!(jobs.len(), 500, "each is done once");
        assert!(threads.len() <= THREADS, "{} threads", threads.len());
    }

    #[test]
    fn a_job_that_blocks_does_not_hold_up_the_next() {
        let tasks = tasks();
        let (send, receive) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        tasks.run(Box::new(move || gate.recv().unwrap()));
        tasks.run(Box::new(move || send.send(()).unwrap()));
        receive.recv().unwrap();
        go.send(()).unwrap();
    }

    #[test]
    fn a_job_that_panics_takes_no_other_with_it() {
        let tasks = tasks();
        for _ in 0..2 * THREADS {
            tasks.run(Box::new(|| {
                panic!("a backend that panics, as the test wants")
            }));
        }
        let (send, receive) = mpsc::channel();
        tasks.run(Box::new(move || send.send(()).unwrap()));
        receive.recv().unwrap();
    }
}
