//! Plain memory to compare with: the floor of a copy.
//!
//! Owns the only mapping of anonymous memory of the benches: aligned to 2 MiB and marked for huge
//! pages, as the arenas of the page cache are, because the size of a page is most of the cost of a
//! random copy.

use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

const HUGE: usize = 2 << 20;

/// Anonymous memory, filled with noise.
#[derive(Debug)]
pub struct Memory {
    /// What was mapped: `HUGE` bytes more than asked for.
    mapped: NonNull<std::ffi::c_void>,
    mapped_len: usize,
    data: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory that this value alone owns.
unsafe impl Send for Memory {}
// SAFETY: a shared reference reads only.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` bytes, with huge pages where the kernel gives them if `huge`.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn noise(len: usize, huge: bool) -> std::io::Result<Self> {
        let mapped_len = len + HUGE;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the kernel picks an address, so nothing that exists is replaced.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_len, prot, flags)? };
        let data = base.addr().next_multiple_of(HUGE);
        let data = base.cast::<u8>().with_addr(data);
        let advice = if huge {
            Advice::LinuxHugepage
        } else {
            Advice::LinuxNoHugepage
        };
        // SAFETY: the range lies in the mapping just made; the advice changes no content.
        // A kernel without huge pages refuses: then small pages are what there is.
        let _ = unsafe { madvise(data.cast(), len, advice) };
        let mut memory = Self {
            mapped: NonNull::new(base).ok_or(std::io::ErrorKind::OutOfMemory)?,
            mapped_len,
            data: NonNull::new(data).ok_or(std::io::ErrorKind::OutOfMemory)?,
            len,
        };
        fastrand::Rng::with_seed(0xda7a).fill(memory.bytes_mut());
        Ok(memory)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `data` on are mapped readable until drop, were filled when made,
        // and change only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `noise` with this length, and no slice of it outlives `self`.
        let unmapped = unsafe { munmap(self.mapped.as_ptr(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_its_length_alignment_and_is_not_zero() {
        let mut memory = Memory::noise(3 << 20, true).expect("3 MiB");
        assert_eq!(memory.bytes().len(), 3 << 20);
        assert_eq!(memory.bytes().as_ptr().addr() % HUGE, 0);
        assert!(memory.bytes().iter().any(|b| *b != 0));
        memory.bytes_mut()[0] = 7;
        assert_eq!(memory.bytes()[0], 7);
    }
}
