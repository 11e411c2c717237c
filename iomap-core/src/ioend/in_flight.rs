//! A run whose requests are at the device.
//!
//! Owns the count of its bios, its first error, and the step from the last completion to the end
//! of the writeback or to the queue. Runs like an interrupt handler: takes locks from the queue's
//! rank inwards only, never waits, never submits.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::error::{DeviceError, Errno};
use crate::flusher::{DirtyOwner, IoendWorker};
use crate::inode::{Ioend, IoendQueue};
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use crate::sync::{Mutex, Rank};

/// Where runs go that need task context.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) queue: Arc<IoendQueue>,
    /// The worker, and whom it has to call. `None`: the submitter waits and does the work itself.
    pub(crate) worker: Option<(IoendWorker, Weak<dyn DirtyOwner>)>,
}

impl Route {
    /// Queues a run. If the inode is gone there is nothing to convert and nobody to tell: the
    /// writeback just ends.
    fn push(&self, ioend: Ioend) {
        let Some((worker, owner)) = &self.worker else {
            let _told = self.queue.push(ioend);
            return;
        };
        match owner.upgrade() {
            Some(owner) => {
                if self.queue.push(ioend) {
                    worker.submit(owner);
                }
            }
            None => ioend.end_folios(),
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("worker", &self.worker.is_some())
            .finish_non_exhaustive()
    }
}

/// The shared state of one run's bios.
#[derive(Debug)]
pub(crate) struct InFlightIoend {
    /// Bios that have not completed, and one for the builder until the run is complete. The last
    /// one down (`AcqRel`) sees the record and every error.
    remaining: AtomicU32,
    /// The errno of the first bio that failed, 0 for none. First error wins: compare-and-exchange.
    error: AtomicI32,
    ioend: Mutex<Option<Ioend>>,
    /// The ioend is where it is finished: queued, or its folios have ended. Set last, `Release`;
    /// partner: the `Acquire` load of `is_done`. Who took the last piece for the end would look into
    /// a queue that has nothing yet, and wait for a conversion that nobody else makes.
    over: AtomicBool,
    route: Route,
}

impl InFlightIoend {
    /// A run of no bios yet, held by its builder.
    pub(crate) fn new(route: Route) -> Arc<Self> {
        Arc::new(Self {
            remaining: AtomicU32::new(1),
            error: AtomicI32::new(0),
            ioend: Mutex::new(Rank::IoendQueue, None),
            over: AtomicBool::new(false),
            route,
        })
    }

    /// Another bio is about to be submitted.
    pub(crate) fn add_bio(&self) {
        self.remaining.fetch_add(1, Ordering::Relaxed);
    }

    /// A bio has completed.
    pub(crate) fn bio_done(&self, result: Result<(), DeviceError>) {
        if let Err(error) = result {
            let errno = error.errno.raw_os_error();
            let _first =
                self.error
                    .compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.put();
    }

    /// The run is complete: nothing will be added. Drops the builder's hold.
    pub(crate) fn close(&self, ioend: Ioend) {
        *self.ioend.lock() = Some(ioend);
        self.put();
    }

    /// Whether every bio has completed, and the run is where it is finished.
    pub(crate) fn is_done(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn put(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end();
            self.over.store(true, Ordering::Release);
        }
    }

    fn end(&self) {
        let Some(mut ioend) = self.ioend.lock().take() else {
            return;
        };
        let errno = self.error.load(Ordering::Relaxed);
        ioend.error = (errno != 0).then(|| Errno::from_raw_os_error(errno));
        if ioend.needs_work || ioend.error.is_some() {
            self.route.push(ioend);
        } else {
            ioend.end_folios();
        }
    }
}
