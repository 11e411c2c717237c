//! The demonstration: a file system on a block file through every data path, every byte verified.
//!
//! Owns the order of the phases and the errors; names, sizes and bytes are compared, attributes are
//! not (torture does that). The phases are [`phases`], what they share is
//! [`stage`], what is measured and printed [`measure`]. The model is plain bytes in memory
//! ([`stage::Files`]).

pub mod measure;
pub mod phases;
pub mod stage;

use std::sync::Arc;

use iomap_core::dax::DaxDevice;
use iomap_core::device::BlockDevice;
use iomap_core::error::{FsError, SeekError};

use self::measure::Report;
use self::stage::Stage;
use crate::check;
use crate::device::CountingDevice;
use crate::fs::MountError;

/// The smallest volume on which every phase has room, bytes.
pub const SIZE_MIN: u64 = 64 << 20;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Makes content and order.
    pub seed: u64,
    /// Memory of the page cache, bytes.
    pub cache_bytes: u64,
    /// Draw a progress bar on standard error.
    pub progress: bool,
}

/// Why a run failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RunError {
    /// A byte, a size or a name is not what it should be.
    #[error("VERIFICATION FAILED: {0}")]
    Mismatch(String),
    /// The check found the volume inconsistent.
    #[error("VERIFICATION FAILED: check found {} faults, the first: {}", .0.len(), .0.first().map_or("", String::as_str))]
    NotClean(Vec<String>),
    /// An operation failed.
    #[error("{phase}: {error}")]
    Failed {
        /// What was being done.
        phase: &'static str,
        /// How it failed.
        error: FsError,
    },
    /// The volume could not be mounted.
    #[error("mount: {0}")]
    Mount(#[from] MountError),
    /// The volume is smaller than [`SIZE_MIN`].
    #[error("the volume has {0} bytes; {SIZE_MIN} are needed to drive every path")]
    TooSmall(u64),
}

impl RunError {
    /// Whether the file system gave a wrong answer, rather than none.
    #[must_use]
    pub const fn is_mismatch(&self) -> bool {
        matches!(self, Self::Mismatch(_) | Self::NotClean(_))
    }

    /// For `map_err`: the phase an error belongs to.
    pub(crate) fn in_phase<E: Into<FsError>>(phase: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Failed {
            phase,
            error: error.into(),
        }
    }

    pub(crate) fn seek(phase: &'static str, error: SeekError) -> Self {
        match error {
            SeekError::Fs(error) => Self::Failed { phase, error },
            SeekError::NoSuchRegion => Self::Mismatch(format!("{phase}: no data was found")),
        }
    }
}

/// Drives every path on the testfs on `device`, in a directory of its own; what an earlier run left
/// there is removed first.
///
/// # Errors
///
/// The first wrong answer or failure.
pub fn run(device: Arc<dyn BlockDevice>, options: &Options) -> Result<Report, RunError> {
    drive(device, None, options)
}

/// The same, with every file a DAX file: reads, writes and stores reach the bytes of `device`, which
/// counts no traffic.
///
/// # Errors
///
/// As [`run`].
pub fn run_dax(device: Arc<dyn DaxDevice>, options: &Options) -> Result<Report, RunError> {
    let block = Arc::clone(&device) as Arc<dyn BlockDevice>;
    drive(block, Some(device), options)
}

fn drive(
    device: Arc<dyn BlockDevice>,
    dax: Option<Arc<dyn DaxDevice>>,
    options: &Options,
) -> Result<Report, RunError> {
    if device.size() < SIZE_MIN {
        return Err(RunError::TooSmall(device.size()));
    }
    let device = Arc::new(CountingDevice::new(device));
    let mut stage = Stage::mount(device, dax, options)?;
    for (name, phase) in phases::ALL {
        stage.begin(name);
        phase(&mut stage)?;
    }
    stage.begin("remount");
    stage.remount()?;
    stage.begin("verify");
    let verified = stage.verify_everything()?;
    stage.begin("check");
    let device = stage.unmount()?;
    let found = check::check(Arc::clone(&device) as Arc<dyn BlockDevice>)?;
    if !found.is_clean() {
        return Err(RunError::NotClean(
            found.errors().map(ToString::to_string).collect(),
        ));
    }
    Ok(stage.report(verified, &device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iomap_core::device::MemoryDevice;

    use crate::fs::TestFs;
    use crate::meta::MkfsOptions;

    fn volume(bytes: u64) -> Arc<dyn BlockDevice> {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(bytes));
        TestFs::mkfs(Arc::clone(&device), &MkfsOptions::default()).expect("room for a volume");
        device
    }

    #[test]
    fn a_volume_of_dax_files_is_driven_and_verified() {
        let device = crate::device::PmemDevice::new(SIZE_MIN).expect("memory");
        let block = Arc::clone(&device) as Arc<dyn BlockDevice>;
        TestFs::mkfs(block, &MkfsOptions::default()).expect("room for a volume");
        let options = Options {
            seed: 7,
            cache_bytes: 4 << 20,
            progress: false,
        };
        let report = run_dax(device, &options).expect("everything is as it should be");
        let stored = report.rows.iter().find(|row| row.path == "mapped store 4K");
        assert!(report.dax && stored.is_some_and(|row| row.calls > 0));
    }

    #[test]
    fn a_small_volume_in_memory_is_driven_and_verified_twice() {
        let device = volume(SIZE_MIN);
        let options = Options {
            seed: 7,
            cache_bytes: 4 << 20,
            progress: false,
        };
        for _ in 0..2 {
            let report = run(Arc::clone(&device), &options).expect("everything is as it should be");
            assert!(
                report.verified_bytes > SIZE_MIN / 4,
                "{}",
                report.verified_bytes
            );
            assert!(
                report.rows.len() >= phases::ALL.len(),
                "every phase measures something"
            );
        }
    }

    #[test]
    fn a_volume_that_is_too_small_is_refused() {
        let options = Options {
            seed: 7,
            cache_bytes: 4 << 20,
            progress: false,
        };
        let error = run(volume(16 << 20), &options).expect_err("too small");
        assert!(matches!(error, RunError::TooSmall(_)));
    }
}
