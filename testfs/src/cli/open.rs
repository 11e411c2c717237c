//! Opening the block file: what is made, what is formatted, what is refused.
//!
//! Owns the rule that nothing foreign is overwritten without `--force`: a file is formatted if it
//! was just made or holds nothing but zeroes at its start, and mounted if it is a testfs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iomap_core::dax::{DaxDevice, FileDaxDevice};
use iomap_core::device::{BlockDevice, FileDevice, OpenError, OpenOptions};
use iomap_core::error::{DeviceError, FsError};
use iomap_core::units::DevAddr;

use crate::fs::{MountError, TestFs};
use crate::meta::open::BLANK;
use crate::meta::{Meta, MkfsOptions};

/// How much of a file must be zero for it to count as empty, bytes.
const EMPTY_LEN: u64 = 1 << 20;

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{path}: holds {what}, which is not overwritten", path = .path.display())]
    Foreign { path: PathBuf, what: String },
    #[error("{path}: {error}", path = .path.display())]
    Damaged { path: PathBuf, error: MountError },
    #[error("{path}: cannot be formatted: {error}", path = .path.display())]
    Format { path: PathBuf, error: FsError },
    #[error("{path}: {error}", path = .path.display())]
    Device { path: PathBuf, error: DeviceError },
}

impl Refusal {
    /// What the user can do about it.
    pub(super) fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Foreign { .. } => Some("--force formats it, and everything on it is lost"),
            Self::Damaged { .. } => Some(
                "`testfs check` says what is wrong with it; --force formats it, and everything on \
                 it is lost",
            ),
            Self::Open(OpenError::Missing(_)) => Some("`testfs mkfs --size` makes it"),
            Self::Open(OpenError::Locked(_)) => Some("wait until the other program is done"),
            _ => None,
        }
    }
}

/// What is on a device.
enum Content {
    Nothing,
    Testfs,
    Foreign(String),
    Damaged(MountError),
}

/// The device for `run`: made and formatted as needed.
pub(super) fn for_run(
    path: &Path,
    size: u64,
    force: bool,
) -> Result<Arc<dyn BlockDevice>, Refusal> {
    let device = open(path, Some(size), false)?;
    format_as_needed(path, &device, force)?;
    Ok(device)
}

/// The same as a device whose bytes are memory.
pub(super) fn for_run_dax(
    path: &Path,
    size: u64,
    force: bool,
) -> Result<Arc<dyn DaxDevice>, Refusal> {
    let options = OpenOptions {
        create_size: Some(size),
        ..OpenOptions::default()
    };
    let device: Arc<dyn DaxDevice> = Arc::new(FileDaxDevice::open(path, &options)?);
    let block = Arc::clone(&device) as Arc<dyn BlockDevice>;
    format_as_needed(path, &block, force)?;
    Ok(device)
}

/// Makes a file system, unless there is one; refuses to write over anything else.
fn format_as_needed(
    path: &Path,
    device: &Arc<dyn BlockDevice>,
    force: bool,
) -> Result<(), Refusal> {
    match look(path, device)? {
        Content::Testfs if !force => return Ok(()),
        Content::Foreign(what) if !force => {
            return Err(Refusal::Foreign {
                path: path.to_owned(),
                what,
            });
        }
        Content::Damaged(error) if !force => {
            return Err(Refusal::Damaged {
                path: path.to_owned(),
                error,
            });
        }
        _ => {}
    }
    TestFs::mkfs(Arc::clone(device), &MkfsOptions::default()).map_err(|error| Refusal::Format {
        path: path.to_owned(),
        error,
    })
}

/// The device for `mkfs`: nothing of value on it.
pub(super) fn for_mkfs(
    path: &Path,
    size: Option<u64>,
    force: bool,
) -> Result<Arc<dyn BlockDevice>, Refusal> {
    let device = open(path, size, false)?;
    match look(path, &device)? {
        Content::Nothing => Ok(device),
        _ if force => Ok(device),
        content => Err(Refusal::Foreign {
            path: path.to_owned(),
            what: content.to_string(),
        }),
    }
}

/// The device for reading.
pub(super) fn read_only(path: &Path) -> Result<Arc<dyn BlockDevice>, Refusal> {
    open(path, None, true)
}

fn open(
    path: &Path,
    create_size: Option<u64>,
    read_only: bool,
) -> Result<Arc<dyn BlockDevice>, Refusal> {
    let options = OpenOptions {
        create_size,
        read_only,
        ..OpenOptions::default()
    };
    Ok(Arc::new(FileDevice::open(path, &options)?))
}

/// Finds out what is on a device.
fn look(path: &Path, device: &Arc<dyn BlockDevice>) -> Result<Content, Refusal> {
    let options = crate::meta::OpenOptions {
        read_only: true,
        ..Default::default()
    };
    match Meta::open(Arc::clone(device), options) {
        Ok(_) => Ok(Content::Testfs),
        Err(MountError::Device(error)) => Err(Refusal::Device {
            path: path.to_owned(),
            error,
        }),
        Err(MountError::NotTestfs { found: Some(found) }) if found != BLANK => {
            Ok(Content::Foreign(found.to_owned()))
        }
        Err(MountError::NotTestfs { .. }) => {
            let empty = is_empty(device).map_err(|error| Refusal::Device {
                path: path.to_owned(),
                error,
            })?;
            Ok(if empty {
                Content::Nothing
            } else {
                Content::Foreign("unknown data".to_owned())
            })
        }
        Err(error) => Ok(Content::Damaged(error)),
    }
}

/// Whether the start of the device is all zero.
fn is_empty(device: &Arc<dyn BlockDevice>) -> Result<bool, DeviceError> {
    let len = device.size().min(EMPTY_LEN);
    // At most EMPTY_LEN.
    let mut bytes = vec![0; len as usize];
    device.read_at(DevAddr::new(0), &mut bytes)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Testfs => f.write_str("a testfs"),
            Self::Foreign(what) => f.write_str(what),
            Self::Damaged(error) => write!(f, "a damaged testfs ({error})"),
        }
    }
}
