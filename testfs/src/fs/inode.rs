//! A regular file in memory.
//!
//! Owns [`TestInode`]: the framework's inode, the mapping with its generation, the attributes that
//! the tree does not have yet. What the framework asks of it stands beside: [`map`](super::map),
//! [`writeback`](super::writeback), [`direct`](super::direct). How long it lives is
//! [`table`](super::table)'s.
//!
//! # Locking
//!
//! ```text
//! Inode -> Invalidate -> Folio -> transaction (Meta) -> Mapping -> space account
//! ```
//!
//! An extent of the file changes only inside a transaction and with the mapping lock, taken in it,
//! held. Who looks samples tree and memory with the mapping lock held, so the two agree.

use std::fmt;
use std::sync::Arc;

use iomap_core::error::{FsError, Result};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{Iomap, MapKind, Validity};
use iomap_core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use iomap_core::sync::{Mutex, Rank, RwLock, RwLockWriteGuard};
use iomap_core::units::{FilePos, FileRange};

use super::attr::Pending;
use super::dax::DAX_FLAG;
use super::inline::InlineData;
use super::mapping::{Mapping, Place};
use super::volume::Volume;
use crate::format::item::{self, Body};
use crate::format::{BlockRange, DiskBlock, FileBlock, Ino};
use crate::meta::extents::{Extent, ExtentState};
use crate::meta::{Purpose, Txn};

/// A regular file in memory.
pub struct TestInode {
    pub(super) volume: Arc<Volume>,
    pub(super) ino: Ino,
    pub(super) core: Inode,
    pub(super) mapping: RwLock<Mapping>,
    /// Changes with every change of an extent or of a promise, inside the mapping lock. Stored
    /// `Release`, partner: the `Acquire` load of `is_valid` with a folio locked. A conversion is
    /// counted before the folio's writeback ends, so who has the folio sees it.
    generation: AtomicU64,
    /// The size the tree has. Stored (`Release`) after the transaction that set it; loaded
    /// (`Acquire`) to see whether a write has to move it: too small an answer costs a transaction.
    disk_size: AtomicU64,
    pub(super) inline: Arc<InlineData>,
    pub(super) pending: Mutex<Pending>,
    /// A truncate could not bring the tree to the size in memory: until that is done, what lies past
    /// it must not become part of the file. Changed with the inode lock held exclusively; seen
    /// without it by a sync, which takes the lock then (`Relaxed`: the lock orders).
    pub(super) uncut: AtomicBool,
    /// The errors of writeback that a sync of the whole file system has reported, as
    /// [`IoendQueue::errors`](iomap_core::inode::IoendQueue::errors) counts them. Orders nothing: it
    /// is a copy of that count.
    reported: AtomicU64,
}

impl TestInode {
    /// The file `ino`, whose item in the tree is `item`.
    pub(super) fn new(volume: &Arc<Volume>, ino: Ino, item: &item::Inode) -> Arc<Self> {
        let core = Inode::new(InodeConfig {
            ino: ino.get(),
            block_bits: volume.bits,
            size: FilePos::saturating(item.size),
            pool: volume.pool.clone(),
            device: Arc::clone(&volume.device),
            counters: Arc::clone(&volume.counters),
            stable_writes: false,
        });
        if let Some(dax) = &volume.dax
            && (dax.all || item.flags & DAX_FLAG != 0)
        {
            core.enable_dax(&dax.volume);
        }
        let data = match &item.body {
            Body::Inline(data) => Some(data.clone()),
            Body::Extents => None,
        };
        let capacity = volume.meta().geometry().inline_max();
        let pending = Pending::new(item, volume.meta().newest_generation());
        Arc::new(Self {
            volume: Arc::clone(volume),
            ino,
            core,
            mapping: RwLock::new(Rank::Mapping, ino.get(), Mapping::default()),
            generation: AtomicU64::new(0),
            disk_size: AtomicU64::new(item.size),
            inline: Arc::new(InlineData::new(data, capacity)),
            pending: Mutex::new(Rank::InodeState, pending),
            uncut: AtomicBool::new(false),
            reported: AtomicU64::new(0),
        })
    }

    /// The last error of writeback since this was last asked: for syncs of the whole file system.
    pub(super) fn report_errors(&self) -> Result<()> {
        let ioends = self.core.ioends();
        let now = ioends.errors();
        let before = self.reported.swap(now, Ordering::Relaxed);
        ioends.errors_since(before).map_err(FsError::Writeback)
    }

    /// Whether nobody was told of an error of writeback yet.
    pub(super) fn has_unreported_error(&self) -> bool {
        let reported = self.reported.load(Ordering::Relaxed);
        self.core.cache().has_unseen_error() && self.core.ioends().errors() != reported
    }

    /// Changes extents of the file: `f` in a transaction with the mapping lock held, `kept` with
    /// the lock still held when the transaction has succeeded. Mappings given out before are not
    /// valid any more.
    ///
    /// `f` must leave the mapping as it was if it fails or the transaction does; what is to change
    /// in memory belongs into `kept`.
    pub(super) fn change<T>(
        &self,
        purpose: Purpose,
        f: impl FnOnce(&mut Txn<'_>, &mut Mapping) -> Result<T>,
        kept: impl FnOnce(&mut Mapping, &T),
    ) -> Result<T> {
        let (mut map, value, generation) = self.volume.update(purpose, |txn| {
            let mut map = self.mapping.write();
            map.recent = None;
            let value = f(txn, &mut map)?;
            self.invalidate_mappings(&map);
            Ok((map, value, txn.generation()))
        })?;
        kept(&mut map, &value);
        drop(map);
        self.pending.lock().note(generation);
        Ok(value)
    }

    /// Says that mappings given out before do not hold any more. The mapping lock is held.
    pub(super) fn invalidate_mappings(&self, _held: &Mapping) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Forgets promises, copies and what was looked up, after or before `range` lost its extents in
    /// transactions of its own.
    pub(super) fn forget(&self, range: BlockRange) {
        let mut map = self.mapping.write();
        map.forget(range);
        self.invalidate_mappings(&map);
    }

    /// Notes that the tree changed in transactions that were not told apart.
    pub(super) fn note_changed(&self) {
        let generation = self.volume.meta().newest_generation();
        self.pending.lock().note(generation);
    }

    /// The generation of the mappings.
    pub(super) fn validity(&self) -> Validity {
        Validity(self.generation.load(Ordering::Acquire))
    }

    /// The size the tree has.
    pub(super) fn disk_size(&self) -> u64 {
        self.disk_size.load(Ordering::Acquire)
    }

    /// Notes the size the tree has.
    pub(super) fn set_disk_size(&self, size: u64) {
        self.disk_size.store(size, Ordering::Release);
    }

    /// Looks at `block`: tree and memory together. `nowait`: only if it is known without waiting.
    pub(super) fn spot(&self, block: FileBlock, nowait: bool) -> Result<Spot<'_>> {
        let map = if nowait {
            self.mapping.try_write().ok_or(FsError::WouldBlock)?
        } else {
            self.mapping.write()
        };
        if let Some(extent) = map.recent
            && extent.range.contains(block)
        {
            return Ok(Spot { map, extent, block });
        }
        drop(map);
        if nowait {
            return Err(FsError::WouldBlock);
        }
        let (mut map, extent) = self.volume.meta().read(|view| {
            let extent = view.extent_at(self.ino, BlockRange::from(block))?;
            Ok((self.mapping.write(), extent))
        })?;
        // What is shared ceases to be so without a change of this file.
        let shared = matches!(extent.state, ExtentState::Mapped { shared: true, .. });
        map.recent = (!shared).then_some(extent);
        Ok(Spot { map, extent, block })
    }

    /// The blocks that hold bytes of `range`.
    pub(super) fn blocks_of(&self, range: FileRange) -> BlockRange {
        let bits = self.volume.bits.get();
        let end = (range.end().bytes() + ((1 << bits) - 1)) >> bits;
        BlockRange::between(
            FileBlock::new(range.start().bytes() >> bits),
            FileBlock::new(end),
        )
    }

    /// The bytes of `blocks`.
    pub(super) fn bytes_of(&self, blocks: BlockRange) -> FileRange {
        FileRange::between(self.pos_of(blocks.start()), self.pos_of(blocks.end()))
    }

    /// The first byte of a block.
    pub(super) fn pos_of(&self, block: FileBlock) -> FilePos {
        // Cannot overflow: blocks end at 2^53, and have 2^16 bytes at most; past i64::MAX it stays
        // there.
        FilePos::saturating(block.get().saturating_mul(self.volume.bits.size()))
    }

    /// A mapping of `blocks`. The mapping lock is held.
    pub(super) fn iomap(&self, blocks: BlockRange, kind: MapKind) -> Iomap {
        Iomap::new(self.bytes_of(blocks), kind).with_validity(self.validity())
    }

    /// The kind of allocated blocks that begin at `start`.
    pub(super) fn allocated(&self, start: DiskBlock, unwritten: bool) -> MapKind {
        let addr = self.volume.meta().block_addr(start);
        if unwritten {
            MapKind::Unwritten { addr }
        } else {
            MapKind::Mapped { addr }
        }
    }
}

/// The mapping lock, held.
pub(super) type MapGuard<'a> = RwLockWriteGuard<'a, Mapping>;

/// A look at one block of a file; the mapping lock is held meanwhile.
#[derive(Debug)]
pub(super) struct Spot<'a> {
    pub(super) map: MapGuard<'a>,
    pub(super) extent: Extent,
    pub(super) block: FileBlock,
}

impl Spot<'_> {
    /// What is there.
    pub(super) fn place(&self) -> Place {
        self.map.place(self.extent, self.block)
    }
}

impl fmt::Debug for TestInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestInode")
            .field("ino", &self.ino)
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}
