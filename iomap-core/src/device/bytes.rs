//! Moving plain byte slices to and from a device, one request at a time.
//!
//! Owns the borrow that spans a synchronous transfer, and the copy for devices that want aligned
//! memory. For metadata readers and writers; data paths submit bios of folio memory.

use super::{BioOp, BlockDevice, DeviceBuf, Segment};
use crate::error::DeviceError;
use crate::units::DevAddr;

/// Reads `to.len()` bytes from `addr` and waits for them.
///
/// `addr` and the length must be multiples of the device's block size.
///
/// # Errors
///
/// What the device answers; `to` may hold anything then.
pub fn read_bytes(
    device: &dyn BlockDevice,
    addr: DevAddr,
    to: &mut [u8],
) -> Result<(), DeviceError> {
    let align = device.limits().memory_align;
    if to.as_ptr().addr().is_multiple_of(align) {
        return device.read_at(addr, to);
    }
    let mut bounce = DeviceBuf::zeroed(to.len(), align);
    device.read_at(addr, &mut bounce)?;
    to.copy_from_slice(&bounce);
    Ok(())
}

/// Writes `from` to `addr` and waits for the completion; with `fua`, for durability as well.
///
/// `addr` and the length must be multiples of the device's block size. A device without FUA is
/// flushed instead.
///
/// # Errors
///
/// What the device answers: then what the range holds is unknown.
pub fn write_bytes(
    device: &dyn BlockDevice,
    addr: DevAddr,
    from: &[u8],
    fua: bool,
) -> Result<(), DeviceError> {
    let limits = device.limits();
    let op = BioOp::Write {
        fua: fua && limits.fua,
        atomic: false,
    };
    let len = from.len() as u64;
    if from.as_ptr().addr().is_multiple_of(limits.memory_align) {
        device.transfer(op, addr, len, &[Segment::of_ref(from)])?;
    } else {
        let bounce = DeviceBuf::from_slice(from, limits.memory_align);
        device.transfer(op, addr, len, &[Segment::of_ref(&bounce)])?;
    }
    if fua && !limits.fua {
        device.flush()?;
    }
    Ok(())
}
