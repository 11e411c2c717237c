//! The task-context end of runs: merge, tell the backend, end the writeback.
//!
//! Owns the order *convert → record the error → end writeback* (rules O5, B45) and the merge rule.
//! Called with no locks held: by the flusher's worker, or by a thread that waits for writeback.

use super::FOLIOS_MAX;
use super::build::can_append;
use crate::error::{Errno, Result};
use crate::inode::{Inode, Ioend};
use crate::mutation::{self, Rule};
use crate::ops::{IoendRange, WritebackOps};
use crate::stats::Event;
use crate::sync::thread;
use crate::units::FileRange;

/// Keeps an error of writeback: for `fsync` of every open file, and for those who wait now. Before
/// the writeback bit is cleared.
pub(crate) fn record_error(inode: &Inode, errno: Errno) {
    inode.counters().count(Event::writeback_errors);
    inode.cache().record_error(errno);
    inode.ioends().note_error(errno);
}

/// Finishes everything that is queued for the inode. Holds no locks.
pub(crate) fn finish_queued<B: WritebackOps + ?Sized>(backend: &B) {
    loop {
        let ioends = backend.inode().ioends().take();
        if ioends.is_empty() {
            return;
        }
        finish_all(backend, ioends);
    }
}

/// Finishes runs: those that became neighbours are converted together.
pub(crate) fn finish_all<B: WritebackOps + ?Sized>(backend: &B, ioends: Vec<Ioend>) {
    for ioend in merge(ioends) {
        finish(backend, ioend);
        // Rule B43: a long list does not keep others from running.
        thread::yield_now();
    }
}

/// Whether `next` can be finished together with `ioend`.
fn can_merge(ioend: &Ioend, next: &Ioend) -> bool {
    let starts_mapping = true; // A boundary is kept in the flags of the run that began at it.
    ioend.error == next.error
        && ioend.folios.len() + next.folios.len() <= FOLIOS_MAX
        && can_append(ioend.range, &ioend.iomap, 0, &next.iomap, starts_mapping)
}

/// Sorts by position and joins neighbours of the same class and outcome (rule B43: up to a bound).
fn merge(mut ioends: Vec<Ioend>) -> Vec<Ioend> {
    ioends.sort_by_key(|ioend| ioend.range.start());
    let mut merged: Vec<Ioend> = Vec::with_capacity(ioends.len());
    for next in ioends {
        match merged.last_mut() {
            Some(last) if can_merge(last, &next) => {
                let start = last.range.start();
                last.range = FileRange::between(start, next.range.end());
                last.iomap.range = FileRange::between(start, next.iomap.range.end());
                last.needs_work |= next.needs_work;
                last.folios.extend(next.folios);
            }
            _ => merged.push(next),
        }
    }
    merged
}

/// Finishes one run.
fn finish<B: WritebackOps + ?Sized>(backend: &B, mut ioend: Ioend) {
    let told = IoendRange {
        range: ioend.range,
        iomap: ioend.iomap.clone(),
    };
    let result = match ioend.error {
        Some(errno) => {
            if mutation::off(Rule::B45) {
                let _told = convert(backend, &ioend, &told);
            }
            backend.ioend_failed(&told, errno);
            Err(errno)
        }
        None => convert(backend, &ioend, &told).map_err(|error| error.errno()),
    };
    if let Err(errno) = result {
        record_error(backend.inode(), errno);
    }
    // The inode outlives the end of its writeback: whoever holds `backend` keeps it.
    let _keep = ioend.keep.take();
    ioend.end_folios();
    // A thread that waits for one of the folios may be inside the device's wait, which asks again
    // after completions: this was none.
    let device = backend.inode().device();
    if device.in_flight() > 0 {
        device.wake();
    }
}

/// Makes the bytes findable. Not called for a failed write (rule B45).
fn convert<B: WritebackOps + ?Sized>(backend: &B, ioend: &Ioend, told: &IoendRange) -> Result<()> {
    if ioend.needs_work {
        backend.ioend_done(told)
    } else {
        Ok(())
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;
    use crate::iomap::{FsFlags, Iomap, MapKind};
    use crate::units::{DevAddr, FilePos};

    fn ioend(start: u64, len: u64, addr: u64, unwritten: bool) -> Ioend {
        let range = FileRange::at_most(FilePos::saturating(start), len);
        let addr = DevAddr::new(addr);
        let kind = if unwritten {
            MapKind::Unwritten { addr }
        } else {
            MapKind::Mapped { addr }
        };
        Ioend {
            range,
            iomap: Iomap::new(range, kind),
            folios: Vec::new(),
            error: None,
            needs_work: unwritten,
            keep: None,
        }
    }

    fn ranges(ioends: Vec<Ioend>) -> Vec<String> {
        merge(ioends)
            .iter()
            .map(|ioend| ioend.range.to_string())
            .collect()
    }

    #[test]
    fn neighbours_of_one_class_are_finished_together_in_any_order() {
        let runs = vec![
            ioend(8192, 4096, 108_192, true),
            ioend(0, 4096, 100_000, true),
            ioend(4096, 4096, 104_096, true),
        ];
        assert_eq!(ranges(runs), ["0..12288"]);
    }

    #[test]
    fn classes_outcomes_gaps_and_boundaries_are_not_merged() {
        assert_eq!(
            ranges(vec![
                ioend(0, 4096, 0, true),
                ioend(4096, 4096, 4096, false)
            ])
            .len(),
            2
        );
        assert_eq!(
            ranges(vec![ioend(0, 4096, 0, true), ioend(8192, 4096, 8192, true)]).len(),
            2
        );
        assert_eq!(
            ranges(vec![ioend(0, 4096, 0, true), ioend(4096, 4096, 9000, true)]).len(),
            2
        );
        let mut failed = ioend(4096, 4096, 4096, true);
        failed.error = Some(Errno::IO);
        assert_eq!(ranges(vec![ioend(0, 4096, 0, true), failed]).len(), 2);
        let mut boundary = ioend(4096, 4096, 4096, true);
        boundary.iomap.flags |= FsFlags::BOUNDARY;
        assert_eq!(ranges(vec![ioend(0, 4096, 0, true), boundary]).len(), 2);
    }

    #[test]
    fn a_run_cut_at_the_end_of_the_file_is_not_continued() {
        let mut tail = ioend(0, 4096, 0, true);
        tail.range = tail.range.take(100);
        assert_eq!(
            ranges(vec![tail, ioend(4096, 4096, 4096, true)]),
            ["0..100", "4096..8192"]
        );
    }
}
