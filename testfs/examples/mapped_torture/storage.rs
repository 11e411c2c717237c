//! What a round's file system lies on: memory behind a queue of its own, or simulated persistent
//! memory.
//!
//! Owns making it, mounting it, and what is left of it after a crash.

use std::sync::Arc;
use std::time::Duration;

use iomap_core::dax::DaxDevice;
use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::flusher::FlusherConfig;
use testfs::device::{DeferredDevice, PmemDevice};
use testfs::fs::{MkfsOptions, MountOptions, TestFs};

use super::{Setup, text};

/// Bytes of the volume.
const VOLUME: u64 = 64 << 20;

pub(crate) type Device = DeferredDevice<Arc<MemoryDevice>>;

/// The requests that are held back; a DAX device has none.
pub(crate) type Queue = Option<Arc<Device>>;

/// The bytes.
pub(crate) enum Storage {
    Memory(Arc<MemoryDevice>),
    Pmem(Arc<PmemDevice>),
}

impl Storage {
    /// With an empty file system.
    pub(crate) fn new(setup: &Setup) -> Result<Self, String> {
        let made = if setup.dax {
            Self::Pmem(PmemDevice::new(VOLUME).map_err(text)?)
        } else {
            Self::Memory(Arc::new(MemoryDevice::new(VOLUME)))
        };
        let mkfs = MkfsOptions {
            block_size: setup.block_size,
            ..MkfsOptions::default()
        };
        TestFs::mkfs(made.device(), &mkfs).map_err(text)?;
        Ok(made)
    }

    /// Without a queue.
    pub(crate) fn device(&self) -> Arc<dyn BlockDevice> {
        match self {
            Self::Memory(memory) => memory.clone(),
            Self::Pmem(pmem) => pmem.clone(),
        }
    }

    /// Mounts it behind a fresh queue.
    pub(crate) fn mount(&self, setup: &Setup, seed: u64) -> Result<(Arc<TestFs>, Queue), String> {
        let flusher = FlusherConfig {
            expire: Duration::from_millis(20),
            period: Duration::from_millis(10),
            ..FlusherConfig::default()
        };
        let options = MountOptions {
            cache_bytes: setup.cache_pages * 4096,
            flusher,
            commit_interval: Some(Duration::from_millis(100)),
            dax: setup.dax,
            ..MountOptions::default()
        };
        match self {
            Self::Memory(memory) => {
                let device = deferred(memory, setup, seed);
                let fs = TestFs::mount(Arc::clone(&device) as Arc<dyn BlockDevice>, options);
                Ok((fs.map_err(text)?, Some(device)))
            }
            Self::Pmem(pmem) => {
                let fs = TestFs::mount_dax(Arc::clone(pmem) as Arc<dyn DaxDevice>, options);
                Ok((fs.map_err(text)?, None))
            }
        }
    }

    /// What is there when the mount is gone, after a crash if it was one.
    pub(crate) fn after_mount(self, queue: Queue, setup: &Setup) -> Result<Self, String> {
        // A thread that answered the last fault may hold the file yet; until it lets go the mount
        // is not gone, and may write.
        while queue
            .as_ref()
            .is_some_and(|queue| Arc::strong_count(queue) > 1)
        {
            std::thread::yield_now();
        }
        let Self::Pmem(pmem) = self else {
            return Ok(self);
        };
        while Arc::strong_count(&pmem) > 1 {
            std::thread::yield_now();
        }
        let left = if setup.crash {
            pmem.crash_image(&mut fastrand::Rng::with_seed(setup.seed))
        } else {
            pmem.durable_image()
        };
        Ok(Self::Pmem(PmemDevice::from_image(&left).map_err(text)?))
    }
}

/// The same bytes behind a fresh queue.
fn deferred(memory: &Arc<MemoryDevice>, setup: &Setup, seed: u64) -> Arc<Device> {
    let held = u64::from(setup.held);
    let device = DeferredDevice::auto(Arc::clone(memory), seed);
    let mixed = move |id: u64| id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ seed;
    Arc::new(device.holding(move |request| mixed(request.id ^ request.addr.bytes()) % 100 < held))
}
