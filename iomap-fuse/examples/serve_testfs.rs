//! Serves a testfs image on a mount point, in the foreground: the smallest program around
//! [`iomap_fuse::mount`].
//!
//! ```text
//! serve_testfs IMAGE DIR [-o OPTION,...]     OPTION: cache=user|kernel, ro, size=BYTES, memory=BYTES,
//!                                            threads=N, commit=SECONDS, private, nosuid, nodev,
//!                                            noexec, noatime, relatime, strictatime, nodiratime, acl,
//!                                            noio_uring
//! ```
//!
//! A file that is missing or empty becomes a new file system of `size` bytes. Prints `live` when the
//! mount is, and returns when it is unmounted and everything was written.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use iomap_core::device::{BlockDevice, FileDevice, OpenOptions};
use iomap_fuse::{AccessTimes, CachePolicy, MountOptions};
use testfs::fs::{MkfsOptions, TestFs};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (image, dir, options) = match &args[..] {
        [image, dir] => (image, dir, ""),
        [image, dir, o, options] if o == "-o" => (image, dir, options.as_str()),
        _ => return Err("usage: serve_testfs IMAGE DIR [-o OPTION,...]".into()),
    };
    let mut mount = MountOptions {
        fs_name: Some(image.clone()),
        subtype: Some("testfs".to_owned()),
        allow_other: true,
        dev: true,
        suid: true,
        ..MountOptions::default()
    };
    let mut mounted = testfs::fs::MountOptions::default();
    let mut size = 1 << 30;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("cache", "user") => mount.cache = CachePolicy::User,
            ("cache", "kernel") => mount.cache = CachePolicy::Kernel,
            ("ro", "") => mount.read_only = true,
            ("rw", "") => mount.read_only = false,
            ("nosuid", "") => mount.suid = false,
            ("nodev", "") => mount.dev = false,
            ("noexec", "") => mount.exec = false,
            ("noatime", "") => mount.access_times = AccessTimes::Never,
            ("relatime" | "atime", "") => mount.access_times = AccessTimes::Relative,
            ("strictatime", "") => mount.access_times = AccessTimes::Strict,
            ("nodiratime", "") => mount.dir_access_times = false,
            ("acl", "") => mount.acl = true,
            ("noio_uring", "") => mount.io_uring = false,
            ("private", "") => mount.allow_other = false,
            ("size", value) => size = value.parse()?,
            ("memory", value) => mounted.cache_bytes = value.parse()?,
            ("threads", value) => mount.threads = value.parse()?,
            ("commit", value) => {
                mounted.commit_interval = Some(Duration::from_secs(value.parse()?));
            }
            _ => return Err(format!("unknown option: {option}").into()),
        }
    }
    mounted.read_only = mount.read_only;
    let fs = open(image.as_ref(), size, mounted)?;
    let served: Arc<TestFs> = Arc::clone(&fs);
    let mount = iomap_fuse::mount(served, dir.as_ref(), &mount)?;
    println!("live");
    let served = mount.wait();
    fs.unmount()?;
    Ok(served?)
}

/// The file system in `image`, made if the file is new.
fn open(
    image: &Path,
    size: u64,
    options: testfs::fs::MountOptions,
) -> Result<Arc<TestFs>, Box<dyn Error>> {
    let new = std::fs::metadata(image).map_or(true, |m| m.is_file() && m.len() == 0);
    let open = OpenOptions {
        create_size: new.then_some(size),
        read_only: options.read_only,
        ..OpenOptions::default()
    };
    let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(image, &open)?);
    if new {
        let mkfs = MkfsOptions {
            root_mode: 0o755,
            ..MkfsOptions::default()
        };
        TestFs::mkfs(Arc::clone(&device), &mkfs)?;
    }
    Ok(TestFs::mount(device, options)?)
}
