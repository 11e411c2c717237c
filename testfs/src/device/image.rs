//! The bytes of a device as a value: cheap to copy, copied where it is written.
//!
//! Owns [`Image`], with a fingerprint that follows every change, and [`ImageDevice`], a device over
//! one. For crash replay, where thousands of images differ in a few sectors. Nothing is volatile.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use iomap_core::device::immediate::{Front, ImmediateDevice};
use iomap_core::device::{BioOp, Limits, Segment, bio};
use iomap_core::error::Errno;
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::DevAddr;

use super::replay::SECTOR;

/// Bytes that are copied together.
const PART: usize = 4096;

/// The bytes of a device. A copy shares what neither side has changed.
#[derive(Clone)]
pub struct Image {
    parts: Vec<Arc<[u8; PART]>>,
    size: usize,
    fingerprint: u64,
}

impl Image {
    /// The image with these bytes, rounded down to whole sectors.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let size = bytes.len() / SECTOR * SECTOR;
        let zeroes = Arc::new([0; PART]);
        let mut image = Self {
            parts: vec![zeroes; size.div_ceil(PART)],
            size,
            fingerprint: 0,
        };
        for (n, sector) in bytes[..size].chunks(SECTOR).enumerate() {
            image.set(n * SECTOR, sector);
        }
        image
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Equal for equal images of one size, and different for others but by chance.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Writes whole sectors at `at`, a multiple of [`SECTOR`].
    ///
    /// # Panics
    ///
    /// If the bytes do not lie inside the image.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.size, "outside of the image");
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = at + n * SECTOR;
            let (part, from) = (at / PART, at % PART);
            let old = &self.parts[part][from..from + sector.len()];
            if old == sector {
                continue;
            }
            self.fingerprint ^= hash(at, old) ^ hash(at, sector);
            Arc::make_mut(&mut self.parts[part])[from..from + sector.len()].copy_from_slice(sector);
        }
    }

    /// The bytes from `at` on, whole sectors.
    ///
    /// # Panics
    ///
    /// If they do not lie inside the image.
    pub fn get(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.size, "outside of the image");
        for (n, sector) in to.chunks_mut(SECTOR).enumerate() {
            let at = at + n * SECTOR;
            let from = at % PART;
            sector.copy_from_slice(&self.parts[at / PART][from..from + sector.len()]);
        }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        self.get(0, &mut bytes);
        bytes
    }
}

/// Zero for zeroes, so that an image of nothing costs nothing.
fn hash(at: usize, sector: &[u8]) -> u64 {
    if sector.iter().all(|b| *b == 0) {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    hasher.write_usize(at);
    hasher.write(sector);
    hasher.finish()
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("size", &self.size)
            .field("fingerprint", &format_args!("{:016x}", self.fingerprint))
            .finish_non_exhaustive()
    }
}

/// A device that holds an [`Image`]. Every request completes inside `submit`.
pub struct ImageDevice {
    image: Mutex<Image>,
    front: Front,
}

impl ImageDevice {
    /// A device with a volatile cache, as far as it says, that holds `image`.
    #[must_use]
    pub fn new(image: Image) -> Self {
        let limits = Limits {
            volatile_cache: true,
            ..iomap_core::device::MemoryDevice::LIMITS
        };
        Self {
            front: Front::new(image.size() as u64, limits),
            image: Mutex::new(Rank::DeviceQueue, image),
        }
    }

    /// What the device holds now.
    pub fn image(&self) -> Image {
        self.image.lock().clone()
    }
}

impl ImmediateDevice for ImageDevice {
    fn front(&self) -> &Front {
        &self.front
    }

    fn run(&self, op: BioOp, addr: DevAddr, len: u64, segments: &[Segment]) -> Result<(), Errno> {
        if op == BioOp::Flush {
            return Ok(());
        }
        // Admitted: inside of what is a `usize`.
        let (at, mut bytes) = (addr.bytes() as usize, vec![0; len as usize]);
        match op {
            BioOp::Read => {
                self.image.lock().get(at, &mut bytes);
                bio::store(segments, 0, &bytes);
            }
            BioOp::Write { .. } => {
                bio::fetch(segments, 0, &mut bytes);
                self.image.lock().set(at, &bytes);
            }
            BioOp::Discard | BioOp::WriteZeroes => self.image.lock().set(at, &bytes),
            BioOp::Flush => {}
        }
        Ok(())
    }
}

impl fmt::Debug for ImageDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageDevice")
            .field("size", &self.front.size())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::device::BlockDevice;

    #[test]
    fn a_copy_keeps_its_bytes_and_equal_images_have_equal_fingerprints() {
        let mut image = Image::new(&[7; 3 * PART]);
        let before = image.clone();
        image.set(SECTOR, &[8; 2 * SECTOR]);
        assert_eq!(before.bytes(), [7; 3 * PART]);
        assert_ne!(before.fingerprint(), image.fingerprint());
        let mut bytes = [7; 3 * PART];
        bytes[SECTOR..3 * SECTOR].fill(8);
        assert_eq!(image.bytes(), bytes);
        assert_eq!(Image::new(&bytes).fingerprint(), image.fingerprint());
        image.set(SECTOR, &[7; 2 * SECTOR]);
        assert_eq!(before.fingerprint(), image.fingerprint());
    }

    #[test]
    fn the_device_holds_what_was_written() {
        let device = ImageDevice::new(Image::new(&[0; 16384]));
        device.write_at(DevAddr::new(3584), &[5; 1024]).unwrap();
        let mut read = [1; 2048];
        device.read_at(DevAddr::new(3072), &mut read).unwrap();
        assert_eq!((read[511], read[512], read[1536]), (0, 5, 0));
        device
            .transfer(BioOp::Discard, DevAddr::new(3584), 512, &[])
            .unwrap();
        assert_eq!(device.image().bytes()[4096..4608], [5; 512]);
        assert_eq!(device.image().bytes()[3584], 0);
        let error = device.write_at(DevAddr::new(16384), &[1; 512]);
        assert_eq!(error.unwrap_err().errno, Errno::NXIO);
    }
}
