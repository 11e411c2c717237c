//! The inodes with dirty data, the oldest first, and what wakes the flusher's thread.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use super::DirtyOwner;
use crate::sync::{Condvar, Mutex, Rank};
use crate::units::FileRange;

/// An inode that has been dirty for a while.
pub(super) struct Entry {
    /// Since when, by the flusher's clock.
    pub(super) since: Duration,
    pub(super) owner: Weak<dyn DirtyOwner>,
}

/// A part of a file that a stream of writes has left behind it.
pub(super) struct Part {
    pub(super) owner: Weak<dyn DirtyOwner>,
    pub(super) range: FileRange,
}

/// Parts kept at most: a flusher that is so far behind gets no more of them, and what they would
/// have named is written when it expires.
const PARTS_MAX: usize = 256;

/// The list and its two conditions.
pub(super) struct DirtyList {
    state: Mutex<State>,
    /// For the thread: asked for something, or stopped.
    wake: Condvar,
    /// For writers: a round has ended.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// What streams of writes have left behind them.
    parts: Vec<Part>,
    /// Pages reclaim wants clean.
    asked: u64,
    kicked: bool,
    stopped: bool,
}

impl DirtyList {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(Rank::Flusher, State::default()),
            wake: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    /// Appends: entries come in the order of their age.
    pub(super) fn push(&self, entry: Entry) {
        self.state.lock().entries.push_back(entry);
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Takes the oldest entry, if it is wanted.
    pub(super) fn pop_if(&self, wanted: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let mut state = self.state.lock();
        state
            .entries
            .front()
            .is_some_and(wanted)
            .then(|| state.entries.pop_front())
            .flatten()
    }

    /// Wakes the thread; `pages` should become clean whatever the limits say.
    pub(super) fn ask_for(&self, pages: u64) {
        let mut state = self.state.lock();
        state.asked = state.asked.max(pages);
        if !state.kicked {
            state.kicked = true;
            self.wake.notify_one();
        }
    }

    /// Wakes the thread to write `part`.
    pub(super) fn push_part(&self, part: Part) {
        let mut state = self.state.lock();
        if state.parts.len() < PARTS_MAX {
            state.parts.push(part);
            state.kicked = true;
            self.wake.notify_one();
        }
    }

    pub(super) fn take_parts(&self) -> Vec<Part> {
        std::mem::take(&mut self.state.lock().parts)
    }

    pub(super) fn take_asked(&self) -> u64 {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// Sleeps until asked for something, or for `period`. Returns whether to go on.
    pub(super) fn sleep(&self, period: Duration) -> bool {
        let mut state = self.state.lock();
        let mut timed_out = false;
        while !state.kicked && !state.stopped && !timed_out {
            timed_out = self.wake.wait_for(&mut state, period);
        }
        state.kicked = false;
        !state.stopped
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_all();
        self.progress.notify_all();
    }

    /// A round has ended: writers look again.
    pub(super) fn progress(&self) {
        let _state = self.state.lock();
        self.progress.notify_all();
    }

    /// Waits for the end of a round of the flusher, for `pause` at most.
    #[cfg(not(any(iomap_shuttle, iomap_loom)))]
    pub(super) fn await_progress(&self, pause: Duration) {
        let mut state = self.state.lock();
        if !state.stopped {
            self.progress.wait_for(&mut state, pause);
        }
    }

    /// A model has no clock: a pause may end at any time.
    #[cfg(any(iomap_shuttle, iomap_loom))]
    pub(super) fn await_progress(&self, _pause: Duration) {
        crate::sync::thread::yield_now();
    }
}
