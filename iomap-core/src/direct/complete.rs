//! The end of a direct I/O, after its last device request.
//!
//! Owns the order *tell the backend → invalidate → lower the count* (rules O7, O8, B51) and the
//! arithmetic of what was moved. Runs in task context: in the thread that waits, or where
//! [`ticket`](super::ticket) sends it. A read may end in the context of a completion.

use super::buffer::Failure;
use super::plan::{Direction, Request};
use super::submit::Submission;
use super::{DirectFlags, DirectOutcome, SyncKind};
use crate::error::{Errno, FsError, Result};
use crate::inode::{DirectGuard, Inode};
use crate::mutation::{self, Rule};
use crate::ops::{DirectDone, DirectOps};
use crate::resize;
use crate::stats::Event;
use crate::units::{FilePos, FileRange};

/// What is known of a request at its end. Dropping it lowers the count (rule O7).
#[derive(Debug)]
pub(super) struct Finish {
    direction: Direction,
    range: FileRange,
    size: FilePos,
    flags: DirectFlags,
    submission: Submission,
    guard: DirectGuard,
}

/// How it ended, and what is still to be made durable.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) outcome: DirectOutcome,
    pub(super) sync: Option<SyncKind>,
}

/// The bytes moved, in order, and the error behind them.
fn moved(
    range: FileRange,
    limit: FilePos,
    submission: &mut Submission,
    failure: Option<Failure>,
) -> (u64, Option<FsError>) {
    let end = range.take(submission.submitted).end().min(limit);
    match failure {
        // The first error wins (rule B55).
        Some(failure) => (
            end.min(failure.lost_from).since(range.start()),
            Some(failure.error),
        ),
        None => (end.since(range.start()), submission.stopped.take()),
    }
}

impl Finish {
    pub(super) fn new(request: &Request<'_>, guard: DirectGuard, submission: Submission) -> Self {
        let Request {
            direction,
            range,
            size,
            flags,
            ..
        } = *request;
        Self {
            direction,
            range,
            size,
            flags,
            submission,
            guard,
        }
    }

    /// Whether the end needs nothing but inner locks: a read, or a write that succeeded as a whole,
    /// of which the backend, the cache and the caller want nothing more.
    pub(super) fn is_light<B: DirectOps + ?Sized>(&self, backend: &B, failed: bool) -> bool {
        let whole = self.submission.submitted == self.range.len();
        match self.direction {
            Direction::Read => true,
            Direction::Write => {
                whole
                    && !failed
                    && self.sync().is_none()
                    && !backend.inode().cache().has_pages(self.range)
                    && !backend.direct_needs_work(&self.told(self.range.len()))
            }
        }
    }

    /// [`Finish::run`] of a request that [`is_light`](Finish::is_light).
    pub(super) fn run_light(
        self,
        inode: &Inode,
        failure: Option<Failure>,
    ) -> Result<DirectOutcome> {
        match self.direction {
            Direction::Read => Ok(self.run_read(inode, failure)?.outcome),
            Direction::Write => {
                let written = self.range.len();
                inode.counters().add(Event::direct_write_bytes, written);
                Ok(self.end(inode, written, None)?.outcome)
            }
        }
    }

    /// What the backend is told of `written` bytes.
    const fn told(&self, written: u64) -> DirectDone {
        DirectDone {
            range: self.range,
            written,
            kinds: self.submission.kinds,
        }
    }

    /// What is left to be made durable.
    fn sync(&self) -> Option<SyncKind> {
        self.flags.sync().filter(|_| !self.submission.write_through)
    }

    /// Ends the I/O; the memory is the caller's again.
    ///
    /// # Errors
    ///
    /// Nothing was moved, or the backend could not make it findable.
    pub(super) fn run<B: DirectOps + ?Sized>(
        self,
        backend: &B,
        failure: Option<Failure>,
    ) -> Result<Finished> {
        match self.direction {
            Direction::Read => self.run_read(backend.inode(), failure),
            Direction::Write => self.run_write(backend, failure),
        }
    }

    /// Takes inner locks only.
    pub(super) fn run_read(mut self, inode: &Inode, failure: Option<Failure>) -> Result<Finished> {
        // Clamped to the size found at the start.
        let (done, error) = moved(self.range, self.size, &mut self.submission, failure);
        inode.counters().add(Event::direct_read_bytes, done);
        self.end(inode, done, error)
    }

    fn run_write<B: DirectOps + ?Sized>(
        mut self,
        backend: &B,
        failure: Option<Failure>,
    ) -> Result<Finished> {
        let inode = backend.inode();
        let (written, error) = moved(self.range, FilePos::MAX, &mut self.submission, failure);
        let done = self.told(written);
        let whole = error.is_none() && written == self.range.len();
        if mutation::off(Rule::O8) {
            invalidate_again(inode, self.range.take(self.submission.submitted));
        }
        let told = if whole && !backend.direct_needs_work(&done) {
            Ok(())
        } else {
            backend.direct_done(&done)
        };
        // Whoever read meanwhile may have cached what the blocks held before (rules O8, B51).
        if !mutation::off(Rule::O8) && !mutation::off(Rule::B51) {
            invalidate_again(inode, self.range.take(self.submission.submitted));
        }
        if self.range.start() > self.size {
            // Nothing if the file did not grow: then there is no byte to hand over.
            let grown = self.range.start().min(inode.size());
            resize::isize_extended(inode, self.size, grown);
        }
        inode.counters().add(Event::direct_write_bytes, written);
        match told {
            Ok(()) => self.end(inode, written, error),
            Err(failed) => self.end(inode, 0, Some(failed)),
        }
    }

    /// Lowers the count and names the outcome.
    fn end(self, inode: &Inode, done: u64, error: Option<FsError>) -> Result<Finished> {
        let sync = self.sync().filter(|_| done > 0);
        let Self {
            range,
            submission,
            guard,
            ..
        } = self;
        drop(guard);
        tracing::trace!(
            target: "iomap::direct", ino = inode.ino(), %range, done, error = ?error, "complete",
        );
        let failed = error.is_some();
        match error {
            Some(error) if done == 0 => return Err(error),
            _ => {}
        }
        if submission.use_buffered && !failed {
            inode.counters().count(Event::direct_fallbacks);
            let outcome = DirectOutcome::UseBuffered { done };
            return Ok(Finished {
                outcome,
                sync: None,
            });
        }
        Ok(Finished {
            outcome: DirectOutcome::Done(done),
            sync,
        })
    }
}

/// Removes pages that came into the cache while the write was on its way. What cannot be removed is
/// stale: that is an error for `fsync` (rule B63).
fn invalidate_again(inode: &Inode, range: FileRange) {
    if range.is_empty() || !inode.cache().has_pages(range) {
        return;
    }
    if inode.cache().invalidate(range, false).is_err() {
        inode.counters().count(Event::direct_invalidate_failures);
        inode.cache().record_error(Errno::IO);
        tracing::warn!(
            target: "iomap::direct", ino = inode.ino(), %range, "invalidate_fail",
        );
    }
}
