//! Commits now and then, when nobody asks for one.
//!
//! Owns the thread that bounds how much a crash can take away: with it, what the flusher has written
//! can be found after a crash once an interval has passed. Everything else about durability happens
//! in the thread that asks for it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use iomap_core::sync::thread::{self, JoinHandle};
use iomap_core::sync::{Condvar, Mutex, Rank};

use super::table::InodeTable;

/// The thread of one mount. Dropping it stops and awaits the thread.
pub(super) struct Autocommit {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Autocommit {
    /// Starts committing what `table` has, every `interval`.
    pub(super) fn start(table: &Arc<InodeTable>, interval: Duration) -> Self {
        let shared = Arc::new(Shared {
            stopped: Mutex::new(Rank::Flusher, false),
            wake: Condvar::new(),
        });
        let (table, in_thread) = (Arc::downgrade(table), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("testfs-commit".to_owned())
            .spawn(move || in_thread.run(&table, interval));
        if let Err(error) = &thread {
            tracing::warn!(target: "testfs", %error, "no thread for commits");
        }
        Self {
            shared,
            thread: thread.ok(),
        }
    }
}

impl Shared {
    fn run(&self, table: &Weak<InodeTable>, interval: Duration) {
        while self.sleep(interval) {
            let Some(table) = table.upgrade() else { return };
            if let Err(error) = table.commit_pending() {
                tracing::warn!(target: "testfs", %error, "background commit");
            }
        }
    }

    /// Returns whether to go on.
    fn sleep(&self, interval: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.wake.wait_for(&mut stopped, interval);
        }
        !*stopped
    }
}

impl Drop for Autocommit {
    fn drop(&mut self) {
        *self.shared.stopped.lock() = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic of the thread was reported when it happened.
            let _ended = thread.join();
        }
    }
}
