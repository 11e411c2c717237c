//! The bare cost of a fault reported to user space: a memory file, two mappings of it, and a thread
//! that answers.
//!
//! Owns nothing of the library: this is the floor of its real memory mappings. The thread reads one
//! message, makes one request, and reads the next. No page cache, no locks, no list of mappings.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{
    Advice, MapFlags, ProtFlags, UserfaultfdFlags, madvise, mmap, munmap, userfaultfd,
};

use crate::PAGE;

const IOC_API: u64 = 0xc018_aa3f;
const IOC_REGISTER: u64 = 0xc020_aa00;
const IOC_WRITEPROTECT: u64 = 0xc018_aa06;
const IOC_CONTINUE: u64 = 0xc020_aa07;
const API: u64 = 0xaa;
/// Missing and minor faults and write protection of shared memory.
const FEATURES: u64 = 1 | 1 << 5 | 1 << 10 | 1 << 12;
const REGISTER_ALL: u64 = 1 | 2 | 4;
const PROTECTED: u64 = 2;
const WRITE_PROTECT_FAULT: u64 = 2;

/// Memory whose faults a thread of this value answers.
#[derive(Debug)]
pub struct BareUffd {
    base: NonNull<u8>,
    len: usize,
    uffd: &'static OwnedFd,
}

// SAFETY: a range of memory of its own, which is accessed by volatile loads and stores only.
unsafe impl Send for BareUffd {}

impl BareUffd {
    /// `pages` pages that are in memory and not mapped. The thread and its descriptor stay until the
    /// process ends.
    ///
    /// # Errors
    ///
    /// The process may not have its faults reported, or the kernel is too old.
    pub fn new(pages: u64) -> Result<Self, String> {
        let text = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
        let len = usize::try_from(pages * PAGE).map_err(|_| "too long".to_owned())?;
        let memory = memfd_create(c"", MemfdFlags::CLOEXEC).map_err(text("memfd_create"))?;
        ftruncate(&memory, len as u64).map_err(text("ftruncate"))?;
        let flags = UserfaultfdFlags::CLOEXEC;
        // SAFETY: used on the mapping made below only.
        let uffd = unsafe { userfaultfd(flags) }
            // User mode only: what an ordinary user gets.
            // SAFETY: as above.
            .or_else(|_| unsafe { userfaultfd(flags | UserfaultfdFlags::from_bits_retain(1)) })
            .map_err(text("userfaultfd"))?;
        let mut api = [API, FEATURES, 0];
        request(&uffd, IOC_API, &mut api)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let shared = MapFlags::SHARED;
        // SAFETY: new mappings at addresses of the kernel's choice.
        let (filled, base) = unsafe {
            (
                mmap(
                    std::ptr::null_mut(),
                    len,
                    both,
                    shared | MapFlags::POPULATE,
                    &memory,
                    0,
                )
                .map_err(text("mmap"))?,
                mmap(std::ptr::null_mut(), len, both, shared, &memory, 0).map_err(text("mmap"))?,
            )
        };
        // SAFETY: the mapping just made, of which nobody has the address; its pages stay in the file.
        unsafe { munmap(filled, len) }.map_err(text("munmap"))?;
        let mut register = [base.expose_provenance() as u64, len as u64, REGISTER_ALL, 0];
        request(&uffd, IOC_REGISTER, &mut register)?;
        let base = NonNull::new(base.cast()).ok_or("mapped at address zero")?;
        let uffd: &'static OwnedFd = Box::leak(Box::new(uffd));
        std::thread::spawn(move || answer(uffd));
        Ok(Self { base, len, uffd })
    }

    /// Loads a byte of a page.
    pub fn load(&self, page: u64) {
        // SAFETY: inside the mapping.
        unsafe { self.at(page).read_volatile() };
    }

    /// Stores a byte to a page.
    pub fn store(&self, page: u64) {
        // SAFETY: inside the mapping.
        unsafe { self.at(page).write_volatile(1) };
    }

    /// Takes every page out of the page table.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn forget(&self) -> Result<(), String> {
        // SAFETY: a mapping of its own, shared: the pages stay in the file.
        unsafe { madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxDontNeed) }
            .map_err(|error| format!("madvise: {error}"))
    }

    /// Write-protects every page, by one request.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn protect(&self) -> Result<(), String> {
        self.set_protection(1)
    }

    /// Makes every page that is mapped writable, by one request.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn unprotect(&self) -> Result<(), String> {
        self.set_protection(0)
    }

    fn set_protection(&self, mode: u64) -> Result<(), String> {
        let mut words = [self.base.addr().get() as u64, self.len as u64, mode];
        request(self.uffd, IOC_WRITEPROTECT, &mut words)
    }

    fn at(&self, page: u64) -> *mut u8 {
        let offset = usize::try_from(page * PAGE).unwrap_or(usize::MAX);
        assert!(offset < self.len, "page {page} of fewer");
        // SAFETY: inside the mapping, seen above.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for BareUffd {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; every access borrows `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

/// The thread: one message, one request.
fn answer(uffd: &OwnedFd) {
    let mut message = [0_u8; 32];
    while rustix::io::read(uffd, &mut message).is_ok_and(|read| read == message.len()) {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&message[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        let (flags, page) = (word(8), word(16) & !(PAGE - 1));
        // Both wake whoever waits for the page.
        let _answered = if flags & WRITE_PROTECT_FAULT != 0 {
            request(uffd, IOC_WRITEPROTECT, &mut [page, PAGE, 0])
        } else {
            let mode = if flags & 1 == 0 { PROTECTED } else { 0 };
            request(uffd, IOC_CONTINUE, &mut [page, PAGE, mode, 0])
        };
    }
}

fn request<const N: usize>(uffd: &OwnedFd, code: u64, words: &mut [u64; N]) -> Result<(), String> {
    // SAFETY: the structure of each request above is so many words, and lives during the call.
    let answer = unsafe { libc::ioctl(uffd.as_raw_fd(), code as _, words.as_mut_ptr()) };
    if answer < 0 {
        return Err(format!("userfaultfd: {}", std::io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_answered() {
        let Ok(memory) = BareUffd::new(4) else {
            return;
        };
        (0..4).for_each(|page| memory.load(page));
        (0..4).for_each(|page| memory.store(page));
        memory.protect().expect("our own memory");
        memory.store(1);
        memory.forget().expect("our own memory");
        memory.store(2);
    }
}
