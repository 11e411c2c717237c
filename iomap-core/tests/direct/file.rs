//! One file in memory on a [`TestDevice`]: blocks that are holes, reserved, unwritten or written,
//! with faults and callbacks at the points a test wants.

use std::sync::Arc;

use iomap_core::device::{BlockDevice, Limits};
use iomap_core::error::{FsError, Result};
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, InlineBuffer, Iomap, MapKind, Validity};
use iomap_core::ops::{
    DirectDone, DirectKinds, DirectOps, Finished, FolioOps, Intent, IoendRange, MapError, MapFlags,
    MapOps, MapRequest, Mapped, Overwrite, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::page_cache::GetFolio;
use iomap_core::stats::{Counters, Snapshot};
use iomap_core::sync::Mutex;
use iomap_core::sync::rank::{self, Rank};
use iomap_core::units::{BlockBits, FilePos, FileRange};
use iomap_core::user::SliceSource;
use iomap_core::write::{self, WriteOptions};
use iomap_core::{fsync, resize, writeback};

use super::device::TestDevice;

#[path = "../common/blocks.rs"]
mod blocks;

pub(crate) use blocks::Block;
use blocks::{Blocks, convert, mapping, overlay_cached};

/// Bytes in the inode.
#[derive(Debug)]
pub(crate) struct Inline(Mutex<Vec<u8>>);

impl InlineBuffer for Inline {
    fn read_at(&self, offset: usize, to: &mut [u8]) {
        let data = self.0.lock();
        for (n, byte) in to.iter_mut().enumerate() {
            *byte = data.get(offset + n).copied().unwrap_or(0);
        }
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        self.0.lock()[offset..offset + from.len()].copy_from_slice(from);
    }

    fn capacity(&self) -> usize {
        self.0.lock().len()
    }
}

type OnBegin = Box<dyn FnMut(&MapRequest) -> Result<(), MapError> + Send>;
type OnDone = Box<dyn FnMut(&DirectDone) -> Result<()> + Send>;
type OnMap = Box<dyn FnMut(&WritebackRequest) + Send>;

/// Called at points of the backend, if set.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) begin: Option<OnBegin>,
    pub(crate) done: Option<OnDone>,
    pub(crate) map_writeback: Option<OnMap>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) blocks: Blocks,
    next: u64,
    generation: u64,
    /// The longest mapping, blocks.
    pub(crate) longest: u64,
    /// Direct writes get written blocks, flagged new, instead of unwritten ones.
    pub(crate) allocate_written: bool,
    /// Flags of every mapping.
    pub(crate) flags: FsFlags,
    /// The backend wants to hear of conversions and growth only.
    pub(crate) light: bool,
    pub(crate) syncs: Vec<bool>,
    pub(crate) done: Vec<(u64, DirectKinds)>,
    begun: i64,
}

/// See the module documentation.
pub(crate) struct TestFile {
    pub(crate) device: Arc<TestDevice>,
    inode: Inode,
    pub(crate) state: Mutex<State>,
    pub(crate) hooks: Mutex<Hooks>,
    pub(crate) inline: Option<Arc<Inline>>,
    flusher: Arc<Flusher>,
}

pub(crate) const LIMITS: Limits = Limits {
    memory_align: 512,
    fua: true,
    volatile_cache: true,
    ..Limits::PLAIN
};

pub(crate) fn pos(bytes: u64) -> FilePos {
    FilePos::saturating(bytes)
}

pub(crate) fn range(start: u64, end: u64) -> FileRange {
    FileRange::between(pos(start), pos(end))
}

impl TestFile {
    /// An empty file with `1 << bits` byte blocks on 4 MiB.
    pub(crate) fn new(bits: u32) -> Arc<Self> {
        Self::with(bits, LIMITS, None)
    }

    pub(crate) fn with(bits: u32, limits: Limits, inline: Option<usize>) -> Arc<Self> {
        let size = if cfg!(iomap_shuttle) {
            64 << 10
        } else {
            4 << 20
        };
        let device = TestDevice::new(size, limits);
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(8 << 20)
        };
        let pool: PoolHandle = Pool::new(config).expect("memory");
        // Without a flusher's threads in scheduled tests: writeback is finished by who starts it.
        let scheduled = cfg!(iomap_shuttle);
        let config = FlusherConfig {
            threads: !scheduled,
            ..FlusherConfig::default()
        };
        let flusher = Flusher::new(&pool, config);
        let as_device: Arc<dyn BlockDevice> = device.clone();
        let inode = Inode::new(InodeConfig {
            ino: 7,
            block_bits: BlockBits::new(bits).expect("9..=16"),
            size: FilePos::ZERO,
            pool,
            device: as_device,
            counters: Counters::new(),
            stable_writes: false,
        });
        let state = State {
            next: 1,
            longest: u64::MAX,
            ..State::default()
        };
        let inline = inline.map(|len| Arc::new(Inline(Mutex::new(Rank::Wait, vec![0; len]))));
        let file = Arc::new(Self {
            device,
            inode,
            state: Mutex::new(Rank::Mapping, state),
            hooks: Mutex::new(Rank::Wait, Hooks::default()),
            inline,
            flusher,
        });
        if !scheduled {
            writeback::attach(&file, &file.flusher);
        }
        file
    }

    /// Gives the blocks of `numbers` storage of a kind and moves the size behind them. Written
    /// blocks hold the byte `fill`.
    pub(crate) fn lay_out(&self, numbers: std::ops::Range<u64>, written: Option<u8>) {
        let bits = self.inode.block_bits();
        for n in numbers.clone() {
            let mut state = self.state.lock();
            let at = state.next;
            state.next += 1;
            let block = Block::stored(at, written.is_none());
            state.blocks.insert(n, block);
            drop(state);
            if let Some(fill) = written {
                self.device.fill(at << bits.get(), bits.size(), fill);
            }
        }
        let end = pos(numbers.end << bits.get());
        if end > self.inode.size() {
            self.inode.set_size(end);
        }
        self.device.take_asked();
    }

    pub(crate) fn block(&self, n: u64) -> Option<Block> {
        self.state.lock().blocks.get(&n).copied()
    }

    /// Writes through the cache.
    pub(crate) fn write_buffered(&self, at: u64, bytes: &[u8]) -> Result<u64> {
        let _lock = self.inode.lock_exclusive();
        let old = self.inode.size();
        if pos(at) > old {
            resize::zero_old_end(self, pos(at))?;
        }
        write::buffered_write(
            self,
            pos(at),
            &mut SliceSource::new(bytes),
            WriteOptions::default(),
        )
    }

    /// Dirties a page as a store through a memory mapping does: no inode lock.
    pub(crate) fn store(&self, page: u64, byte: u8) {
        let at = iomap_core::units::PageIndex::new(page);
        let mut folio = self
            .inode
            .cache()
            .get_or_create(at, GetFolio::default())
            .expect("memory");
        let mut state = self.state.lock();
        let bits = self.inode.block_bits().get();
        for n in (page << 12 >> bits)..((page + 1) << 12 >> bits) {
            state.blocks.entry(n).or_insert(Block::Delalloc);
        }
        drop(state);
        let len = folio.len();
        folio.zero(0..len);
        folio.copy_in(0, &[byte; 4096]);
        folio.set_uptodate();
        folio.set_dirty();
    }

    /// Puts a clean page full of `byte` into the cache.
    pub(crate) fn cache_page(&self, page: u64, byte: u8) {
        let at = iomap_core::units::PageIndex::new(page);
        let mut folio = self
            .inode
            .cache()
            .get_or_create(at, GetFolio::default())
            .expect("memory");
        folio.copy_in(0, &[byte; 4096]);
        folio.set_uptodate();
    }

    /// What a buffered read gives: the cache where it has the bytes, storage otherwise.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let bits = self.inode.block_bits();
        let mut bytes = vec![0; self.inode.size().bytes() as usize];
        for (n, to) in bytes.chunks_mut(bits.size() as usize).enumerate() {
            if let Some(Block::Written(block)) = self.block(n as u64) {
                let read = self.device.bytes(block << bits.get(), bits.size() as usize);
                to.copy_from_slice(&read[..to.len()]);
            }
        }
        overlay_cached(&self.inode, &mut bytes);
        bytes
    }

    pub(crate) fn sync_data(&self) {
        fsync::write_and_wait(self, FileRange::ALL).expect("written");
    }

    pub(crate) fn counts(&self) -> Snapshot {
        self.inode.counters().snapshot()
    }

    /// Fails unless every exit gave everything back: mappings ended, the count lowered (rule O7).
    pub(crate) fn check_balance(&self) {
        assert_eq!(self.state.lock().begun, 0, "begin without end");
        let lock = self.inode.lock_exclusive();
        assert!(
            !self.inode.direct().is_busy_after_fence(),
            "the in-flight count leaked"
        );
        self.inode.wait_for_direct(&lock);
    }

    fn numbers(&self, range: FileRange) -> std::ops::Range<u64> {
        blocks::numbers(range, self.inode.block_bits())
    }

    fn lookup(&self, state: &State, range: FileRange) -> Iomap {
        let mut numbers = self.numbers(range);
        let longest = numbers.start.saturating_add(state.longest);
        numbers.end = numbers.end.min(longest);
        mapping(&state.blocks, numbers, self.inode.block_bits())
            .with_flags(state.flags)
            .with_validity(Validity(state.generation))
    }

    fn needs_allocation(&self, state: &State, range: FileRange) -> bool {
        self.numbers(range)
            .any(|n| matches!(state.blocks.get(&n), None | Some(Block::Delalloc)))
    }
}

impl MapOps for TestFile {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let hook = self.hooks.lock().begin.take();
        if let Some(mut hook) = hook {
            let result = hook(req);
            self.hooks.lock().begin.get_or_insert(hook);
            result?;
        }
        if let Some(data) = &self.inline {
            self.state.lock().begun += 1;
            let data: Arc<dyn InlineBuffer> = data.clone();
            let whole = range(0, data.capacity() as u64);
            let iomap = if whole.contains(req.range.start()) {
                Iomap::new(whole, MapKind::Inline { data })
            } else {
                Iomap::hole(FileRange::from(whole.end()))
            };
            return Ok(Mapped::new(iomap, ()));
        }
        let mut state = self.state.lock();
        let mut fresh = false;
        let first = self.numbers(req.range).start;
        let direct = req.flags.contains(MapFlags::DIRECT);
        if direct
            && req.intent == Intent::Write
            && req.flags.contains(MapFlags::OVERWRITE_ONLY)
            && self.needs_allocation(&state, req.range)
        {
            return Err(FsError::WouldBlock.into());
        }
        if req.intent == Intent::Write
            && !matches!(state.blocks.get(&first), Some(b) if *b != Block::Delalloc)
        {
            if direct && req.flags.contains(MapFlags::NOWAIT) {
                return Err(FsError::WouldBlock.into());
            }
            for n in self.numbers(req.range) {
                if matches!(state.blocks.get(&n), Some(b) if *b != Block::Delalloc) {
                    break;
                }
                let block = if direct {
                    let at = state.next;
                    state.next += 1;
                    Block::stored(at, !state.allocate_written)
                } else {
                    Block::Delalloc
                };
                state.blocks.insert(n, block);
                fresh = true;
            }
            state.generation += 1;
        }
        state.begun += 1;
        let mut iomap = self.lookup(&state, req.range);
        if fresh {
            iomap.flags |= FsFlags::NEW;
        }
        Ok(Mapped::new(iomap, ()))
    }

    fn end(&self, (): (), finished: &Finished<'_>) -> Result<()> {
        let mut state = self.state.lock();
        state.begun -= 1;
        let direct = finished.flags.contains(MapFlags::DIRECT);
        if direct && finished.iomap.flags.contains(FsFlags::NEW) {
            // What was allocated and not used goes back.
            let used = pos(finished.range.take(finished.done).end().bytes())
                .round_up(self.inode.block_bits());
            for n in self.numbers(FileRange::between(used, finished.iomap.range.end())) {
                state.blocks.remove(&n);
            }
        }
        Ok(())
    }

    fn is_valid(&self, iomap: &Iomap) -> bool {
        self.state.lock().generation == iomap.validity.0
    }
}

impl FolioOps for TestFile {
    type Guard = ();
}

impl WritebackOps for TestFile {
    fn map_writeback(
        &self,
        _guard: Option<&mut ()>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        let hook = self.hooks.lock().map_writeback.take();
        if let Some(mut hook) = hook {
            hook(req);
            self.hooks.lock().map_writeback.get_or_insert(hook);
        }
        let mut state = self.state.lock();
        for n in self.numbers(req.range) {
            if state.blocks.get(&n) == Some(&Block::Delalloc) {
                let at = state.next;
                state.next += 1;
                // The rule under test (O1-O4): written blocks only if no direct I/O can see them.
                let block = Block::stored(at, req.direct_in_flight);
                state.blocks.insert(n, block);
                state.generation += 1;
            }
        }
        Ok(Some(self.lookup(&state, req.range)))
    }

    fn ioend_needs_work(&self, ioend: &IoendRange) -> bool {
        matches!(ioend.iomap.kind, MapKind::Unwritten { .. })
    }

    fn ioend_done(&self, ioend: &IoendRange) -> Result<()> {
        let mut state = self.state.lock();
        let numbers = self.numbers(ioend.iomap.range);
        state.generation += convert(&mut state.blocks, numbers);
        Ok(())
    }

    fn sync_metadata(&self, data_only: bool) -> Result<()> {
        rank::assert_none_from(Rank::Inode, "sync_metadata");
        assert!(
            !self.inode.direct().is_busy_after_fence(),
            "the sync comes after the count"
        );
        self.state.lock().syncs.push(data_only);
        self.device.flush()?;
        Ok(())
    }
}

impl DirectOps for TestFile {
    fn direct_done(&self, done: &DirectDone) -> Result<()> {
        assert!(
            self.inode.direct().is_busy_after_fence(),
            "the count is lowered last"
        );
        let hook = self.hooks.lock().done.take();
        if let Some(mut hook) = hook {
            let result = hook(done);
            self.hooks.lock().done.get_or_insert(hook);
            result?;
        }
        let mut state = self.state.lock();
        state.done.push((done.written, done.kinds));
        let written = done.range.take(done.written);
        if !written.is_empty() {
            let numbers = self.numbers(written);
            state.generation += convert(&mut state.blocks, numbers);
            if written.end() > self.inode.size() {
                self.inode.set_size(written.end());
            }
        }
        Ok(())
    }

    fn direct_needs_work(&self, done: &DirectDone) -> bool {
        let light = self.state.lock().light;
        !light || !done.kinds.is_empty() || done.range.end() > self.inode.size()
    }

    fn is_overwrite(&self, range: FileRange) -> Result<Overwrite> {
        let state = self.state.lock();
        if self.needs_allocation(&state, range) {
            return Ok(Overwrite::No);
        }
        let written = self
            .numbers(range)
            .all(|n| matches!(state.blocks.get(&n), Some(Block::Written(_))));
        Ok(if written {
            Overwrite::Written
        } else {
            Overwrite::Allocated
        })
    }
}
