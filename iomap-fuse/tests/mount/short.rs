//! A server that cannot have all the threads it would like: it says so or serves with fewer, and
//! leaves nobody waiting.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use iomap_core::device::{BlockDevice, FileDevice, OpenOptions};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;
use testfs::fs::{MkfsOptions, TestFs};

use crate::bed::{CHILD, PATIENCE, Setup, as_nobody};
use crate::crash;

/// The user that [`as_nobody`] is too.
const NOBODY: u32 = 65_534;

/// Some are too few for anything, the last are enough for all threads on a machine with two processors.
const LIMITS: std::ops::RangeInclusive<u64> = 2..=18;

/// The server: one that may have `threads` threads, together with all others of its user.
pub(crate) fn serve(image: &Path, dir: &Path, setup: &str, threads: &str) {
    let limit = Some(threads.parse().unwrap());
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nproc, limit).unwrap();
    crash::serve(image, dir, setup);
}

pub(crate) fn of_threads(setup: Setup) {
    let work = TempDir::new().unwrap();
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (image, dir) = (work.path().join("image"), work.path().join("mnt"));
    fs::create_dir(&dir).unwrap();
    make(&image);
    for path in [&image, &dir] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let served = LIMITS
        .filter(|limit| with_limit(setup, &image, &dir, *limit))
        .count();
    if served == 0 {
        println!("SKIP iomap-fuse mount {}: users cannot mount", setup.name);
    }
}

fn make(image: &Path) {
    let create = OpenOptions {
        create_size: Some(64 << 20),
        ..OpenOptions::default()
    };
    let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(image, &create).unwrap());
    let mkfs = MkfsOptions {
        root_mode: 0o777,
        ..MkfsOptions::default()
    };
    TestFs::mkfs(device, &mkfs).unwrap();
}

/// Whether a server with this limit served.
fn with_limit(setup: Setup, image: &Path, dir: &Path, limit: u64) -> bool {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "serve with few threads")
        .args([image, dir])
        .arg(setup.name)
        .arg(limit.to_string())
        .uid(NOBODY)
        .gid(NOBODY)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = line(server.stdout.take().unwrap());
    let live = said.as_deref() == Some("live\n");
    if live {
        as_nobody(|| fs::write(dir.join(format!("{limit}")), b"served").unwrap());
    }
    if said.is_none() {
        server.kill().unwrap();
    }
    // A server that could not have a thread could not start `fusermount3` either.
    let unmounted = unmount(dir, UnmountFlags::DETACH);
    server.wait().unwrap();
    assert!(said.is_some(), "limit {limit}: no word from the server");
    assert!(!live || unmounted.is_ok(), "limit {limit}: {unmounted:?}");
    live
}

/// The first line, or what there is of it. `None`: nothing comes.
fn line(from: ChildStdout) -> Option<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // An error leaves it empty.
        let _ = BufReader::new(from).read_line(&mut line);
        let _ = tell.send(line);
    });
    told.recv_timeout(PATIENCE).ok()
}
