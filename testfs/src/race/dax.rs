//! The files of a race on persistent memory: what a program stores is in the caches of the processor
//! until it is flushed, and what finds its blocks is in memory until a commit.
//!
//! Owns the blocks of each file, which of them a power cut would leave ([`DaxFile::after_power_cut`]),
//! and transactions that a commit waits for. The allocator gives out the block that was freed last:
//! who frees a block too early sees it again at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use iomap_core::dax::{DaxDevice, DaxVolume};
use iomap_core::dax_io::{self, Blocks, Content};
use iomap_core::device::BlockDevice;
use iomap_core::error::{FsError, Result};
use iomap_core::fault::PageFaults;
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use iomap_core::fsync;
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, Iomap, MapKind};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{FaultHandler, MapOptions, Prot};
use iomap_core::ops::{
    Finished, FolioOps, FolioRequest, Intent, IoendRange, MapError, MapOps, MapRequest, Mapped,
    TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::stats::Counters;
use iomap_core::sync::rank::{self, Held};
use iomap_core::sync::{Condvar, Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FileRange, PageIndex};

use super::engine::{Watched, bad, note, note_here};
use super::file::{PAGE, pos};
use crate::device::PmemDevice;

/// The memory that two files share, and its free blocks.
pub(super) struct Medium {
    pub(super) pmem: Arc<PmemDevice>,
    volume: Arc<DaxVolume>,
    pool: PoolHandle,
    free: Mutex<Vec<u64>>,
}

impl Medium {
    /// Eight blocks, all free, full of zeroes.
    pub(super) fn new() -> Arc<Self> {
        let pmem = PmemDevice::new((8 * PAGE) as u64).expect("memory for a few pages");
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget((16 * PAGE) as u64)
        };
        Arc::new(Self {
            volume: DaxVolume::new(pmem.clone()),
            pmem,
            pool: Pool::new(config).expect("memory for a few pages"),
            free: Mutex::new(Rank::AllocGroup, (1..8).rev().collect()),
        })
    }

    /// A file of `pages` pages, all hole.
    pub(super) fn file(self: &Arc<Self>, ino: u64, pages: usize) -> Arc<DaxFile> {
        let inode = Inode::new(InodeConfig {
            ino,
            block_bits: BlockBits::PAGE,
            size: pos(pages * PAGE),
            pool: self.pool.clone(),
            device: Arc::clone(&self.pmem) as Arc<dyn BlockDevice>,
            counters: Counters::new(),
            stable_writes: false,
        });
        inode.enable_dax(&self.volume);
        Arc::new(DaxFile {
            medium: Arc::clone(self),
            inode,
            state: Mutex::new(Rank::Mapping, State::default()),
            closed: Condvar::new(),
        })
    }
}

#[derive(Default)]
struct State {
    blocks: BTreeMap<u64, u64>,
    /// What the last commit made durable.
    durable: BTreeMap<u64, u64>,
    /// Transactions open.
    open: u32,
}

/// See the module documentation.
pub(super) struct DaxFile {
    medium: Arc<Medium>,
    inode: Inode,
    state: Mutex<State>,
    closed: Condvar,
}

/// An open transaction, above the lock of an entry.
#[derive(Default)]
pub(super) struct Handle {
    held: Option<Held>,
}

fn addr(block: u64) -> DevAddr {
    DevAddr::new(block * PAGE as u64)
}

fn page_range(page: u64) -> FileRange {
    FileRange::at_most(pos(page as usize * PAGE), PAGE as u64)
}

impl DaxFile {
    /// Maps the whole file, with a page table of its own.
    pub(super) fn map(self: &Arc<Self>, options: MapOptions) -> SoftMapping {
        let faults: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self)));
        let pages = PageIndex::ZERO..self.inode.size().page_up();
        SoftMapping::new(faults, pages, Prot::READ | Prot::WRITE, options)
    }

    /// Writes by a call, and makes it durable.
    pub(super) fn write_and_sync(&self, at: usize, bytes: &[u8]) {
        {
            let _lock = self.inode.lock_exclusive();
            if dax_io::write(self, pos(at), bytes, false) != Ok(bytes.len() as u64) {
                bad("the write was cut short");
            }
        }
        self.sync();
    }

    /// Reads by a call.
    pub(super) fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let _lock = self.inode.lock_shared();
        let mut bytes = vec![0xAA; len];
        let n = dax_io::read(self, pos(at), &mut bytes, false).unwrap_or(0);
        bytes.truncate(n as usize);
        bytes
    }

    /// `fdatasync`.
    pub(super) fn sync(&self) {
        if let Err(error) = fsync::fsync(self, FileRange::ALL, true) {
            bad(&format!("fdatasync failed: {error}"));
        }
    }

    /// Frees the block of a page.
    pub(super) fn punch(&self, page: u64) {
        let part = Blocks {
            backend: self,
            range: page_range(page),
            content: Content::Dropped,
        };
        let inode = self.inode.lock_exclusive();
        let Ok(_locks) = dax_io::unmap_and_wait_for_pins(&[part], [inode], None) else {
            bad("the punch failed");
        };
        let block = self.state.lock().blocks.remove(&page);
        if let Some(block) = block {
            self.medium.free.lock().push(block);
            note(&format!("frees b{block}"));
        }
    }

    /// What the program does itself: flushes the lines it stored to.
    pub(super) fn flush_lines(&self, page: u64, len: usize) {
        let block = self.state.lock().blocks.get(&page).copied();
        let flushed = block.map(|block| self.medium.pmem.persist(addr(block), len as u64));
        if flushed != Some(Ok(())) {
            bad("there was nothing to flush");
        }
    }

    /// The block of a page in the tree as it is now.
    pub(super) fn block(&self, page: u64) -> Option<u64> {
        self.state.lock().blocks.get(&page).copied()
    }

    /// What is left of a page if the power goes now and the caches have written nothing back by
    /// themselves.
    pub(super) fn after_power_cut(&self, page: u64) -> Vec<u8> {
        let image = self.medium.pmem.durable_image();
        let block = self.state.lock().durable.get(&page).copied();
        match block {
            Some(block) => image[block as usize * PAGE..][..PAGE].to_vec(),
            None => vec![0; PAGE],
        }
    }
}

impl Watched for DaxFile {
    fn state(&self) -> String {
        let Some(state) = self.state.try_lock() else {
            return "page 0: map locked".to_owned();
        };
        let mut text = match state.blocks.get(&0) {
            None => "page 0: hole".to_owned(),
            Some(block) if state.durable.get(&0) == Some(block) => format!("page 0: b{block}"),
            Some(block) => format!("page 0: b{block}, not durable"),
        };
        drop(state);
        let pins = self.medium.volume.pins();
        let pinned = |block: &u64| pins.first_in(addr(*block), PAGE as u64).is_some();
        let pinned: Vec<String> = (1..8)
            .filter(pinned)
            .map(|block| format!("b{block}"))
            .collect();
        if !pinned.is_empty() {
            text.push_str(&format!("; pinned: {}", pinned.join(" ")));
        }
        text
    }
}

impl MapOps for DaxFile {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::BeforeFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let page = req.range.start().page().get();
        let mut state = self.state.lock();
        let mut block = state.blocks.get(&page).copied();
        let mut fresh = FsFlags::empty();
        if block.is_none() && req.intent.is_write() {
            let got = self.medium.free.lock().pop().ok_or(FsError::NoSpace)?;
            let (device, len) = (&self.medium.pmem, PAGE as u64);
            device.store_zeroes(addr(got), len).map_err(FsError::from)?;
            device.persist(addr(got), len).map_err(FsError::from)?;
            state.blocks.insert(page, got);
            (block, fresh) = (Some(got), FsFlags::NEW);
            note_here(&format!("allocates b{got} for page {page}"));
        }
        let known = state.durable.get(&page).copied() == block;
        let kind = block.map_or(MapKind::Hole, |b| MapKind::Mapped { addr: addr(b) });
        let mut iomap = Iomap::new(page_range(page), kind).with_flags(fresh);
        iomap.flags.set(FsFlags::DIRTY, !known);
        Ok(Mapped::new(iomap, ()))
    }

    fn end(&self, (): (), finished: &Finished<'_>) -> Result<()> {
        if finished.intent == Intent::Report {
            note("has looked for pins");
        }
        Ok(())
    }
}

impl FolioOps for DaxFile {
    type Guard = Handle;

    fn before_lock(&self, _req: &FolioRequest) -> Result<Handle> {
        let held = rank::acquire(Rank::TransactionBeforeFolio, 0);
        self.state.lock().open += 1;
        Ok(Handle { held: Some(held) })
    }

    fn after_unlock(&self, handle: Handle, _req: &FolioRequest) -> Result<()> {
        self.state.lock().open -= 1;
        self.closed.notify_all();
        drop(handle.held);
        Ok(())
    }
}

impl WritebackOps for DaxFile {
    fn map_writeback(
        &self,
        _handle: Option<&mut Handle>,
        _req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        Ok(None)
    }

    fn ioend_needs_work(&self, _ioend: &IoendRange) -> bool {
        false
    }

    fn ioend_done(&self, _ioend: &IoendRange) -> Result<()> {
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        note("commit: waits for open transactions");
        let mut state = self.state.lock();
        while state.open > 0 {
            self.closed.wait(&mut state);
        }
        state.durable = state.blocks.clone();
        drop(state);
        note("commit: the map is durable");
        Ok(())
    }
}
