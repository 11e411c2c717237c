//! Filling folios: plan, zero what has no bytes on the device, read the rest.
//!
//! Owns the way of a locked folio from created to up to date. First every piece is planned with
//! all folios locked; only then is anything submitted, so the number of pieces of a folio is known
//! before the first can complete (rule B26). Errors go to whoever waits; a folio that failed stays
//! not up to date.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::device::{Bio, BioOp, Completion, Plug, Segment};
use crate::error::{DeviceError, FsError, Result};
use crate::folio::{LockedFolio, ReadingFolio};
use crate::folio_write::fill_inline;
use crate::inode::Inode;
use crate::iomap::{Iomap, MapKind};
use crate::iter::{Flow, Step, for_each_mapping};
use crate::mutation::{self, Rule};
use crate::ops::{Intent, MapFlags, MapOps};
use crate::readahead::Window;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::{DevAddr, FilePos, FileRange};

/// Folios being read: how many are left, the first error, and who waits without a thread.
#[derive(Clone, Debug)]
pub struct Filling(Arc<Mutex<Progress>>);

#[derive(Debug)]
struct Progress {
    /// Folios whose read has not ended, and one for whoever still submits.
    left: u32,
    error: Option<DeviceError>,
    waker: Option<Waker>,
}

impl Filling {
    pub(super) fn new() -> Self {
        let progress = Progress {
            left: 1,
            error: None,
            waker: None,
        };
        Self(Arc::new(Mutex::new(Rank::InodeState, progress)))
    }

    /// The first error so far.
    #[must_use]
    pub fn error(&self) -> Option<DeviceError> {
        self.0.lock().error.clone()
    }

    fn set_error(&self, error: DeviceError) {
        self.0.lock().error.get_or_insert(error);
    }

    fn begin(&self, folios: u32) {
        self.0.lock().left += folios;
    }

    /// A folio, or the submitting, has ended.
    fn end_one(&self) {
        let waker = {
            let mut progress = self.0.lock();
            progress.left -= 1;
            if progress.left == 0 {
                progress.waker.take()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Resolves when every folio has been read or has failed. Somebody must drive the device.
impl Future for Filling {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut progress = self.0.lock();
        if progress.left == 0 {
            return Poll::Ready(());
        }
        progress.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The part of the memory budget one window may fill: one in this many.
const BUDGET_SHARE: u64 = 8;

/// Creates the folios of a window, as far as nothing is there yet and the file reaches, and starts
/// reading them. Returns the pages created. `demanded`: the first one is needed now, so it waits
/// for memory.
///
/// Holding: the invalidate lock, shared.
pub(super) fn bring_in<B: MapOps + ?Sized>(
    backend: &B,
    window: &Window,
    (dontcache, demanded): (bool, bool),
    flags: MapFlags,
    filling: &Filling,
) -> Result<u64> {
    let inode = backend.inode();
    // No reader takes more than a part of the memory at once.
    let most = (inode.cache().pool().budget_pages() / BUDGET_SHARE).max(1);
    let end = window
        .start
        .plus(window.size.min(most))
        .min(inode.size().page_up());
    let mut folios = Vec::new();
    let mut at = window.start;
    while at < end {
        // Only for the folio that is needed it waits for memory, holding no other.
        let nowait = !demanded || !folios.is_empty();
        match create(inode, at, end, window.order, nowait) {
            Ok(Some(folio)) => {
                at = folio.end_index();
                folios.push(folio);
            }
            Ok(None) => break,
            Err(error) if folios.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    let pages = folios.iter().map(|folio| folio.pages()).sum();
    tracing::trace!(
        target: "iomap::read", ino = inode.ino(), start = %window.start, pages, order = window.order,
        "readahead"
    );
    for folio in &mut folios {
        if dontcache {
            folio.set_dropbehind();
        }
        if window
            .marker
            .is_some_and(|m| folio.index() <= m && m < folio.end_index())
        {
            folio.set_readahead();
        }
    }
    let (mapped, failed) = start_reading(backend, folios, flags, filling);
    filling.end_one();
    match failed {
        // What was not mapped stays missing, and whoever needs it meets the error itself.
        Some((_, error)) if mapped == 0 => Err(error),
        _ => Ok(pages),
    }
}

/// The largest folio at `at` that is aligned, ends in the window and meets no other.
fn create(
    inode: &Inode,
    at: crate::units::PageIndex,
    end: crate::units::PageIndex,
    order: u32,
    nowait: bool,
) -> Result<Option<LockedFolio>> {
    let least = inode.cache().min_order();
    let aligned = at.get().trailing_zeros();
    let fits = end.since(at).max(1).ilog2();
    let mut order = order.min(aligned).min(fits).max(least);
    loop {
        match inode.cache().create_for_read(at, order, nowait)? {
            Some(folio) => return Ok(Some(folio)),
            None if order > least => order -= 1,
            None => return Ok(None),
        }
    }
}

/// Starts reading the missing blocks of one locked folio. The lock goes with the read.
///
/// # Errors
///
/// Of the mapping, if it keeps some of the `needed` bytes from being read; what else cannot be mapped
/// stays missing.
pub(super) fn read_locked<B: MapOps + ?Sized>(
    backend: &B,
    folio: LockedFolio,
    needed: FileRange,
) -> Result<Filling> {
    tracing::trace!(
        target: "iomap::read", ino = backend.inode().ino(), folio = %folio.range(), "read_folio"
    );
    let filling = Filling::new();
    let (_, failed) = start_reading(backend, vec![folio], MapFlags::empty(), &filling);
    filling.end_one();
    match failed {
        Some((missing, error)) if missing.overlaps(needed) => Err(error),
        _ => Ok(filling),
    }
}

/// A piece of a folio that must come from the device.
struct Piece {
    folio: usize,
    bytes: Range<usize>,
    addr: DevAddr,
}

/// Plans, zeroes and submits. `folios` are adjacent and ascending. Returns how many bytes were mapped,
/// and, if not all, from where on none were and why.
fn start_reading<B: MapOps + ?Sized>(
    backend: &B,
    mut folios: Vec<LockedFolio>,
    flags: MapFlags,
    filling: &Filling,
) -> (u64, Option<(FileRange, FsError)>) {
    let inode = backend.inode();
    let (Some(first), Some(last)) = (folios.first(), folios.last()) else {
        return (0, None);
    };
    let whole = FileRange::between(first.range().start(), last.range().end());
    let end = inode.size().round_up(inode.block_bits());
    let metadata = inode
        .metadata_start()
        .map_or(FilePos::MAX, |at| at.max(end));
    let mut pieces = Vec::new();
    // Past the end of the file nothing is mapped, up to metadata (rule B73): zeroes.
    let between = FileRange::between(end, metadata);
    zero_missing(&mut folios, whole.intersect(between));
    let max = inode.device().limits().max_transfer;
    let (mut mapped, mut failed) = (0, None);
    for part in [
        FileRange::between(FilePos::ZERO, end),
        FileRange::between(metadata, FilePos::MAX),
    ] {
        let part = whole.intersect(part);
        let outcome = for_each_mapping(backend, part, Intent::Read, flags, |step| {
            plan_mapping(&mut folios, step, max, &mut pieces)
        });
        mapped += outcome.done;
        let missing = part.skip(outcome.done);
        if let Err(error) = outcome.all_or_error() {
            failed.get_or_insert((missing, error));
        }
    }
    // What was planned before an error is read all the same.
    submit(inode, folios, pieces, filling);
    (mapped, failed)
}

/// The body for one mapping: what is missing of it is zeroed, copied from the inode, or planned.
fn plan_mapping(
    folios: &mut [LockedFolio],
    step: &mut Step<'_>,
    max: u64,
    pieces: &mut Vec<Piece>,
) -> Result<Flow> {
    let range = step.rest();
    match &step.source().kind {
        MapKind::Inline { data } => {
            for (number, bytes) in missing(folios, range) {
                let folio = &mut folios[number];
                let start = folio.range().start().saturating_add(bytes.start as u64);
                fill_inline(folio, start, bytes.clone(), &**data);
                folio.set_range_uptodate(bytes);
            }
        }
        MapKind::Mapped { .. } if step.source().is_read_from_device() => {
            plan_reads(folios, step.source(), range, max, pieces);
        }
        _ => zero_missing(folios, range),
    }
    step.advance(range.len())?;
    Ok(Flow::Continue)
}

fn plan_reads(
    folios: &[LockedFolio],
    source: &Iomap,
    range: FileRange,
    max: u64,
    pieces: &mut Vec<Piece>,
) {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    for (folio, missing) in missing(folios, range) {
        let mut at = missing.start;
        while at < missing.end {
            let bytes = at..missing.end.min(at.saturating_add(max));
            let start = folios[folio]
                .range()
                .start()
                .saturating_add(bytes.start as u64);
            at = bytes.end;
            if let Some(addr) = source.addr_at(start) {
                pieces.push(Piece { folio, bytes, addr });
            }
        }
    }
}

fn zero_missing(folios: &mut [LockedFolio], range: FileRange) {
    for (number, bytes) in missing(folios, range) {
        folios[number].zero(bytes.clone());
        folios[number].set_range_uptodate(bytes);
    }
}

/// The parts of `range` that are not up to date, with the number of their folio (rule B25).
fn missing(folios: &[LockedFolio], range: FileRange) -> Vec<(usize, Range<usize>)> {
    let mut found = Vec::new();
    for (number, folio) in folios.iter().enumerate() {
        let here = folio.range().intersect(range);
        let start = here.start().since(folio.range().start()) as usize;
        let (mut at, end) = (start, start + here.len() as usize);
        while at < end
            && let Some(bytes) = folio.first_not_uptodate(at..end)
        {
            at = bytes.end;
            found.push((number, bytes.start..bytes.end.min(end)));
        }
    }
    found
}

/// One folio being read: ends when its last piece has ended.
struct FolioRead {
    folio: Mutex<Option<ReadingFolio>>,
    /// Pieces not ended. Set before the first is submitted; `AcqRel` going down, so that the last
    /// one sees what the others did.
    pending: AtomicU32,
    filling: Filling,
}

impl FolioRead {
    /// A piece has ended. Runs like an interrupt handler.
    fn piece_done(&self, bytes: Range<usize>, ok: bool) {
        if ok {
            let mut folio = self.folio.lock();
            *folio = folio
                .take()
                .map(|reading| reading.set_range_uptodate(bytes));
        }
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Dropping it unlocks the folio and wakes who waits for it.
            drop(self.folio.lock().take());
            self.filling.end_one();
        }
    }
}

/// Hands the locks of the folios to their reads and submits them, adjacent pieces in one bio.
/// Folios without a piece are unlocked.
fn submit(inode: &Inode, folios: Vec<LockedFolio>, pieces: Vec<Piece>, filling: &Filling) {
    let mut counts = vec![0_u32; folios.len()];
    for piece in &pieces {
        counts[piece.folio] += 1;
    }
    // As many as there are folios with a piece: no more than fit in a window.
    filling.begin(counts.iter().filter(|count| **count > 0).count() as u32);
    let reads: Vec<_> = folios
        .into_iter()
        .zip(counts)
        .map(|(folio, count)| {
            (count > 0).then(|| {
                Arc::new(FolioRead {
                    folio: Mutex::new(Rank::IoendQueue, Some(folio.into_reading())),
                    pending: AtomicU32::new(if mutation::off(Rule::B26) { 1 } else { count }),
                    filling: filling.clone(),
                })
            })
        })
        .collect();
    let max = inode.device().limits().max_transfer;
    // One entry into the kernel for all of them.
    let _plug = (pieces.len() > 1).then(|| Plug::new(&**inode.device()));
    let mut run: Vec<(Arc<FolioRead>, Range<usize>)> = Vec::new();
    let (mut start, mut len) = (DevAddr::default(), 0);
    for piece in pieces {
        let Some(read) = &reads[piece.folio] else {
            continue;
        };
        let bytes = piece.bytes.len() as u64;
        if !run.is_empty() && (start.plus(len) != piece.addr || len + bytes > max) {
            send(inode, std::mem::take(&mut run), start, len, filling);
        }
        if run.is_empty() {
            (start, len) = (piece.addr, 0);
        }
        len += bytes;
        run.push((Arc::clone(read), piece.bytes));
    }
    if !run.is_empty() {
        send(inode, run, start, len, filling);
    }
}

/// Submits one bio.
fn send(
    inode: &Inode,
    run: Vec<(Arc<FolioRead>, Range<usize>)>,
    addr: DevAddr,
    len: u64,
    filling: &Filling,
) {
    let segments: Vec<Segment> = run
        .iter()
        .filter_map(|(read, bytes)| read.segment(bytes))
        .collect();
    let filling = filling.clone();
    let done = Completion::call(move |result| {
        if let Err(failed) = &result {
            filling.set_error(failed.clone());
        }
        for (read, bytes) in run {
            read.piece_done(bytes, result.is_ok());
        }
    });
    inode
        .device()
        .submit(Bio::new(BioOp::Read, addr, len, &segments, done));
}

impl FolioRead {
    fn segment(&self, bytes: &Range<usize>) -> Option<Segment> {
        let folio = self.folio.lock();
        folio
            .as_ref()
            .map(|reading| reading.folio().segment(bytes.start, bytes.len()))
    }
}
