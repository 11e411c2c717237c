//! Mounts to compare: an image served by `iomapfs`, one served by `fuse2fs`, kernel ext4 on a loop.
//!
//! Owns making them and taking them down. Both servers are processes of their own, so a row has the
//! wall time of its caller and no processor time of a server. What is not installed or not allowed
//! is an error with the reason.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::host::{LoopMount, command};

/// How long a server may take to let go of a mount.
const PATIENCE: Duration = Duration::from_secs(20);

/// Root says here whether FUSE may have rings.
const ENABLE_RINGS: &str = "/sys/module/fuse/parameters/enable_uring";

/// Who serves a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `iomapfs mount -o cache=user`: the page cache is this project's.
    CacheUser,
    /// `iomapfs mount -o cache=kernel`: the kernel's page cache in front of it.
    CacheKernel,
    /// As [`Self::CacheUser`], with requests that come through rings of `io_uring`.
    Rings,
    /// `fuse2fs`, of e2fsprogs.
    Fuse2fs,
    /// The kernel's ext4 on a loop device.
    KernelExt4,
}

/// A mounted, empty file system; unmounted and gone when dropped.
#[derive(Debug)]
pub enum Mount {
    /// Served by a process.
    Fuse(FuseMount),
    /// Served by the kernel.
    Loop(LoopMount),
}

impl Mount {
    /// A new file system of `size` bytes.
    ///
    /// # Errors
    ///
    /// The command that failed, and what it said.
    pub fn new(server: Server, size: u64) -> Result<Self, String> {
        match server {
            Server::KernelExt4 => LoopMount::new("ext4", size).map(Self::Loop),
            _ => FuseMount::new(server, size).map(Self::Fuse),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Fuse(mount) => &mount.at,
            Self::Loop(mount) => mount.path(),
        }
    }
}

/// A mount served by a process.
#[derive(Debug)]
pub struct FuseMount {
    at: PathBuf,
    _folder: tempfile::TempDir,
}

impl FuseMount {
    fn new(server: Server, size: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let at = folder.path().join("mount");
        std::fs::create_dir(&at).map_err(|e| e.to_string())?;
        let image = folder.path().join("image").display().to_string();
        let dir = at.display().to_string();
        if server == Server::Fuse2fs {
            let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
            file.set_len(size).map_err(|e| e.to_string())?;
            command("mkfs.ext4", &["-q", "-F", &image])?;
            command("fuse2fs", &[&image, &dir, "-o", "rw,fakeroot"])?;
        } else {
            let program = beside_us("iomapfs")?;
            let options = match server {
                Server::Rings => "cache=user,io_uring",
                Server::CacheKernel => "cache=kernel,noio_uring",
                _ => "cache=user,noio_uring",
            };
            let size = size.to_string();
            let mkfs = ["mkfs", "-t", "testfs", &image, "--size", &size];
            command(&program, &mkfs)?;
            let offered = (server == Server::Rings).then(RingsOffered::new);
            let _offered = offered.transpose()?;
            command(&program, &["mount", &image, &dir, "-o", options])?;
        }
        Ok(Self {
            at,
            _folder: folder,
        })
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        let at = self.at.display().to_string();
        let begin = Instant::now();
        // Busy for a moment, if something looks into every new mount.
        while let Err(why) = command("fusermount3", &["-u", &at]) {
            if begin.elapsed() > PATIENCE {
                eprintln!("{at} stays mounted: {why}");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The kernel offers rings to what is mounted as long as this is there.
#[derive(Debug)]
struct RingsOffered {
    /// What was said before.
    before: String,
}

impl RingsOffered {
    fn new() -> Result<Self, String> {
        let failed = |error| format!("{ENABLE_RINGS}: {error}");
        let before = std::fs::read_to_string(ENABLE_RINGS).map_err(failed)?;
        std::fs::write(ENABLE_RINGS, "Y").map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RingsOffered {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(ENABLE_RINGS, self.before.trim()) {
            eprintln!("{ENABLE_RINGS} stays Y: {error}");
        }
    }
}

/// A program of this workspace, built into the folder this one is in.
fn beside_us(name: &str) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    // A test runs in a folder below.
    let built = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|program| program.exists());
    match built {
        Some(program) => Ok(program.display().to_string()),
        None => Err(format!(
            "{name} is not built: cargo build --release -p {name}"
        )),
    }
}
