//! Who answers the faults of real mappings: a few threads of the process, and the list of what is
//! mapped where.
//!
//! Owns the one descriptor of the process, made when the first file is mapped, its threads, and
//! [`is_ours`]. The threads belong to no runtime and are pinned nowhere: a program that waits for a
//! fault needs nothing else of its own to run. They end with the process.
//!
//! A fault wakes one of them (`relay`).
//!
//! What a fault does is the [`FaultHandler`]'s; the outcome is written into the page table by
//! [`UffdMmu`](super::UffdMmu), or refused by it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::relay::Relay;
use super::uffd::{Fault, Span, Uffd};
use crate::error::{Errno, FaultError, FsError, Result};
use crate::mmap::{Access, FaultHandler, MappingId};
use crate::sync::{Rank, RwLock};
use crate::units::{PAGE_SIZE, PageIndex};

/// Threads that answer: a fault that waits for a device must not hold up one that need not.
const THREADS: usize = 4;

/// The faults of the process.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) uffd: Uffd,
    relay: Relay,
    /// What is mapped, by its first address.
    live: RwLock<BTreeMap<usize, Live>>,
}

/// Addresses that show a file, without a gap.
#[derive(Clone)]
struct Live {
    end: usize,
    first: PageIndex,
    mapping: MappingId,
    handler: Arc<dyn FaultHandler>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Live(page {} .. {:#x})", self.first, self.end)
    }
}

static ENGINE: OnceLock<Result<Engine, Errno>> = OnceLock::new();

/// The engine, started by the first call.
///
/// # Errors
///
/// [`FsError::Unsupported`] with what to allow, if the process may not have its faults reported or
/// the kernel is too old.
pub(super) fn engine() -> Result<&'static Engine> {
    let mut fresh = false;
    let engine = ENGINE.get_or_init(|| {
        fresh = true;
        Ok(Engine {
            uffd: Uffd::new()?,
            relay: Relay::new(),
            live: RwLock::new(Rank::PageTable, 0, BTreeMap::new()),
        })
    });
    match engine {
        Ok(engine) if fresh => engine.start(),
        Ok(engine) => Ok(engine),
        Err(Errno::PERM | Errno::ACCESS) => Err(FsError::Unsupported(
            "memory mappings: userfaultfd is not permitted (sysctl vm.unprivileged_userfaultfd, \
             or read permission for /dev/userfaultfd)",
        )),
        Err(_) => Err(FsError::Unsupported(
            "memory mappings: needs Linux 6.6 or newer with userfaultfd for shared memory",
        )),
    }
}

/// Whether some of the bytes lie in a mapping of a file of this process: then they must not be
/// touched with a lock or a folio held.
#[must_use]
pub fn is_ours(bytes: &[u8]) -> bool {
    let Some(Ok(engine)) = ENGINE.get() else {
        return false;
    };
    let span = bytes.as_ptr_range();
    let (start, end) = (span.start.addr(), span.end.addr());
    let live = engine.live.read();
    let before = live.range(..end).next_back();
    before.is_some_and(|(_, live)| live.end > start)
}

impl Engine {
    fn start(&'static self) -> Result<&'static Self> {
        for _ in 0..THREADS {
            let thread = crate::sync::thread::Builder::new().name("iomap-fault".into());
            thread
                .spawn(|| {
                    self.relay
                        .serve(|| self.next(), |fault| self.resolve(fault))
                })
                .map_err(|_| FsError::NoMemory)?;
        }
        Ok(self)
    }

    /// Adds addresses.
    pub(super) fn add(
        &self,
        span: &Span,
        first: PageIndex,
        mapping: MappingId,
        handler: Arc<dyn FaultHandler>,
    ) {
        let live = Live {
            end: span.end,
            first,
            mapping,
            handler,
        };
        self.live.write().insert(span.start, live);
    }

    /// The addresses of a mapping that are left.
    pub(super) fn spans(&self, mapping: MappingId) -> Vec<Span> {
        let live = self.live.read();
        let ours = live.iter().filter(|(_, live)| live.mapping == mapping);
        ours.map(|(start, live)| *start..live.end).collect()
    }

    /// Forgets the part of `span` that belongs to the mapping, and calls `gone` with every piece
    /// before anybody else can have its addresses.
    pub(super) fn remove(&self, mapping: MappingId, span: &Span, mut gone: impl FnMut(&Span)) {
        let mut live = self.live.write();
        let met: Vec<usize> = live
            .range(..span.end)
            .filter(|(_, live)| live.mapping == mapping && live.end > span.start)
            .map(|(start, _)| *start)
            .collect();
        let mut dropped = Vec::new();
        for start in met {
            let Some(old) = live.remove(&start) else {
                continue;
            };
            let cut = start.max(span.start)..old.end.min(span.end);
            gone(&cut);
            if start < cut.start {
                let end = cut.start;
                live.insert(start, Live { end, ..old.clone() });
            }
            if cut.end < old.end {
                let skipped = (cut.end - start) / PAGE_SIZE;
                let first = old.first.plus(skipped as u64);
                live.insert(
                    cut.end,
                    Live {
                        first,
                        ..old.clone()
                    },
                );
            }
            dropped.push(old);
        }
        drop(live);
        // The file may go with its last mapping: not under the lock.
        drop(dropped);
    }

    fn find(&self, address: usize) -> Option<(Live, PageIndex)> {
        let live = self.live.read();
        let (start, found) = live.range(..=address).next_back()?;
        let inside = address < found.end;
        let page = found.first.plus(((address - start) / PAGE_SIZE) as u64);
        inside.then(|| (found.clone(), page))
    }

    /// The next fault.
    fn next(&self) -> Option<Fault> {
        loop {
            match self.uffd.next() {
                Ok(Some(fault)) => return Some(fault),
                Ok(None) | Err(Errno::INTR | Errno::AGAIN) => {}
                // The descriptor is never closed: there is nothing to wait for.
                Err(_) => return None,
            }
        }
    }

    fn resolve(&self, fault: Fault) {
        let start = fault.address / PAGE_SIZE * PAGE_SIZE;
        let access = if fault.store {
            Access::Store
        } else {
            Access::Load
        };
        let span = start..start + PAGE_SIZE;
        ANSWERING.set(Some(Answering {
            address: start,
            protected: fault.protected,
        }));
        if let Some((live, page)) = self.find(start) {
            live.resolve(page, access);
        }
        if ANSWERING.take().is_some() {
            // Unmapped meanwhile, or shown before by somebody else: it tries again and sees.
            self.uffd.wake(&span);
        }
    }
}

/// The fault that a thread answers, until whoever waits for it has been woken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answering {
    /// The page.
    address: usize,
    /// It was mapped, and write-protected.
    protected: bool,
}

thread_local! {
    static ANSWERING: Cell<Option<Answering>> = const { Cell::new(None) };
}

impl Answering {
    /// Whether the fault this thread answers is of a page in `span` that was there, and lacked the
    /// permission only.
    pub(super) fn is_protected(span: &Span) -> bool {
        let answering = ANSWERING.get();
        answering.is_some_and(|fault| fault.protected && span.contains(&fault.address))
    }

    /// Whoever waits in `span` has been woken.
    pub(super) fn woken(span: &Span) {
        let answering = ANSWERING.get();
        if answering.is_some_and(|fault| span.contains(&fault.address)) {
            ANSWERING.set(None);
        }
    }
}

impl Live {
    fn resolve(&self, page: PageIndex, access: Access) {
        let mappings = self.handler.cache().mappings();
        let Some(range) = mappings.find(self.mapping, page) else {
            return;
        };
        // A panic must not leave the program waiting for ever; it gets the signal of a failure.
        let fault = || self.handler.fault(&range, page, access);
        let outcome = catch_unwind(AssertUnwindSafe(fault));
        match &outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::debug!(target: "iomap::fault", %page, ?access, %error, "refused");
            }
            Err(_) => tracing::error!(target: "iomap::fault", %page, ?access, "panicked"),
        }
        let past_the_end = matches!(outcome, Ok(Err(FaultError::BeyondEnd { .. })));
        // A refusal wakes the program at once: it must not be told of an end that has moved.
        let still = || !past_the_end || !self.handler.reaches(page);
        mappings.refuse(&range, page, still);
    }
}
