//! A device that counts what goes through it.
//!
//! Owns [`CountingDevice`]: the bytes a measurement puts beside the bytes it served. Changes
//! nothing about a request.

use std::fmt;

use iomap_core::device::{Bio, BioOp, BlockDevice, Segment};
use iomap_core::error::DeviceError;
use iomap_core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use iomap_core::units::DevAddr;

/// Bytes and requests that reached a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub read: u64,
    /// Bytes written, zeroes without a buffer included.
    pub written: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Traffic {
    /// What came after `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            read: self.read.wrapping_sub(earlier.read),
            written: self.written.wrapping_sub(earlier.written),
            flushes: self.flushes.wrapping_sub(earlier.flushes),
        }
    }
}

/// Counts the requests to the device inside. The counters are statistics: `Relaxed`.
pub struct CountingDevice<D> {
    inner: D,
    read: AtomicU64,
    written: AtomicU64,
    flushes: AtomicU64,
}

impl<D: BlockDevice> CountingDevice<D> {
    /// The device `inner`, nothing counted yet.
    pub fn new(inner: D) -> Self {
        Self {
            inner,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        }
    }

    /// What went through so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            read: self.read.load(Relaxed),
            written: self.written.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
        }
    }

    fn count(&self, op: BioOp, len: u64) {
        match op {
            BioOp::Read => self.read.fetch_add(len, Relaxed),
            BioOp::Write { .. } | BioOp::WriteZeroes => self.written.fetch_add(len, Relaxed),
            BioOp::Flush => self.flushes.fetch_add(1, Relaxed),
            BioOp::Discard => 0,
        };
    }
}

impl<D: fmt::Debug> fmt::Debug for CountingDevice<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountingDevice")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<D: BlockDevice> BlockDevice for CountingDevice<D> {
    iomap_core::device::pass_to_device!(self => self.inner);

    fn submit(&self, bio: Bio) {
        self.count(bio.op, bio.len);
        self.inner.submit(bio);
    }

    fn transfer(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), DeviceError> {
        self.count(op, len);
        self.inner.transfer(op, addr, len, segments)
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::device::MemoryDevice;

    #[test]
    fn it_counts_both_ways_to_the_device() {
        let device = CountingDevice::new(MemoryDevice::new(8192));
        device.write_at(DevAddr::new(0), &[1; 1024]).unwrap();
        device.read_at(DevAddr::new(0), &mut [0; 512]).unwrap();
        device.flush().unwrap();
        let traffic = device.traffic();
        assert_eq!(
            (traffic.read, traffic.written, traffic.flushes),
            (512, 1024, 1)
        );
    }
}
