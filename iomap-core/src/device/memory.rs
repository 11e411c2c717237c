//! A device in memory: every request completes inside `submit`.
//!
//! Owns [`MemoryDevice`]. Its bytes are kept in chunks that are made when first written, so that a
//! device of a terabyte costs what is used of it. Nothing is volatile: what has completed is
//! durable. Power cuts and failures are simulated by the devices of `testfs` around it.

use std::fmt;

use super::Limits;
use super::bio::{self, BioOp, Segment};
use super::immediate::{Front, ImmediateDevice};
use crate::error::Errno;
use crate::sync::{Rank, RwLock};
use crate::units::DevAddr;

/// Bytes of a chunk: the unit of allocation and of locking.
const CHUNK: usize = 1 << 20;

type Chunk = RwLock<Option<Box<[u8]>>>;

/// A device whose bytes are memory of the process.
pub struct MemoryDevice {
    front: Front,
    chunks: Box<[Chunk]>,
}

impl MemoryDevice {
    /// What a memory device can do unless told otherwise.
    pub const LIMITS: Limits = Limits {
        atomic_write: (512, 65536),
        fua: true,
        discard: true,
        write_zeroes: true,
        ..Limits::PLAIN
    };

    /// A device of `size` zero bytes, rounded down to whole blocks of 512 bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::with_limits(size, Self::LIMITS)
    }

    /// A device of `size` zero bytes, rounded down to whole blocks, that claims `limits`.
    #[must_use]
    pub fn with_limits(size: u64, limits: Limits) -> Self {
        let size = size - size % limits.block_size;
        let chunks = (0..size.div_ceil(CHUNK as u64))
            .map(|n| RwLock::new(Rank::DeviceQueue, n, None))
            .collect();
        Self {
            front: Front::new(size, limits),
            chunks,
        }
    }

    /// A device that holds `image`, rounded down to whole blocks of 512 bytes.
    #[must_use]
    pub fn from_image(image: &[u8]) -> Self {
        let device = Self::new(image.len() as u64);
        for (n, bytes) in image[..device.front.size() as usize]
            .chunks(CHUNK)
            .enumerate()
        {
            if bytes.iter().any(|&b| b != 0) {
                device.change(n, 0, bytes.len(), |chunk| chunk.copy_from_slice(bytes));
            }
        }
        device
    }

    /// All bytes.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.front.size() as usize];
        for (chunk, bytes) in self.chunks.iter().zip(image.chunks_mut(CHUNK)) {
            if let Some(chunk) = &*chunk.read() {
                bytes.copy_from_slice(&chunk[..bytes.len()]);
            }
        }
        image
    }

    /// Bytes of memory in use for the device's contents.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let used = self.chunks.iter().filter(|c| c.read().is_some()).count();
        (used * CHUNK) as u64
    }

    fn change(&self, n: usize, from: usize, len: usize, f: impl FnOnce(&mut [u8])) {
        let mut chunk = self.chunks[n].write();
        let bytes = chunk.get_or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
        f(&mut bytes[from..from + len]);
    }

    fn read_chunk(&self, n: usize, from: usize, len: usize, segments: &[Segment], at: usize) {
        match &*self.chunks[n].read() {
            Some(bytes) => bio::store(segments, at, &bytes[from..from + len]),
            None => {
                const ZEROES: [u8; 4096] = [0; 4096];
                for done in (0..len).step_by(ZEROES.len()) {
                    let n = ZEROES.len().min(len - done);
                    bio::store(segments, at + done, &ZEROES[..n]);
                }
            }
        }
    }

    fn zero_chunk(&self, n: usize, from: usize, len: usize) {
        let mut chunk = self.chunks[n].write();
        if len == CHUNK {
            *chunk = None;
        } else if let Some(bytes) = &mut *chunk {
            bytes[from..from + len].fill(0);
        }
    }
}

impl ImmediateDevice for MemoryDevice {
    fn front(&self) -> &Front {
        &self.front
    }

    fn run(&self, op: BioOp, addr: DevAddr, len: u64, segments: &[Segment]) -> Result<(), Errno> {
        if op == BioOp::Flush {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            let pos = addr.bytes() + done;
            let (n, from) = ((pos / CHUNK as u64) as usize, (pos % CHUNK as u64) as usize);
            let part = (CHUNK - from).min(usize::try_from(len - done).unwrap_or(CHUNK));
            let at = done as usize;
            match op {
                BioOp::Read => self.read_chunk(n, from, part, segments, at),
                BioOp::Write { .. } => {
                    self.change(n, from, part, |bytes| bio::fetch(segments, at, bytes));
                }
                BioOp::Discard | BioOp::WriteZeroes => self.zero_chunk(n, from, part),
                BioOp::Flush => {}
            }
            done += part as u64;
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDevice")
            .field("size", &self.front.size())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::{Bio, BlockDevice, DeviceBuf};
    use proptest::prelude::*;

    const SIZE: u64 = (2 * CHUNK + 8192) as u64;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_holds_what_was_written(
            ops in prop::collection::vec((0..4u8, 0..SIZE / 512, 1..3000u64, any::<u8>()), 1..12),
        ) {
            let device = MemoryDevice::new(SIZE);
            let mut model = vec![0; SIZE as usize];
            for (kind, block, blocks, byte) in ops {
                let blocks = blocks.min(SIZE / 512 - block);
                let (addr, len) = (DevAddr::new(block * 512), (blocks * 512) as usize);
                let part = &mut model[(block * 512) as usize..][..len];
                let mut buf = vec![byte; len];
                match kind {
                    0 => {
                        device.read_at(addr, &mut buf).unwrap();
                        prop_assert!(buf == part);
                    }
                    1 => {
                        device.transfer(BioOp::Discard, addr, len as u64, &[]).unwrap();
                        part.fill(0);
                    }
                    _ => {
                        device.write_at(addr, &buf).unwrap();
                        part.fill(byte);
                    }
                }
            }
            prop_assert!(device.image() == model);
            prop_assert!(MemoryDevice::from_image(&model).image() == model);
        }
    }

    #[test]
    fn a_large_device_costs_what_is_used() {
        let device = MemoryDevice::new(1 << 36);
        device.write_at(DevAddr::new(1 << 35), &[1; 512]).unwrap();
        assert_eq!(device.resident(), CHUNK as u64);
        let error = device.write_at(DevAddr::new(1 << 36), &[1; 512]);
        assert_eq!(error.unwrap_err().errno, Errno::NXIO);
    }

    #[test]
    fn a_request_completes_in_the_call_that_submits_it() {
        let device = MemoryDevice::new(4096);
        let (send, receive) = std::sync::mpsc::channel();
        let buf = DeviceBuf::from_slice(&[5; 512], 1);
        device.submit(Bio::owned(
            BioOp::WRITE,
            DevAddr::new(512),
            buf,
            move |r, _| {
                send.send(r).unwrap();
            },
        ));
        receive.try_recv().unwrap().unwrap();
        assert_eq!(device.image()[512..1024], [5; 512]);
    }
}
