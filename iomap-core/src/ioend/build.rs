//! Builds runs: appends what is contiguous, cuts bios, submits.
//!
//! Owns the append rule ([`can_append`]), the byte-exact end of a run (rules B39, B40), and the
//! limits. The folios handed in are locked and under writeback, with their pending bytes preset.

use std::sync::Arc;

use smallvec::SmallVec;

use super::FOLIOS_MAX;
use super::in_flight::{InFlightIoend, Route};
use crate::device::{Bio, BioOp, BlockDevice, Completion, Plug, Segment};
use crate::folio::FolioRef;
use crate::inode::Ioend;
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::mutation::{self, Rule};
use crate::stats::{Counters, Event};
use crate::units::{DevAddr, FilePos, FileRange};

/// Bytes after which a bio is submitted while its run goes on.
const BIO_BYTES: u64 = 4 << 20;
/// Bytes that runs behind a plug may have: a device that transfers more is better kept busy.
const PLUG_BYTES: u64 = 256 << 10;
/// Segments of one bio: what one `pwritev` takes.
const BIO_SEGMENTS: usize = 1024;

/// Dirty bytes of one folio in one mapping: whole blocks.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The folio, locked and under writeback.
    pub(crate) folio: &'a FolioRef,
    /// Where in the folio, bytes.
    pub(crate) offset: usize,
    /// What to write, and where to: the mapping cut to the run.
    pub(crate) iomap: Iomap,
    /// Bytes for the device: whole blocks, also where the last block of the largest file ends one
    /// byte past the last position.
    pub(crate) len: u64,
    /// Whether the mapping begins with this run: matters for [`FsFlags::BOUNDARY`].
    pub(crate) starts_mapping: bool,
    /// The size of the file when the folio was looked at.
    pub(crate) size: FilePos,
    /// Whether the backend has something to do afterwards.
    pub(crate) needs_work: bool,
}

impl Run<'_> {
    /// The bytes that are data: cut at the end of the file, empty if a truncate has moved it below
    /// (rules B39, B40).
    pub(crate) fn exact(&self) -> FileRange {
        exact_range(self.iomap.range, self.size)
    }
}

/// `blocks` cut at the end of the file.
pub(crate) fn exact_range(blocks: FileRange, size: FilePos) -> FileRange {
    if mutation::off(Rule::B39) {
        return blocks;
    }
    if mutation::off(Rule::B40) && size < blocks.start() {
        let len = size.bytes().wrapping_sub(blocks.start().bytes());
        return FileRange::at_most(blocks.start(), len);
    }
    FileRange::between(blocks.start(), blocks.end().min(size))
}

/// The device address of the first byte.
fn addr(iomap: &Iomap) -> Option<DevAddr> {
    match iomap.kind {
        MapKind::Mapped { addr } | MapKind::Unwritten { addr } => Some(addr),
        MapKind::Hole | MapKind::Delalloc | MapKind::Inline { .. } => None,
    }
}

/// Whether `next` may continue a run that holds the bytes of `exact` and was written to `iomap`:
/// same class, contiguous in the file to the byte and on the device, not across a boundary.
///
/// A run that ends at the end of the file, inside a block, is never continued: its size on disk
/// must not cover what comes after it (rule B39).
pub(crate) fn can_append(
    exact: FileRange,
    iomap: &Iomap,
    folios: usize,
    next: &Iomap,
    next_starts_mapping: bool,
) -> bool {
    let contiguous = || {
        let end = addr(iomap)?.checked_add(iomap.range.len())?;
        Some(end == addr(next)?)
    };
    let boundary = next_starts_mapping && next.flags.contains(FsFlags::BOUNDARY);
    folios < FOLIOS_MAX
        && !boundary
        && Ioend::same_class(iomap, next)
        && exact.end() == next.range.start()
        && iomap.range.end() == next.range.start()
        && contiguous() == Some(true)
}

/// Collects runs and submits them.
pub(crate) struct Builder<'a> {
    device: &'a dyn BlockDevice,
    counters: &'a Counters,
    route: Route,
    keep: Option<Arc<dyn Send + Sync>>,
    bio_bytes: u64,
    open: Option<Open>,
    /// Held from the first run to [`Builder::submit`], or to enough bytes: small runs enter the
    /// device together.
    plug: Option<Plug<'a>>,
    /// Bytes submitted behind the plug.
    plugged: u64,
    /// Runs submitted whose end the caller waits for itself.
    submitted: Vec<Arc<InFlightIoend>>,
}

/// The run that is being built.
struct Open {
    ioend: Ioend,
    in_flight: Arc<InFlightIoend>,
    bio: Option<BioParts>,
}

struct BioParts {
    addr: DevAddr,
    len: u64,
    segments: SmallVec<[Segment; 16]>,
}

impl<'a> Builder<'a> {
    /// Nothing collected. `keep` holds the backend's inode for as long as a run needs work.
    pub(crate) fn new(
        device: &'a dyn BlockDevice,
        counters: &'a Counters,
        route: Route,
        keep: Option<Arc<dyn Send + Sync>>,
    ) -> Self {
        let limits = device.limits();
        let most = limits.max_transfer.min(BIO_BYTES);
        // At least one block of the device, whatever it says.
        let bio_bytes = (most - most % limits.block_size).max(limits.block_size);
        Self {
            device,
            counters,
            route,
            keep,
            bio_bytes,
            open: None,
            plug: None,
            plugged: 0,
            submitted: Vec::new(),
        }
    }

    /// Whether nothing waits for submission, here or behind the plug.
    pub(crate) const fn is_empty(&self) -> bool {
        self.open.is_none() && self.plug.is_none()
    }

    /// Adds a run: to the open one, or to a new one after submitting that.
    pub(crate) fn add(&mut self, run: &Run<'_>) {
        let fits = self.open.as_ref().is_some_and(|open| {
            let (ioend, folios) = (&open.ioend, open.ioend.folios.len());
            can_append(
                ioend.range,
                &ioend.iomap,
                folios,
                &run.iomap,
                run.starts_mapping,
            )
        });
        if !fits {
            self.close();
            self.start(run);
        }
        let Some(open) = &mut self.open else { return };
        open.extend(run);
        self.counters.add(Event::written_back_bytes, run.len);
        self.cut_bios(run);
    }

    fn start(&mut self, run: &Run<'_>) {
        let device = self.device;
        self.plug.get_or_insert_with(|| Plug::new(device));
        let start = run.iomap.range.start();
        let ioend = Ioend {
            range: FileRange::at_most(start, 0),
            iomap: Iomap {
                range: FileRange::at_most(start, 0),
                ..run.iomap.clone()
            },
            folios: Vec::new(),
            error: None,
            needs_work: false,
            keep: None,
        };
        let in_flight = InFlightIoend::new(self.route.clone());
        self.open = Some(Open {
            ioend,
            in_flight,
            bio: None,
        });
    }

    /// Puts the memory of the run into bios, submitting each that is full.
    fn cut_bios(&mut self, run: &Run<'_>) {
        let Some(open) = &mut self.open else { return };
        let Some(start) = addr(&run.iomap) else {
            return;
        };
        let mut done = 0;
        while done < run.len {
            let bio = open.bio.get_or_insert_with(|| BioParts {
                addr: start.plus(done),
                len: 0,
                segments: SmallVec::new(),
            });
            let part = (run.len - done).min(self.bio_bytes - bio.len);
            // A run lies in one folio: its length fits a `usize`.
            let (from, bytes) = (run.offset + done as usize, part as usize);
            bio.segments.push(run.folio.segment(from, bytes));
            bio.len += part;
            done += part;
            if bio.len == self.bio_bytes || bio.segments.len() == BIO_SEGMENTS {
                self.plugged += open.submit_bio(self.device);
            }
        }
        self.unplug_if_many();
    }

    /// Submits what was collected: when this returns it is at the device.
    pub(crate) fn submit(&mut self) {
        self.close();
        self.unplug();
    }

    fn unplug_if_many(&mut self) {
        if self.plugged >= PLUG_BYTES {
            self.unplug();
        }
    }

    fn unplug(&mut self) {
        self.plug = None;
        self.plugged = 0;
    }

    /// The open run is complete.
    fn close(&mut self) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        self.plugged += open.submit_bio(self.device);
        self.unplug_if_many();
        let Open {
            mut ioend,
            in_flight,
            ..
        } = open;
        if ioend.needs_work {
            ioend.keep.clone_from(&self.keep);
        }
        self.counters.count(Event::ioends);
        tracing::trace!(
            target: "iomap::writeback", range = %ioend.range, kind = ?ioend.iomap.kind,
            folios = ioend.folios.len(), "ioend"
        );
        if self.route.worker.is_none() {
            self.submitted.push(Arc::clone(&in_flight));
        }
        in_flight.close(ioend);
    }

    /// Waits until the device is done with what was submitted; only without a worker.
    pub(crate) fn wait_submitted(&mut self) {
        for in_flight in self.submitted.drain(..) {
            self.device.wait(&mut || in_flight.is_done());
        }
    }
}

impl Drop for Builder<'_> {
    /// Folios under writeback must not be forgotten, whatever happened.
    fn drop(&mut self) {
        self.submit();
    }
}

impl Open {
    fn extend(&mut self, run: &Run<'_>) {
        let start = self.ioend.range.start();
        self.ioend.range = FileRange::between(start, run.exact().end());
        self.ioend.iomap.range = FileRange::between(start, run.iomap.range.end());
        self.ioend.needs_work |= run.needs_work;
        // At most the length of a folio, 2 MiB.
        let bytes = u32::try_from(run.len).unwrap_or(u32::MAX);
        match self.ioend.folios.last_mut() {
            Some((folio, n)) if folio.index() == run.folio.index() => *n += bytes,
            _ => self.ioend.folios.push((run.folio.clone(), bytes)),
        }
    }

    /// Returns the bytes submitted.
    fn submit_bio(&mut self, device: &dyn BlockDevice) -> u64 {
        let Some(parts) = self.bio.take() else {
            return 0;
        };
        self.in_flight.add_bio();
        let in_flight = Arc::clone(&self.in_flight);
        let done = Completion::call(move |result| in_flight.bio_done(result));
        device.submit(Bio::new(
            BioOp::WRITE,
            parts.addr,
            parts.len,
            &parts.segments,
            done,
        ));
        parts.len
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;
    use crate::folio::{Pool, PoolConfig};
    use crate::inode::IoendQueue;
    use crate::page_cache::{GetFolio, PageCache};
    use crate::units::{BlockBits, PageIndex};
    use proptest::prelude::*;

    /// The backend wants to hear of one part of a run and not of the rest: it hears of the run.
    #[test]
    fn a_run_needs_work_if_any_part_of_it_does() {
        for (first, second) in [(true, false), (false, true)] {
            let config = PoolConfig {
                huge_pages: false,
                ..PoolConfig::with_budget(1 << 20)
            };
            let pool = Pool::new(config).expect("memory");
            let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(1 << 20));
            let cache = PageCache::new(&pool, BlockBits::PAGE, Arc::clone(&device), 1);
            let (queue, counters) = (Arc::new(IoendQueue::new()), Counters::new());
            let route = Route {
                queue: Arc::clone(&queue),
                worker: None,
            };
            let mut builder = Builder::new(&*device, &counters, route, None);
            for (n, needs_work) in [first, second].into_iter().enumerate() {
                let folio = cache.get_or_create(PageIndex::new(n as u64), GetFolio::default());
                let mut folio = folio.expect("memory");
                folio.start_writeback();
                folio.begin_write_pending(4096);
                let range = FileRange::at_most(folio.range().start(), 4096);
                let addr = DevAddr::new(range.start().bytes());
                builder.add(&Run {
                    folio: &folio,
                    offset: 0,
                    iomap: Iomap::new(range, MapKind::Mapped { addr }),
                    len: 4096,
                    starts_mapping: n == 0,
                    size: FilePos::MAX,
                    needs_work,
                });
            }
            builder.submit();
            builder.wait_submitted();
            let told = queue.take();
            assert_eq!(told.len(), 1, "one run, and one that needs work");
            told.into_iter().for_each(Ioend::end_folios);
        }
    }

    proptest! {
        #[test]
        fn the_exact_range_is_what_lies_below_the_end(
            start in 0u64..1 << 40, len in 0u64..1 << 22, size in 0u64..1 << 41,
        ) {
            let blocks = FileRange::at_most(FilePos::saturating(start), len);
            let exact = exact_range(blocks, FilePos::saturating(size));
            prop_assert_eq!(exact.start(), blocks.start());
            let below = len.min(size.saturating_sub(start));
            prop_assert_eq!(exact.len(), below, "rules B39, B40");
        }

        #[test]
        fn only_what_is_contiguous_in_both_worlds_is_appended(
            pages in 1u64..8, gap in 0u64..3, device_gap in 0u64..3, cut in 0u64..3,
        ) {
            let at = |start: u64, len: u64, addr: u64| {
                let range = FileRange::at_most(FilePos::saturating(start), len);
                Iomap::new(range, MapKind::Mapped { addr: DevAddr::new(addr) })
            };
            let len = pages * 4096;
            let (first, next) = (at(0, len, 1 << 20), {
                at(len + gap * 4096, 4096, (1 << 20) + len + device_gap * 4096)
            });
            let exact = exact_range(first.range, FilePos::saturating(len - cut));
            let appended = can_append(exact, &first, 1, &next, true);
            prop_assert_eq!(appended, gap == 0 && device_gap == 0 && cut == 0);
            prop_assert!(!can_append(exact, &first, FOLIOS_MAX, &next, true));
        }
    }
}
