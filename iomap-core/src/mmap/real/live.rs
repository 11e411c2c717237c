//! What is mapped where: the addresses of the process that show files.
//!
//! Owns the list of them, from an address to the page of the file and to who resolves its faults,
//! and [`is_ours`]. Who reports a fault is [`engine`](mod@super::engine) or [`segv`](super::segv).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::Span;
use crate::error::FaultError;
use crate::mmap::{Access, FaultHandler, MappingId, Prot};
use crate::sync::{Rank, RwLock};
use crate::units::{PAGE_SIZE, PageIndex};

/// Addresses that show a file, without a gap.
#[derive(Clone)]
pub(super) struct Live {
    end: usize,
    first: PageIndex,
    mapping: MappingId,
    handler: Arc<dyn FaultHandler>,
}

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The access is tried again; it may find a page that raises the signal.
    TryAgain,
    /// Nothing is mapped there any more, or it does not permit the access.
    NotPermitted,
}

/// By first address. Made with the first mapping.
static LIVE: OnceLock<RwLock<BTreeMap<usize, Live>>> = OnceLock::new();

fn all() -> &'static RwLock<BTreeMap<usize, Live>> {
    LIVE.get_or_init(|| RwLock::new(Rank::PageTable, 0, BTreeMap::new()))
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Live(page {} .. {:#x})", self.first, self.end)
    }
}

/// Whether some of the bytes lie in a mapping of a file of this process: then they must not be
/// touched with a lock or a folio held.
#[must_use]
pub fn is_ours(bytes: &[u8]) -> bool {
    let Some(live) = LIVE.get() else {
        return false;
    };
    let span = bytes.as_ptr_range();
    let (start, end) = (span.start.addr(), span.end.addr());
    let live = live.read();
    let before = live.range(..end).next_back();
    before.is_some_and(|(_, live)| live.end > start)
}

/// Adds addresses.
pub(super) fn add(
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
    all().write().insert(span.start, live);
}

/// The addresses of a mapping that are left.
pub(super) fn spans(mapping: MappingId) -> Vec<Span> {
    let live = all().read();
    let ours = live.iter().filter(|(_, live)| live.mapping == mapping);
    ours.map(|(start, live)| *start..live.end).collect()
}

/// Forgets the part of `span` that belongs to the mapping, and calls `gone` with every piece before
/// anybody else can have its addresses.
pub(super) fn remove(mapping: MappingId, span: &Span, mut gone: impl FnMut(&Span)) {
    let mut live = all().write();
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

/// What is mapped at an address, and the page of the file it is.
fn find(address: usize) -> Option<(Live, PageIndex)> {
    let live = LIVE.get()?.read();
    let (start, found) = live.range(..=address).next_back()?;
    let inside = address < found.end;
    let page = found.first.plus(((address - start) / PAGE_SIZE) as u64);
    inside.then(|| (found.clone(), page))
}

/// Resolves the fault of an access to `address`: its page is shown, or raises the signal.
pub(super) fn resolve(address: usize, access: Access) -> Resolved {
    match find(address) {
        Some((live, page)) => live.resolve(page, access),
        None => Resolved::NotPermitted,
    }
}

impl Live {
    fn resolve(&self, page: PageIndex, access: Access) -> Resolved {
        let mappings = self.handler.cache().mappings();
        let Some(range) = mappings.find(self.mapping, page) else {
            return Resolved::NotPermitted;
        };
        // What can be stored to can be loaded from, as the processor has it.
        let permits = range.prot().contains(access.needs())
            || (access == Access::Load && range.prot().contains(Prot::WRITE));
        if !permits {
            return Resolved::NotPermitted;
        }
        // A panic must not leave the program waiting for ever; it gets the signal of a failure.
        let fault = || self.handler.fault(&range, page, access);
        let outcome = catch_unwind(AssertUnwindSafe(fault));
        match &outcome {
            Ok(Ok(())) => return Resolved::TryAgain,
            Ok(Err(error)) => {
                tracing::debug!(target: "iomap::fault", %page, ?access, %error, "refused");
            }
            Err(_) => tracing::error!(target: "iomap::fault", %page, ?access, "panicked"),
        }
        let past_the_end = matches!(outcome, Ok(Err(FaultError::BeyondEnd { .. })));
        // A refusal wakes the program at once: it must not be told of an end that has moved.
        let still = || !past_the_end || !self.handler.reaches(page);
        mappings.refuse(&range, page, still);
        Resolved::TryAgain
    }
}
