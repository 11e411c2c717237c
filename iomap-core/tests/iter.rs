//! The loop over mappings, and the operations that are little more, against a backend that answers
//! from a script: what a wrong answer, a stale mapping or a failing `end` comes to.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{Errno, FsError, ProtocolError, Result};
use iomap_core::folio::{Pool, PoolConfig};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, Iomap, MapKind, Validity};
use iomap_core::iter::{Flow, Outcome, STALE_RETRIES_MAX, Step, for_each_mapping};
use iomap_core::ops::{
    Finished, FolioOps, Intent, MapError, MapFlags, MapOps, MapRequest, Mapped, TransactionOrder,
};
use iomap_core::stats::Counters;
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange, PageIndex};
use iomap_core::unshare::unshare_range;
use iomap_core::zero::zero_range;
use parking_lot::Mutex;

const PAGE: u64 = 4096;

type Begin = Box<dyn FnMut(&MapRequest) -> Mapped<()> + Send>;

/// A file whose answers a test gives.
struct Scripted {
    inode: Inode,
    begin: Mutex<Begin>,
    /// Errors of the next calls of `end`.
    end: Mutex<VecDeque<Errno>>,
    begun: AtomicU64,
    ended: AtomicU64,
    /// The mappings that are valid.
    valid: Validity,
}

fn pos(bytes: u64) -> FilePos {
    FilePos::saturating(bytes)
}

fn range(start: u64, end: u64) -> FileRange {
    FileRange::between(pos(start), pos(end))
}

const fn at(addr: u64) -> MapKind {
    MapKind::Mapped {
        addr: DevAddr::new(addr),
    }
}

fn file(begin: impl FnMut(&MapRequest) -> Mapped<()> + Send + 'static) -> Scripted {
    let config = PoolConfig {
        huge_pages: false,
        ..PoolConfig::with_budget(1 << 20)
    };
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_image(&vec![0xEE; 1 << 20]));
    Scripted {
        inode: Inode::new(InodeConfig {
            ino: 1,
            block_bits: BlockBits::PAGE,
            size: pos(1 << 16),
            pool: Pool::new(config).unwrap(),
            device,
            counters: Counters::new(),
            stable_writes: false,
        }),
        begin: Mutex::new(Box::new(begin)),
        end: Mutex::default(),
        begun: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        valid: Validity(7),
    }
}

/// A file that has all of its bytes in one place.
fn plain() -> Scripted {
    file(|_| Mapped::new(Iomap::new(range(0, 1 << 16), at(0)), ()))
}

impl MapOps for Scripted {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Ok((self.begin.lock())(req))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        self.ended.fetch_add(1, Ordering::Relaxed);
        let error = self.end.lock().pop_front();
        error.map_or(Ok(()), |errno| Err(errno.into()))
    }

    fn is_valid(&self, iomap: &Iomap) -> bool {
        iomap.validity == self.valid
    }
}

impl FolioOps for Scripted {
    type Guard = ();
}

impl Scripted {
    fn each(
        &self,
        range: FileRange,
        (intent, flags): (Intent, MapFlags),
        body: impl FnMut(&mut Step<'_>) -> Result<Flow>,
    ) -> Outcome {
        let outcome = for_each_mapping(self, range, intent, flags, body);
        let ended = self.ended.load(Ordering::Relaxed);
        assert_eq!(
            self.begun.load(Ordering::Relaxed),
            ended,
            "begin without end"
        );
        outcome
    }
}

const READ: (Intent, MapFlags) = (Intent::Read, MapFlags::empty());

fn all(step: &mut Step<'_>) -> Result<Flow> {
    step.advance(step.rest().len())?;
    Ok(Flow::Continue)
}

/// Rule V4: a mapping that is stale each time ends in an error, not in an endless loop.
#[test]
fn a_mapping_that_is_always_stale_is_an_error() {
    let file = plain();
    let outcome = file.each(range(0, 10), READ, |step| {
        step.set_stale();
        Ok(Flow::Continue)
    });
    let begun = file.begun.load(Ordering::Relaxed);
    assert_eq!(begun, u64::from(STALE_RETRIES_MAX) + 1);
    assert_eq!(outcome.done, 0);
    let error = outcome.all_or_error().unwrap_err();
    let no_progress = ProtocolError::NoProgress {
        pos: pos(0),
        retries: STALE_RETRIES_MAX,
    };
    assert_eq!(error, no_progress.into());
}

/// Who gets on now and then is not given up, however often a mapping is stale.
#[test]
fn progress_allows_as_many_stale_mappings_again() {
    let (file, mut turn) = (plain(), 0_u64);
    let bytes = u64::from(STALE_RETRIES_MAX) + 10;
    let outcome = file.each(range(0, bytes), READ, |step| {
        turn += 1;
        if turn.is_multiple_of(2) {
            step.advance(1)?;
        }
        step.set_stale();
        Ok(Flow::Continue)
    });
    assert!(outcome.result.is_ok(), "{outcome:?}");
    assert_eq!(outcome.done, bytes);
}

#[test]
fn an_error_of_end_is_told_if_nothing_was_done_and_keeps_what_was() {
    let file = plain();
    file.end.lock().push_back(Errno::IO);
    let nothing = file.each(range(0, 10), READ, |_| Ok(Flow::Stop));
    assert_eq!(nothing.all_or_error(), Err(FsError::from(Errno::IO)));
    file.end.lock().push_back(Errno::IO);
    let something = file.each(range(0, 10), READ, all);
    assert_eq!(something.bytes_or_error(), Ok(10));
    // An error of the body is the first one.
    file.end.lock().push_back(Errno::IO);
    let both = file.each(range(0, 10), READ, |_| Err(FsError::NoSpace));
    assert_eq!(both.all_or_error(), Err(FsError::NoSpace));
}

/// Bytes that were stored in place are the file's when `end` says so.
#[test]
fn an_error_of_end_undoes_a_change_in_place() {
    let file = plain();
    file.end.lock().push_back(Errno::IO);
    let outcome = file.each(range(0, 10), (Intent::Write, MapFlags::DAX), all);
    assert_eq!(outcome.done, 0);
    assert_eq!(outcome.all_or_error(), Err(FsError::from(Errno::IO)));
    file.end.lock().push_back(Errno::IO);
    let read = file.each(range(0, 10), (Intent::Read, MapFlags::DAX), all);
    assert_eq!(read.bytes_or_error(), Ok(10));
}

#[test]
fn answers_that_make_no_sense_are_errors_and_are_ended() {
    let far = range(PAGE, 2 * PAGE);
    let hole = Iomap::hole(range(0, PAGE));
    let whole = Iomap::new(range(0, PAGE), at(0));
    let table: [(Intent, Iomap, Option<Iomap>); 5] = [
        (Intent::Read, Iomap::new(far, at(0)), None),
        (Intent::Read, Iomap::new(range(0, 0), at(0)), None),
        (Intent::Write, whole.clone(), Some(Iomap::new(far, at(0)))),
        (Intent::Write, hole.clone(), None),
        (
            Intent::Read,
            Iomap::new(range(0, PAGE), at(u64::MAX - 10)),
            None,
        ),
    ];
    for (intent, iomap, source) in table {
        let text = format!("{intent:?} {iomap:?} {source:?}");
        let file = file(move |_| Mapped {
            iomap: iomap.clone(),
            source: source.clone(),
            lease: (),
        });
        let outcome = file.each(range(0, 10), (intent, MapFlags::empty()), |_| {
            panic!("the body runs: {text}")
        });
        let error = outcome.all_or_error();
        assert!(
            matches!(error, Err(FsError::Protocol(_))),
            "{text}: {error:?}"
        );
    }
}

/// Content that is somewhere else is known as far as both mappings reach.
#[test]
fn the_source_of_a_mapping_limits_it() {
    for (source, wanted) in [(at(0), 100), (MapKind::Hole, PAGE)] {
        let file = file(move |_| Mapped {
            iomap: Iomap::new(range(0, PAGE), at(0)),
            source: Some(Iomap::new(range(0, 100), source.clone())),
            lease: (),
        });
        let mut first = None;
        let outcome = file.each(range(0, PAGE), READ, |step| {
            first.get_or_insert(step.rest().len());
            Ok(Flow::Stop)
        });
        assert_eq!((outcome.result.is_ok(), first), (true, Some(wanted)));
    }
}

/// Shared blocks at `validity`, or blocks of its own.
fn blocks(shared: bool, validity: Validity) -> Mapped<()> {
    let flags = if shared {
        FsFlags::SHARED
    } else {
        FsFlags::empty()
    };
    let iomap = Iomap::new(range(0, 1 << 16), at(0));
    Mapped::new(iomap.with_flags(flags).with_validity(validity), ())
}

#[test]
fn only_what_is_shared_is_made_dirty_by_an_unshare() {
    for (shared, dirty) in [(false, 0), (true, 2)] {
        let file = file(move |_| blocks(shared, Validity(7)));
        let _lock = file.inode.lock_exclusive();
        unshare_range(&file, range(0, 2 * PAGE)).unwrap();
        assert_eq!(file.inode.cache().nr_dirty(), dirty);
        file.inode.cache().truncate(FileRange::ALL);
    }
}

#[test]
fn an_unshare_ends_at_the_end_of_the_file() {
    let file = file(|_| blocks(true, Validity(7)));
    file.inode.set_size(pos(PAGE + 1));
    let _lock = file.inode.lock_exclusive();
    unshare_range(&file, FileRange::ALL).unwrap();
    assert_eq!(file.inode.cache().nr_dirty(), 2);
    file.inode.cache().truncate(FileRange::ALL);
}

/// Also the last operation on a mapping that went stale is done, on another one.
#[test]
fn unshare_and_zero_ask_again_when_their_mapping_is_stale() {
    for zero in [false, true] {
        let mut stale = true;
        let file = file(move |_| {
            blocks(
                true,
                Validity(if std::mem::take(&mut stale) { 6 } else { 7 }),
            )
        });
        let _lock = file.inode.lock_exclusive();
        if zero {
            assert_eq!(zero_range(&file, range(0, PAGE)), Ok(true));
        } else {
            unshare_range(&file, range(0, PAGE)).unwrap();
        }
        assert_eq!(file.begun.load(Ordering::Relaxed), 2);
        assert_eq!(file.inode.cache().nr_dirty(), 1);
        file.inode.cache().truncate(FileRange::ALL);
    }
}

/// A private copy that has nothing here yet reads from what it was made of: that has to become zero.
#[test]
fn zeroing_covers_shared_data_that_shows_through_a_hole() {
    let file = file(|_| Mapped {
        iomap: Iomap::hole(range(0, 1 << 16)).with_validity(Validity(7)),
        source: Some(Iomap::new(range(0, 1 << 16), at(0))),
        lease: (),
    });
    let _lock = file.inode.lock_exclusive();
    assert_eq!(zero_range(&file, range(100, 200)), Ok(true));
    let cache = file.inode.cache();
    let folio = cache.find(PageIndex::ZERO).unwrap();
    let mut bytes = [1; 300];
    folio.copy_out(0, &mut bytes);
    assert_eq!(bytes[..100], [0xEE; 100]);
    assert_eq!(bytes[100..200], [0; 100]);
    assert!(folio.is_dirty());
    drop(folio);
    cache.truncate(FileRange::ALL);
}
