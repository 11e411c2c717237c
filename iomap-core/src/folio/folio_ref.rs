//! A counted reference to a folio.
//!
//! Owns what anybody with a reference may do: ask for the state, read bytes (racing with writers),
//! wait, end a writeback. Everything that changes contents or state needs the lock:
//! [`LockedFolio`](super::LockedFolio), which a page cache hands out.

use std::fmt;

use super::bytes::SharedBytes;
use super::header::flag;
use super::index::Mark;
use super::meta::Folio;
use super::pool::Pool;
use crate::device::{BlockDevice, Segment};
use crate::sync::atomic::Ordering;
use crate::units::{FileRange, PAGE_SIZE, PageIndex};

/// A counted reference to a folio. Its memory stays as long as the reference does; whether it is
/// still in a page cache is another question, answered under its lock.
pub struct FolioRef {
    pool: &'static Pool,
    id: u32,
}

impl FolioRef {
    /// A reference that the caller has counted already.
    #[inline]
    pub(super) fn from_counted(pool: &'static Pool, id: u32) -> Self {
        Self { pool, id }
    }

    /// Takes a reference to folio `id` if it holds page `index` of the cache `cache`.
    #[inline]
    pub(crate) fn try_get(pool: &'static Pool, id: u32, cache: u64, index: u64) -> Option<Self> {
        let meta = pool.folio(id);
        // Taking the reference holds back every load behind it: the bytes are asked for before.
        pool.data().prefetch(meta.page_of(index));
        if !meta.header.try_get() {
            return None;
        }
        // From here on dropping the reference puts it back.
        let folio = Self { pool, id };
        meta.is_at(cache, index).then_some(folio)
    }

    #[inline]
    pub(crate) fn meta(&self) -> &'static Folio {
        self.pool.folio(self.id)
    }

    #[inline]
    pub(crate) fn pool(&self) -> &'static Pool {
        self.pool
    }

    #[inline]
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    #[inline]
    pub(super) fn bytes(&self) -> SharedBytes {
        if self.has(flag::MOVED) {
            return self.pool.moved().bytes(self.id, self.len());
        }
        self.pool.data().bytes(self.meta().pfn(), 1 << self.order())
    }

    /// The first page of the file it holds. Only means something while it is in a page cache.
    #[must_use]
    #[inline]
    pub fn index(&self) -> PageIndex {
        PageIndex::new(self.meta().index())
    }

    /// log2 of the pages.
    #[must_use]
    #[inline]
    pub fn order(&self) -> u32 {
        self.meta().order()
    }

    /// Pages.
    #[must_use]
    #[inline]
    pub fn pages(&self) -> u64 {
        1 << self.order()
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a folio is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        PAGE_SIZE << self.order()
    }

    /// The bytes of the file it holds.
    #[must_use]
    #[inline]
    pub fn range(&self) -> FileRange {
        FileRange::at_most(self.index().pos(), self.len() as u64)
    }

    /// One past its last page.
    #[must_use]
    #[inline]
    pub fn end_index(&self) -> PageIndex {
        self.index().plus(self.pages())
    }

    #[inline]
    fn has(&self, bits: u32) -> bool {
        self.meta().header.flags() & bits != 0
    }

    /// Whether every block holds the contents of the file. If so, the contents written before that
    /// are visible.
    #[must_use]
    #[inline]
    pub fn is_uptodate(&self) -> bool {
        self.has(flag::UPTODATE)
    }

    /// Whether some block differs from storage.
    #[must_use]
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.has(flag::DIRTY)
    }

    /// Whether it is being written.
    #[must_use]
    #[inline]
    pub fn is_writeback(&self) -> bool {
        self.has(flag::WRITEBACK)
    }

    /// Whether somebody holds the lock.
    #[must_use]
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.has(flag::LOCKED)
    }

    /// Whether the lock belongs to a read in flight.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.has(flag::READING)
    }

    /// Whether some memory mapping may show it.
    #[must_use]
    #[inline]
    pub fn is_mapped(&self) -> bool {
        self.has(flag::MAPPED)
    }

    /// Whether it is in any page cache.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.meta().cache() != 0
    }

    /// Copies bytes out of the folio, from `offset` on. Races with writers byte by byte.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folio.
    #[inline]
    pub fn copy_out(&self, offset: usize, dst: &mut [u8]) {
        self.bytes().read(offset, dst);
    }

    /// The memory of `len` bytes at `offset`, for a device. The caller keeps this reference until
    /// the request has completed: the memory stays mapped without it, but becomes somebody else's.
    ///
    /// # Panics
    ///
    /// If the bytes do not all lie in the folio.
    #[must_use]
    pub fn segment(&self, offset: usize, len: usize) -> Segment {
        self.bytes().segment(offset, len)
    }

    /// Notes a use, for reclaim. May be called for every piece that is copied: what happens at about
    /// the same time counts once, and the visit that brought the folio in does not count.
    #[inline]
    pub fn mark_accessed(&self) {
        self.meta().header.mark_used(self.pool.epoch());
    }

    /// Marks the folio at which the next readahead starts.
    pub fn set_readahead(&self) {
        self.meta().header.set(flag::READAHEAD);
    }

    /// Takes the readahead mark; whoever gets `true` starts the next readahead.
    #[must_use]
    #[inline]
    pub fn take_readahead(&self) -> bool {
        self.has(flag::READAHEAD)
            && self.meta().header.clear(flag::READAHEAD) & flag::READAHEAD != 0
    }

    /// Whether it is dropped once it has been written.
    #[must_use]
    #[inline]
    pub fn is_dropbehind(&self) -> bool {
        self.has(flag::DROPBEHIND)
    }

    /// An ordinary user met the folio: it stays after it has been written.
    #[inline]
    pub fn clear_dropbehind(&self) {
        if self.is_dropbehind() {
            self.meta().header.clear(flag::DROPBEHIND);
        }
    }

    /// Waits until the folio is not locked at some moment, driving `device`: for readers that wait
    /// for a read in flight.
    pub fn wait_unlocked(&self, device: &dyn BlockDevice) {
        self.wait_clear(flag::LOCKED, device);
    }

    /// Waits until the folio is not under writeback at some moment, driving `device`. With the
    /// folio locked no new writeback can start.
    pub fn wait_writeback(&self, device: &dyn BlockDevice) {
        self.wait_clear(flag::WRITEBACK, device);
    }

    fn wait_clear(&self, bits: u32, device: &dyn BlockDevice) {
        if self.has(bits) {
            let header = &self.meta().header;
            self.pool.waits().wait_clear(self.id, header, bits, device);
        }
    }

    /// Wakes everybody who waits for this folio, so that somebody looks at the device: for
    /// whoever submitted I/O for it and does not wait.
    pub fn wake_waiters(&self) {
        self.pool.waits().wake(self.id);
    }

    /// Presets the count of bytes under writeback to `bytes`, the bias of the submitter: no
    /// completion can find zero before the submitter has subtracted what it did not submit
    /// (rule B27). The folio is locked and under writeback.
    pub fn begin_write_pending(&self, bytes: u32) {
        let was = self.meta().write_pending.swap(bytes, Ordering::Relaxed);
        debug_assert_eq!(was, 0, "writeback of a folio started twice");
    }

    /// Subtracts bytes whose writing has ended, or that were not submitted. Returns whether they
    /// were the last; exactly one caller gets `true`, and ends the writeback.
    #[must_use]
    pub fn sub_write_pending(&self, bytes: u32) -> bool {
        let pending = &self.meta().write_pending;
        let was = pending.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(was >= bytes, "more bytes written than submitted");
        was == bytes
    }

    /// Bytes whose writing has not ended.
    #[must_use]
    pub fn write_pending(&self) -> u32 {
        self.meta().write_pending.load(Ordering::Relaxed)
    }

    /// Ends the writeback and wakes those who wait for it. Runs in completions: takes leaf locks
    /// only. A dropbehind folio that is clean, unlocked and unmapped leaves the cache.
    ///
    /// The caller has recorded the error, if there was one, in the page cache before.
    pub fn end_writeback(&self) {
        let meta = self.meta();
        debug_assert_eq!(
            self.write_pending(),
            0,
            "writeback ended with bytes pending"
        );
        // The index first: who waits for the bit finds no mark afterwards.
        self.pool.with_cache_of(self, |core, index| {
            index.clear_mark(self.meta().index(), self.order(), Mark::Writeback);
            core.publish_marks(index);
        });
        self.pool.count_writeback(self.pages(), false);
        if meta.header.end_writeback() {
            self.wake_waiters();
        }
        self.pool.notify_freeable();
        if self.is_dropbehind() {
            self.pool.drop_behind(self);
        }
    }
}

impl Clone for FolioRef {
    #[inline]
    fn clone(&self) -> Self {
        self.meta().header.get();
        Self {
            pool: self.pool,
            id: self.id,
        }
    }
}

impl Drop for FolioRef {
    #[inline]
    fn drop(&mut self) {
        if self.meta().header.put() {
            self.pool.free(self.id);
        }
    }
}

impl PartialEq for FolioRef {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && std::ptr::eq(self.pool, other.pool)
    }
}

impl Eq for FolioRef {}

impl fmt::Debug for FolioRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.meta().header.flags();
        write!(
            f,
            "Folio({}, pages {}+{}",
            self.id,
            self.index(),
            self.pages()
        )?;
        for (bit, name) in [
            (flag::LOCKED, "locked"),
            (flag::READING, "reading"),
            (flag::UPTODATE, "uptodate"),
            (flag::DIRTY, "dirty"),
            (flag::WRITEBACK, "writeback"),
        ] {
            if flags & bit != 0 {
                write!(f, ", {name}")?;
            }
        }
        f.write_str(")")
    }
}
