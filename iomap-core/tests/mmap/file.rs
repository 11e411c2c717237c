//! A file in memory that can be mapped: with or without delayed allocation, any block size, direct
//! I/O, truncate and punch. Blocks that were never written hold somebody else's bytes.

use std::ops::Range;
use std::sync::Arc;

use iomap_core::device::{BlockDevice, DeviceBuf, Limits};
use iomap_core::direct::{self, DirectFlags, DirectOutcome};
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::fault::PageFaults;
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::folio::{LockedFolio, Pool, PoolConfig};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, Iomap, MapKind, Validity};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{FaultHandler, MapOptions, Prot};
use iomap_core::ops::{
    DirectDone, DirectOps, Finished, FolioOp, FolioOps, FolioRequest, Intent, IoendRange, MapError,
    MapFlags, MapOps, MapRequest, Mapped, Overwrite, Prepared, TransactionOrder, WritebackOps,
    WritebackRequest,
};
use iomap_core::read::{ReadOptions, buffered_read};
use iomap_core::stats::Counters;
use iomap_core::sync::{Mutex, Rank, rank};
use iomap_core::units::{BlockBits, FilePos, FileRange, PageIndex};
use iomap_core::user::SliceSource;
use iomap_core::write::{WriteOptions, buffered_write};
use iomap_core::{fsync, resize, writeback, zero};

use super::device::TestDevice;

#[path = "../common/blocks.rs"]
mod blocks;

pub(crate) use blocks::Block;
use blocks::{Blocks, convert, mapping};

/// How a file is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) bits: u32,
    /// Write faults and buffered writes reserve; otherwise they allocate.
    pub(crate) delalloc: bool,
    /// Pages under writeback must not change.
    pub(crate) stable: bool,
    /// Pages of memory.
    pub(crate) budget: u64,
    /// Blocks the volume has.
    pub(crate) blocks: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bits: 12,
            delalloc: true,
            stable: false,
            budget: 256,
            blocks: if cfg!(iomap_shuttle) { 64 } else { 1024 },
        }
    }
}

#[derive(Debug)]
struct State {
    blocks: Blocks,
    next: u64,
    /// Blocks neither allocated nor promised.
    free: u64,
    generation: u64,
}

type OnBegin = Box<dyn FnMut(&MapRequest) + Send>;

/// Called at points of the backend, if set, with none of its locks held.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Before the folio lock of a write fault.
    pub(crate) before_lock: Option<Box<dyn FnMut() + Send>>,
    /// In `begin` of a write fault, before it does anything.
    pub(crate) fault: Option<OnBegin>,
    /// The same of direct I/O.
    pub(crate) direct: Option<OnBegin>,
    /// What `after_unlock` of the next write fault answers.
    pub(crate) unlock_error: Option<Errno>,
    /// How often `folio_prepare` of a write fault puts the folio off.
    pub(crate) put_off: u32,
    /// Calls of `file_modified`.
    pub(crate) modified: u32,
}

/// See the module documentation.
pub(crate) struct TestFile {
    pub(crate) device: Arc<TestDevice>,
    inode: Inode,
    config: Config,
    state: Mutex<State>,
    pub(crate) hooks: Mutex<Hooks>,
    _flusher: Arc<Flusher>,
}

pub(crate) const BOTH: Prot = Prot::READ.union(Prot::WRITE);

pub(crate) fn pos(bytes: u64) -> FilePos {
    FilePos::saturating(bytes)
}

pub(crate) fn range(start: u64, end: u64) -> FileRange {
    FileRange::between(pos(start), pos(end))
}

pub(crate) fn page(n: u64) -> PageIndex {
    PageIndex::new(n)
}

impl TestFile {
    /// A file of `size` bytes, all hole.
    pub(crate) fn new(config: Config, size: u64) -> Arc<Self> {
        let limits = Limits {
            memory_align: 512,
            ..Limits::PLAIN
        };
        let device = TestDevice::new((config.blocks as usize) << config.bits, limits);
        let pool = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(config.budget << 12)
        };
        let pool = Pool::new(pool).expect("memory");
        let scheduled = cfg!(iomap_shuttle);
        let flusher = FlusherConfig {
            threads: !scheduled,
            ..FlusherConfig::default()
        };
        let flusher = Flusher::new(&pool, flusher);
        let as_device: Arc<dyn BlockDevice> = device.clone();
        let inode = Inode::new(InodeConfig {
            ino: 7,
            block_bits: BlockBits::new(config.bits).expect("a block size"),
            size: pos(size),
            pool,
            device: as_device,
            counters: Counters::new(),
            stable_writes: config.stable,
        });
        let state = State {
            blocks: Blocks::new(),
            next: 1,
            free: config.blocks - 1,
            generation: 0,
        };
        let file = Arc::new(Self {
            device,
            inode,
            config,
            state: Mutex::new(Rank::Mapping, state),
            hooks: Mutex::new(Rank::Wait, Hooks::default()),
            _flusher: Arc::clone(&flusher),
        });
        if !scheduled {
            writeback::attach(&file, &flusher);
        }
        file
    }

    /// Maps pages, with a page table of its own.
    pub(crate) fn map(self: &Arc<Self>, pages: Range<u64>, prot: Prot) -> SoftMapping {
        let faults: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self)));
        let pages = page(pages.start)..page(pages.end);
        SoftMapping::new(faults, pages, prot, MapOptions::empty())
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<u64> {
        let lock = self.inode.lock_exclusive();
        self.inode.wait_for_direct(&lock);
        if pos(at) > self.inode.size() {
            resize::zero_old_end(self, pos(at))?;
        }
        let mut source = SliceSource::new(bytes);
        buffered_write(self, pos(at), &mut source, WriteOptions::default())
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut to = vec![0xAA; len];
        let n = buffered_read(self, pos(at), &mut to, ReadOptions::default()).expect("read");
        to.truncate(n);
        to
    }

    /// Reads around the cache; what the backend cannot do so comes through it.
    pub(crate) fn read_direct(&self, at: u64, len: usize) -> Vec<u8> {
        let mut to = DeviceBuf::zeroed(len, 4096);
        let outcome = {
            let _lock = self.inode.lock_shared();
            direct::read(self, pos(at), &mut to, DirectFlags::empty()).expect("read")
        };
        match outcome {
            DirectOutcome::Done(n) => to[..n as usize].to_vec(),
            DirectOutcome::UseBuffered { .. } => self.read(at, len),
        }
    }

    /// Writes around the cache; `false` if the pages would not leave it.
    pub(crate) fn write_direct(&self, at: u64, bytes: &[u8]) -> bool {
        let from = DeviceBuf::from_slice(bytes, 4096);
        let outcome = direct::write_locked(self, pos(at), &from, DirectFlags::empty());
        outcome.expect("written") == DirectOutcome::Done(bytes.len() as u64)
    }

    pub(crate) fn sync(&self) {
        fsync::fsync(self, FileRange::ALL, false).expect("written");
    }

    /// Has reclaim drop every page. All are clean: mapped or not, they go, as soon as the worker
    /// that ended their writeback has let go of them.
    pub(crate) fn drop_cache(&self) {
        while self.inode.cache().nr_pages() > 0 {
            self.inode.cache().pool_handle().shrink(u64::MAX);
            iomap_core::sync::thread::yield_now();
        }
    }

    /// Moves the end of the file.
    pub(crate) fn truncate(&self, size: u64) -> Result<()> {
        let lock = self.inode.lock_exclusive();
        let (old, size) = (self.inode.size(), pos(size));
        self.inode.wait_for_direct(&lock);
        if size >= old {
            resize::zero_old_end(self, size)?;
            self.inode.set_size(size);
            resize::isize_extended(&self.inode, old, size);
            return Ok(());
        }
        zero::truncate_page(self, size)?;
        let _invalidate = self.inode.invalidate_lock().write();
        self.inode.set_size(size);
        self.inode.cache().truncate(FileRange::from(size));
        self.free(FileRange::from(size.round_up(self.inode.block_bits())));
        Ok(())
    }

    /// Makes a hole of the whole blocks in `range`, and zeroes the rest of it.
    pub(crate) fn punch(&self, range: FileRange) -> Result<()> {
        let lock = self.inode.lock_exclusive();
        self.inode.wait_for_direct(&lock);
        let _invalidate = self.inode.invalidate_lock().write();
        let blocks = range.round_in(self.inode.block_bits());
        zero::zero_range(self, FileRange::between(range.start(), blocks.start()))?;
        zero::zero_range(self, FileRange::between(blocks.end(), range.end()))?;
        self.inode.cache().truncate(blocks);
        self.free(blocks);
        Ok(())
    }

    fn free(&self, range: FileRange) {
        let mut state = self.state.lock();
        let numbers = self.numbers(range);
        let before = state.blocks.len();
        state.blocks.retain(|n, _| !numbers.contains(n));
        state.free += (before - state.blocks.len()) as u64;
        state.generation += 1;
    }

    pub(crate) fn block(&self, n: u64) -> Option<Block> {
        self.state.lock().blocks.get(&n).copied()
    }

    /// Gives blocks written storage full of `byte`.
    pub(crate) fn lay_out(&self, numbers: Range<u64>, byte: u8) {
        for n in numbers {
            let mut state = self.state.lock();
            let at = state.next;
            state.next += 1;
            state.free -= 1;
            state.blocks.insert(n, Block::Written(at));
            drop(state);
            let bits = self.config.bits;
            self.device.fill(at << bits, 1 << bits, byte);
        }
    }

    /// Leaves `n` blocks to be had.
    pub(crate) fn set_free(&self, n: u64) {
        self.state.lock().free = n;
    }

    pub(crate) fn free_blocks(&self) -> u64 {
        self.state.lock().free
    }

    /// Fails unless promises and dirty data match.
    pub(crate) fn check(&self) {
        let state = self.state.lock();
        let promised: Vec<u64> = state
            .blocks
            .iter()
            .filter(|(_, block)| **block == Block::Delalloc)
            .map(|(n, _)| *n)
            .collect();
        drop(state);
        for n in promised {
            let at = pos(n << self.config.bits);
            let folio = self.inode.cache().find(at.page());
            let folio = folio.and_then(|folio| self.inode.cache().lock(&folio));
            let dirty = folio.is_some_and(|folio| {
                let from = at.since(folio.range().start()) as usize;
                folio.is_range_dirty(from..from + 1)
            });
            assert!(dirty, "block {n} is promised to nobody");
        }
        let lock = self.inode.lock_exclusive();
        assert!(!self.inode.direct().is_busy_after_fence());
        drop(lock);
    }

    fn numbers(&self, range: FileRange) -> Range<u64> {
        blocks::numbers(range, self.inode.block_bits())
    }

    fn lookup(&self, state: &State, range: FileRange) -> Iomap {
        let mut numbers = self.numbers(range);
        if state.blocks.contains_key(&numbers.start) {
            // One block at a time; a hole ends at the next block.
            numbers.end = numbers.start + 1;
        }
        mapping(&state.blocks, numbers, self.inode.block_bits())
            .with_validity(Validity(state.generation))
    }

    fn allocate(&self, state: &mut State, n: u64, unwritten: bool) {
        let at = state.next;
        state.next += 1;
        state.blocks.insert(n, Block::stored(at, unwritten));
        state.generation += 1;
    }
}

impl MapOps for TestFile {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        self.call_hook(req);
        let mut state = self.state.lock();
        let first = self.numbers(req.range).start;
        let direct = req.flags.contains(MapFlags::DIRECT);
        let wants = matches!(req.intent, Intent::Write | Intent::WriteFault);
        let have = state.blocks.get(&first).copied();
        let mut fresh = false;
        match have {
            Some(Block::Delalloc) if direct && wants => self.allocate(&mut state, first, true),
            None if wants && state.free == 0 => return Err(FsError::NoSpace.into()),
            None if wants => {
                state.free -= 1;
                fresh = true;
                // A write through the cache fills its block before it is seen; a fault does not
                // (race B of the direct I/O discussion).
                let busy = req.flags.contains(MapFlags::DIRECT_IN_FLIGHT);
                if direct || req.intent == Intent::Write && !self.config.delalloc {
                    self.allocate(&mut state, first, true);
                } else if self.config.delalloc {
                    state.blocks.insert(first, Block::Delalloc);
                    state.generation += 1;
                } else {
                    self.allocate(&mut state, first, busy);
                }
            }
            _ => {}
        }
        let mut iomap = self.lookup(&state, req.range);
        iomap.flags.set(FsFlags::NEW, fresh);
        Ok(Mapped::new(iomap, ()))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        Ok(())
    }

    fn file_modified(&self, _nowait: bool) -> Result<()> {
        self.hooks.lock().modified += 1;
        Ok(())
    }

    fn is_valid(&self, iomap: &Iomap) -> bool {
        self.state.lock().generation == iomap.validity.0
    }

    fn release_delalloc(&self, range: FileRange, _iomap: &Iomap) {
        let mut state = self.state.lock();
        for n in self.numbers(range) {
            if state.blocks.get(&n) == Some(&Block::Delalloc) {
                state.blocks.remove(&n);
                state.free += 1;
                state.generation += 1;
            }
        }
    }
}

impl FolioOps for TestFile {
    type Guard = ();

    fn before_lock(&self, req: &FolioRequest) -> Result<()> {
        if req.op == FolioOp::WriteFault {
            assert!(
                rank::is_held(Rank::Invalidate),
                "a fault beside somebody who removes pages for good"
            );
            let hook = self.hooks.lock().before_lock.take();
            if let Some(mut hook) = hook {
                hook();
                self.hooks.lock().before_lock.get_or_insert(hook);
            }
        }
        Ok(())
    }

    fn folio_prepare(
        &self,
        (): &mut (),
        _folio: &mut LockedFolio,
        req: &FolioRequest,
    ) -> Result<Prepared> {
        let put_off = &mut self.hooks.lock().put_off;
        if req.op == FolioOp::WriteFault && *put_off > 0 {
            *put_off -= 1;
            return Ok(Prepared::Again);
        }
        Ok(Prepared::Ready)
    }

    fn after_unlock(&self, (): (), req: &FolioRequest) -> Result<()> {
        let fault = req.op == FolioOp::WriteFault;
        match fault
            .then(|| self.hooks.lock().unlock_error.take())
            .flatten()
        {
            Some(errno) => Err(errno.into()),
            None => Ok(()),
        }
    }
}

impl WritebackOps for TestFile {
    fn map_writeback(
        &self,
        _guard: Option<&mut ()>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        let mut state = self.state.lock();
        for n in self.numbers(req.range) {
            match state.blocks.get(&n) {
                Some(Block::Delalloc) if !req.may_allocate => break,
                Some(Block::Delalloc) => self.allocate(&mut state, n, req.direct_in_flight),
                Some(_) => {}
                None => panic!("block {n} is dirty and has no storage"),
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

impl TestFile {
    fn call_hook(&self, req: &MapRequest) {
        let fault = req.intent == Intent::WriteFault;
        let place = |hooks: &mut Hooks| {
            if fault {
                hooks.fault.take()
            } else if req.flags.contains(MapFlags::DIRECT) {
                hooks.direct.take()
            } else {
                None
            }
        };
        let hook = place(&mut self.hooks.lock());
        let Some(mut hook) = hook else { return };
        hook(req);
        let hooks = &mut *self.hooks.lock();
        if fault {
            hooks.fault.get_or_insert(hook);
        } else {
            hooks.direct.get_or_insert(hook);
        }
    }

    fn convert(&self, range: FileRange) {
        let mut state = self.state.lock();
        state.generation += convert(&mut state.blocks, self.numbers(range));
    }
}

impl DirectOps for TestFile {
    fn direct_done(&self, done: &DirectDone) -> Result<()> {
        let written = done.range.take(done.written);
        if !written.is_empty() {
            self.convert(written);
            if written.end() > self.inode.size() {
                self.inode.set_size(written.end());
            }
        }
        Ok(())
    }

    fn direct_needs_work(&self, _done: &DirectDone) -> bool {
        true
    }

    fn is_overwrite(&self, range: FileRange) -> Result<Overwrite> {
        let state = self.state.lock();
        let kinds = self.numbers(range).map(|n| state.blocks.get(&n).copied());
        Ok(kinds.fold(Overwrite::Written, |all, block| match block {
            None | Some(Block::Delalloc) => Overwrite::No,
            Some(Block::Unwritten(_)) if all != Overwrite::No => Overwrite::Allocated,
            _ => all,
        }))
    }
}
