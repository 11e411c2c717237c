//! Memory that is never unmapped: the data of folios, and the tables of their metadata.
//!
//! Owns the mappings. A reference into a table is `'static`: a stale id is always *some* folio or
//! node, never a wild pointer, which is what lets lookups go without locks. Which parts are in use
//! is the business of the pool. In models a table creates its entries when they are first asked
//! for, because a modelled atomic is not made of zero bytes.

use std::fmt;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use super::bytes::SharedBytes;
use super::copy;
use crate::error::Errno;
use crate::units::PAGE_SIZE;

/// The size and alignment of a transparent huge page.
const HUGE: usize = 2 << 20;

/// Maps `len` bytes of zeroes, aligned to [`HUGE`]; memory is spent when they are touched.
fn map(len: usize) -> Result<NonNull<u8>, Errno> {
    let len = len.checked_add(HUGE).ok_or(Errno::NOMEM)?;
    // SAFETY: a new mapping at an address of the kernel's choice, never unmapped.
    let base = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    let skip = base.addr().next_multiple_of(HUGE) - base.addr();
    // SAFETY: `skip < HUGE`, and the mapping is `HUGE` longer than asked for.
    let base = unsafe { base.cast::<u8>().add(skip) };
    NonNull::new(base).ok_or(Errno::NOMEM)
}

/// The bytes of the folios of one pool.
pub(super) struct Data {
    base: NonNull<u8>,
    pages: u32,
}

// SAFETY: an address of memory that stays mapped; it is accessed through `SharedBytes` only.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}

impl Data {
    /// Address space for `pages` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is none.
    pub(super) fn new(pages: u32, huge: bool) -> Result<Self, Errno> {
        let len = pages as usize * PAGE_SIZE;
        let base = map(len.next_multiple_of(HUGE))?;
        if huge && cfg!(not(any(iomap_shuttle, iomap_loom))) {
            // SAFETY: our own mapping. Advice only: a kernel without huge pages refuses, and the
            // memory works all the same.
            let _ = unsafe {
                madvise(
                    base.as_ptr().cast(),
                    len.next_multiple_of(HUGE),
                    Advice::LinuxHugepage,
                )
            };
        }
        Ok(Self { base, pages })
    }

    /// Pages.
    #[cfg(any(iomap_shuttle, iomap_loom))]
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// The same memory for another pool, once nobody uses it any more.
    #[cfg(any(iomap_shuttle, iomap_loom))]
    pub(super) fn again(&self) -> Self {
        Self { ..*self }
    }

    /// The bytes of `pages` pages from `page` on.
    #[inline]
    pub(super) fn bytes(&self, page: u32, pages: u32) -> SharedBytes {
        debug_assert!(page.checked_add(pages).is_some_and(|end| end <= self.pages));
        // SAFETY: inside the mapping (the allocator hands out no other pages), which is never
        // unmapped, and to which no reference is ever made.
        unsafe {
            SharedBytes::new(
                self.base.add(page as usize * PAGE_SIZE),
                pages as usize * PAGE_SIZE,
            )
        }
    }

    /// Begins to load the first bytes of page `page`. A hint: any number does no harm.
    #[inline]
    pub(super) fn prefetch(&self, page: u32) {
        copy::prefetch(self.base.as_ptr().wrapping_add(page as usize * PAGE_SIZE));
    }

    /// Gives the memory of all pages back to the system; they read as zeroes afterwards.
    pub(super) fn discard(&self) {
        // SAFETY: our own mapping, and no reference to it exists. A refusal leaves the old bytes,
        // which nobody may take for contents anyway.
        let _ = unsafe {
            madvise(
                self.base.as_ptr().cast(),
                self.pages as usize * PAGE_SIZE,
                Advice::LinuxDontNeed,
            )
        };
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} pages)", self.pages)
    }
}

/// Types whose all-zero bytes are a valid value, and that need no drop.
///
/// # Safety
///
/// Both must hold.
#[cfg(not(any(iomap_shuttle, iomap_loom)))]
pub(crate) unsafe trait Zeroed: Sync + 'static {}

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
// SAFETY: atomics of integers, and an atomic pointer that may be null.
unsafe impl Zeroed for super::meta::Folio {}
#[cfg(not(any(iomap_shuttle, iomap_loom)))]
// SAFETY: atomics of integers.
unsafe impl Zeroed for super::index::Node {}

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
// SAFETY: an atomic integer.
unsafe impl Zeroed for super::foreign::Place {}

/// A table of `T` at fixed places, all zero at first.
#[cfg(not(any(iomap_shuttle, iomap_loom)))]
pub(crate) struct Table<T: Zeroed> {
    base: NonNull<T>,
    len: u32,
}

#[cfg(not(any(iomap_shuttle, iomap_loom)))]
mod table {
    use super::{Errno, Table, Zeroed, fmt, map};

    // SAFETY: hands out shared references to `T: Sync` only.
    unsafe impl<T: Zeroed> Send for Table<T> {}
    // SAFETY: as above.
    unsafe impl<T: Zeroed> Sync for Table<T> {}

    impl<T: Zeroed> Table<T> {
        /// Address space for `len` entries.
        ///
        /// # Errors
        ///
        /// `ENOMEM` if there is none.
        pub(crate) fn new(len: u32) -> Result<Self, Errno> {
            const { assert!(align_of::<T>() <= super::HUGE) };
            let bytes = (len as usize)
                .checked_mul(size_of::<T>())
                .ok_or(Errno::NOMEM)?;
            Ok(Self {
                base: map(bytes)?.cast(),
                len,
            })
        }

        /// Entries.
        pub(crate) fn len(&self) -> u32 {
            self.len
        }

        /// The entry `id`.
        ///
        /// # Panics
        ///
        /// If there is no such entry.
        #[inline]
        pub(crate) fn get(&self, id: u32) -> &'static T {
            assert!(id < self.len, "no entry {id} in a table of {}", self.len);
            // SAFETY: inside the mapping, which is aligned for `T`, zeroed (a valid `T`) and never
            // unmapped; only shared references are ever made.
            unsafe { self.base.add(id as usize).as_ref() }
        }
    }

    impl<T: Zeroed> fmt::Debug for Table<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Table({})", self.len)
        }
    }
}

/// A table of `T` that creates its entries when they are first asked for.
#[cfg(any(iomap_shuttle, iomap_loom))]
pub(crate) struct Table<T: 'static> {
    entries: Vec<std::sync::OnceLock<&'static T>>,
}

#[cfg(any(iomap_shuttle, iomap_loom))]
mod table {
    use super::{Errno, Table, fmt};

    impl<T: Default> Table<T> {
        /// Room for `len` entries.
        pub(crate) fn new(len: u32) -> Result<Self, Errno> {
            let entries = (0..len).map(|_| std::sync::OnceLock::new()).collect();
            Ok(Self { entries })
        }

        /// Entries.
        pub(crate) fn len(&self) -> u32 {
            self.entries.len() as u32
        }

        /// The entry `id`.
        pub(crate) fn get(&self, id: u32) -> &'static T {
            self.entries[id as usize].get_or_init(|| Box::leak(Box::default()))
        }
    }

    impl<T> fmt::Debug for Table<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Table({})", self.entries.len())
        }
    }
}
