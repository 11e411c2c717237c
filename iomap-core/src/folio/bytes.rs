//! The bytes of folios: memory that is shared with devices, other threads and memory mappings.
//!
//! Owns the only functions that touch folio memory: [`copy_to_shared`], [`copy_from_shared`] and
//! [`zero_shared`], and [`SharedBytes`], a bounds-checked run of such memory. No `&[u8]` of folio
//! memory is ever made: a reader races with a writer by design, as in a kernel, so the bytes stay
//! outside the language's aliasing rules. How a byte is moved is [`copy`](mod@super::copy).
//!
//! Owns no memory and no lock. Where the memory comes from is [`arena`](super::arena); when its
//! contents mean something is the folio's flags.

use std::ptr::NonNull;

use super::copy;
use crate::device::Segment;

/// Copies `len` bytes of private memory at `src` to shared memory at `dst`.
///
/// # Safety
///
/// `src..src + len` is readable and not written meanwhile; `dst..dst + len` is mapped writable and
/// no Rust reference to it is in use; the two do not overlap.
#[inline]
pub unsafe fn copy_to_shared(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's contract is the one of `copy::copy`.
    unsafe { copy::copy(dst, src, len) }
}

/// Copies `len` bytes of shared memory at `src` to private memory at `dst`. What is written to
/// `src` meanwhile may be seen or not, byte by byte.
///
/// # Safety
///
/// `src..src + len` is mapped readable and no exclusive Rust reference to it is in use;
/// `dst..dst + len` is writable and used by nobody else; the two do not overlap.
#[inline]
pub unsafe fn copy_from_shared(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's contract is the one of `copy::copy`.
    unsafe { copy::copy(dst, src, len) }
}

/// Writes `len` zero bytes to shared memory at `dst`.
///
/// # Safety
///
/// `dst..dst + len` is mapped writable and no Rust reference to it is in use.
pub unsafe fn zero_shared(dst: *mut u8, len: usize) {
    // SAFETY: the caller's contract is the one of `copy::zero`.
    unsafe { copy::zero(dst, len) }
}

/// A run of shared memory that stays mapped as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub(in crate::folio) struct SharedBytes {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: an address of memory that stays mapped until the process ends, and that is only touched
// by the copies above, which allow for other threads.
unsafe impl Send for SharedBytes {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// The `len` bytes at `ptr`.
    ///
    /// # Safety
    ///
    /// The memory is mapped readable and writable until the process ends, and no Rust reference to
    /// it is ever made.
    #[inline]
    pub(super) const unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {offset} do not lie in a folio of {} bytes",
            self.len
        );
        // SAFETY: `offset <= self.len`, so the address stays inside the memory or one past it.
        unsafe { self.ptr.as_ptr().add(offset) }
    }

    /// The `len` bytes from `offset` on. Panics if they do not lie inside.
    pub(super) fn part(&self, offset: usize, len: usize) -> Self {
        let ptr = NonNull::new(self.at(offset, len)).expect("an offset from a non-null pointer");
        Self { ptr, len }
    }

    /// The address, for [`with_exposed_provenance`](std::ptr::with_exposed_provenance).
    pub(super) fn expose(&self) -> usize {
        self.ptr.as_ptr().expose_provenance()
    }

    /// Copies `src` to `offset`. Panics if it does not fit.
    #[inline]
    pub(super) fn write(&self, offset: usize, src: &[u8]) {
        let dst = self.at(offset, src.len());
        // SAFETY: `dst` is checked above and mapped by the contract of `new`; `src` is a reference,
        // and no reference to shared memory exists, so they do not overlap.
        unsafe { copy_to_shared(dst, src.as_ptr(), src.len()) }
    }

    /// Fills `dst` from `offset` on. Panics if there are not as many bytes.
    #[inline]
    pub(super) fn read(&self, offset: usize, dst: &mut [u8]) {
        let src = self.at(offset, dst.len());
        // SAFETY: as for `write`.
        unsafe { copy_from_shared(dst.as_mut_ptr(), src, dst.len()) }
    }

    /// Copies `len` bytes at `from` of `other` to `offset` here. The two runs are different folios.
    #[inline]
    pub(super) fn copy(&self, offset: usize, other: &Self, from: usize, len: usize) {
        let (dst, src) = (self.at(offset, len), other.at(from, len));
        assert!(
            dst.addr().abs_diff(src.addr()) >= len,
            "copying a folio onto itself"
        );
        // SAFETY: both checked above and mapped by the contract of `new`; just seen not to overlap.
        unsafe { copy_to_shared(dst, src, len) }
    }

    /// Writes `len` zero bytes at `offset`. Panics if they do not fit.
    pub(super) fn zero(&self, offset: usize, len: usize) {
        let dst = self.at(offset, len);
        // SAFETY: as for `write`.
        unsafe { zero_shared(dst, len) }
    }

    /// The memory for a device. Panics if it does not lie inside.
    pub(super) fn segment(&self, offset: usize, len: usize) -> Segment {
        let ptr = self.at(offset, len);
        let ptr = NonNull::new(ptr).expect("an offset from a non-null pointer");
        // SAFETY: the memory stays mapped, and no reference to it is ever made.
        unsafe { Segment::from_raw(ptr, len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(len: usize) -> SharedBytes {
        let memory = Box::leak(vec![0xaau8; len].into_boxed_slice());
        // SAFETY: leaked, and the reference is gone.
        unsafe { SharedBytes::new(NonNull::from(memory).cast(), len) }
    }

    #[test]
    fn what_is_written_is_read_and_neighbours_stay() {
        let bytes = shared(64);
        bytes.write(10, b"hello");
        bytes.zero(12, 2);
        let mut back = [0; 7];
        bytes.read(9, &mut back);
        assert_eq!(&back, b"\xaahe\0\0o\xaa");
    }

    #[test]
    #[should_panic(expected = "do not lie in a folio")]
    fn bytes_outside_are_refused() {
        shared(64).write(60, b"hello");
    }

    #[test]
    fn empty_copies_are_allowed_at_the_end() {
        let bytes = shared(64);
        bytes.write(64, &[]);
        bytes.zero(64, 0);
        bytes.read(64, &mut []);
    }
}
