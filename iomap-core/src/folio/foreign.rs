//! Folio memory that a program's own page tables can show: one memory file for each inode.
//!
//! Owns [`FileMemory`], in which page `n` of the file lies at page `n` of the memory file, and the
//! moving of folios into it. A mapping of the file in a program is then a mapping of the memory file,
//! and shows what the cache holds. Who may see which page when is [`mmap`](crate::mmap)'s.
//!
//! A folio keeps its pages of the arena when it moves: they stand for it in the budget, and a folio
//! that is freed gives back both.
//!
//! # Invariants
//!
//! - Whether a folio has moved, and where to, changes only while nobody else has a reference. So
//!   who has one sees one answer.
//! - Two folios never have the same pages of a memory file: a place is free again when the last
//!   reference to the folio is gone, and its bytes with it. Until then a new folio for the same
//!   pages of the file stays in the arena, and a fault waits.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::arena::Table;
use super::buddy::MAX_ORDER;
use super::bytes::SharedBytes;
use super::header::flag;
use super::{FolioRef, LockedFolio, Pool};
use crate::error::Result;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::PAGE_SIZE;

/// The memory of a mapped inode's folios.
pub struct FileMemory {
    fd: OwnedFd,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Our own mappings of the memory file from its start, each longer than the one before. A
    /// folio's address lies in the one that was the last when it moved.
    windows: Vec<Window>,
    /// Places in use: first page and number of pages.
    used: BTreeMap<u64, u64>,
}

struct Window {
    base: NonNull<u8>,
    pages: u64,
}

// SAFETY: an address of memory that stays mapped as long as the window; it is accessed through
// `SharedBytes` only.
unsafe impl Send for Window {}

impl FileMemory {
    /// An empty memory file.
    ///
    /// # Errors
    ///
    /// No descriptor or no memory left.
    pub fn new() -> Result<Arc<Self>> {
        let name = CString::default();
        let fd = memfd_create(name.as_c_str(), MemfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self {
            fd,
            inner: Mutex::new(Rank::Wait, Inner::default()),
        }))
    }

    /// Makes the first `pages` pages of the file have a place. Address space only.
    ///
    /// # Errors
    ///
    /// No address space left.
    pub fn cover(&self, pages: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.pages() >= pages.next_multiple_of(1 << MAX_ORDER) {
            return Ok(());
        }
        // Few windows however a file is mapped piece by piece.
        let pages = pages.max(inner.pages() * 2);
        // The largest folio around the last page has to have a place as a whole.
        let pages = pages.next_multiple_of(1 << MAX_ORDER);
        let bytes = pages
            .checked_mul(PAGE_SIZE as u64)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(crate::error::FsError::TooBig)?;
        ftruncate(&self.fd, bytes as u64)?;
        // SAFETY: a new mapping at an address of the kernel's choice; it is unmapped when no folio
        // lies in it any more.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &self.fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(crate::error::FsError::NoMemory)?;
        inner.windows.push(Window { base, pages });
        Ok(())
    }

    /// The memory file.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The place of pages, zeroes; it is the caller's until it is released. `None` if a part of it
    /// is in use, or does not exist.
    fn claim(&self, first: u64, pages: u64) -> Option<SharedBytes> {
        let mut inner = self.inner.lock();
        let end = first.checked_add(pages)?;
        let before = inner.used.range(..end).next_back();
        if before.is_some_and(|(at, len)| at + len > first) {
            return None;
        }
        let window = inner.windows.last().filter(|window| end <= window.pages)?;
        // Places in the window: they fit a `usize`.
        let (offset, len) = (first as usize * PAGE_SIZE, pages as usize * PAGE_SIZE);
        // SAFETY: `end` lies in the window, so `offset + len` does. It stays mapped as long as this
        // memory lives, which whoever uses the place keeps; no reference to it is ever made.
        let bytes = unsafe { SharedBytes::new(window.base.add(offset), len) };
        inner.used.insert(first, pages);
        Some(bytes)
    }

    /// Gives a place back; its bytes are gone.
    fn release(&self, first: u64, pages: u64) {
        let (offset, len) = (first * PAGE_SIZE as u64, pages * PAGE_SIZE as u64);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Without it the next folio would find old bytes, which mean nothing: it is not up to date.
        let _kept = fallocate(&self.fd, flags, offset, len);
        self.inner.lock().used.remove(&first);
    }
}

impl Inner {
    fn pages(&self) -> u64 {
        self.windows.last().map_or(0, |window| window.pages)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the memory goes with its last user, so nobody has an address in
        // it any more.
        let _unmapped =
            unsafe { munmap(self.base.as_ptr().cast(), self.pages as usize * PAGE_SIZE) };
    }
}

impl fmt::Debug for FileMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileMemory")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

/// The address of a folio that has moved. Zero for every other.
///
/// Stored (`Relaxed`) while the folio is frozen; who has a reference got it from the release store
/// that revived the folio.
#[derive(Debug, Default)]
pub(crate) struct Place(AtomicUsize);

/// The folios of a pool that have moved.
#[derive(Debug)]
pub(super) struct Moved {
    places: Table<Place>,
    homes: Mutex<HashMap<u32, Home>>,
}

#[derive(Debug)]
struct Home {
    memory: Arc<FileMemory>,
    first: u64,
    pages: u64,
}

impl Moved {
    pub(super) fn new(folios: u32) -> Result<Self> {
        Ok(Self {
            places: Table::new(folios)?,
            homes: Mutex::new(Rank::Wait, HashMap::new()),
        })
    }

    /// The memory of a folio with the moved flag, to which the caller has a reference.
    pub(super) fn bytes(&self, id: u32, len: usize) -> SharedBytes {
        let addr = self.places.get(id).0.load(Ordering::Relaxed);
        let ptr = std::ptr::with_exposed_provenance_mut(addr);
        let ptr = NonNull::new(ptr).expect("a folio with the flag has a place");
        // SAFETY: the place was claimed for this folio, with this length, and is released when its
        // last reference is gone.
        unsafe { SharedBytes::new(ptr, len) }
    }

    fn insert(&self, id: u32, bytes: SharedBytes, home: Home) {
        self.places
            .get(id)
            .0
            .store(bytes.expose(), Ordering::Relaxed);
        self.homes.lock().insert(id, home);
    }

    /// The folio is being freed: its place is free.
    pub(super) fn forget(&self, id: u32) {
        let home = self.homes.lock().remove(&id);
        if let Some(home) = home {
            home.memory.release(home.first, home.pages);
        }
    }
}

impl LockedFolio {
    /// Moves the folio, with its bytes, to its place in `memory`. `false`: not now, because somebody
    /// else refers to the folio, it is being written, or an older folio still has the place.
    pub(crate) fn move_to(&mut self, memory: &Arc<FileMemory>) -> bool {
        if self.meta().header.flags() & flag::MOVED != 0 {
            return true;
        }
        // The index and this guard.
        if self.is_writeback() || self.meta().cache() == 0 || self.meta().header.refs() != 2 {
            return false;
        }
        let (first, pages) = (self.meta().index(), self.pages());
        let Some(place) = memory.claim(first, pages) else {
            return false;
        };
        if self.is_range_dirty(0..self.len()) || self.first_data(0..self.len()).is_some() {
            place.copy(0, &self.bytes(), 0, self.len());
        }
        let this = FolioRef::clone(self);
        let pool: &'static Pool = self.pool();
        let mut moved = false;
        pool.with_cache_of(&this, |_, _| {
            let header = &self.meta().header;
            // The clone as well.
            if header.freeze(3) {
                let home = Home {
                    memory: Arc::clone(memory),
                    first,
                    pages,
                };
                pool.moved().insert(self.id(), place, home);
                header.set(flag::MOVED);
                header.revive(3);
                moved = true;
            }
        });
        if !moved {
            memory.release(first, pages);
        }
        moved
    }
}
