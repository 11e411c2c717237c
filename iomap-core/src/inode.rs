//! The little the framework needs to know of a file.
//!
//! Owns the in-memory size with its ordering rules, the two locks every operation takes, the count
//! of direct I/O in flight, the page cache. Owns no name, no mode, no extents: those are the
//! backend's.

use std::sync::{Arc, OnceLock};

use crate::dax::{DaxTable, DaxVolume};
use crate::device::BlockDevice;
use crate::flusher::WriteStream;
use crate::folio::PoolHandle;
use crate::page_cache::PageCache;
use crate::stats::Counters;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Rank, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::units::{BlockBits, FilePos, FileRange, PageIndex};

mod attached;
mod inflight;
mod ioends;

pub use attached::Attached;
pub use inflight::{DirectGuard, InFlight, raise, sees_raised};
pub use ioends::{Helping, Ioend, IoendQueue};

/// The inode lock, held shared: reads, direct reads, direct overwrites.
pub type SharedGuard<'a> = RwLockReadGuard<'a, ()>;
/// The inode lock, held exclusively: everything that changes size or mappings.
pub type ExclusiveGuard<'a> = RwLockWriteGuard<'a, ()>;

/// No position.
const NOWHERE: u64 = u64::MAX;

/// What an [`Inode`] is made of.
#[derive(Debug)]
pub struct InodeConfig {
    /// The inode number: orders the locks of two inodes, and names the file in messages.
    pub ino: u64,
    /// The block size: the unit of mapping and of the per-folio state.
    pub block_bits: BlockBits,
    /// The size at start.
    pub size: FilePos,
    /// Whose memory the cache uses.
    pub pool: PoolHandle,
    /// Where the blocks are.
    pub device: Arc<dyn BlockDevice>,
    /// Where events are counted.
    pub counters: Arc<Counters>,
    /// Whether bytes must not change while they are written back, because the device or the
    /// backend computes a checksum of them.
    pub stable_writes: bool,
}

/// The framework's part of a file.
#[derive(Debug)]
pub struct Inode {
    ino: u64,
    block_bits: BlockBits,
    /// The size in memory, bytes.
    ///
    /// Stored (`Release`) with the inode lock held exclusively, and when it grows by a buffered
    /// write with the folio of the new bytes locked (rule F6). Loaded (`Acquire`) by anyone: who
    /// sees the larger size sees the bytes below it in the cache.
    size: AtomicU64,
    lock: RwLock<()>,
    invalidate: RwLock<()>,
    direct: InFlight,
    cache: PageCache,
    device: Arc<dyn BlockDevice>,
    counters: Arc<Counters>,
    stable_writes: bool,
    ioends: Arc<IoendQueue>,
    attached: OnceLock<Attached>,
    /// See [`Inode::metadata_start`]. Stored (`Release`) with the inode lock held exclusively, before
    /// the first folio there is dirtied; loaded (`Acquire`) with a folio locked.
    metadata: AtomicU64,
    /// The page at which the next cyclic writeback begins. A hint: relaxed.
    writeback_index: AtomicU64,
    write_stream: WriteStream,
    dax: OnceLock<DaxTable>,
}

impl Inode {
    /// A file with an empty cache.
    #[must_use]
    pub fn new(config: InodeConfig) -> Self {
        let InodeConfig {
            ino,
            block_bits,
            size,
            pool,
            device,
            counters,
            stable_writes,
        } = config;
        Self {
            ino,
            block_bits,
            size: AtomicU64::new(size.bytes()),
            lock: RwLock::new(Rank::Inode, ino, ()),
            invalidate: RwLock::new(Rank::Invalidate, ino, ()),
            direct: InFlight::new(),
            cache: PageCache::new(&pool, block_bits, Arc::clone(&device), ino),
            device,
            counters,
            stable_writes,
            ioends: Arc::new(IoendQueue::new()),
            attached: OnceLock::new(),
            metadata: AtomicU64::new(NOWHERE),
            writeback_index: AtomicU64::new(0),
            write_stream: WriteStream::default(),
            dax: OnceLock::new(),
        }
    }

    /// The inode number.
    #[must_use]
    pub const fn ino(&self) -> u64 {
        self.ino
    }

    /// The block size.
    #[must_use]
    #[inline]
    pub const fn block_bits(&self) -> BlockBits {
        self.block_bits
    }

    /// The size in memory.
    #[must_use]
    #[inline]
    pub fn size(&self) -> FilePos {
        FilePos::saturating(self.size.load(Ordering::Acquire))
    }

    /// The bytes below the size.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> FileRange {
        FileRange::between(FilePos::ZERO, self.size())
    }

    /// Moves the size. The inode lock is held exclusively; a growing buffered write holds the lock
    /// of the folio with the last new byte as well (rule F6). A completing direct write that grows
    /// the file calls it while its submitter holds the inode lock.
    #[inline]
    pub fn set_size(&self, size: FilePos) {
        let old = self.size();
        self.size.store(size.bytes(), Ordering::Release);
        if size > old && !self.cache.mappings().is_empty() {
            // Pages past the old end may be refused in page tables. Who refuses one looks at the
            // size with the reverse map locked.
            let pages = old.page_up()..size.page_up();
            self.cache.mappings().unmap(&pages);
        }
    }

    /// Where metadata of the file system begins that lies beyond the end of the file, as the hashes
    /// of a verified file do.
    #[must_use]
    pub fn metadata_start(&self) -> Option<FilePos> {
        let start = self.metadata.load(Ordering::Acquire);
        (start != NOWHERE).then(|| FilePos::saturating(start))
    }

    /// Says where such metadata begins: bytes from `start` on are read and written as they are,
    /// whatever the size is, through mappings with
    /// [`BEYOND_EOF`](crate::iomap::FsFlags::BEYOND_EOF) (rule B73). `None`: nowhere, after its
    /// pages have left the cache. The inode lock is held exclusively; `start` lies at the end of a
    /// block, at or after the size, which does not grow while it is set.
    pub fn set_metadata_start(&self, start: Option<FilePos>) {
        let start = start.map_or(NOWHERE, FilePos::bytes);
        self.metadata.store(start, Ordering::Release);
    }

    /// Where the next cyclic writeback begins.
    pub(crate) fn writeback_index(&self) -> PageIndex {
        PageIndex::new(self.writeback_index.load(Ordering::Relaxed))
    }

    /// Notes where a cyclic writeback has stopped.
    pub(crate) fn set_writeback_index(&self, index: PageIndex) {
        self.writeback_index.store(index.get(), Ordering::Relaxed);
    }

    /// Where the stream of writes is.
    #[inline]
    pub(crate) const fn write_stream(&self) -> &WriteStream {
        &self.write_stream
    }

    /// Takes the inode lock shared.
    #[inline]
    pub fn lock_shared(&self) -> SharedGuard<'_> {
        self.lock.read()
    }

    /// Takes the inode lock exclusively.
    #[inline]
    pub fn lock_exclusive(&self) -> ExclusiveGuard<'_> {
        self.lock.write()
    }

    /// Takes the inode lock shared, unless that would wait.
    pub fn try_lock_shared(&self) -> Option<SharedGuard<'_>> {
        self.lock.try_read()
    }

    /// Takes the inode lock exclusively, unless that would wait.
    pub fn try_lock_exclusive(&self) -> Option<ExclusiveGuard<'_>> {
        self.lock.try_write()
    }

    /// The invalidate lock: shared while folios are filled from the device, exclusive while a
    /// range of the file loses its blocks or its place.
    #[must_use]
    #[inline]
    pub const fn invalidate_lock(&self) -> &RwLock<()> {
        &self.invalidate
    }

    /// The direct I/O in flight.
    #[must_use]
    #[inline]
    pub const fn direct(&self) -> &InFlight {
        &self.direct
    }

    /// Waits until no direct I/O is in flight. New ones cannot start: they need the inode lock,
    /// which `_evidence` shows to be held exclusively (rules O6, B62).
    #[inline]
    pub fn wait_for_direct(&self, _evidence: &ExclusiveGuard<'_>) {
        self.direct.wait_idle(&*self.device);
    }

    /// Whether a folio under writeback must be waited for before it is changed.
    #[must_use]
    #[inline]
    pub const fn needs_stable_writes(&self) -> bool {
        self.stable_writes
    }

    /// The page cache.
    #[must_use]
    #[inline]
    pub const fn cache(&self) -> &PageCache {
        &self.cache
    }

    /// The device.
    #[must_use]
    #[inline]
    pub const fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// The counters.
    #[must_use]
    #[inline]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What the file has instead of a page cache, if it is a DAX file.
    #[must_use]
    #[inline]
    pub fn dax(&self) -> Option<&DaxTable> {
        self.dax.get()
    }

    /// Makes it a DAX file: from here on every operation goes to the bytes of the device, and
    /// nothing is cached. Called before the file is used; the first call counts. `volume` is the
    /// device of the file, and its blocks are as large as a page, or larger.
    ///
    /// # Panics
    ///
    /// If its blocks are smaller than a page: a page could not be shown.
    pub fn enable_dax(&self, volume: &Arc<DaxVolume>) {
        assert!(
            self.block_bits >= BlockBits::PAGE,
            "a DAX file with blocks smaller than a page"
        );
        let _first = self.dax.set(DaxTable::new(volume));
    }

    /// Finished writeback that waits for task context.
    #[must_use]
    pub const fn ioends(&self) -> &Arc<IoendQueue> {
        &self.ioends
    }

    /// Who writes the inode in the background; `None` before
    /// [`writeback::attach`](crate::writeback::attach).
    #[must_use]
    #[inline]
    pub fn attached(&self) -> Option<&Attached> {
        self.attached.get()
    }

    /// Sets who writes the inode in the background. The first call counts.
    pub(crate) fn attach(&self, attached: Attached) {
        let _first = self.attached.set(attached);
    }
}
