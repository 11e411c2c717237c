//! Files in memory whose blocks are pages of simulated persistent memory. Their metadata is durable
//! when it is synced, and lost in a crash otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use iomap_core::dax::{DaxDevice, DaxVolume, Pins};
use iomap_core::dax_io::{self, Blocks, Content};
use iomap_core::device::BlockDevice;
use iomap_core::error::{Errno, FsError, Result};
use iomap_core::fault::PageFaults;
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use iomap_core::fsync;
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{CoreFlags, FsFlags, Iomap, MapKind};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{FaultHandler, MapOptions, Prot};
use iomap_core::ops::{
    Finished, FolioOps, FolioRequest, Intent, IoendRange, MapError, MapOps, MapRequest, Mapped,
    TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::stats::Counters;
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange, PageIndex};

use crate::pmem::PmemDevice;

pub(crate) const PAGE: u64 = 4096;
/// What every block of a fresh device is filled with: somebody else's old bytes.
pub(crate) const SECRET: u8 = 0xee;

/// The device and the allocator that files share.
pub(crate) struct Disk {
    pub(crate) pmem: Arc<PmemDevice>,
    pub(crate) volume: Arc<DaxVolume>,
    pool: PoolHandle,
    state: Mutex<Allocator>,
}

#[derive(Default)]
struct Allocator {
    next: u64,
    next_ino: u64,
    /// Free again: the last one freed is given out first.
    freed: Vec<u64>,
    /// Files that have a block, where they are more than one.
    shared: BTreeMap<u64, u32>,
}

impl Disk {
    pub(crate) fn new(pages: u64) -> Arc<Self> {
        let pmem = PmemDevice::from_image(&vec![SECRET; (pages * PAGE) as usize]).unwrap();
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(1 << 20)
        };
        let allocator = Allocator {
            next: 1,
            next_ino: 1,
            ..Allocator::default()
        };
        Arc::new(Self {
            volume: DaxVolume::new(pmem.clone()),
            pmem,
            pool: Pool::new(config).unwrap(),
            state: Mutex::new(Rank::AllocGroup, allocator),
        })
    }

    pub(crate) fn pins(&self) -> &Pins {
        self.volume.pins()
    }

    /// `count` neighbouring blocks, or fewer.
    fn allocate(&self, count: u64) -> Result<Range<u64>> {
        let mut state = self.state.lock();
        if let Some(block) = state.freed.pop() {
            return Ok(block..block + 1);
        }
        let left = self.pmem.size() / PAGE - state.next;
        if left == 0 {
            return Err(FsError::NoSpace);
        }
        let start = state.next;
        state.next += count.min(left);
        Ok(start..state.next)
    }

    fn free(&self, block: u64) {
        let mut state = self.state.lock();
        match state.shared.get_mut(&block) {
            Some(1) => {
                state.shared.remove(&block);
            }
            Some(more) => *more -= 1,
            None => state.freed.push(block),
        }
    }

    fn is_shared(&self, block: u64) -> bool {
        self.state.lock().shared.contains_key(&block)
    }

    /// A new, empty file.
    pub(crate) fn file<const A: bool>(self: &Arc<Self>) -> Arc<DaxFile<A>> {
        let ino = {
            let mut state = self.state.lock();
            state.next_ino += 1;
            state.next_ino
        };
        let inode = Inode::new(InodeConfig {
            ino,
            block_bits: BlockBits::PAGE,
            size: FilePos::ZERO,
            pool: self.pool.clone(),
            device: Arc::clone(&self.pmem) as Arc<dyn BlockDevice>,
            counters: Counters::new(),
            stable_writes: false,
        });
        inode.enable_dax(&self.volume);
        Arc::new(DaxFile {
            disk: Arc::clone(self),
            inode,
            state: Mutex::new(Rank::Mapping, State::default()),
            hooks: Mutex::new(Rank::Wait, Hooks::default()),
        })
    }

    /// A file of `pages` pages that has blocks with `byte` in them, all of it durable.
    pub(crate) fn written<const A: bool>(
        self: &Arc<Self>,
        pages: u64,
        byte: u8,
    ) -> Arc<DaxFile<A>> {
        let file = self.file();
        file.write(0, &vec![byte; (pages * PAGE) as usize]);
        file.fsync();
        file
    }
}

pub(crate) const fn addr(block: u64) -> DevAddr {
    DevAddr::new(block * PAGE)
}

pub(crate) const fn page(n: u64) -> PageIndex {
    PageIndex::new(n)
}

pub(crate) const fn pos(n: u64) -> FilePos {
    FilePos::saturating(n)
}

pub(crate) const fn pages(first: u64, count: u64) -> FileRange {
    FileRange::at_most(pos(first * PAGE), count * PAGE)
}

/// A file system's file. `A`: its transaction is opened before the lock of an entry.
pub(crate) struct DaxFile<const A: bool> {
    pub(crate) disk: Arc<Disk>,
    inode: Inode,
    state: Mutex<State>,
    hooks: Mutex<Hooks>,
}

#[derive(Clone, Default)]
struct State {
    blocks: BTreeMap<u64, u64>,
    /// Copies of shared blocks that are not the file's yet.
    copies: BTreeMap<u64, u64>,
    /// What the device would find after a crash.
    durable_blocks: BTreeMap<u64, u64>,
    durable_size: u64,
    /// Pages whose block changed since the last sync.
    changed: BTreeSet<u64>,
    /// Transactions open in this file.
    open: u32,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Hooks {
    end_of_report: Option<Hook>,
    sync: Option<Hook>,
    close_error: Option<Errno>,
    /// Calls of `file_modified`.
    modified: u32,
}

impl<const A: bool> DaxFile<A> {
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let _lock = self.inode.lock_exclusive();
        let done = dax_io::write(self, pos(at), bytes, false).unwrap();
        assert_eq!(done, bytes.len() as u64);
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let _lock = self.inode.lock_shared();
        let mut bytes = vec![0xaa; len];
        let done = dax_io::read(self, pos(at), &mut bytes, false).unwrap();
        bytes.truncate(done as usize);
        bytes
    }

    pub(crate) fn fsync(&self) {
        fsync::fsync(self, FileRange::ALL, true).unwrap();
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.inode.set_size(pos(size));
    }

    /// The block of a page of the file.
    pub(crate) fn block(&self, page: u64) -> Option<u64> {
        self.state.lock().blocks.get(&page).copied()
    }

    /// Maps the whole file and some more.
    pub(crate) fn map(self: &Arc<Self>, options: MapOptions) -> SoftMapping {
        let handler: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self)));
        let pages = PageIndex::ZERO..page(1 << 20);
        SoftMapping::new(handler, pages, Prot::READ | Prot::WRITE, options)
    }

    /// Calls `hook` after the backend was asked where blocks are.
    pub(crate) fn at_end_of_report(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().end_of_report = Some(Arc::new(hook));
    }

    /// Calls `hook` once, at the end of the next sync of the metadata.
    pub(crate) fn after_sync(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().sync = Some(Arc::new(hook));
    }

    /// The next transaction that is closed fails.
    pub(crate) fn fail_close(&self, errno: Errno) {
        self.hooks.lock().close_error = Some(errno);
    }

    /// How often the backend was told that the file is modified.
    pub(crate) fn modified(&self) -> u32 {
        self.hooks.lock().modified
    }

    fn part(&self, range: FileRange, content: Content) -> Blocks<'_, Self> {
        Blocks {
            backend: self,
            range,
            content,
        }
    }

    /// Frees the blocks of whole pages.
    pub(crate) fn punch(&self, first: u64, count: u64) -> Result<()> {
        let part = self.part(pages(first, count), Content::Dropped);
        let inode = self.inode.lock_exclusive();
        let _locks = dax_io::unmap_and_wait_for_pins(&[part], [inode], None)?;
        self.free(first, count);
        Ok(())
    }

    fn free(&self, first: u64, count: u64) {
        let mut state = self.state.lock();
        let gone: Vec<_> = state.blocks.range(first..first + count).collect();
        let gone: Vec<(u64, u64)> = gone
            .into_iter()
            .map(|(page, block)| (*page, *block))
            .collect();
        for (page, block) in gone {
            state.blocks.remove(&page);
            state.changed.insert(page);
            self.disk.free(block);
        }
    }

    /// Moves a page to another block.
    pub(crate) fn move_page(&self, at: u64) -> Result<()> {
        let inode = self.inode.lock_exclusive();
        dax_io::move_blocks(self, pages(at, 1), inode, None, || {
            let old = self.block(at).unwrap();
            let new = self.disk.allocate(1)?.start;
            self.disk.pmem.store_copy(addr(new), addr(old), PAGE)?;
            self.disk.pmem.persist(addr(new), PAGE)?;
            let mut state = self.state.lock();
            state.blocks.insert(at, new);
            state.changed.insert(at);
            drop(state);
            self.disk.free(old);
            Ok(())
        })
    }

    /// Makes all blocks of this file those of `to` too.
    pub(crate) fn clone_to(&self, to: &Self) -> Result<()> {
        let inodes = [self.inode.lock_exclusive(), to.inode.lock_exclusive()];
        let parts = [
            self.part(FileRange::ALL, Content::Kept),
            to.part(FileRange::ALL, Content::Dropped),
        ];
        let _locks = dax_io::unmap_and_wait_for_pins(&parts, inodes, None)?;
        let blocks = self.state.lock().blocks.clone();
        for block in blocks.values() {
            *self.disk.state.lock().shared.entry(*block).or_default() += 1;
        }
        to.free(0, u64::MAX >> 12);
        let mut state = to.state.lock();
        state.changed.extend(blocks.keys());
        state.blocks = blocks;
        drop(state);
        to.inode.set_size(self.inode.size());
        Ok(())
    }

    /// What the file holds after a power cut that lost everything it could.
    pub(crate) fn after_crash(&self) -> Vec<u8> {
        let image = self.disk.pmem.durable_image();
        let state = self.state.lock();
        let mut bytes = vec![0; state.durable_size as usize];
        for (n, page) in bytes.chunks_mut(PAGE as usize).enumerate() {
            if let Some(block) = state.durable_blocks.get(&(n as u64)) {
                page.copy_from_slice(&image[(block * PAGE) as usize..][..page.len()]);
            }
        }
        bytes
    }

    pub(crate) fn core(&self) -> &Inode {
        &self.inode
    }

    /// A run of neighbouring blocks from `first` on, `limit` pages at most.
    fn run(
        state: &State,
        first: u64,
        limit: u64,
        with: impl Fn(u64) -> bool,
    ) -> Option<(u64, u64)> {
        let start = *state.blocks.get(&first)?;
        let wanted = with(start);
        let mut count = 1;
        while count < limit
            && state.blocks.get(&(first + count)) == Some(&(start + count))
            && with(start + count) == wanted
        {
            count += 1;
        }
        Some((start, count))
    }

    fn hole(state: &State, first: u64, limit: u64) -> u64 {
        let next = state.blocks.range(first..).next().map(|(page, _)| *page);
        next.map_or(limit, |next| limit.min(next - first))
    }

    fn durability(state: &State, first: u64, count: u64, size: u64) -> FsFlags {
        let changed = state.changed.range(first..first + count).next();
        let known = changed.is_none() && state.durable_size >= size;
        if known {
            FsFlags::empty()
        } else {
            FsFlags::DIRTY
        }
    }

    /// A mapping for a change.
    fn map_change(&self, req: &MapRequest, first: u64, limit: u64) -> Result<Mapped<()>> {
        let mut state = self.state.lock();
        let run = Self::run(&state, first, limit, |block| self.disk.is_shared(block));
        let size = self.inode.size().bytes();
        match run {
            Some((block, _)) if self.disk.is_shared(block) => {
                let source = Iomap::new(pages(first, 1), MapKind::Mapped { addr: addr(block) });
                let copy = match state.copies.get(&first) {
                    Some(copy) => *copy,
                    None => self.disk.allocate(1)?.start,
                };
                state.copies.insert(first, copy);
                let iomap = Iomap::new(pages(first, 1), MapKind::Mapped { addr: addr(copy) });
                Ok(Mapped {
                    iomap: iomap.with_flags(FsFlags::SHARED | FsFlags::DIRTY),
                    source: Some(source),
                    lease: (),
                })
            }
            Some((block, count)) => {
                let flags = Self::durability(&state, first, count, size);
                let kind = MapKind::Mapped { addr: addr(block) };
                Ok(Mapped::new(
                    Iomap::new(pages(first, count), kind).with_flags(flags),
                    (),
                ))
            }
            None => {
                let hole = Self::hole(&state, first, limit);
                if matches!(req.intent, Intent::Zero | Intent::Unshare) {
                    return Ok(Mapped::new(Iomap::hole(pages(first, hole)), ()));
                }
                let got = self.disk.allocate(hole)?;
                let count = got.end - got.start;
                self.disk.pmem.store_zeroes(addr(got.start), count * PAGE)?;
                self.disk.pmem.persist(addr(got.start), count * PAGE)?;
                state.changed.extend(first..first + count);
                state
                    .blocks
                    .extend((0..count).map(|n| (first + n, got.start + n)));
                let kind = MapKind::Mapped {
                    addr: addr(got.start),
                };
                let flags = FsFlags::NEW | FsFlags::DIRTY;
                Ok(Mapped::new(
                    Iomap::new(pages(first, count), kind).with_flags(flags),
                    (),
                ))
            }
        }
    }
}

impl<const A: bool> MapOps for DaxFile<A> {
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
        assert!(req.is_dax(), "asked as if there were a cache: {req:?}");
        let first = req.range.start().bytes() / PAGE;
        let limit = req.range.end().bytes().div_ceil(PAGE) - first;
        if req.intent.is_write() {
            return Ok(self.map_change(req, first, limit)?);
        }
        let state = self.state.lock();
        let iomap = match Self::run(&state, first, limit, |_| true) {
            Some((block, count)) => {
                Iomap::new(pages(first, count), MapKind::Mapped { addr: addr(block) })
            }
            None => Iomap::hole(pages(first, Self::hole(&state, first, limit))),
        };
        Ok(Mapped::new(iomap, ()))
    }

    fn end(&self, (): (), finished: &Finished<'_>) -> Result<()> {
        if finished.intent == Intent::Report {
            let hook = self.hooks.lock().end_of_report.clone();
            if let Some(hook) = hook {
                hook();
            }
        }
        let copied = finished.iomap.flags.contains(FsFlags::SHARED) && finished.done > 0;
        if copied && finished.intent.is_write() {
            let first = finished.range.start().bytes() / PAGE;
            let mut state = self.state.lock();
            let copy = state.copies.remove(&first).unwrap();
            let old = state.blocks.insert(first, copy).unwrap();
            state.changed.insert(first);
            self.disk.free(old);
        }
        let grew = finished.core.contains(CoreFlags::SIZE_CHANGED);
        assert!(!grew || finished.intent == Intent::Write);
        Ok(())
    }

    fn file_modified(&self, _nowait: bool) -> Result<()> {
        self.hooks.lock().modified += 1;
        Ok(())
    }
}

impl<const A: bool> FolioOps for DaxFile<A> {
    type Guard = ();

    fn before_lock(&self, _req: &FolioRequest) -> Result<()> {
        if A {
            self.state.lock().open += 1;
        }
        Ok(())
    }

    fn after_unlock(&self, (): (), _req: &FolioRequest) -> Result<()> {
        if A {
            self.state.lock().open -= 1;
        }
        let failed = self.hooks.lock().close_error.take();
        failed.map_or(Ok(()), |errno| Err(errno.into()))
    }
}

impl<const A: bool> WritebackOps for DaxFile<A> {
    fn map_writeback(
        &self,
        _guard: Option<&mut ()>,
        _req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        panic!("a DAX file has nothing to write back");
    }

    fn ioend_needs_work(&self, _ioend: &IoendRange) -> bool {
        false
    }

    fn ioend_done(&self, _ioend: &IoendRange) -> Result<()> {
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        let hook = {
            let mut state = self.state.lock();
            if state.open > 0 {
                // The commit waits until every transaction in it is closed: this one never is.
                return Err(Errno::DEADLK.into());
            }
            state.durable_blocks = state.blocks.clone();
            state.changed.clear();
            state.durable_size = self.inode.size().bytes();
            drop(state);
            self.hooks.lock().sync.take()
        };
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }
}
