//! Aligned memory for requests of code that has no folios: journals, superblocks, bounce copies.
//!
//! Owns [`DeviceBuf`]. Folio memory belongs to the page cache.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::units::PAGE_SIZE;

/// Bytes on the heap at an aligned address. Their address does not change when the buffer moves.
pub struct DeviceBuf {
    // Longer than asked for, so that an aligned part fits; never resized.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl DeviceBuf {
    /// `len` zero bytes at an address that is a multiple of `align`, a power of two. A page or more
    /// begin with a page as well: else a request for them has one page more to move, which a device
    /// takes noticeably longer for.
    ///
    /// # Panics
    ///
    /// If `align` is no power of two, or the memory of the process is exhausted.
    #[must_use]
    pub fn zeroed(len: usize, align: usize) -> Self {
        assert!(align.is_power_of_two(), "alignment is a power of two");
        let align = if len < PAGE_SIZE {
            align
        } else {
            align.max(PAGE_SIZE)
        };
        let bytes = vec![0; len.saturating_add(align - 1)];
        let start = bytes.as_ptr().addr().wrapping_neg() & (align - 1);
        Self { bytes, start, len }
    }

    /// A copy of `data` at an address that is a multiple of `align`, a power of two.
    ///
    /// # Panics
    ///
    /// As [`DeviceBuf::zeroed`].
    #[must_use]
    pub fn from_slice(data: &[u8], align: usize) -> Self {
        let mut buf = Self::zeroed(data.len(), align);
        buf.copy_from_slice(data);
        buf
    }
}

impl Deref for DeviceBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for DeviceBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for DeviceBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for DeviceBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuf")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_or_more_begin_with_a_page() {
        let addresses = |len| (0..64).map(move |_| DeviceBuf::zeroed(len, 512));
        let kept: Vec<_> = addresses(4096).chain(addresses(65536)).collect();
        assert!(kept.iter().all(|buf| buf.as_ptr().addr() % PAGE_SIZE == 0));
        let small: Vec<_> = addresses(512).collect();
        assert!(small.iter().all(|buf| buf.bytes.len() < 2 * 512));
    }

    #[test]
    fn the_address_is_aligned_and_stays() {
        for align in [1, 512, 4096, 65536] {
            let buf = DeviceBuf::from_slice(&[7; 100], align);
            assert_eq!(buf.as_ptr().addr() % align, 0);
            let (address, boxed) = (buf.as_ptr(), Box::new(buf));
            assert_eq!(boxed.as_ptr(), address);
            assert_eq!(&boxed[..], &[7; 100]);
        }
    }
}
