//! The contract of a device whose bytes are memory.
//!
//! Owns the trait [`DaxDevice`]. The device for files of the host is
//! [`FileDaxDevice`](super::FileDaxDevice); one that loses what was not flushed is in `testfs`.

use std::os::fd::BorrowedFd;

use super::DaxMemory;
use crate::device::BlockDevice;
use crate::error::{DeviceError, DeviceOp, Errno};
use crate::units::DevAddr;

/// A byte-addressable device: loads and stores reach its bytes.
///
/// It is a [`BlockDevice`] as well, for the metadata of a file system. Both ways show the same
/// bytes: a request copies into or out of [`DaxDevice::memory`]. A flush makes durable what was
/// written by requests; what was stored becomes durable by [`DaxDevice::persist`], and may become so
/// at any time before.
pub trait DaxDevice: BlockDevice {
    /// The bytes.
    fn memory(&self) -> &DaxMemory;

    /// Makes every store to these bytes that happened before this call durable.
    ///
    /// # Errors
    ///
    /// They may be lost. A device that has failed once fails from then on.
    fn persist(&self, addr: DevAddr, len: u64) -> Result<(), DeviceError>;

    /// Whether [`DaxDevice::persist`] costs about as much as the copy did: then a write does it at
    /// once, and leaves nothing for `fsync`.
    fn persists_cheaply(&self) -> bool;

    /// Where real memory mappings take their pages from: a descriptor in which the byte at offset
    /// *n* is the device's byte at address *n*. `None`: only the software page table can show them.
    fn backing(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How many of the bytes at `addr` can be read or stored to, from the first on; fewer than `len`
    /// where the medium has failed.
    ///
    /// # Errors
    ///
    /// Not even the first.
    fn usable(&self, addr: DevAddr, len: u64) -> Result<u64, DeviceError> {
        let _ = addr;
        Ok(len)
    }

    /// [`DaxMemory::read`] as an operation of the device.
    ///
    /// # Errors
    ///
    /// The bytes do not lie on the device, or its medium has failed there.
    fn load(&self, addr: DevAddr, to: &mut [u8]) -> Result<(), DeviceError> {
        let len = to.len() as u64;
        all_usable(self, DeviceOp::Read, addr, len)?;
        let read = self.memory().read(addr, to);
        read.map_err(|errno| DeviceError::new(DeviceOp::Read, addr, len, errno))
    }

    /// [`DaxMemory::write`] as an operation of the device.
    ///
    /// # Errors
    ///
    /// As [`DaxDevice::load`]; the device is read-only.
    fn store(&self, addr: DevAddr, from: &[u8]) -> Result<(), DeviceError> {
        let len = from.len() as u64;
        all_usable(self, DeviceOp::Write, addr, len)?;
        let written = self.memory().write(addr, from);
        written.map_err(|errno| DeviceError::new(DeviceOp::Write, addr, len, errno))
    }

    /// [`DaxMemory::zero`] as an operation of the device.
    ///
    /// # Errors
    ///
    /// As [`DaxDevice::store`].
    fn store_zeroes(&self, addr: DevAddr, len: u64) -> Result<(), DeviceError> {
        all_usable(self, DeviceOp::WriteZeroes, addr, len)?;
        let written = self.memory().zero(addr, len);
        written.map_err(|errno| DeviceError::new(DeviceOp::WriteZeroes, addr, len, errno))
    }

    /// [`DaxMemory::copy`] as an operation of the device.
    ///
    /// # Errors
    ///
    /// As [`DaxDevice::store`].
    fn store_copy(&self, to: DevAddr, from: DevAddr, len: u64) -> Result<(), DeviceError> {
        all_usable(self, DeviceOp::Read, from, len)?;
        all_usable(self, DeviceOp::Write, to, len)?;
        let copied = self.memory().copy(to, from, len);
        copied.map_err(|errno| DeviceError::new(DeviceOp::Write, to, len, errno))
    }
}

/// Refuses bytes that are not all usable.
fn all_usable<D: DaxDevice + ?Sized>(
    device: &D,
    op: DeviceOp,
    addr: DevAddr,
    len: u64,
) -> Result<(), DeviceError> {
    if device.usable(addr, len)? < len {
        return Err(DeviceError::new(op, addr, len, Errno::IO));
    }
    Ok(())
}
