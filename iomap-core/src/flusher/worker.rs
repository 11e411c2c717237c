//! The worker that gives finished writeback its task context.
//!
//! Owns one thread, started when the first run of writeback may need it, and the inodes that have
//! something queued. Whoever waits for a folio under writeback with locks held relies on it: it
//! holds no lock while it calls into an inode, so it always gets on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::list::DirtyList;
use super::{DirtyOwner, join, spawn};
use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Mutex, Rank};

/// Runs [`DirtyOwner::finish_ioends`] for whoever was submitted.
#[derive(Clone)]
pub struct IoendWorker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Where writers wait for room.
    list: Arc<DirtyList>,
    threads: bool,
}

#[derive(Default)]
struct State {
    owners: VecDeque<Arc<dyn DirtyOwner>>,
    thread: Option<JoinHandle<()>>,
    started: bool,
    stopped: bool,
}

impl IoendWorker {
    pub(super) fn new(list: Arc<DirtyList>, threads: bool) -> Self {
        let state = Mutex::new(Rank::Flusher, State::default());
        Self {
            shared: Arc::new(Shared {
                state,
                wake: Condvar::new(),
                list,
                threads,
            }),
        }
    }

    /// Starts the thread if it does not run. Returns whether somebody will do the work that is
    /// submitted. Task context.
    #[must_use]
    pub fn ensure(&self) -> bool {
        let mut state = self.shared.state.lock();
        if state.stopped {
            return false;
        }
        if state.started || !self.shared.threads {
            return true;
        }
        let worker = self.clone();
        state.thread = spawn("iomap-ioend", move || worker.run());
        state.started = state.thread.is_some();
        state.started
    }

    /// Has the queue of `owner` worked off. Completion context.
    pub fn submit(&self, owner: Arc<dyn DirtyOwner>) {
        self.shared.state.lock().owners.push_back(owner);
        self.shared.wake.notify_one();
    }

    fn run(&self) {
        while let Some(owner) = self.next() {
            owner.finish_ioends();
            drop(owner);
            self.shared.list.progress();
        }
    }

    /// The next inode, waiting for one; `None` when stopped and nothing is left.
    fn next(&self) -> Option<Arc<dyn DirtyOwner>> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(owner) = state.owners.pop_front() {
                return Some(owner);
            }
            if state.stopped {
                return None;
            }
            self.shared.wake.wait(&mut state);
        }
    }

    /// Does what is submitted, in this thread.
    pub(super) fn run_queued(&self) {
        loop {
            let owner = self.shared.state.lock().owners.pop_front();
            let Some(owner) = owner else { return };
            owner.finish_ioends();
        }
    }

    /// Ends the thread after it has done what is submitted, and waits for it.
    pub(super) fn stop(&self) {
        let mut state = self.shared.state.lock();
        state.stopped = true;
        let thread = state.thread.take();
        drop(state);
        self.shared.wake.notify_all();
        join(thread);
        self.run_queued();
    }
}

impl fmt::Debug for IoendWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoendWorker").finish_non_exhaustive()
    }
}
