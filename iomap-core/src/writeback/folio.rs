//! Writeback of one folio.
//!
//! Owns the order of steps with the folio locked (rules B21, B27, B39 to B42, O3, O4, V3) and the
//! passage through the four folio points around them.

use std::ops::Range;

use super::{Pass, SyncMode, wait};
use crate::error::{ProtocolError, Result};
use crate::folio::{FolioRef, LockedFolio};
use crate::ioend::build::{Run, exact_range};
use crate::ioend::finish;
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::mutation::{self, Rule};
use crate::ops::{FolioOp, FolioRequest, IoendRange, Prepared, WritebackOps, WritebackRequest};
use crate::stats::Event;
use crate::units::{BlockBits, FilePos, FileRange};

/// What became of an attempt to lock a folio for writeback.
enum Attempt {
    /// Nothing to do any more, or not now.
    Over,
    /// It is under writeback: wait, then try again.
    Busy,
}

/// What became of the runs of a folio.
#[derive(Default)]
struct Handed {
    /// Bytes handed to the device.
    bytes: u64,
    /// Dirty bytes without storage, left dirty.
    left: Vec<Range<usize>>,
    /// Some dirty bytes are lost: there is no storage for them.
    lost: bool,
}

impl<B: WritebackOps + ?Sized> Pass<'_, B> {
    /// Writes a folio, if it is still there, dirty, and not busy.
    pub(super) fn write_folio(&mut self, folio: &FolioRef) {
        loop {
            if folio.is_writeback() && !self.wait_before(folio) {
                return;
            }
            match self.attempt(folio) {
                Ok(Attempt::Busy) => {}
                Ok(Attempt::Over) => return,
                Err(error) => {
                    self.error.get_or_insert(error);
                    return;
                }
            }
        }
    }

    /// Waits for an earlier writeback of the folio, with nothing held: its end may need a
    /// transaction. Returns `false` where waiting is not worth it.
    fn wait_before(&mut self, folio: &FolioRef) -> bool {
        if self.control.sync == SyncMode::None {
            return false;
        }
        self.builder.submit();
        self.inode.counters().count(Event::folio_waits);
        wait::for_folio(self.backend, folio, self.may_finish);
        true
    }

    /// The points before and after the folio lock, and the lock.
    fn attempt(&mut self, folio: &FolioRef) -> Result<Attempt> {
        let mut req = FolioRequest {
            op: FolioOp::Writeback,
            range: folio.range(),
            nowait: false,
        };
        let mut guard = if self.control.mapped_only {
            None
        } else {
            Some(self.open(&mut req)?)
        };
        if mutation::off(Rule::O4) {
            self.count_before_lock = self.inode.direct().is_busy_after_fence();
        }
        let result = match self.lock(folio) {
            Some(locked) => self.with_locked(guard.as_mut(), locked, &req),
            None => Ok(Attempt::Over),
        };
        if let Some(guard) = guard
            && let Err(error) = self.backend.after_unlock(guard, &req)
        {
            finish::record_error(self.inode, error.errno());
        }
        result
    }

    /// Passes `before_lock`. Does not wait for a transaction while something is collected that the
    /// holder of the transaction may wait for.
    fn open(&mut self, req: &mut FolioRequest) -> Result<B::Guard> {
        req.nowait = !self.builder.is_empty();
        match self.backend.before_lock(req) {
            Err(error) if error.is_would_block() && req.nowait => {
                self.builder.submit();
                req.nowait = false;
                self.backend.before_lock(req)
            }
            result => result,
        }
    }

    /// Locks the folio; submits before it waits for the lock.
    fn lock(&mut self, folio: &FolioRef) -> Option<LockedFolio> {
        let cache = self.inode.cache();
        if let Some(locked) = cache.try_lock(folio) {
            return Some(locked);
        }
        if folio.is_locked() {
            self.builder.submit();
            self.inode.counters().count(Event::folio_waits);
        }
        cache.lock(folio)
    }

    /// The folio is locked and in the cache.
    fn with_locked(
        &mut self,
        guard: Option<&mut B::Guard>,
        mut folio: LockedFolio,
        req: &FolioRequest,
    ) -> Result<Attempt> {
        if !folio.is_dirty() {
            self.inode.cache().clear_towrite(&folio);
            return Ok(Attempt::Over);
        }
        if folio.is_writeback() {
            return Ok(Attempt::Busy);
        }
        let size = self.inode.size();
        let metadata = self.inode.metadata_start();
        let has_metadata = metadata.is_some_and(|at| at < folio.range().end());
        if size <= folio.range().start() && !has_metadata {
            // A truncate has moved the end of the file and will remove the folio. Compared as
            // positions: an index of the page after the last one does not exist (rule B42).
            // Clean, so not writable in a memory mapping.
            folio.unmap();
            folio.cancel_dirty();
            return Ok(Attempt::Over);
        }
        match guard {
            None => {
                self.write_locked(None, &mut folio, size);
            }
            Some(guard) => {
                if self.backend.folio_prepare(guard, &mut folio, req)? == Prepared::Again {
                    self.inode.cache().clear_towrite(&folio);
                    return Ok(Attempt::Over);
                }
                let bytes = self.write_locked(Some(guard), &mut folio, size);
                self.backend.folio_done(guard, &mut folio, req, bytes);
            }
        }
        Ok(Attempt::Over)
    }

    /// Hands the dirty blocks below the end of the file to the device. Returns how many bytes.
    fn write_locked(
        &mut self,
        mut guard: Option<&mut B::Guard>,
        folio: &mut LockedFolio,
        size: FilePos,
    ) -> u64 {
        let (len, start) = (folio.len(), folio.range().start());
        self.written += folio.pages();
        folio.clear_dirty_for_io();
        // From here on a store through a memory mapping faults and waits for the lock.
        let metadata = self.inode.metadata_start();
        let metadata = metadata.map_or(len, |at| at.since(start).min(len as u64) as usize);
        let limit = zero_beyond(folio, (start, size), metadata, self.inode.block_bits());
        // Rule B27: the mark and the bias first, so that no completion ends the writeback early.
        folio.start_writeback();
        if !mutation::off(Rule::B27) {
            folio.begin_write_pending(pending(len as u64));
        }
        // Rules O3, O4: with the folio locked and its mark visible.
        let direct_in_flight = if mutation::off(Rule::O4) {
            self.count_before_lock
        } else {
            self.inode.direct().is_busy_after_fence()
        };
        let mut handed = Handed::default();
        let data = folio.dirty_ranges(limit).map(|run| (run, false));
        let beyond = folio.dirty_ranges(len).filter_map(|run| {
            let run = run.start.max(metadata.max(limit))..run.end;
            (!run.is_empty()).then_some((run, true))
        });
        for (run, metadata) in data.chain(beyond) {
            let part = Part {
                folio: &*folio,
                start,
                run,
                // To metadata the end of the file does not apply (rule B73).
                size: if metadata { FilePos::MAX } else { size },
                metadata,
                direct_in_flight,
            };
            self.write_run(guard.as_deref_mut(), &part, &mut handed);
        }
        // Rule B21: also the blocks that could not be written; their reservation is gone.
        if !(handed.lost && mutation::off(Rule::B21)) {
            folio.clear_all_dirty_blocks();
        }
        for range in handed.left {
            folio.set_range_dirty(range);
        }
        tracing::trace!(
            target: "iomap::writeback", ino = self.inode.ino(), folio = %folio.range(),
            bytes = handed.bytes, direct_in_flight, "folio"
        );
        if mutation::off(Rule::B27) {
            return handed.bytes;
        }
        let unsubmitted = pending((len as u64).saturating_sub(handed.bytes));
        if unsubmitted > 0 && folio.sub_write_pending(unsubmitted) {
            folio.end_writeback();
        }
        handed.bytes
    }

    /// Maps a run of dirty blocks piece by piece and hands each on.
    fn write_run(&mut self, mut guard: Option<&mut B::Guard>, part: &Part<'_>, to: &mut Handed) {
        let mut rest = part.range();
        while !rest.is_empty() {
            match self.map(guard.as_deref_mut(), rest, part) {
                Ok(Some(iomap)) => {
                    let piece = iomap.cut(rest.intersect(iomap.range));
                    rest = rest.skip(piece.range.len());
                    to.bytes += self.add(part, piece, iomap.range.start());
                }
                Ok(None) => {
                    let block = rest.take(self.inode.block_bits().size());
                    rest = rest.skip(block.len());
                    to.left.push(part.inside(block));
                }
                Err(error) => {
                    tracing::debug!(
                        target: "iomap::writeback", ino = self.inode.ino(), range = %rest, %error,
                        "no storage for dirty data"
                    );
                    finish::record_error(self.inode, error.errno());
                    to.lost = true;
                    self.backend
                        .release_delalloc(rest, &Iomap::new(rest, MapKind::Delalloc));
                    return;
                }
            }
        }
    }

    /// Asks the backend, every time anew (rule V3), and checks its answer (rule B46).
    fn map(
        &mut self,
        guard: Option<&mut B::Guard>,
        rest: FileRange,
        part: &Part<'_>,
    ) -> Result<Option<Iomap>> {
        let may_allocate = !self.control.mapped_only;
        let bits = self.inode.block_bits();
        let hint = self
            .inode
            .size()
            .round_up(bits)
            .min(self.control.range.end().round_up(bits));
        let req = WritebackRequest {
            range: rest,
            hint_end: hint.max(rest.end()),
            direct_in_flight: part.direct_in_flight,
            may_allocate,
        };
        if let Some(last) = &self.last_mapping
            && mutation::off(Rule::V3)
            && last.range.covers(rest)
        {
            return Ok(Some(last.clone()));
        }
        match self.backend.map_writeback(guard, &req)? {
            Some(iomap) => {
                check_answer(&iomap, rest, bits)?;
                if iomap.flags.contains(FsFlags::BEYOND_EOF) != part.metadata {
                    let what = "metadata where there is none, or none where there is";
                    let pos = rest.start();
                    return Err(ProtocolError::BadKind { what, pos }.into());
                }
                if mutation::off(Rule::V3) {
                    self.last_mapping = Some(iomap.clone());
                }
                Ok(Some(iomap))
            }
            None if may_allocate => {
                let what = "no mapping for dirty data";
                Err(ProtocolError::BadKind {
                    what,
                    pos: rest.start(),
                }
                .into())
            }
            None => Ok(None),
        }
    }

    /// Hands a mapped piece of a run to the builder. Returns its bytes: whole blocks.
    fn add(&mut self, part: &Part<'_>, piece: Iomap, mapping_start: FilePos) -> u64 {
        let told = IoendRange {
            range: exact_range(piece.range, part.size),
            iomap: piece.clone(),
        };
        let mut needs_work = self.backend.ioend_needs_work(&told);
        if needs_work && mutation::off(Rule::O5) {
            // The data is not even submitted.
            let _early = self.backend.ioend_done(&told);
            needs_work = false;
        }
        let len = piece
            .range
            .len()
            .next_multiple_of(self.inode.block_bits().size());
        if mutation::off(Rule::B27) {
            part.folio.begin_write_pending(pending(len));
        }
        self.builder.add(&Run {
            folio: part.folio,
            offset: part.inside(piece.range).start,
            starts_mapping: mapping_start == piece.range.start(),
            iomap: piece,
            len,
            size: part.size,
            needs_work,
        });
        len
    }
}

/// A run of dirty blocks of a locked folio.
struct Part<'a> {
    folio: &'a FolioRef,
    /// Where the folio begins in the file.
    start: FilePos,
    /// The bytes of the folio.
    run: Range<usize>,
    size: FilePos,
    /// Whether it is metadata beyond the end of the file.
    metadata: bool,
    direct_in_flight: bool,
}

impl Part<'_> {
    /// The bytes of the file.
    fn range(&self) -> FileRange {
        let start = self.start.saturating_add(self.run.start as u64);
        FileRange::at_most(start, self.run.len() as u64)
    }

    /// The bytes of the folio that hold `range`.
    fn inside(&self, range: FileRange) -> Range<usize> {
        // A position inside a folio: fits a `usize`.
        let from = range.start().since(self.start) as usize;
        from..from + range.len() as usize
    }
}

/// Zeroes what lies beyond the end of the file, up to `metadata`, every time the folio is written: a
/// memory mapping may have stored there since (rule B41). Returns the bytes of the folio that may
/// have to be written as data: up to the end of the file, rounded up to a block.
fn zero_beyond(
    folio: &mut LockedFolio,
    (start, size): (FilePos, FilePos),
    metadata: usize,
    bits: BlockBits,
) -> usize {
    let len = folio.len();
    let below = size.since(start);
    if below >= len as u64 {
        return len;
    }
    let below = below as usize;
    if !mutation::off(Rule::B41) {
        folio.zero(below..metadata.max(below));
    }
    below.next_multiple_of(1 << bits.get()).min(len)
}

/// Whether the mapping can be written to: covers the first byte of what is left, has an address,
/// and gives whole blocks.
fn check_answer(iomap: &Iomap, rest: FileRange, bits: BlockBits) -> Result<(), ProtocolError> {
    let asked = rest.start();
    if !iomap.range.contains(asked) {
        return Err(ProtocolError::NotCovering {
            asked,
            got: iomap.range,
        });
    }
    let (MapKind::Mapped { addr } | MapKind::Unwritten { addr }) = iomap.kind else {
        let what = "a mapping without storage for writeback";
        return Err(ProtocolError::BadKind { what, pos: asked });
    };
    if addr.checked_add(iomap.range.len()).is_none() {
        return Err(ProtocolError::BadKind {
            what: "an extent past 2^64 bytes",
            pos: asked,
        });
    }
    let end = iomap.range.end();
    if end < rest.end() && !end.is_aligned(bits) {
        return Err(ProtocolError::BadKind {
            what: "a mapping that ends inside a block",
            pos: end,
        });
    }
    Ok(())
}

/// A count of bytes of a folio, 2 MiB at most.
fn pending(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
