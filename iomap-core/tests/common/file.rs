//! A file system of independent files in memory: delayed allocation, unwritten blocks, conversion
//! at the end of the I/O, a size on disk. Records every hook; checks that they balance.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use iomap_core::device::BlockDevice;
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::flusher::Flusher;
use iomap_core::folio::{LockedFolio, Pool, PoolConfig, PoolHandle};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, Iomap, MapKind, Validity};
use iomap_core::iter::{Flow, for_each_mapping};
use iomap_core::ops::{
    Finished, FolioOp, FolioOps, FolioRequest, Intent, IoendRange, MapError, MapFlags, MapOps,
    MapRequest, Mapped, Prepared, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::page_cache::GetFolio;
use iomap_core::stats::Counters;
use iomap_core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use iomap_core::sync::rank::{self, Held};
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange, PageIndex};
use iomap_core::user::SliceSource;
use iomap_core::write::{self, WriteOptions};
use iomap_core::{fsync, resize, writeback, zero};

use super::blocks::{self, Block, Blocks, mapping, overlay_cached};
use super::{Mode, TestDevice};

/// What every block of a fresh device is filled with: somebody else's old bytes.
pub(crate) const SECRET: u8 = 0xEE;

/// The device, the pool and the allocator that files share.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) device: Arc<TestDevice>,
    pub(crate) pool: PoolHandle,
    pub(crate) bits: BlockBits,
    /// The next block never used.
    next: AtomicU64,
    next_ino: AtomicU64,
    /// Whether the bytes of files made from now on must not change during their writeback.
    pub(crate) stable: AtomicBool,
}

impl Volume {
    /// A volume of `bytes` with `1 << bits` byte blocks, caches of `budget` bytes.
    pub(crate) fn new(bytes: u64, bits: u32, budget: u64, mode: Mode) -> Arc<Self> {
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(budget)
        };
        Arc::new(Self {
            device: TestDevice::new(bytes, SECRET, mode),
            pool: Pool::new(config).expect("memory for a pool"),
            bits: BlockBits::new(bits).expect("a block size"),
            next: AtomicU64::new(1),
            next_ino: AtomicU64::new(1),
            stable: AtomicBool::new(false),
        })
    }

    /// A file with an empty cache and nothing allocated; attached to `flusher` if there is one.
    pub(crate) fn file<const A: bool>(
        self: &Arc<Self>,
        flusher: Option<&Arc<Flusher>>,
    ) -> Arc<TestFile<A>> {
        let device: Arc<dyn BlockDevice> = self.device.clone();
        let config = InodeConfig {
            ino: self.next_ino.fetch_add(1, Ordering::Relaxed),
            block_bits: self.bits,
            size: FilePos::ZERO,
            pool: self.pool.clone(),
            device,
            counters: Counters::new(),
            stable_writes: self.stable.load(Ordering::Relaxed),
        };
        let file = Arc::new(TestFile::<A> {
            volume: Arc::clone(self),
            inode: Inode::new(config),
            state: Mutex::new(Rank::Mapping, State::default()),
            transaction: Mutex::new(Rank::TransactionInFolio, ()),
            log: Mutex::new(Rank::Wait, Log::default()),
            on_map: Mutex::new(Rank::Wait, None),
            on_done: Mutex::new(Rank::Wait, None),
            on_begin: Mutex::new(Rank::Wait, None),
            unwritten: AtomicBool::new(true),
            boundary: AtomicU64::new(0),
        });
        if let Some(flusher) = flusher {
            writeback::attach(&file, flusher);
        }
        file
    }
}

thread_local! {
    /// Whether this thread held a folio when it last asked whether its mapping is valid.
    static LOOKED_LOCKED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// A hook that was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    BeforeLock {
        nowait: bool,
    },
    Prepare(String),
    Done(u64),
    AfterUnlock,
    MapWriteback {
        range: String,
        direct: bool,
        writeback: bool,
    },
    Convert(String),
    Failed(String, Errno),
    Release(String),
    SyncMetadata,
}

/// Errors for the calls to come.
#[derive(Debug, Default)]
struct Faults(VecDeque<Option<Errno>>);

impl Faults {
    fn add(&mut self, ok: usize, errno: Errno) {
        self.0.extend(std::iter::repeat_n(None, ok));
        self.0.push_back(Some(errno));
    }

    fn next(&mut self) -> Option<Errno> {
        self.0.pop_front().flatten()
    }

    /// What a hook says that has nothing else to answer.
    fn answer(&mut self) -> Result<()> {
        self.next().map_or(Ok(()), |errno| Err(errno.into()))
    }
}

#[derive(Debug, Default)]
struct State {
    blocks: Blocks,
    generation: u64,
    disk_size: u64,
    /// Errors for the next calls of `map_writeback`.
    map_faults: Faults,
    /// The next answer of `map_writeback`, whatever it was asked.
    bad_map: Option<Iomap>,
    /// Errors for the next calls of `folio_prepare` for writeback.
    prepare_faults: Faults,
    /// Errors for the next calls of `folio_prepare` for anything else.
    change_faults: Faults,
    /// Errors for the next calls of `ioend_done`.
    convert_faults: Faults,
    /// Errors for the next calls of `after_unlock`.
    unlock_faults: Faults,
    /// Errors for the next calls of `before_lock`.
    open_faults: Faults,
    /// Errors for the next calls of `begin`.
    begin_faults: Faults,
    /// Errors for the next calls of `end`.
    end_faults: Faults,
    /// Errors for the next calls of `sync_metadata`.
    sync_faults: Faults,
    /// The next calls of `is_valid` that say no although nothing has changed: those with an error.
    stale: Faults,
    /// The next answer of `begin`, whatever it was asked.
    answer: Option<Iomap>,
}

#[derive(Debug, Default)]
struct Log {
    hooks: Vec<Hook>,
    begun: i64,
    prepared: i64,
    opened: i64,
    /// Bytes that `folio_done` was told of, but for writeback.
    accepted: u64,
}

/// A function a test has called inside `map_writeback`, with the folio locked.
pub(crate) type OnMap = Box<dyn FnMut(&WritebackRequest) + Send>;

/// A file. `A`: transactions are opened before the folio lock (order A), otherwise inside (order B).
pub(crate) struct TestFile<const A: bool> {
    pub(crate) volume: Arc<Volume>,
    inode: Inode,
    state: Mutex<State>,
    transaction: Mutex<()>,
    log: Mutex<Log>,
    pub(crate) on_map: Mutex<Option<OnMap>>,
    /// A function a test has called inside `folio_done` of writeback, with the folio locked.
    pub(crate) on_done: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// A function a test has called at the end of `begin`, with no lock of the backend held.
    pub(crate) on_begin: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Whether writeback allocates unwritten blocks.
    pub(crate) unwritten: AtomicBool,
    /// The block no mapping crosses and no I/O may be merged across; 0 for none.
    pub(crate) boundary: AtomicU64,
}

/// A file whose transactions are opened inside the folio lock.
pub(crate) type OrderB = TestFile<false>;
/// A file whose transactions are opened before the folio lock.
pub(crate) type OrderA = TestFile<true>;

impl<const A: bool> TestFile<A> {
    /// Writes through the cache.
    pub(crate) fn write(&self, pos: u64, bytes: &[u8]) -> Result<u64> {
        self.write_with(pos, bytes, WriteOptions::default())
    }

    /// Writes through the cache.
    pub(crate) fn write_with(&self, pos: u64, bytes: &[u8], options: WriteOptions) -> Result<u64> {
        let _lock = self.inode.lock_exclusive();
        let (old, pos) = (self.inode.size(), FilePos::saturating(pos));
        if pos > old {
            resize::zero_old_end(self, pos)?;
        }
        let done = write::buffered_write(self, pos, &mut SliceSource::new(bytes), options)?;
        if pos > old {
            resize::isize_extended(&self.inode, old, pos);
        }
        Ok(done)
    }

    /// As a store through a memory mapping into a page that is not in the cache, inside the file:
    /// reserves what it needs, takes no inode lock.
    pub(crate) fn store_fault(&self, index: PageIndex, byte: u8) {
        let mut folio = self
            .inode
            .cache()
            .get_or_create(index, GetFolio::default())
            .expect("memory");
        let (range, intent) = (
            folio.range().intersect(self.inode.bytes()),
            Intent::WriteFault,
        );
        let outcome = for_each_mapping(self, range, intent, MapFlags::empty(), |step| {
            step.advance(step.rest().len())?;
            Ok(Flow::Continue)
        });
        outcome.all_or_error().expect("room");
        folio.copy_in(0, &vec![byte; range.len() as usize]);
        folio.set_uptodate();
        folio.set_dirty();
    }

    /// Moves the end of the file.
    pub(crate) fn truncate(&self, size: u64) -> Result<()> {
        let lock = self.inode.lock_exclusive();
        let (old, size) = (self.inode.size(), FilePos::saturating(size));
        self.inode.wait_for_direct(&lock);
        if size >= old {
            resize::zero_old_end(self, size)?;
            // The zeroes are on their way before the size on disk covers them (rule B17).
            fsync::write_and_wait(self, FileRange::from(old))?;
            self.inode.set_size(size);
            resize::isize_extended(&self.inode, old, size);
            self.state.lock().disk_size = size.bytes();
            return Ok(());
        }
        zero::truncate_page(self, size)?;
        let _invalidate = self.inode.invalidate_lock().write();
        self.inode.set_size(size);
        self.inode.cache().truncate(FileRange::from(size));
        let _transaction = self.transaction.lock();
        let mut state = self.state.lock();
        let first = size.round_up(self.inode.block_bits()).bytes() >> self.inode.block_bits().get();
        state.blocks.split_off(&first);
        state.generation += 1;
        state.disk_size = state.disk_size.min(size.bytes());
        Ok(())
    }

    /// The bytes of the file, from the cache where it has them, otherwise from storage.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut bytes = self.on_disk(self.inode.size().bytes());
        overlay_cached(&self.inode, &mut bytes);
        bytes
    }

    /// `len` bytes as storage has them: what a power cut would leave, but for the size.
    pub(crate) fn on_disk(&self, len: u64) -> Vec<u8> {
        let bits = self.inode.block_bits().get();
        let mut bytes = vec![0; len as usize];
        let state = self.state.lock();
        for (block, kind) in &state.blocks {
            let from = (block << bits) as usize;
            if let Block::Written(at) = kind
                && from < bytes.len()
            {
                let to = bytes.len().min(from + (1 << bits));
                let read = self.volume.device.bytes(at << bits, to - from);
                bytes[from..to].copy_from_slice(&read);
            }
        }
        bytes
    }

    /// The size on disk.
    pub(crate) fn disk_size(&self) -> u64 {
        self.state.lock().disk_size
    }

    /// What a block is, `None` for a hole.
    pub(crate) fn block(&self, n: u64) -> Option<Block> {
        self.state.lock().blocks.get(&n).copied()
    }

    /// Makes a block what a test wants it to be.
    pub(crate) fn set_block(&self, n: u64, block: Block) {
        let mut state = self.state.lock();
        state.blocks.insert(n, block);
        state.generation += 1;
    }

    /// Exchanges the storage of a block with that of the first block of another file.
    pub(crate) fn swap_block(&self, n: u64, other: &Self) {
        let (mine, theirs) = (self.block(n), other.block(0));
        let (mine, theirs) = (mine.expect("a block"), theirs.expect("a block"));
        self.set_block(n, theirs);
        other.set_block(0, mine);
    }

    /// A call of `map_writeback` fails, after `ok` more that do not.
    pub(crate) fn fail_map(&self, ok: usize, errno: Errno) {
        self.state.lock().map_faults.add(ok, errno);
    }

    /// The next call of `map_writeback` answers this.
    pub(crate) fn answer_map(&self, iomap: Iomap) {
        self.state.lock().bad_map = Some(iomap);
    }

    /// A call of `folio_prepare` that is not for writeback fails, after `ok` more that do not.
    pub(crate) fn fail_change(&self, ok: usize, errno: Errno) {
        self.state.lock().change_faults.add(ok, errno);
    }

    /// A call of `before_lock` fails, after `ok` more that do not.
    pub(crate) fn fail_open(&self, ok: usize, errno: Errno) {
        self.state.lock().open_faults.add(ok, errno);
    }

    /// A call of `begin` fails, after `ok` more that do not.
    pub(crate) fn fail_begin(&self, ok: usize, errno: Errno) {
        self.state.lock().begin_faults.add(ok, errno);
    }

    /// A call of `end` fails, after `ok` more that do not.
    pub(crate) fn fail_end(&self, ok: usize, errno: Errno) {
        self.state.lock().end_faults.add(ok, errno);
    }

    /// A call of `sync_metadata` fails, after `ok` more that do not.
    pub(crate) fn fail_sync(&self, ok: usize, errno: Errno) {
        self.state.lock().sync_faults.add(ok, errno);
    }

    /// A call of `is_valid` says no, after `ok` more that tell the truth.
    pub(crate) fn say_stale(&self, ok: usize) {
        self.state.lock().stale.add(ok, Errno::AGAIN);
    }

    /// A call of `folio_prepare` for writeback fails, after `ok` more that do not.
    pub(crate) fn fail_prepare(&self, ok: usize, errno: Errno) {
        self.state.lock().prepare_faults.add(ok, errno);
    }

    /// A call of `ioend_done` fails, after `ok` more that do not.
    pub(crate) fn fail_convert(&self, ok: usize, errno: Errno) {
        self.state.lock().convert_faults.add(ok, errno);
    }

    /// A call of `after_unlock` fails, after `ok` more that do not.
    pub(crate) fn fail_unlock(&self, ok: usize, errno: Errno) {
        self.state.lock().unlock_faults.add(ok, errno);
    }

    /// The next call of `begin` answers this.
    pub(crate) fn answer_begin(&self, iomap: Iomap) {
        self.state.lock().answer = Some(iomap);
    }

    /// The hooks so far; forgets them.
    pub(crate) fn take_hooks(&self) -> Vec<Hook> {
        std::mem::take(&mut self.log.lock().hooks)
    }

    /// Bytes that `folio_done` was told of since the last call, but for writeback.
    pub(crate) fn take_accepted(&self) -> u64 {
        std::mem::take(&mut self.log.lock().accepted)
    }

    /// Fails the test unless every hook that opens something was followed by its partner.
    pub(crate) fn check_balance(&self) {
        let log = self.log.lock();
        assert_eq!(log.begun, 0, "begin without end");
        assert_eq!(log.prepared, 0, "folio_prepare without folio_done");
        assert_eq!(log.opened, 0, "before_lock without after_unlock");
    }

    fn record(&self, hook: Hook) {
        self.log.lock().hooks.push(hook);
    }

    fn open_transaction(&self) -> Option<iomap_core::sync::MutexGuard<'_, ()>> {
        (!A).then(|| self.transaction.lock())
    }

    fn numbers(&self, range: FileRange) -> std::ops::Range<u64> {
        blocks::numbers(range, self.inode.block_bits())
    }

    /// The mapping at the start of `range`, as far as neighbours go on in the same way.
    fn lookup(&self, state: &State, range: FileRange) -> Iomap {
        let bits = self.inode.block_bits();
        let mut numbers = self.numbers(range);
        let boundary = self.boundary.load(Ordering::Relaxed);
        let metadata = self.inode.metadata_start();
        let metadata = metadata.map(|at| at.bytes() >> bits.get());
        for stop in metadata.into_iter().chain([boundary]) {
            if stop > numbers.start {
                numbers.end = numbers.end.min(stop);
            }
        }
        let iomap = mapping(&state.blocks, numbers.clone(), bits);
        let mut flags = FsFlags::empty();
        flags.set(
            FsFlags::BOUNDARY,
            boundary != 0 && numbers.start == boundary,
        );
        let beyond = metadata.is_some_and(|at| numbers.start >= at);
        flags.set(FsFlags::BEYOND_EOF, beyond);
        iomap
            .with_flags(flags)
            .with_validity(Validity(state.generation))
    }
}

impl<const A: bool> MapOps for TestFile<A> {
    type Lease = ();

    const ORDER: TransactionOrder = if A {
        TransactionOrder::BeforeFolio
    } else {
        TransactionOrder::InFolio
    };

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        if let Some(errno) = self.state.lock().begin_faults.next() {
            return Err(FsError::from(errno).into());
        }
        self.log.lock().begun += 1;
        let transaction = if req.intent.is_write() {
            self.open_transaction()
        } else {
            None
        };
        let mut state = self.state.lock();
        if let Some(iomap) = state.answer.take() {
            return Ok(Mapped::new(
                iomap.with_validity(Validity(state.generation)),
                (),
            ));
        }
        let mut reserved = false;
        if matches!(req.intent, Intent::Write | Intent::WriteFault) {
            let first = self.numbers(req.range).start;
            if !state.blocks.contains_key(&first) {
                for n in self.numbers(req.range) {
                    if state.blocks.contains_key(&n) {
                        break;
                    }
                    state.blocks.insert(n, Block::Delalloc);
                }
                state.generation += 1;
                reserved = true;
            }
        }
        let mut iomap = self.lookup(&state, req.range);
        iomap.flags.set(FsFlags::NEW, reserved);
        drop(state);
        drop(transaction);
        let on_begin = self.on_begin.lock().take();
        if let Some(mut on_begin) = on_begin {
            on_begin();
        }
        Ok(Mapped::new(iomap, ()))
    }

    fn end(&self, _lease: (), _finished: &Finished<'_>) -> Result<()> {
        self.log.lock().begun -= 1;
        self.state.lock().end_faults.answer()
    }

    fn is_valid(&self, iomap: &Iomap) -> bool {
        LOOKED_LOCKED.set(Some(rank::is_held(Rank::Folio)));
        let mut state = self.state.lock();
        state.stale.next().is_none() && state.generation == iomap.validity.0
    }

    fn release_delalloc(&self, range: FileRange, _iomap: &Iomap) {
        let bits = self.inode.block_bits();
        assert!(
            range.start().is_aligned(bits) && range.end().is_aligned(bits),
            "a reservation of a part of a block: {range}"
        );
        self.record(Hook::Release(range.to_string()));
        let mut state = self.state.lock();
        for n in self.numbers(range) {
            if state.blocks.get(&n) == Some(&Block::Delalloc) {
                state.blocks.remove(&n);
                state.generation += 1;
            }
        }
    }
}

/// An open transaction of order A: its place on the ladder.
#[derive(Debug, Default)]
pub(crate) struct Handle(Option<Held>);

impl<const A: bool> FolioOps for TestFile<A> {
    type Guard = Handle;

    fn before_lock(&self, req: &FolioRequest) -> Result<Handle> {
        if req.op == FolioOp::Writeback {
            self.record(Hook::BeforeLock { nowait: req.nowait });
        }
        if A && req.op == FolioOp::Writeback && req.nowait {
            return Err(FsError::WouldBlock);
        }
        self.state.lock().open_faults.answer()?;
        self.log.lock().opened += 1;
        Ok(Handle(
            A.then(|| rank::acquire(Rank::TransactionBeforeFolio, 0)),
        ))
    }

    fn folio_prepare(
        &self,
        guard: &mut Handle,
        folio: &mut LockedFolio,
        req: &FolioRequest,
    ) -> Result<Prepared> {
        assert_eq!(guard.0.is_some(), A, "the transaction is open");
        assert!(folio.is_locked());
        // Scheduled threads are one to the standard library.
        let change = req.op != FolioOp::Writeback && !cfg!(iomap_shuttle);
        let early = change && LOOKED_LOCKED.take() == Some(false);
        assert!(!early, "rule V1: validated before the folio was locked");
        let fault = match req.op {
            FolioOp::Writeback => self.state.lock().prepare_faults.next(),
            _ => self.state.lock().change_faults.next(),
        };
        if let Some(errno) = fault {
            return Err(errno.into());
        }
        assert!(
            !(self.inode.needs_stable_writes() && folio.is_writeback()),
            "rule B10: bytes are changed while they are written"
        );
        self.log.lock().prepared += 1;
        if req.op == FolioOp::Writeback {
            self.record(Hook::Prepare(folio.range().to_string()));
        }
        Ok(Prepared::Ready)
    }

    fn folio_done(&self, _: &mut Handle, folio: &mut LockedFolio, req: &FolioRequest, done: u64) {
        assert!(
            folio.is_locked() && folio.is_mapped_in(self.inode.cache()),
            "rule F1: the done hook without its folio"
        );
        assert!(
            req.op == FolioOp::Writeback || done == 0 || folio.is_dirty(),
            "rule F1: writeback took the bytes before the backend was told of them, \
             or rule F3: told of bytes never copied"
        );
        self.log.lock().prepared -= 1;
        if req.op == FolioOp::Writeback {
            self.record(Hook::Done(done));
            let on_done = self.on_done.lock().take();
            if let Some(mut on_done) = on_done {
                on_done();
                self.on_done.lock().get_or_insert(on_done);
            }
        } else {
            self.log.lock().accepted += done;
        }
        // Metadata beyond the end leaves the size alone.
        let metadata = self.inode.metadata_start();
        let in_file = metadata.is_none_or(|at| req.range.start() < at);
        let covered = req.range.take(done).end() <= self.inode.size();
        assert!(
            req.op != FolioOp::Write || done == 0 || !in_file || covered,
            "rule F6: the size does not cover the bytes of a folio that is about to be unlocked"
        );
    }

    fn after_unlock(&self, guard: Handle, req: &FolioRequest) -> Result<()> {
        drop(guard);
        self.log.lock().opened -= 1;
        if req.op == FolioOp::Writeback {
            self.record(Hook::AfterUnlock);
        }
        self.state.lock().unlock_faults.answer()
    }
}

impl<const A: bool> WritebackOps for TestFile<A> {
    fn map_writeback(
        &self,
        guard: Option<&mut Handle>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        assert_eq!(guard.is_some(), req.may_allocate);
        let folio = self.inode.cache().find(req.range.start().page());
        let writeback = folio.is_some_and(|folio| folio.is_locked() && folio.is_writeback());
        let (range, direct) = (req.range.to_string(), req.direct_in_flight);
        self.record(Hook::MapWriteback {
            range,
            direct,
            writeback,
        });
        let on_map = self.on_map.lock().take();
        if let Some(mut on_map) = on_map {
            on_map(req);
            self.on_map.lock().get_or_insert(on_map);
        }
        let _transaction = if req.may_allocate {
            self.open_transaction()
        } else {
            None
        };
        let mut state = self.state.lock();
        if let Some(errno) = state.map_faults.next() {
            return Err(errno.into());
        }
        if let Some(iomap) = state.bad_map.take() {
            return Ok(Some(iomap));
        }
        let unwritten = self.unwritten.load(Ordering::Relaxed) || req.direct_in_flight;
        for n in self.numbers(req.range) {
            if state.blocks.get(&n) == Some(&Block::Delalloc) {
                if !req.may_allocate {
                    break;
                }
                let at = self.volume.next.fetch_add(1, Ordering::Relaxed);
                state.blocks.insert(n, Block::stored(at, unwritten));
                state.generation += 1;
            }
        }
        // As far as it goes: more than was asked for.
        let whole = FileRange::between(req.range.start(), req.hint_end);
        let iomap = self.lookup(&state, whole);
        Ok(iomap.addr_at(req.range.start()).is_some().then_some(iomap))
    }

    fn ioend_needs_work(&self, ioend: &IoendRange) -> bool {
        matches!(ioend.iomap.kind, MapKind::Unwritten { .. })
            || ioend.range.end().bytes() > self.state.lock().disk_size
    }

    fn ioend_done(&self, ioend: &IoendRange) -> Result<()> {
        rank::assert_none_from(Rank::Freeze, "rule O5: a conversion");
        self.record(Hook::Convert(ioend.range.to_string()));
        let _transaction = self.transaction.lock();
        let mut state = self.state.lock();
        if let Some(errno) = state.convert_faults.next() {
            return Err(errno.into());
        }
        for n in self.numbers(ioend.iomap.range) {
            match state.blocks.get(&n).copied() {
                Some(Block::Unwritten(at)) => {
                    state.blocks.insert(n, Block::Written(at));
                    state.generation += 1;
                }
                Some(Block::Written(_)) => {}
                other => panic!("block {n} was written while it was freed: {other:?}"),
            }
        }
        // A truncate that came later waits for this writeback, so the size in memory bounds it.
        let end = ioend.range.end().min(self.inode.size()).bytes();
        state.disk_size = state.disk_size.max(end);
        Ok(())
    }

    fn ioend_failed(&self, ioend: &IoendRange, errno: Errno) {
        self.record(Hook::Failed(ioend.range.to_string(), errno));
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        self.record(Hook::SyncMetadata);
        self.state.lock().sync_faults.answer()
    }
}
