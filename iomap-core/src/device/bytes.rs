//! Moving plain byte slices to and from a device, one request at a time.
//!
//! Owns the borrow that spans a synchronous transfer, and the bounce buffer for devices that want
//! aligned memory. For metadata readers and writers; data paths submit bios of folio memory.

use std::ptr::NonNull;

use super::{BioOp, BlockDevice, Segment};
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
    if !to.as_ptr().addr().is_multiple_of(align) {
        let mut bounce = Bounce::new(to.len(), align);
        transfer(device, BioOp::Read, addr, bounce.bytes_mut())?;
        to.copy_from_slice(bounce.bytes_mut());
        return Ok(());
    }
    transfer(device, BioOp::Read, addr, to)
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
    // The segment needs an address that may be written through, which a shared slice has not: the
    // copy also provides the alignment.
    let mut bounce = Bounce::new(from.len(), limits.memory_align);
    bounce.bytes_mut().copy_from_slice(from);
    transfer(device, op, addr, bounce.bytes_mut())?;
    if fua && !limits.fua {
        device.flush()?;
    }
    Ok(())
}

fn transfer(
    device: &dyn BlockDevice,
    op: BioOp,
    addr: DevAddr,
    bytes: &mut [u8],
) -> Result<(), DeviceError> {
    let len = bytes.len();
    let ptr = NonNull::from(bytes).cast::<u8>();
    // SAFETY: the exclusive borrow of `bytes` lasts until this function returns, and `transfer`
    // returns only after the request has completed: nobody else uses the memory meanwhile.
    let segment = unsafe { Segment::from_raw(ptr, len) };
    device.transfer(op, addr, len as u64, &[segment])
}

/// A buffer whose bytes start at a multiple of an alignment.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    fn new(len: usize, align: usize) -> Self {
        let memory = vec![0; len + align - 1];
        let start = memory.as_ptr().align_offset(align).min(align - 1);
        Self { memory, start, len }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
