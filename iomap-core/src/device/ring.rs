//! One io_uring per device, driven by whoever waits for it.
//!
//! Owns [`Ring`]: the submission queue, the requests in the kernel, and the role of the *driver*.
//! What a request asks and what the answers mean is `request`.
//!
//! # The driver
//!
//! There is no reaper thread. Of the threads inside [`Ring::wait`] one drives: it enters the kernel
//! to submit what is pending and to wait, reaps everything, and runs the completions with no lock
//! held. The others sleep and ask again after every batch; when the driver leaves, one of them
//! takes over. Only the driver reaps, [`Ring::poll`] included: were another thread to take the
//! answer a driver in the kernel waits for, the driver would wait for one that never comes.
//!
//! # When entries reach the kernel
//!
//! At once, unless their thread has the device plugged. Then when [`BATCH`] have gathered, when the
//! plug goes, and when anybody submits without a plug, waits or polls. Between push and system call the entry is counted in
//! [`Queue::pending`]; whoever takes the count makes the call, until the kernel has consumed that
//! many.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue};
use slab::Slab;
use smallvec::SmallVec;

use super::bio::Bio;
use super::handle::Handle;
use super::request::{Next, Request};
use crate::error::Errno;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Condvar, Mutex, MutexGuard, Rank};

/// Entries of the submission queue, and requests in the kernel at one time.
const DEPTH: u32 = 256;
/// Entries a plugged device keeps back.
const BATCH: u32 = 32;
/// Answers reaped before their completions run.
const REAP: usize = 32;
/// The user data of the entry that only wakes the driver.
const WAKE: u64 = u64::MAX;
/// `IORING_ENTER_GETEVENTS`
const GETEVENTS: u32 = 1;

/// Answers and whose they are; nobody's is the one that wakes the driver. Filled in place: it is too
/// large to be moved about.
type Answers = SmallVec<[(Option<Box<Request>>, i32); REAP]>;

/// A ring and the requests in it.
pub(super) struct Ring {
    handle: Arc<Handle>,
    ring: IoUring,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Submitted and not completed. Raised with `Release` before the entry is pushed, lowered with
    /// `Release` after the completion has run; its reader loads with `Acquire`.
    in_flight: AtomicUsize,
}

struct Queue {
    /// Boxed: an entry in the ring points into its request.
    requests: Slab<Box<Request>>,
    /// Entries pushed that nobody has undertaken to bring into the kernel.
    pending: u32,
    /// The threads with a plug, once for each.
    plugged: SmallVec<[ThreadId; 4]>,
    /// Whether some thread is the driver.
    driven: bool,
    /// Whether somebody wanted to reap meanwhile, and relies on the driver.
    asked: bool,
    /// Threads asleep because another one drives.
    followers: u32,
    /// Raised after every batch of completions, and by [`Ring::wake`].
    epoch: u64,
    /// Whether the entry that wakes the driver is in the ring.
    waking: bool,
}

impl Ring {
    /// A ring for `handle`, tried out with an empty request.
    ///
    /// # Errors
    ///
    /// What the kernel says if it has no io_uring, an old one, or does not let us use it.
    pub(super) fn new(handle: Arc<Handle>) -> Result<Self, Errno> {
        let ring = IoUring::builder()
            .setup_submit_all()
            .setup_cqsize(2 * DEPTH)
            .dontfork()
            .build(DEPTH)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_submit_stable() {
            return Err(Errno::NOSYS);
        }
        let queue = Queue {
            requests: Slab::with_capacity(DEPTH as usize),
            pending: 0,
            plugged: SmallVec::new(),
            driven: false,
            asked: false,
            followers: 0,
            epoch: 0,
            waking: false,
        };
        let ring = Self {
            handle,
            ring,
            queue: Mutex::new(Rank::DeviceQueue, queue),
            changed: Condvar::new(),
            in_flight: AtomicUsize::new(0),
        };
        ring.try_out()?;
        Ok(ring)
    }

    fn try_out(&self) -> Result<(), Errno> {
        let mut queue = self.queue.lock();
        queue.waking = self.push(&mut queue, &opcode::Nop::new().build().user_data(WAKE));
        let count = queue.take_pending();
        drop(queue);
        self.enter_once(count, 1)?;
        self.reap();
        match self.queue.lock().waking {
            false => Ok(()),
            true => Err(Errno::NOSYS),
        }
    }

    /// Starts a request that was admitted and that [`Request::is_inline`] does not claim. Waits for
    /// room when the ring is full, running completions.
    pub(super) fn submit(&self, bio: Bio) {
        self.in_flight.fetch_add(1, Ordering::Release);
        let request = Box::new(Request::new(&self.handle, bio));
        let has_room = || self.queue.lock().requests.len() < DEPTH as usize;
        if !has_room() {
            self.wait(&mut || has_room());
        }
        self.start(request);
    }

    /// Puts the next entry of `request` into the ring.
    fn start(&self, request: Box<Request>) {
        let mut queue = self.queue.lock();
        let key = queue.requests.insert(request);
        let entry = queue.requests[key].entry(&self.handle);
        let entry = entry.user_data(key as u64);
        while !self.push(&mut queue, &entry) {
            let count = queue.take_pending();
            drop(queue);
            // With nothing pending the entries are another thread's, on its way into the kernel.
            self.enter(count);
            thread::yield_now();
            queue = self.queue.lock();
        }
        if !queue.is_plugged() || queue.pending >= BATCH {
            let count = queue.take_pending();
            drop(queue);
            self.enter(count);
        }
    }

    /// Puts `entry` into the submission queue. Returns whether there was room.
    fn push(&self, queue: &mut MutexGuard<'_, Queue>, entry: &squeue::Entry) -> bool {
        // SAFETY: only this function touches the submission queue, and it holds the queue lock.
        let mut submission = unsafe { self.ring.submission_shared() };
        // SAFETY: the entry points at memory of a boxed request, which stays in `requests` until
        // the entry is answered, and at segments, whose maker vouches for them until the request
        // has completed. The descriptor lives in the handle, which outlives the ring's requests:
        // `Drop` waits for them.
        let pushed = unsafe { submission.push(entry) }.is_ok();
        queue.pending += u32::from(pushed);
        pushed
    }

    /// Brings `count` entries into the kernel.
    fn enter(&self, mut count: u32) {
        while count > 0 {
            match self.enter_once(count, 0) {
                Ok(taken) => count -= taken.min(count),
                Err(errno) => self.refused(errno),
            }
        }
    }

    /// Brings `count` entries into the kernel and waits for an answer. May return without one.
    fn enter_and_wait(&self, count: u32) {
        match self.enter_once(count, 1) {
            Ok(taken) => self.enter(count - taken.min(count)),
            Err(Errno::INTR) => self.enter(count),
            Err(errno) => {
                self.refused(errno);
                self.enter(count);
            }
        }
    }

    /// The kernel did not take entries. It has no memory, or wants answers reaped first: the
    /// driver does that; let it.
    fn refused(&self, errno: Errno) {
        if !matches!(errno, Errno::INTR | Errno::AGAIN | Errno::BUSY) {
            tracing::error!(path = %self.handle.path.display(), %errno, "io_uring_enter failed");
        }
        if errno != Errno::INTR && !self.drive_once() {
            thread::yield_now();
        }
    }

    fn enter_once(&self, count: u32, want: u32) -> Result<u32, Errno> {
        // SAFETY: no signal mask is passed; the entries are valid until answered, see `push`.
        let taken = unsafe {
            let flags = if want > 0 { GETEVENTS } else { 0 };
            let submitter = self.ring.submitter();
            submitter.enter::<libc::sigset_t>(count, want, flags, None)
        };
        match taken {
            Ok(taken) => Ok(u32::try_from(taken).unwrap_or(count)),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    /// Runs what has finished, without waiting; if another thread drives, makes it do that before
    /// it leaves. Returns whether anything was reaped.
    fn drive_once(&self) -> bool {
        match Driver::try_new(self, true) {
            Some(_driver) => self.reap() > 0,
            None => false,
        }
    }

    /// See [`BlockDevice::poll`](super::BlockDevice::poll).
    pub(super) fn poll(&self) {
        let count = self.queue.lock().take_pending();
        self.enter(count);
        if self.in_flight.load(Ordering::Acquire) > 0 {
            self.drive_once();
        }
    }

    /// See [`BlockDevice::wait`](super::BlockDevice::wait).
    pub(super) fn wait(&self, done: &mut dyn FnMut() -> bool) {
        loop {
            let seen = self.queue.lock().epoch;
            if done() {
                return;
            }
            match Driver::try_new(self, false) {
                Some(_driver) => return self.drive(seen, done),
                None => self.follow(seen),
            }
        }
    }

    /// Drives until `done` holds. `seen` is the epoch at which it did not.
    fn drive(&self, seen: u64, done: &mut dyn FnMut() -> bool) {
        if self.queue.lock().epoch != seen && done() {
            return;
        }
        loop {
            if self.reap_batch() == 0 {
                let count = self.queue.lock().take_pending();
                self.enter_and_wait(count);
                self.reap_batch();
            }
            if done() {
                return;
            }
        }
    }

    /// Sleeps while another thread drives and the epoch is `seen`.
    fn follow(&self, seen: u64) {
        let mut queue = self.queue.lock();
        let count = queue.take_pending();
        if count > 0 {
            drop(queue);
            return self.enter(count);
        }
        queue.followers += 1;
        while queue.driven && queue.epoch == seen {
            self.changed.wait(&mut queue);
        }
        queue.followers -= 1;
    }

    /// Takes all answers and acts on them. Only for the driver. Returns how many there were.
    fn reap(&self) -> usize {
        let mut total = 0;
        loop {
            let count = self.reap_batch();
            total += count;
            // Fewer than fit: what comes after this look makes the descriptor readable again.
            if count < REAP {
                return total;
            }
        }
    }

    /// Takes up to [`REAP`] answers and acts on them. Only for the driver. Returns how many there
    /// were.
    fn reap_batch(&self) -> usize {
        let mut answers = Answers::new();
        self.take_answers(&mut answers);
        let count = answers.len();
        if count == 0 {
            return 0;
        }
        for (request, answer) in answers.drain(..) {
            if let Some(request) = request {
                self.act(request, answer);
            }
        }
        let mut queue = self.queue.lock();
        queue.epoch += 1;
        if queue.followers > 0 {
            self.changed.notify_all();
        }
        count
    }

    fn take_answers(&self, answers: &mut Answers) {
        let mut queue = self.queue.lock();
        // SAFETY: only this function touches the completion queue, and it holds the queue lock.
        let completion = unsafe { self.ring.completion_shared() };
        for entry in completion.take(REAP) {
            let key = entry.user_data();
            if key == WAKE {
                queue.waking = false;
                answers.push((None, 0));
            } else if let Some(request) = queue.requests.try_remove(key as usize) {
                answers.push((Some(request), entry.result()));
            }
        }
    }

    fn act(&self, mut request: Box<Request>, answer: i32) {
        match request.answered(&self.handle, answer) {
            Next::Again => self.start(request),
            Next::Done(result) => {
                request.finish(result);
                self.in_flight.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// See [`BlockDevice::wake`](super::BlockDevice::wake).
    pub(super) fn wake(&self) {
        let mut queue = self.queue.lock();
        queue.epoch += 1;
        if queue.followers > 0 {
            self.changed.notify_all();
        }
        while queue.driven && !queue.waking {
            queue.waking = self.push(&mut queue, &opcode::Nop::new().build().user_data(WAKE));
            let count = queue.take_pending();
            drop(queue);
            self.enter(count);
            queue = self.queue.lock();
        }
    }

    /// See [`BlockDevice::in_flight`](super::BlockDevice::in_flight).
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// See [`BlockDevice::plug`](super::BlockDevice::plug).
    pub(super) fn plug(&self) {
        self.queue.lock().plugged.push(thread::current().id());
    }

    /// See [`BlockDevice::unplug`](super::BlockDevice::unplug).
    pub(super) fn unplug(&self) {
        let mut queue = self.queue.lock();
        let id = thread::current().id();
        if let Some(at) = queue.plugged.iter().position(|one| *one == id) {
            queue.plugged.swap_remove(at);
        }
        if !queue.is_plugged() {
            let count = queue.take_pending();
            drop(queue);
            self.enter(count);
        }
    }

    /// Waits for every request in the ring.
    pub(super) fn drain(&self) {
        self.wait(&mut || self.queue.lock().requests.is_empty());
    }

    /// Readable while there are answers to reap.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the ring's, open as long as `self`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Queue {
    /// Undertakes to bring the pending entries into the kernel.
    fn take_pending(&mut self) -> u32 {
        std::mem::take(&mut self.pending)
    }

    /// Whether this thread has the device plugged.
    fn is_plugged(&self) -> bool {
        !self.plugged.is_empty() && self.plugged.contains(&thread::current().id())
    }
}

/// The role of the driver, held by one thread at a time.
struct Driver<'a>(&'a Ring);

impl<'a> Driver<'a> {
    /// Takes the role if nobody has it. If somebody has and `ask` holds, it reaps before it leaves.
    fn try_new(ring: &'a Ring, ask: bool) -> Option<Self> {
        let mut queue = ring.queue.lock();
        if queue.driven {
            queue.asked |= ask;
            return None;
        }
        queue.driven = true;
        Some(Self(ring))
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        // An answer may have come after the last look, and its poller have been turned away: then
        // nobody else looks again.
        while queue.asked && !std::thread::panicking() {
            queue.asked = false;
            drop(queue);
            self.0.reap();
            queue = self.0.queue.lock();
        }
        queue.driven = false;
        if queue.followers > 0 {
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel must not move bytes of memory that is given up after this.
        self.drain();
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}
