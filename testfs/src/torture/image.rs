//! A testfs volume as the target of torture.
//!
//! Owns [`ImageTarget`]: a device that can be told to fail, formatted, mounted and checked again
//! and again. With DAX files the power goes after each unmount, if the device is simulated.

use std::sync::Arc;

use iomap_core::dax::DaxDevice;
use iomap_core::device::BlockDevice;
use iomap_core::error::Errno;
use iomap_core::vfs::Vfs;

use super::target::{Left, Mounted, Target, TargetError};
use crate::check::check;
use crate::device::{Counts, Effect, Fault, FaultyDevice, PmemDevice, When};
use crate::fs::{MountOptions, TestFs};
use crate::meta::MkfsOptions;

/// Files that nobody has open to keep in memory: few, so that files leave it and come back.
const IDLE: usize = 8;

/// A testfs volume on a device that fails when asked to.
#[derive(Debug)]
pub struct ImageTarget {
    device: Device,
    cache_bytes: u64,
    mkfs: MkfsOptions,
}

/// What the volume lies on.
enum Device {
    Blocks(Arc<FaultyDevice<Arc<dyn BlockDevice>>>),
    /// Every file is a DAX file.
    Memory {
        device: Arc<FaultyDevice<Arc<dyn DaxDevice>>>,
        /// The device inside, if what is not durable can be lost.
        pmem: Option<Arc<PmemDevice>>,
    },
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Blocks(_) => "Blocks",
            Self::Memory { .. } => "Memory",
        })
    }
}

impl Device {
    fn plan(&self, fault: Fault) {
        match self {
            Self::Blocks(device) => device.plan(fault),
            Self::Memory { device, .. } => device.plan(fault),
        }
    }

    fn heal(&self) {
        match self {
            Self::Blocks(device) => device.heal(),
            Self::Memory { device, .. } => device.heal(),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Blocks(device) => device.counts(),
            Self::Memory { device, .. } => device.counts(),
        }
    }
}

impl ImageTarget {
    /// A volume on `device`, mounted with a page cache of `cache_bytes`. `seed` chooses which
    /// requests fail.
    #[must_use]
    pub fn new(
        device: Arc<dyn BlockDevice>,
        cache_bytes: u64,
        mkfs: MkfsOptions,
        seed: u64,
    ) -> Self {
        Self {
            device: Device::Blocks(Arc::new(FaultyDevice::new(device, seed))),
            cache_bytes,
            mkfs,
        }
    }

    /// A volume of DAX files on a device that keeps its bytes when the power goes.
    #[must_use]
    pub fn on_memory(device: Arc<dyn DaxDevice>, mkfs: MkfsOptions, seed: u64) -> Self {
        Self::dax(device, None, mkfs, seed)
    }

    /// A volume of DAX files on simulated persistent memory, which loses after each unmount what is
    /// not durable.
    #[must_use]
    pub fn on_pmem(pmem: &Arc<PmemDevice>, mkfs: MkfsOptions, seed: u64) -> Self {
        let device = Arc::clone(pmem) as Arc<dyn DaxDevice>;
        Self::dax(device, Some(Arc::clone(pmem)), mkfs, seed)
    }

    /// The same with a device around the memory, and the memory.
    pub(super) fn dax(
        device: Arc<dyn DaxDevice>,
        pmem: Option<Arc<PmemDevice>>,
        mkfs: MkfsOptions,
        seed: u64,
    ) -> Self {
        let device = Arc::new(FaultyDevice::new(device, seed));
        Self {
            device: Device::Memory { device, pmem },
            // For metadata.
            cache_bytes: 1 << 20,
            mkfs,
        }
    }

    fn device(&self) -> Arc<dyn BlockDevice> {
        match &self.device {
            Device::Blocks(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
            Device::Memory { device, .. } => Arc::clone(device) as Arc<dyn BlockDevice>,
        }
    }
}

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> TargetError + '_ {
    move |error| TargetError(format!("{what}: {error}"))
}

impl Target for ImageTarget {
    fn format(&self) -> Result<(), TargetError> {
        TestFs::mkfs(self.device(), &self.mkfs).map_err(|e| failed("mkfs")(&e))
    }

    fn mount(&self, read_only: bool) -> Result<Box<dyn Mounted>, TargetError> {
        let options = MountOptions {
            cache_bytes: self.cache_bytes,
            read_only,
            idle_inodes: IDLE,
            dax: self.maps(),
            ..MountOptions::default()
        };
        let (fs, pmem) = match &self.device {
            Device::Blocks(_) => (TestFs::mount(self.device(), options), None),
            Device::Memory { device, pmem } => {
                let device = Arc::clone(device) as Arc<dyn DaxDevice>;
                (TestFs::mount_dax(device, options), pmem.clone())
            }
        };
        let fs = fs.map_err(|e| failed("mount")(&e))?;
        Ok(Box::new(MountedImage { fs, pmem }))
    }

    fn check(&self, repair: bool) -> Result<Vec<String>, TargetError> {
        if repair {
            // A mount finishes what was interrupted; nothing else can be mended.
            let mounted = self.mount(false)?;
            let left = mounted.unmount();
            left.result.map_err(|e| failed("unmount")(&e))?;
        }
        let report = check(self.device()).map_err(|e| failed("check")(&e))?;
        Ok(report.errors().map(ToString::to_string).collect())
    }

    fn set_faults(&self, probability: f64) {
        self.device.heal();
        if probability <= 0.0 {
            return;
        }
        // Of what fails a part may have been done, or all of it.
        for effect in [Effect::Nothing, Effect::Half, Effect::All] {
            let fault = Fault::new(Errno::IO).when(When::Chance(probability / 3.0));
            self.device.plan(fault.leaving(effect));
        }
    }

    fn block_size(&self) -> u64 {
        u64::from(self.mkfs.block_size)
    }

    fn faults(&self) -> u64 {
        self.device.counts().failed
    }

    fn maps(&self) -> bool {
        matches!(self.device, Device::Memory { .. })
    }
}

struct MountedImage {
    fs: Arc<TestFs>,
    pmem: Option<Arc<PmemDevice>>,
}

impl Mounted for MountedImage {
    fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::clone(&self.fs) as Arc<dyn Vfs>
    }

    fn shrink(&self, pages: usize) {
        self.fs.pool().shrink(pages as u64);
    }

    fn unmount(self: Box<Self>) -> Left {
        let left = Left {
            result: self.fs.unmount(),
            gave_up: self.fs.has_failed(),
        };
        drop(self.fs);
        if let Some(pmem) = self.pmem {
            pmem.cut_power();
        }
        left
    }
}
