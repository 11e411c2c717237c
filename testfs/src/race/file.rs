//! The file of a race: a map of blocks in memory, with or without delayed allocation, on a
//! [`Disk`](super::disk::Disk). Every decision it makes is a step of the run.
//!
//! As a backend it is as small as the framework permits, and does what the discussions speak of:
//! writeback allocates written blocks unless direct I/O is in flight, a write fault without delayed
//! allocation as well. It journals nothing; what it asserts in its done hook is what a journal would.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use iomap_core::device::{BlockDevice, DeviceBuf};
use iomap_core::direct::{self, DirectFlags, DirectOutcome};
use iomap_core::error::{FsError, Result};
use iomap_core::fault::PageFaults;
use iomap_core::folio::{LockedFolio, Pool, PoolConfig};
use iomap_core::fsync;
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, Iomap, MapKind, Validity};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{FaultHandler, MapOptions, Prot};
use iomap_core::ops::{
    DirectDone, DirectOps, Finished, FolioOp, FolioOps, FolioRequest, Intent, IoendRange, MapError,
    MapFlags, MapOps, MapRequest, Mapped, Overwrite, TransactionOrder, WritebackOps,
    WritebackRequest,
};
use iomap_core::read::{ReadOptions, buffered_read};
use iomap_core::stats::Counters;
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange, PageIndex};
use iomap_core::user::SliceSource;
use iomap_core::write::{WriteOptions, buffered_write};

use super::disk::Disk;
use super::engine::{Watched, bad, note, note_here};

/// A block is a page.
const BITS: u32 = 12;
/// Bytes of a page.
pub(super) const PAGE: usize = 1 << BITS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Delalloc,
    Unwritten(u64),
    Written(u64),
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delalloc => f.write_str("delalloc"),
            Self::Unwritten(at) => write!(f, "b{at} unwritten"),
            Self::Written(at) => write!(f, "b{at} written"),
        }
    }
}

#[derive(Debug)]
struct State {
    blocks: BTreeMap<u64, Block>,
    next: u64,
    generation: u64,
}

/// See the module documentation.
pub(super) struct RaceFile {
    pub(super) disk: Arc<Disk>,
    inode: Inode,
    delalloc: bool,
    /// The page whose state stands beside the steps.
    shown: u64,
    state: Mutex<State>,
}

pub(super) fn pos(bytes: usize) -> FilePos {
    FilePos::saturating(bytes as u64)
}

impl RaceFile {
    /// A file of `pages` pages, all hole, of which page `shown` is watched.
    pub(super) fn new(pages: usize, delalloc: bool, shown: u64) -> Arc<Self> {
        let disk = Disk::new(16, BITS);
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(64 << BITS)
        };
        let pool = Pool::new(config).expect("memory for a few pages");
        let device: Arc<dyn BlockDevice> = disk.clone();
        let inode = Inode::new(InodeConfig {
            ino: 7,
            block_bits: BlockBits::PAGE,
            size: pos(pages * PAGE),
            pool,
            device,
            counters: Counters::new(),
            stable_writes: false,
        });
        let state = State {
            blocks: BTreeMap::new(),
            next: 1,
            generation: 0,
        };
        let state = Mutex::new(Rank::Mapping, state);
        Arc::new(Self {
            disk,
            inode,
            delalloc,
            shown,
            state,
        })
    }

    /// Gives pages unwritten storage.
    pub(super) fn preallocate(&self, pages: Range<u64>) {
        let mut state = self.state.lock();
        for page in pages {
            allocate(&mut state, page, true);
        }
    }

    /// Maps the whole file, with a page table of its own.
    pub(super) fn map(self: &Arc<Self>) -> SoftMapping {
        let faults: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self)));
        let pages = PageIndex::ZERO..self.inode.size().page_up();
        SoftMapping::new(faults, pages, Prot::READ | Prot::WRITE, MapOptions::empty())
    }

    /// Writes through the cache.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> Result<u64> {
        let lock = self.inode.lock_exclusive();
        self.inode.wait_for_direct(&lock);
        buffered_write(
            self,
            pos(at),
            &mut SliceSource::new(bytes),
            WriteOptions::default(),
        )
    }

    /// Reads through the cache.
    pub(super) fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let mut to = vec![0xAA; len];
        let n = buffered_read(self, pos(at), &mut to, ReadOptions::default());
        to.truncate(n.unwrap_or(0));
        to
    }

    /// Reads around the cache.
    pub(super) fn read_direct(&self, at: usize, len: usize) -> Vec<u8> {
        let mut to = DeviceBuf::zeroed(len, PAGE);
        let outcome = {
            let _lock = self.inode.lock_shared();
            direct::read(self, pos(at), &mut to, DirectFlags::empty())
        };
        match outcome {
            Ok(DirectOutcome::Done(n)) => to[..n as usize].to_vec(),
            _ => self.read(at, len),
        }
    }

    /// Writes dirty pages and waits for them.
    pub(super) fn write_back(&self, pages: Range<u64>) {
        let range = FileRange::between(
            pos(pages.start as usize * PAGE),
            pos(pages.end as usize * PAGE),
        );
        if let Err(error) = fsync::write_and_wait(self, range) {
            bad(&format!("writeback failed: {error}"));
        }
    }

    /// Reclaim takes a page, if it is clean and nobody uses it. Returns whether it is gone.
    pub(super) fn reclaim(&self, page: u64) -> bool {
        self.inode.cache().pool_handle().shrink(u64::MAX);
        self.inode.cache().find(PageIndex::new(page)).is_none()
    }

    /// Whether a page has a block that counts as written.
    pub(super) fn is_allocated(&self, page: u64) -> bool {
        matches!(self.state.lock().blocks.get(&page), Some(Block::Written(_)))
    }

    /// What the disk has of a page: zeroes where nothing was written.
    pub(super) fn stored(&self, page: u64) -> Vec<u8> {
        let block = self.state.lock().blocks.get(&page).copied();
        match block {
            Some(Block::Written(at)) => self.disk.block(at),
            _ => vec![0; PAGE],
        }
    }

    fn numbers(&self, range: FileRange) -> Range<u64> {
        range.start().bytes() >> BITS..range.end().bytes().div_ceil(PAGE as u64)
    }

    /// The mapping at the start of `range`, as far as neighbours go on in the same way.
    fn lookup(&self, state: &State, range: FileRange) -> Iomap {
        let numbers = self.numbers(range);
        let first = state.blocks.get(&numbers.start).copied();
        let mut end = numbers.start + 1;
        while end < numbers.end && follows(first, end - numbers.start, state.blocks.get(&end)) {
            end += 1;
        }
        let addr = |at: u64| DevAddr::new(at << BITS);
        let kind = match first {
            None => MapKind::Hole,
            Some(Block::Delalloc) => MapKind::Delalloc,
            Some(Block::Unwritten(at)) => MapKind::Unwritten { addr: addr(at) },
            Some(Block::Written(at)) => MapKind::Mapped { addr: addr(at) },
        };
        let bytes = |n: u64| FilePos::saturating(n << BITS);
        Iomap::new(FileRange::between(bytes(numbers.start), bytes(end)), kind)
            .with_validity(Validity(state.generation))
    }

    fn convert(&self, range: FileRange) {
        let mut state = self.state.lock();
        for n in self.numbers(range) {
            if let Some(Block::Unwritten(at)) = state.blocks.get(&n).copied() {
                state.blocks.insert(n, Block::Written(at));
                state.generation += 1;
                note_here(&format!("b{at} converted to written"));
            }
        }
    }
}

impl Watched for RaceFile {
    fn state(&self) -> String {
        let mut text = format!("page {}:", self.shown);
        match self.inode.cache().find(PageIndex::new(self.shown)) {
            None => text.push_str(" not cached"),
            Some(folio) => {
                let marks = [
                    (folio.is_locked(), " locked"),
                    (folio.is_dirty(), " dirty"),
                    (folio.is_writeback(), " writeback"),
                    (!folio.is_uptodate(), " not uptodate"),
                ];
                let set: String = marks.iter().filter(|m| m.0).map(|m| m.1).collect();
                text.push_str(if set.is_empty() { " clean" } else { &set });
            }
        }
        match self.state.try_lock() {
            Some(state) => match state.blocks.get(&self.shown) {
                Some(block) => text.push_str(&format!("; {block}")),
                None => text.push_str("; hole"),
            },
            None => text.push_str("; map locked"),
        }
        text
    }
}

fn follows(first: Option<Block>, n: u64, next: Option<&Block>) -> bool {
    match (first, next) {
        (None, None) | (Some(Block::Delalloc), Some(Block::Delalloc)) => true,
        (Some(Block::Unwritten(a)), Some(Block::Unwritten(b)))
        | (Some(Block::Written(a)), Some(Block::Written(b))) => a + n == *b,
        _ => false,
    }
}

/// Gives a page a block.
fn allocate(state: &mut State, page: u64, unwritten: bool) -> Block {
    let at = state.next;
    state.next += 1;
    let block = if unwritten {
        Block::Unwritten(at)
    } else {
        Block::Written(at)
    };
    state.blocks.insert(page, block);
    state.generation += 1;
    block
}

impl MapOps for RaceFile {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let mut state = self.state.lock();
        let first = self.numbers(req.range).start;
        let wants = matches!(req.intent, Intent::Write | Intent::WriteFault);
        let fresh = wants && !state.blocks.contains_key(&first);
        if fresh && req.flags.contains(MapFlags::DIRECT) {
            return Err(FsError::NoSpace.into());
        }
        let mut got = "";
        if fresh && self.delalloc {
            state.blocks.insert(first, Block::Delalloc);
            state.generation += 1;
            got = "reserves: ";
        } else if fresh {
            // A write fills its block before it is seen; a fault does not (race B).
            let unwritten =
                req.intent == Intent::Write || req.flags.contains(MapFlags::DIRECT_IN_FLIGHT);
            allocate(&mut state, first, unwritten);
            got = "allocates: ";
        }
        let mut iomap = self.lookup(&state, req.range);
        iomap.flags.set(FsFlags::NEW, fresh);
        let block = state
            .blocks
            .get(&first)
            .map_or("hole".to_owned(), Block::to_string);
        note_here(&format!("maps page {first}: {got}{block}"));
        Ok(Mapped::new(iomap, ()))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        Ok(())
    }

    fn is_valid(&self, iomap: &Iomap) -> bool {
        self.state.lock().generation == iomap.validity.0
    }

    fn release_delalloc(&self, _range: FileRange, _iomap: &Iomap) {}
}

impl FolioOps for RaceFile {
    type Guard = ();

    fn before_lock(&self, req: &FolioRequest) -> Result<()> {
        if req.op == FolioOp::WriteFault {
            note("write fault, folio not locked yet");
        }
        Ok(())
    }

    fn folio_done(&self, (): &mut (), folio: &mut LockedFolio, req: &FolioRequest, done: u64) {
        let changed = matches!(req.op, FolioOp::Write | FolioOp::Zero) && done > 0;
        if changed && !folio.is_dirty() {
            bad(
                "writeback took bytes of a write before its done hook could tell the journal of them",
            );
        }
        if changed {
            note(&format!("page {} done", req.range.start().page()));
        }
    }
}

impl WritebackOps for RaceFile {
    fn map_writeback(&self, _: Option<&mut ()>, req: &WritebackRequest) -> Result<Option<Iomap>> {
        let mut state = self.state.lock();
        for n in self.numbers(req.range) {
            if state.blocks.get(&n) == Some(&Block::Delalloc) && req.may_allocate {
                let block = allocate(&mut state, n, req.direct_in_flight);
                note_here(&format!("writeback allocates {block}"));
            }
        }
        let iomap = self.lookup(&state, req.range);
        Ok(iomap.addr_at(req.range.start()).is_some().then_some(iomap))
    }

    fn ioend_needs_work(&self, ioend: &IoendRange) -> bool {
        matches!(ioend.iomap.kind, MapKind::Unwritten { .. })
    }

    fn ioend_done(&self, ioend: &IoendRange) -> Result<()> {
        self.convert(ioend.iomap.range);
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }
}

impl DirectOps for RaceFile {
    fn direct_done(&self, done: &DirectDone) -> Result<()> {
        self.convert(done.range.take(done.written));
        Ok(())
    }

    fn direct_needs_work(&self, _done: &DirectDone) -> bool {
        true
    }

    fn is_overwrite(&self, _range: FileRange) -> Result<Overwrite> {
        Ok(Overwrite::No)
    }
}
