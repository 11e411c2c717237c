//! Finished writeback that still needs task context: the queue of one inode.
//!
//! Owns [`Ioend`], the record of a run of writeback, and [`IoendQueue`], where a completion puts
//! it. Who takes it out: the flusher's worker thread, or a thread that waits for the writeback and
//! holds no locks ([`Helping`]). What is done with it is [`ioend`](crate::ioend).

use std::fmt;
use std::sync::Arc;

use crate::error::Errno;
use crate::folio::FolioRef;
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::FileRange;

/// A run of writeback: contiguous in the file and on the device.
pub struct Ioend {
    /// The bytes; the end is exact to the byte at the end of the file (rule B39).
    pub range: FileRange,
    /// What they are written to; whole blocks.
    pub iomap: Iomap,
    /// The folios, each with the bytes of it that are in this run.
    pub folios: Vec<(FolioRef, u32)>,
    /// Why the device could not write it.
    pub error: Option<Errno>,
    /// Whether the backend has something to do after the write.
    pub needs_work: bool,
    /// Keeps the backend's inode in memory until its work is done.
    pub keep: Option<Arc<dyn Send + Sync>>,
}

impl Ioend {
    /// Whether the next run may continue this one, as far as the kind of blocks goes: plain,
    /// unwritten and shared blocks, and those beyond the end of the file, are never mixed, for they
    /// end differently.
    #[must_use]
    pub fn same_class(a: &Iomap, b: &Iomap) -> bool {
        const CLASS: FsFlags = FsFlags::SHARED.union(FsFlags::BEYOND_EOF);
        matches!(a.kind, MapKind::Unwritten { .. }) == matches!(b.kind, MapKind::Unwritten { .. })
            && (a.flags ^ b.flags).intersection(CLASS).is_empty()
    }

    /// Ends the writeback of the folios. The error, if there was one, is recorded before.
    pub fn end_folios(self) {
        for (folio, bytes) in self.folios {
            if folio.sub_write_pending(bytes) {
                folio.end_writeback();
            }
        }
    }
}

impl fmt::Debug for Ioend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ioend")
            .field("range", &self.range)
            .field("iomap", &self.iomap)
            .field("folios", &self.folios.len())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// The finished runs of one inode that wait for task context, and the errors of its writeback.
#[derive(Debug)]
pub struct IoendQueue {
    state: Mutex<State>,
    /// Errors so far in the upper half, the last errno in the lower. Changed before the writeback
    /// bit of the folios is cleared (`Release`); partner: the `Acquire` load after the wait for it.
    errors: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    finished: Vec<Ioend>,
    /// Threads that wait and will take what comes.
    helpers: usize,
    /// The worker has been told and has not taken everything yet.
    scheduled: bool,
}

impl State {
    /// Whether the worker has to be told, and if so notes that it was.
    fn schedule(&mut self) -> bool {
        let tell = !self.finished.is_empty() && self.helpers == 0 && !self.scheduled;
        self.scheduled |= tell;
        tell
    }
}

impl IoendQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Mutex::new(Rank::IoendQueue, State::default()),
            errors: AtomicU64::new(0),
        }
    }

    /// Queues a finished run; completion context. Returns whether the worker has to be told.
    #[must_use]
    pub fn push(&self, ioend: Ioend) -> bool {
        let mut state = self.state.lock();
        state.finished.push(ioend);
        state.schedule()
    }

    /// Whether something is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().finished.is_empty()
    }

    /// Takes everything. The caller holds no locks and finishes it.
    #[must_use]
    pub fn take(&self) -> Vec<Ioend> {
        std::mem::take(&mut self.state.lock().finished)
    }

    /// As [`IoendQueue::take`], for the worker: an empty answer means that it has to be told again.
    #[must_use]
    pub fn take_scheduled(&self) -> Vec<Ioend> {
        let mut state = self.state.lock();
        if state.finished.is_empty() {
            state.scheduled = false;
        }
        std::mem::take(&mut state.finished)
    }

    /// Declares that this thread waits, holds no locks and takes what is queued meanwhile, so that
    /// the worker need not be woken.
    pub fn help(&self) -> Helping<'_> {
        self.state.lock().helpers += 1;
        Helping { queue: self }
    }

    /// Notes an error of writeback.
    pub fn note_error(&self, errno: Errno) {
        let code = u64::from(errno.raw_os_error().unsigned_abs());
        let mut old = self.errors.load(Ordering::Relaxed);
        loop {
            let new = ((old >> 32).wrapping_add(1) << 32) | code;
            match self
                .errors
                .compare_exchange_weak(old, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    /// The errors so far, to compare with later.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Acquire)
    }

    /// The last error, if there was one since `before` was the answer of [`IoendQueue::errors`].
    ///
    /// # Errors
    ///
    /// That error.
    pub fn errors_since(&self, before: u64) -> Result<(), Errno> {
        let now = self.errors();
        if now == before {
            return Ok(());
        }
        Err(Errno::from_raw_os_error(
            i32::try_from(now & 0xffff_ffff).unwrap_or(5),
        ))
    }
}

impl Default for IoendQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread that takes what is queued while it waits.
#[derive(Debug)]
#[must_use = "what was queued meanwhile has to be taken"]
pub struct Helping<'a> {
    queue: &'a IoendQueue,
}

impl Helping<'_> {
    /// Ends the wait: takes everything queued so far. The caller finishes it.
    #[must_use]
    pub fn take(self) -> Vec<Ioend> {
        let mut state = self.queue.state.lock();
        state.helpers -= 1;
        std::mem::take(&mut state.finished)
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;

    fn ioend() -> Ioend {
        Ioend {
            range: FileRange::ALL.take(1),
            iomap: Iomap::hole(FileRange::ALL.take(1)),
            folios: Vec::new(),
            error: None,
            needs_work: true,
            keep: None,
        }
    }

    #[test]
    fn the_worker_is_told_once_until_it_has_taken_everything() {
        let queue = IoendQueue::new();
        assert!(queue.push(ioend()));
        assert!(!queue.push(ioend()), "told already");
        assert_eq!(queue.take_scheduled().len(), 2);
        assert!(!queue.push(ioend()), "it will look again");
        assert_eq!(queue.take_scheduled().len(), 1);
        assert!(queue.take_scheduled().is_empty());
        assert!(queue.push(ioend()));
    }

    #[test]
    fn a_waiting_helper_spares_the_worker_and_takes_what_came() {
        let queue = IoendQueue::new();
        let helping = queue.help();
        assert!(!queue.push(ioend()));
        assert!(!queue.is_empty());
        assert_eq!(helping.take().len(), 1);
        assert!(queue.push(ioend()), "nobody waits any more");
    }

    #[test]
    fn errors_are_seen_by_those_who_looked_before() {
        let queue = IoendQueue::new();
        let before = queue.errors();
        assert_eq!(queue.errors_since(before), Ok(()));
        queue.note_error(Errno::NOSPC);
        queue.note_error(Errno::NOSPC);
        assert_eq!(queue.errors_since(before), Err(Errno::NOSPC));
        assert_eq!(queue.errors_since(queue.errors()), Ok(()));
    }
}
