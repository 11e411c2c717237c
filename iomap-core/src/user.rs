//! The caller's memory, as the source of a write.
//!
//! Owns [`UserSource`], the seam between a write and memory that may not be readable at once: a
//! copy with a folio locked must not fault, so memory is faulted in before the folio is locked, and
//! the copy may still come up short. A plain slice never does.
//!
//! Kernel counterpart: `iov_iter` in its source direction.

use crate::folio::LockedFolio;

/// Bytes to write, consumed from the front.
pub trait UserSource {
    /// Bytes left.
    fn remaining(&self) -> usize;

    /// Makes the first `len` bytes readable; called with no folio locked. Returns how many of them
    /// are: zero means the first byte cannot be read.
    fn fault_in(&mut self, len: usize) -> usize;

    /// Copies up to `len` bytes from the front into the folio at `offset`, without faulting.
    /// Returns how many were copied; does not consume them.
    fn copy_to(&mut self, folio: &mut LockedFolio, offset: usize, len: usize) -> usize;

    /// Consumes `n` bytes, accepted for good.
    fn consume(&mut self, n: usize);
}

/// A slice as the source of a write.
#[derive(Debug)]
pub struct SliceSource<'a>(&'a [u8]);

impl<'a> SliceSource<'a> {
    /// The bytes of `bytes`.
    #[must_use]
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl UserSource for SliceSource<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn fault_in(&mut self, len: usize) -> usize {
        len.min(self.0.len())
    }

    #[inline]
    fn copy_to(&mut self, folio: &mut LockedFolio, offset: usize, len: usize) -> usize {
        let len = len.min(self.0.len());
        folio.copy_in(offset, &self.0[..len]);
        len
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        self.0 = &self.0[n.min(self.0.len())..];
    }
}
