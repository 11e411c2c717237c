//! Who answers the faults of real mappings of folios: a few threads of the process.
//!
//! Owns the one descriptor of the process, made when the first file is mapped, and its threads. They
//! belong to no runtime and are pinned nowhere: a program that waits for a fault needs nothing else
//! of its own to run. They end with the process. What is mapped where is [`live`]'s.
//!
//! A fault wakes one of them (`relay`).
//!
//! What a fault does is the [`FaultHandler`](crate::mmap::FaultHandler)'s; the outcome is written
//! into the page table by [`UffdMmu`](super::UffdMmu), or refused by it.

use std::cell::Cell;
use std::sync::OnceLock;

use super::relay::Relay;
use super::uffd::{Fault, Uffd};
use super::{Span, live};
use crate::error::{Errno, FsError, Result};
use crate::mmap::Access;
use crate::units::PAGE_SIZE;

/// Threads that answer: a fault that waits for a device must not hold up one that need not.
const THREADS: usize = 4;

/// The faults of the process.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) uffd: Uffd,
    relay: Relay,
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
        // The kernel has checked the permission.
        let _shown_or_refused = live::resolve(start, access);
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
