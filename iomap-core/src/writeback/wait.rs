//! Waiting for writeback to end, and doing its work meanwhile.
//!
//! A thread that holds no locks takes finished runs out of the inode's queue itself: no hand-over
//! to another thread. A thread that holds some only drives the device; the flusher's worker does
//! the rest.

use crate::folio::FolioRef;
use crate::ioend::finish;
use crate::ops::WritebackOps;
use crate::page_cache::Mark;
use crate::sync::{Rank, rank};
use crate::units::FileRange;

/// Folios looked at between two looks at the index.
const BATCH: usize = 32;

/// Waits until every writeback of `range` that runs now has ended. `may_finish`: the caller holds
/// no locks.
pub(crate) fn for_range<B: WritebackOps + ?Sized>(backend: &B, range: FileRange, may_finish: bool) {
    let inode = backend.inode();
    if !may_finish {
        inode.cache().wait_writeback(range);
        return;
    }
    let (mut at, end) = range.pages();
    loop {
        let batch = inode.cache().batch(at, end, Some(Mark::Writeback), BATCH);
        let Some(last) = batch.last() else { return };
        at = last.end_index();
        for folio in batch {
            for_folio(backend, &folio, true);
        }
    }
}

/// Waits until the folio is not under writeback at some moment.
pub(crate) fn for_folio<B: WritebackOps + ?Sized>(backend: &B, folio: &FolioRef, may_finish: bool) {
    let inode = backend.inode();
    let (device, queue) = (&**inode.device(), inode.ioends());
    if may_finish {
        rank::assert_none_from(Rank::Inode, "finishing writeback");
    }
    while may_finish && folio.is_writeback() {
        let helping = queue.help();
        device.wait(&mut || !folio.is_writeback() || !queue.is_empty() || device.in_flight() == 0);
        let ioends = helping.take();
        if ioends.is_empty() && device.in_flight() == 0 {
            break;
        }
        finish::finish_all(backend, ioends);
    }
    // Somebody else finishes the run right now, or has not submitted it yet.
    folio.wait_writeback(device);
}
