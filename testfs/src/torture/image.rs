//! A testfs volume as the target of torture.
//!
//! Owns [`ImageTarget`]: a device that can be told to fail, formatted, mounted and checked again
//! and again.

use std::sync::Arc;

use iomap_core::device::BlockDevice;
use iomap_core::error::Errno;
use iomap_core::vfs::Vfs;

use super::target::{Left, Mounted, Target, TargetError};
use crate::check::check;
use crate::device::{Effect, Fault, FaultyDevice, When};
use crate::fs::{MountOptions, TestFs};
use crate::meta::MkfsOptions;

/// Files that nobody has open to keep in memory: few, so that files leave it and come back.
const IDLE: usize = 8;

/// A testfs volume on a device that fails when asked to.
#[derive(Debug)]
pub struct ImageTarget {
    device: Arc<FaultyDevice<Arc<dyn BlockDevice>>>,
    cache_bytes: u64,
    mkfs: MkfsOptions,
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
            device: Arc::new(FaultyDevice::new(device, seed)),
            cache_bytes,
            mkfs,
        }
    }

    fn device(&self) -> Arc<dyn BlockDevice> {
        Arc::clone(&self.device) as Arc<dyn BlockDevice>
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
            ..MountOptions::default()
        };
        let fs = TestFs::mount(self.device(), options).map_err(|e| failed("mount")(&e))?;
        Ok(Box::new(MountedImage(fs)))
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
}

struct MountedImage(Arc<TestFs>);

impl Mounted for MountedImage {
    fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::clone(&self.0) as Arc<dyn Vfs>
    }

    fn shrink(&self, pages: usize) {
        self.0.pool().shrink(pages as u64);
    }

    fn unmount(self: Box<Self>) -> Left {
        Left {
            result: self.0.unmount(),
            gave_up: self.0.has_failed(),
        }
    }
}
