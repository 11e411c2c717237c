//! Simulated persistent memory: stores are in the caches of the processor until somebody flushes
//! them.
//!
//! Owns [`PmemDevice`] and what a power cut leaves of it. Its fault model beside the one of the block
//! devices ([`device`](super)):
//!
//! - Eight bytes at an aligned address are stored whole or not at all; of a longer store any part
//!   may have arrived.
//! - A store is durable once its bytes were persisted, or were written by a request and the device
//!   was flushed after that. Until then it may have arrived: caches write back when they like.
//! - Persisting and flushing may be made to fail. Nothing is lost by that: what did not become
//!   durable may still have arrived, and becomes durable by the next flush that works.
//! - The medium may lose pages: they can neither be loaded nor stored to.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use fastrand::Rng;
use iomap_core::dax::{DaxDevice, DaxMemory};
use iomap_core::device::immediate::{Front, ImmediateDevice};
use iomap_core::device::{BioOp, Limits, Segment};
use iomap_core::error::{DeviceError, DeviceOp, Errno};
use iomap_core::units::{DevAddr, PAGE_SIZE};
use parking_lot::Mutex;

/// Bytes of a cache line: what is persisted at a time.
pub const LINE: usize = 64;
/// Bytes that are stored whole or not at all.
const WORD: usize = 8;

/// Called before bytes are persisted, with their place.
pub type OnPersist = Arc<dyn Fn(DevAddr, u64) + Send + Sync>;

/// Persistent memory, simulated.
pub struct PmemDevice {
    memory: DaxMemory,
    file: File,
    front: Front,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// Written by requests since the last flush: start and length.
    written: Vec<(u64, u64)>,
    /// Pages the medium has lost.
    lost_pages: BTreeSet<u64>,
    persist_error: Option<Errno>,
    cheap: bool,
    on_persist: Option<OnPersist>,
}

impl PmemDevice {
    /// A device of `size` zero bytes, a multiple of the page size.
    ///
    /// # Errors
    ///
    /// The machine has no memory for it.
    pub fn new(size: u64) -> Result<Arc<Self>, Errno> {
        let fd = rustix::fs::memfd_create("pmem", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, size)?;
        let memory = DaxMemory::map(fd.as_fd(), size, true)?;
        let limits = Limits {
            fua: true,
            volatile_cache: true,
            write_zeroes: true,
            ..Limits::PLAIN
        };
        Ok(Arc::new(Self {
            memory,
            file: File::from(fd),
            front: Front::new(size, limits),
            state: Mutex::new(State {
                durable: vec![0; size as usize],
                ..State::default()
            }),
        }))
    }

    /// A device that holds `image`, all of it durable.
    ///
    /// # Errors
    ///
    /// As [`PmemDevice::new`].
    pub fn from_image(image: &[u8]) -> Result<Arc<Self>, Errno> {
        let device = Self::new(image.len() as u64)?;
        device.memory.write(DevAddr::new(0), image)?;
        device.state.lock().durable.copy_from_slice(image);
        Ok(device)
    }

    /// What the processor sees.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.memory.len() as usize];
        // Cannot fail: as many bytes as there are.
        let read = self.memory.read(DevAddr::new(0), &mut image);
        debug_assert_eq!(read, Ok(()));
        image
    }

    /// What a power cut leaves if the caches had written nothing back by themselves.
    #[must_use]
    pub fn durable_image(&self) -> Vec<u8> {
        self.state.lock().durable.clone()
    }

    /// What a power cut may leave: of what is not durable any part has arrived.
    #[must_use]
    pub fn crash_image(&self, rng: &mut Rng) -> Vec<u8> {
        let seen = self.image();
        let mut left = self.durable_image();
        for (old, new) in left.chunks_mut(WORD).zip(seen.chunks(WORD)) {
            if old != new && rng.bool() {
                old.copy_from_slice(new);
            }
        }
        left
    }

    /// The power goes and comes back: what is not durable is lost. Nobody stores meanwhile.
    pub fn cut_power(&self) {
        let state = self.state.lock();
        // Cannot fail: as many bytes as there are.
        let written = self.memory.write(DevAddr::new(0), &state.durable);
        debug_assert_eq!(written, Ok(()));
    }

    /// Calls `f` before bytes are persisted from now on; nothing is locked meanwhile.
    pub fn on_persist(&self, f: Option<OnPersist>) {
        self.state.lock().on_persist = f;
    }

    /// Makes persisting and flushing fail from now on, or work again.
    pub fn fail_persist(&self, errno: Option<Errno>) {
        self.state.lock().persist_error = errno;
    }

    /// Whether a write makes its bytes durable at once, as on a device whose cache lines can be
    /// flushed.
    pub fn set_cheap(&self, cheap: bool) {
        self.state.lock().cheap = cheap;
    }

    /// Loses the page at `addr`.
    pub fn lose_page(&self, addr: DevAddr) {
        let page = addr.bytes() / PAGE_SIZE as u64;
        self.state.lock().lost_pages.insert(page);
    }

    /// What is not durable after a failure is for the next flush: the bytes are in the caches yet.
    fn make_all_durable(&self, written: Vec<(u64, u64)>) -> Result<(), Errno> {
        let mut left = written.into_iter();
        while let Some((addr, len)) = left.next() {
            if let Err(errno) = self.make_durable(addr, len) {
                let mut state = self.state.lock();
                state.written.push((addr, len));
                state.written.extend(left);
                return Err(errno);
            }
        }
        Ok(())
    }

    fn make_durable(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let hook = self.state.lock().on_persist.clone();
        if let Some(hook) = hook {
            hook(DevAddr::new(addr), len);
        }
        let mut state = self.state.lock();
        if let Some(errno) = state.persist_error {
            return Err(errno);
        }
        let size = state.durable.len();
        let end = addr.checked_add(len).filter(|end| *end <= size as u64);
        let end = end.ok_or(Errno::NXIO)? as usize;
        let (start, end) = (
            addr as usize / LINE * LINE,
            end.next_multiple_of(LINE).min(size),
        );
        self.memory
            .read(DevAddr::new(start as u64), &mut state.durable[start..end])
    }
}

impl DaxDevice for PmemDevice {
    fn memory(&self) -> &DaxMemory {
        &self.memory
    }

    fn persist(&self, addr: DevAddr, len: u64) -> Result<(), DeviceError> {
        self.make_durable(addr.bytes(), len)
            .map_err(|errno| DeviceError::new(DeviceOp::Flush, addr, len, errno))
    }

    fn persists_cheaply(&self) -> bool {
        self.state.lock().cheap
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn usable(&self, addr: DevAddr, len: u64) -> Result<u64, DeviceError> {
        let page = addr.bytes() / PAGE_SIZE as u64;
        let state = self.state.lock();
        let Some(&lost) = state.lost_pages.range(page..).next() else {
            return Ok(len);
        };
        if lost == page && len > 0 {
            return Err(DeviceError::new(DeviceOp::Read, addr, len, Errno::IO));
        }
        Ok(len.min(lost * PAGE_SIZE as u64 - addr.bytes()))
    }
}

impl ImmediateDevice for PmemDevice {
    fn front(&self) -> &Front {
        &self.front
    }

    fn run(&self, op: BioOp, addr: DevAddr, len: u64, segments: &[Segment]) -> Result<(), Errno> {
        match op {
            BioOp::Read => return self.memory.read_segments(addr, segments),
            BioOp::Write { .. } => self.memory.write_segments(addr, segments)?,
            BioOp::WriteZeroes => self.memory.zero(addr, len)?,
            BioOp::Discard => return Err(Errno::OPNOTSUPP),
            BioOp::Flush => {
                let written = std::mem::take(&mut self.state.lock().written);
                return self.make_all_durable(written);
            }
        }
        if matches!(op, BioOp::Write { fua: true, .. }) {
            return self.make_durable(addr.bytes(), len);
        }
        self.state.lock().written.push((addr.bytes(), len));
        Ok(())
    }
}

impl fmt::Debug for PmemDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PmemDevice")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::device::BlockDevice;

    #[test]
    fn a_store_is_durable_when_its_lines_are_persisted_and_may_be_before() {
        let device = PmemDevice::new(8192).unwrap();
        device.store(DevAddr::new(60), &[7; 8]).unwrap();
        assert_eq!(device.durable_image()[60..68], [0; 8]);
        let seen: BTreeSet<_> = (0..64)
            .map(|seed| device.crash_image(&mut Rng::with_seed(seed))[60..68].to_vec())
            .collect();
        assert_eq!(seen.len(), 4, "each of the two words arrives or does not");
        device.persist(DevAddr::new(60), 1).unwrap();
        assert_eq!(device.durable_image()[60..68], [7, 7, 7, 7, 0, 0, 0, 0]);
        device.persist(DevAddr::new(64), 1).unwrap();
        assert_eq!(device.durable_image()[60..68], [7; 8]);
    }

    #[test]
    fn a_flush_makes_requests_durable_and_not_stores() {
        let device = PmemDevice::new(8192).unwrap();
        device.write_at(DevAddr::new(512), &[1; 512]).unwrap();
        device.store(DevAddr::new(4096), &[2]).unwrap();
        assert_eq!(device.durable_image(), [0; 8192]);
        device.flush().unwrap();
        let durable = device.durable_image();
        assert_eq!((durable[512], durable[1023], durable[4096]), (1, 1, 0));
    }

    #[test]
    fn a_power_cut_leaves_what_is_durable() {
        let device = PmemDevice::new(8192).unwrap();
        device.store(DevAddr::new(0), &[1; 128]).unwrap();
        device.persist(DevAddr::new(0), 64).unwrap();
        device.cut_power();
        assert_eq!(device.image()[..128], [[1; 64], [0; 64]].concat());
    }

    #[test]
    fn what_a_failed_flush_left_becomes_durable_by_the_next() {
        let device = PmemDevice::new(8192).unwrap();
        device.write_at(DevAddr::new(512), &[1; 512]).unwrap();
        device.write_at(DevAddr::new(4096), &[2; 512]).unwrap();
        device.fail_persist(Some(Errno::IO));
        assert_eq!(device.flush().unwrap_err().errno, Errno::IO);
        assert_eq!(device.durable_image(), [0; 8192]);
        device.fail_persist(None);
        device.flush().unwrap();
        let durable = device.durable_image();
        assert_eq!((durable[512], durable[4096]), (1, 2));
    }

    #[test]
    fn what_lies_past_the_end_cannot_be_persisted() {
        let device = PmemDevice::new(8192).unwrap();
        for (addr, len) in [(8192, 1), (8000, 193), (u64::MAX, 1), (0, u64::MAX)] {
            let error = device.persist(DevAddr::new(addr), len).unwrap_err();
            assert_eq!(error.errno, Errno::NXIO);
        }
        device.persist(DevAddr::new(8000), 192).unwrap();
    }

    #[test]
    fn a_lost_page_can_be_read_up_to() {
        let device = PmemDevice::new(16384).unwrap();
        device.lose_page(DevAddr::new(8192));
        assert_eq!(device.usable(DevAddr::new(100), 16000).unwrap(), 8092);
        let error = device.load(DevAddr::new(9000), &mut [0; 4]).unwrap_err();
        assert_eq!(error.errno, Errno::IO);
        assert_eq!(device.usable(DevAddr::new(12288), 4096).unwrap(), 4096);
    }
}
