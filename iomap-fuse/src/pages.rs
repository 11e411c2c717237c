//! How far the kernel may run ahead and behind with the pages of a mount.
//!
//! Owns two numbers of the kernel that no FUSE request can set: it reads 128 KiB ahead at most, and
//! stops who writes as soon as one percent of what may be dirty is dirty on this mount. Root may say
//! otherwise in `/sys/class/bdi`; for everybody else both stay. Only a mount whose pages the kernel
//! caches has use for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Percent of the memory that may be dirty which the pages of one mount may take.
const DIRTY_PERCENT: u32 = 20;

/// Has the kernel read ahead as much as one request can carry, and collect more before it stops a
/// writer. Where this process may not: as it was.
pub(crate) fn widen(dir: &Path, max_request: u32) {
    let Some(folder) = folder(dir) else { return };
    let settings = [
        ("read_ahead_kb", max_request / 1024),
        ("max_ratio", DIRTY_PERCENT),
    ];
    for (name, value) in settings {
        if let Err(error) = raise(&folder.join(name), value) {
            tracing::debug!(target: "iomap_fuse", name, value, %error, "stays as it was");
        }
    }
}

fn folder(dir: &Path) -> Option<PathBuf> {
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Some(PathBuf::from(format!("/sys/class/bdi/{major}:{minor}")))
}

/// Sets a number that is smaller.
fn raise(file: &Path, value: u32) -> std::io::Result<()> {
    let now = fs::read_to_string(file)?;
    if now.trim().parse::<u32>().is_ok_and(|now| now >= value) {
        return Ok(());
    }
    fs::write(file, value.to_string())
}
