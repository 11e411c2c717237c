//! What the benches share: memory, positions, and files on the host to compare with; and the
//! comparison runner, [`compare`].
//!
//! Owns no criterion bench. Each bench file says in its head what its unit is and what it leaves out;
//! comparison rows (memcpy, the kernel) are measured in the same run on the same machine, because
//! only their ratio says something.

mod bare_uffd;
pub mod compare;
mod dax_bed;
mod flat;
mod in_memory;
mod memory;
mod mounted;
mod raw_ring;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use iomap_core::device::DeviceBuf;

pub use bare_uffd::BareUffd;
pub use dax_bed::DaxBed;
pub use flat::{Flat, flat};
pub use in_memory::{NEW, in_memory, new_file};
pub use memory::Memory;
pub use mounted::Mounted;
pub use raw_ring::RawRing;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A stream of positions: multiples of a step, below a bound, the same in every run.
#[derive(Debug)]
pub struct Positions {
    random: fastrand::Rng,
    step: u64,
    count: u64,
}

impl Positions {
    /// Multiples of `step` in `0..len`.
    ///
    /// # Panics
    ///
    /// If `len` is less than `step`.
    #[must_use]
    pub fn new(len: u64, step: u64) -> Self {
        Self::seeded(len, step, 0x5eed)
    }

    /// As [`Positions::new`], another stream for each `seed`.
    ///
    /// # Panics
    ///
    /// If `len` is less than `step`.
    #[must_use]
    pub fn seeded(len: u64, step: u64, seed: u64) -> Self {
        assert!(len >= step && step > 0, "no position fits");
        Self {
            random: fastrand::Rng::with_seed(seed),
            step,
            count: len / step,
        }
    }

    /// The next position.
    pub fn draw(&mut self) -> u64 {
        self.random.u64(..self.count) * self.step
    }
}

/// Bytes that no file system can leave out: neither zero nor repeating.
#[must_use]
pub fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0xda7a);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// A caller's buffer, filled with noise. Where it lies in a page is part of what is measured: copies
/// are many times slower for some distances of source and destination.
#[derive(Debug)]
pub struct Buffer {
    bytes: DeviceBuf,
    behind: usize,
}

impl Buffer {
    /// `len` bytes that begin `behind` bytes after the start of a page.
    #[must_use]
    pub fn noise(len: usize, behind: usize) -> Self {
        let bytes = DeviceBuf::from_slice(&noise(behind + len), 4096);
        Self { bytes, behind }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.behind..]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.behind..]
    }
}

/// A file of `len` bytes of noise on the host, gone when dropped. In the folder of temporary
/// files (`TMPDIR`): its file system is what the kernel rows measure.
///
/// # Errors
///
/// What creating and writing it gives.
pub fn host_file(len: u64) -> io::Result<File> {
    let file = tempfile::tempfile()?;
    fill(&file, len)?;
    Ok(file)
}

/// As [`host_file`], on the disk and opened for reads past the kernel's cache (`O_DIRECT`).
///
/// # Errors
///
/// `EINVAL` where the file system has no `O_DIRECT`; what creating and writing it gives.
pub fn direct_file(len: u64) -> io::Result<File> {
    let named = tempfile::NamedTempFile::new()?;
    fill(named.as_file(), len)?;
    named.as_file().sync_all()?;
    // Open, it outlives its name.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(named.path())
}

fn fill(file: &File, len: u64) -> io::Result<()> {
    put_noise(len, |at, bytes| file.write_all_at(bytes, at))
}

/// Gives `put` `len` bytes of noise, in order, with the place of each piece.
fn put_noise<E>(len: u64, mut put: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
    let chunk = noise(1 << 20);
    let mut at = 0;
    while at < len {
        let left = usize::try_from(len - at).unwrap_or(usize::MAX);
        let piece = &chunk[..chunk.len().min(left)];
        put(at, piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}
