//! Direct I/O without waiting: a ticket that is a future and a blocking wait.
//!
//! Owns the hand-over of the end of a request: to the thread that waits for it, or to those
//! of `tasks`, so that it ends even if nobody asks (others wait for the in-flight count). The request
//! keeps memory, count and backend until then; a dropped ticket gives up the result only.
//!
//! Somebody must look at the device ([`BlockDevice::poll`]) for completions to run: a waiter of any
//! ticket, a waiter for the count, or the task behind
//! [`completion_fd`](BlockDevice::completion_fd).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::buffer::{Flight, Waits};
use super::complete::{Finish, Finished};
use super::plan::Request;
use super::submit::submit;
use super::tasks::{self, Job};
use super::{
    DirectFlags, DirectOutcome, Start, Written, fall_back, lowered, read_request, start_write,
    write_request,
};
use crate::device::{Bio, BioOp, BlockDevice, DeviceBuf};
use crate::error::{Errno, FsError, Result};
use crate::inode::DirectGuard;
use crate::mutation::{self, Rule};
use crate::ops::DirectOps;
use crate::stats::Event;
use crate::sync::{Mutex, Rank};
use crate::units::{DevAddr, FilePos};

/// How an asynchronous direct I/O ended, and its memory.
#[derive(Debug)]
pub struct DirectResult {
    /// As of [`read`](super::read); of [`write`](super::write), synced if asked.
    pub outcome: Result<DirectOutcome>,
    /// The memory moved in.
    pub buffer: DeviceBuf,
}

/// A backend, kept for the sake of its memory.
type Keep = Arc<dyn Send + Sync>;

#[derive(Default)]
struct State {
    result: Option<DirectResult>,
    waker: Option<Waker>,
    /// A thread waits and does `job` itself.
    waiting: bool,
    job: Option<Job>,
    /// Let go of by the owner of the ticket: its end may be more than a completion may do.
    keep: Option<Keep>,
    /// There is no ticket any more.
    abandoned: bool,
}

struct Cell {
    state: Mutex<State>,
    device: Arc<dyn BlockDevice>,
}

impl Cell {
    fn new(device: &Arc<dyn BlockDevice>) -> Arc<Self> {
        let state = Mutex::new(Rank::Wait, State::default());
        Arc::new(Self {
            state,
            device: Arc::clone(device),
        })
    }

    fn resolve(&self, result: DirectResult, keep: Option<Keep>) {
        let (waker, waiting, keep) = {
            let mut state = self.state.lock();
            state.result = Some(result);
            let keep = if state.abandoned {
                keep
            } else {
                std::mem::replace(&mut state.keep, keep)
            };
            (state.waker.take(), state.waiting, keep)
        };
        if keep.is_some() {
            tasks::run(Box::new(move || drop(keep)));
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        if waiting {
            self.device.wake();
        }
    }

    /// Has `job` done in task context. Completion context.
    fn hand_over(&self, job: Job) {
        let mut state = self.state.lock();
        if state.waiting {
            state.job = Some(job);
            return;
        }
        drop(state);
        if mutation::off(Rule::B53) {
            return drop(job);
        }
        tasks::run(job);
    }
}

/// Waits for one direct I/O: a future, or [`DirectTicket::wait`]. Dropping it does not end the I/O.
#[must_use = "the result of the I/O is lost"]
pub struct DirectTicket(Arc<Cell>);

impl DirectTicket {
    /// Waits, driving the device. Holds no locks, or the inode lock it was submitted with.
    #[must_use]
    pub fn wait(self) -> DirectResult {
        let cell = &*self.0;
        cell.state.lock().waiting = true;
        loop {
            let mut result = None;
            let mut job = None;
            cell.device.wait(&mut || {
                let mut state = cell.state.lock();
                result = state.result.take();
                job = state.job.take();
                result.is_some() || job.is_some()
            });
            if let Some(result) = result {
                return result;
            }
            if let Some(job) = job {
                job();
            }
        }
    }
}

impl Drop for DirectTicket {
    fn drop(&mut self) {
        let keep = {
            let mut state = self.0.state.lock();
            state.abandoned = true;
            state.waiting = false;
            state.keep.take()
        };
        drop(keep);
    }
}

impl Future for DirectTicket {
    type Output = DirectResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DirectResult> {
        let mut state = self.0.state.lock();
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for DirectTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectTicket")
    }
}

/// A request whose device requests have ended: resolves the ticket, also if the backend panics.
struct End<B: DirectOps + 'static> {
    /// `None` once the ticket keeps it.
    backend: Option<Arc<B>>,
    finish: Option<Finish>,
    flight: Arc<Flight>,
    cell: Arc<Cell>,
}

impl<B: DirectOps + 'static> End<B> {
    /// The rest of the request in the context of a completion: what is light ends here, the rest is
    /// handed over.
    fn run_in_completion(mut self) {
        let failure = self.flight.failure();
        let light =
            |backend: &Arc<B>, finish: &Finish| finish.is_light(&**backend, failure.is_some());
        match (&self.backend, self.finish.take()) {
            (Some(backend), Some(finish)) if light(backend, &finish) => {
                let outcome = finish.run_light(backend.inode(), failure);
                self.resolve(outcome);
            }
            (_, finish) => {
                self.finish = finish;
                let cell = Arc::clone(&self.cell);
                cell.hand_over(Box::new(move || self.run()));
            }
        }
    }

    /// The rest of the request, in task context, without locks.
    fn run(mut self) {
        let (Some(backend), Some(finish)) = (self.backend.clone(), self.finish.take()) else {
            return;
        };
        let outcome = finish
            .run(&*backend, self.flight.failure())
            .and_then(|Finished { outcome, sync }| Written { outcome, sync }.sync(&*backend));
        self.resolve(outcome);
    }

    /// The same, where the submitter still holds the inode lock: the sync is left to a thread
    /// without locks.
    fn run_locked(mut self) {
        let (Some(backend), Some(finish)) = (self.backend.clone(), self.finish.take()) else {
            return;
        };
        match finish.run(&*backend, self.flight.failure()) {
            Ok(Finished {
                outcome,
                sync: sync @ Some(_),
            }) => tasks::run(Box::new(move || {
                let outcome = Written { outcome, sync }.sync(&*backend);
                self.resolve(outcome);
            })),
            Ok(Finished {
                outcome,
                sync: None,
            }) => self.resolve(Ok(outcome)),
            Err(error) => self.resolve(Err(error)),
        }
    }

    /// Gives the ticket its result, with the backend to be let go of by its owner: here may be the
    /// context of a completion.
    fn resolve(&mut self, outcome: Result<DirectOutcome>) {
        let keep = self.backend.take().map(|backend| -> Keep { backend });
        if let Some(buffer) = self.flight.take_buffer() {
            self.cell.resolve(DirectResult { outcome, buffer }, keep);
        }
    }
}

impl<B: DirectOps + 'static> Drop for End<B> {
    fn drop(&mut self) {
        // Nothing is left of the buffer if the request was resolved.
        self.finish = None;
        self.resolve(Err(FsError::Os { errno: Errno::IO }));
    }
}

/// Starts a read at `pos` into `buffer`. As [`read`](super::read); the inode lock is needed during
/// the call only. Every answer comes through the ticket.
pub fn submit_read<B: DirectOps + 'static>(
    backend: Arc<B>,
    pos: FilePos,
    buffer: DeviceBuf,
    flags: DirectFlags,
) -> DirectTicket {
    let cell = Cell::new(backend.inode().device());
    let ticket = DirectTicket(Arc::clone(&cell));
    let started = start_read(&*backend, pos, &buffer, flags);
    let whole = |request: &Request<'_>| request.range.len() == buffer.len() as u64;
    match started {
        Ok((request, guard)) if whole(&request) && !flags.contains(DirectFlags::FORCE_WAIT) => {
            match super::simple_addr(&*backend, &request) {
                Ok(Some(addr)) => submit_simple(backend, addr, guard, buffer, cell),
                Ok(None) => submit_started(&backend, Ok((request, guard)), buffer, true, cell),
                Err(error) => {
                    let outcome = Err(lowered(guard, error));
                    cell.resolve(DirectResult { outcome, buffer }, None);
                }
            }
        }
        started => submit_started(&backend, started, buffer, true, cell),
    }
    ticket
}

/// Starts a write of `buffer` to `pos`. As [`write`](super::write), but syncs as well; the inode
/// lock is needed during the call only. With [`DirectFlags::FORCE_WAIT`], or if the write grows the
/// file, the write itself, not the sync, has ended when this returns.
pub fn submit_write<B: DirectOps + 'static>(
    backend: Arc<B>,
    pos: FilePos,
    buffer: DeviceBuf,
    flags: DirectFlags,
) -> DirectTicket {
    let cell = Cell::new(backend.inode().device());
    let ticket = DirectTicket(Arc::clone(&cell));
    let started = start_writing(&*backend, pos, &buffer, flags);
    submit_started(&backend, started, buffer, false, cell);
    ticket
}

/// A request that may be submitted, or its result.
type Started<'a> = Result<(Request<'a>, DirectGuard), Result<DirectOutcome>>;

fn start_read<'a, B: DirectOps>(
    backend: &'a B,
    pos: FilePos,
    buffer: &DeviceBuf,
    flags: DirectFlags,
) -> Started<'a> {
    let Some(request) = read_request(backend, pos, buffer.len(), flags) else {
        return Err(Ok(DirectOutcome::Done(0)));
    };
    if !request.is_aligned(buffer.as_ptr().addr()) {
        return Err(Ok(fall_back(backend, &request)));
    }
    let guard = super::start_read(backend, &request).map_err(Err)?;
    Ok((request, guard))
}

fn start_writing<'a, B: DirectOps>(
    backend: &'a B,
    pos: FilePos,
    buffer: &DeviceBuf,
    flags: DirectFlags,
) -> Started<'a> {
    let request = write_request(backend, pos, buffer.len(), flags).map_err(Err)?;
    let Some(request) = request else {
        return Err(Ok(DirectOutcome::Done(0)));
    };
    let aligned = request.is_aligned(buffer.as_ptr().addr());
    match start_write(backend, &request, aligned).map_err(Err)? {
        Start::Go(guard) => Ok((request, guard)),
        Start::UseBuffered(outcome) => Err(Ok(outcome)),
    }
}

/// Reads all of `buffer` from `addr` by one request, whose completion is the end of the I/O: in the
/// order of [`Finish`], of which a read has the count and the result only.
fn submit_simple<B: DirectOps + 'static>(
    backend: Arc<B>,
    addr: DevAddr,
    guard: DirectGuard,
    buffer: DeviceBuf,
    cell: Arc<Cell>,
) {
    let device = Arc::clone(&cell.device);
    let bio = Bio::owned(BioOp::Read, addr, buffer, move |result, buffer| {
        let done = buffer.len() as u64;
        let outcome = match result {
            Ok(()) => {
                let counters = backend.inode().counters();
                counters.add(Event::direct_read_bytes, done);
                drop(guard);
                Ok(DirectOutcome::Done(done))
            }
            Err(error) => Err(lowered(guard, error.into())),
        };
        tracing::trace!(
            target: "iomap::direct", ino = backend.inode().ino(), ?addr, done,
            error = ?outcome.as_ref().err(), "complete",
        );
        let keep: Keep = backend;
        cell.resolve(DirectResult { outcome, buffer }, Some(keep));
    });
    device.submit(bio);
}

/// Submits what could be started, and leaves the end to whoever ends last.
fn submit_started<B: DirectOps + 'static>(
    backend: &Arc<B>,
    started: Started<'_>,
    buffer: DeviceBuf,
    writable: bool,
    cell: Arc<Cell>,
) {
    let (request, guard) = match started {
        Ok(started) => started,
        Err(outcome) => return cell.resolve(DirectResult { outcome, buffer }, None),
    };
    let device = Arc::clone(&cell.device);
    let (flight, cursor) = Flight::owned(buffer, writable);
    let submission = submit(&**backend, &request, cursor, Waits::No);
    // A size moves only while the submitter holds the inode lock.
    let wait = request.flags.contains(DirectFlags::FORCE_WAIT) || request.grows();
    let finish = Finish::new(&request, guard, submission);
    if wait {
        device.wait(&mut || flight.is_landed());
    }
    let backend = Arc::clone(backend);
    let end = End {
        backend: Some(backend),
        finish: Some(finish),
        flight: Arc::clone(&flight),
        cell,
    };
    let last = flight.submitted(Box::new(move |in_completion| match in_completion {
        true => end.run_in_completion(),
        false => end.run_locked(),
    }));
    if let Some(last) = last {
        last(false);
    }
}
