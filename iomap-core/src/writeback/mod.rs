//! Writeback: dirty bytes of the page cache on their way to storage.
//!
//! Owns the walk over dirty folios ([`write_pages`]), what happens to one of them (`folio`), the
//! wait for the end ([`wait`]) and the tie between a backend and the cache, pool and flusher that
//! call it ([`attach`]). How runs become device requests, and what happens when those end, is
//! [`ioend`](crate::ioend); fsync and its family are [`fsync`](crate::fsync).
//!
//! # Locks
//!
//! Called with no folio lock and no transaction. Takes one folio lock at a time, in ascending order.
//! What was collected is submitted before anything that may wait: for a folio lock, for the end of
//! an earlier writeback, for a transaction. So nobody waits for a run that has not been submitted
//! by a thread that waits for them.
//!
//! Kernel counterpart: `iomap_writepages`, `iomap_writeback_folio`.

mod folio;
mod owner;
pub(crate) mod wait;

use std::sync::Arc;

pub use owner::{Owner, attach};

use crate::error::{FsError, Result};
use crate::inode::Inode;
use crate::ioend::build::Builder;
use crate::ioend::finish;
use crate::ioend::in_flight::Route;
use crate::iomap::Iomap;
use crate::ops::WritebackOps;
use crate::page_cache::Mark;
use crate::sync::{Rank, rank};
use crate::units::{FileRange, PageIndex};

/// Folios looked at between two looks at the index.
const BATCH: usize = 32;

/// Whether a writeback has to be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// For memory: skips what is busy, stops after the pages asked for.
    None,
    /// For integrity: everything that was dirty at the start is submitted. Ends however fast
    /// others dirty more.
    All,
}

/// What to write, and how.
#[derive(Clone, Copy, Debug)]
pub struct WritebackControl {
    /// The bytes; a folio that touches the range is written as a whole.
    pub range: FileRange,
    /// Whether everything has to be written.
    pub sync: SyncMode,
    /// Pages after which to stop; only without [`SyncMode::All`].
    pub nr_to_write: u64,
    /// Begin where the last such writeback of the inode stopped, and go on at the start of the range:
    /// a page that is dirtied again and again does not keep the others from being written. Only
    /// without [`SyncMode::All`].
    pub cyclic: bool,
    /// Write only what has storage already, open no transaction, pass none of the folio points,
    /// do no conversions in this thread: for a journal that writes ordered data in its commit. What
    /// has no storage stays dirty.
    pub mapped_only: bool,
}

impl WritebackControl {
    /// Everything dirty in `range`, for integrity.
    #[must_use]
    pub const fn sync(range: FileRange) -> Self {
        Self {
            range,
            sync: SyncMode::All,
            nr_to_write: u64::MAX,
            cyclic: false,
            mapped_only: false,
        }
    }

    /// About `nr_to_write` dirty pages of `range`, whatever is easy, in turns.
    #[must_use]
    pub const fn background(range: FileRange, nr_to_write: u64) -> Self {
        Self {
            range,
            sync: SyncMode::None,
            nr_to_write,
            cyclic: true,
            mapped_only: false,
        }
    }

    /// From the start of the range on, and not where the last round stopped.
    #[must_use]
    pub(crate) const fn in_order(mut self) -> Self {
        self.cyclic = false;
        self
    }

    /// Only what has storage already. See [`WritebackControl::mapped_only`].
    #[must_use]
    pub const fn mapped_only(mut self) -> Self {
        self.mapped_only = true;
        self
    }
}

/// One call of [`write_pages`]: what it collects on its way.
struct Pass<'a, B: WritebackOps + ?Sized> {
    backend: &'a B,
    inode: &'a Inode,
    control: WritebackControl,
    builder: Builder<'a>,
    /// Whether this thread finishes queued runs while it waits.
    may_finish: bool,
    /// Pages of the folios written.
    written: u64,
    /// The first error after which the data is still dirty. The others are recorded.
    error: Option<FsError>,
    /// Used with rule O4 off: whether direct I/O was in flight before the folio was locked.
    count_before_lock: bool,
    /// Used with rule V3 off: the mapping of an earlier range.
    last_mapping: Option<Iomap>,
}

/// Starts writing the dirty folios of a range, and waits for none that it submitted. Returns the
/// pages of the folios it took on.
///
/// An error that loses data is recorded in the page cache, for `fsync` of every open file; it does
/// not end the walk. Without a flusher ([`attach`]) nobody else finishes the writeback, so then
/// this waits for it.
///
/// # Errors
///
/// The first one after which data is still dirty: of `before_lock` or `folio_prepare`.
///
/// # Panics
///
/// With the rank checker on, if a transaction (but for `mapped_only`) or a folio lock is held.
pub fn write_pages<B: WritebackOps + ?Sized>(
    backend: &B,
    control: &WritebackControl,
) -> Result<u64> {
    walk(backend, control, false)
}

/// As [`write_pages`]. With `may_finish` the caller holds no locks at all: while the walk waits it
/// does the work of finished writeback.
pub(crate) fn walk<B: WritebackOps + ?Sized>(
    backend: &B,
    control: &WritebackControl,
    may_finish: bool,
) -> Result<u64> {
    let outermost = if control.mapped_only {
        Rank::Folio
    } else {
        Rank::TransactionBeforeFolio
    };
    rank::assert_none_from(outermost, "writeback");
    let inode = backend.inode();
    if !inode.cache().has_dirty(control.range) {
        return Ok(0);
    }
    let (route, keep) = route(inode);
    let alone = route.worker.is_none();
    let mut pass = Pass {
        backend,
        inode,
        control: *control,
        builder: Builder::new(&**inode.device(), inode.counters(), route, keep),
        may_finish,
        written: 0,
        error: None,
        count_before_lock: false,
        last_mapping: None,
    };
    pass.run(alone);
    match pass.error.take() {
        Some(error) => Err(error),
        None => Ok(pass.written),
    }
}

/// Where runs go that need task context: to the worker, if the inode has one and is here to stay.
fn route(inode: &Inode) -> (Route, Option<Arc<dyn Send + Sync>>) {
    let queue = Arc::clone(inode.ioends());
    let attached = inode
        .attached()
        .filter(|attached| attached.flusher().worker().ensure());
    let kept = attached.and_then(|attached| Some((attached, attached.owner().keep()?)));
    match kept {
        Some((attached, keep)) => {
            let worker = attached.flusher().worker().clone();
            let owner = Arc::downgrade(attached.owner());
            (
                Route {
                    queue,
                    worker: Some((worker, owner)),
                },
                Some(keep),
            )
        }
        None => (
            Route {
                queue,
                worker: None,
            },
            None,
        ),
    }
}

impl<B: WritebackOps + ?Sized> Pass<'_, B> {
    /// Walks the marks. `alone`: nobody else finishes what is submitted.
    fn run(&mut self, alone: bool) {
        let cache = self.inode.cache();
        let mark = match self.control.sync {
            SyncMode::All => {
                cache.tag_for_writeback(self.control.range);
                Mark::ToWrite
            }
            SyncMode::None => Mark::Dirty,
        };
        let (first, end) = self.control.range.pages();
        let cyclic = self.control.cyclic && self.control.sync == SyncMode::None;
        if !cyclic {
            self.walk_pages(first, end, mark, alone);
        } else {
            let from = self.inode.writeback_index().clamp(first, end);
            let stopped = self
                .walk_pages(from, end, mark, alone)
                .or_else(|| self.walk_pages(first, from, mark, alone));
            self.inode
                .set_writeback_index(stopped.unwrap_or(PageIndex::ZERO));
        }
        self.builder.submit();
    }

    /// Walks the marks of some pages. Returns the page it stopped at because it was enough.
    fn walk_pages(
        &mut self,
        mut at: PageIndex,
        end: PageIndex,
        mark: Mark,
        alone: bool,
    ) -> Option<PageIndex> {
        loop {
            let batch = self.inode.cache().batch(at, end, Some(mark), BATCH);
            at = batch.last()?.end_index();
            // Each reference goes when its folio is done: it keeps memory from being reclaimed, and
            // a batch of large folios may be most of a small cache.
            for folio in batch {
                if self.is_enough() {
                    return Some(folio.index());
                }
                self.write_folio(&folio);
                drop(folio);
                if alone {
                    self.finish_own();
                }
            }
        }
    }

    fn is_enough(&self) -> bool {
        self.control.sync == SyncMode::None && self.written >= self.control.nr_to_write
    }

    /// Submits, waits for the device, finishes: when there is no worker.
    fn finish_own(&mut self) {
        self.builder.submit();
        self.builder.wait_submitted();
        finish::finish_queued(self.backend);
    }
}
