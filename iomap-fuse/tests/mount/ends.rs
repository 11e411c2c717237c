//! How a mount ends when nobody unmounts it properly, and what stands after it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::vfs::Vfs;
use iomap_fuse::Mount;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use testfs::fs::{MkfsOptions, TestFs};

use crate::bed::{Setup, wait_until};
use crate::crash::start;

/// Where the kernel lists the connections, a folder each.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A scenario that makes and ends its mounts itself.
pub(crate) type Alone = (&'static str, fn(Setup));

pub(crate) const SCENARIOS: &[Alone] = &[
    ("an_aborted_connection_ends_the_mount", aborted),
    (
        "an_abort_in_the_middle_of_requests_ends_them",
        aborted_under_load,
    ),
    ("the_end_of_a_mount_leaves_the_next_one_alone", next_one),
    ("as_many_threads_serve_as_there_should_be", threads),
];

fn threads(setup: Setup) {
    let work = TempDir::new().unwrap();
    let (mut server, _, dir) = start(setup, work.path());
    let tasks = PathBuf::from(format!("/proc/{}/task", server.id()));
    let named = |is: fn(&str) -> bool| {
        let tasks = fs::read_dir(&tasks).unwrap().flatten();
        let names = tasks.flat_map(|task| fs::read_to_string(task.path().join("comm")));
        names.filter(|name| is(name.trim())).count()
    };
    // They begin after the mount, each in its time.
    wait_until(|| named(|name| name.starts_with("fuse-")) >= setup.options().threads);
    // Processor 0 is always there; the others may come and go.
    let of_a_queue = if setup.rings { 4 } else { 0 };
    assert_eq!(named(|name| name == "fuse-ring-0"), of_a_queue);
    let is_reader = |name: &str| name.starts_with("fuse-") && !name.starts_with("fuse-ring-");
    wait_until(|| named(is_reader) == setup.options().threads);
    unmount(&dir, UnmountFlags::empty()).unwrap();
    assert!(server.wait().unwrap().success());
}

fn served(setup: Setup, dir: &Path) -> (Arc<dyn BlockDevice>, Arc<TestFs>, Mount) {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(64 << 20));
    TestFs::mkfs(Arc::clone(&device), &MkfsOptions::default()).unwrap();
    let fs = TestFs::mount(Arc::clone(&device), testfs::fs::MountOptions::default()).unwrap();
    let options = setup.options();
    let vfs: Arc<dyn Vfs> = fs.clone();
    let mount = iomap_fuse::mount(vfs, dir, &options).unwrap();
    (device, fs, mount)
}

fn assert_clean(device: Arc<dyn BlockDevice>) {
    let report = testfs::check::check(device).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// What the administrator does when a server hangs.
fn abort(dir: &Path) {
    let minor = rustix::fs::minor(fs::metadata(dir).unwrap().dev());
    let connection = Path::new(CONNECTIONS).join(minor.to_string());
    if !connection.exists() {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("fusectl", CONNECTIONS, "fusectl", flags, None).unwrap();
    }
    fs::write(connection.join("abort"), "1").unwrap();
}

fn aborted(setup: Setup) {
    let dir = TempDir::new().unwrap();
    let below = fs::metadata(dir.path()).unwrap().dev();
    let (device, fs, mount) = served(setup, dir.path());
    let path = dir.path().join("f");
    fs::write(&path, [7; 10_000]).unwrap();
    let open = File::open(&path).unwrap();
    open.sync_all().unwrap();
    abort(dir.path());
    // An end like any other, and nobody meets a mount without a server, though it is in use.
    mount.wait().unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().dev(), below);
    assert!(open.metadata().is_err() && open.sync_all().is_err());
    assert_eq!(fs.lookup(fs.root(), b"f").unwrap().size, 10_000);
    fs.unmount().unwrap();
    assert_clean(device);
}

/// Writes, reads and copies a file again and again, until an error ends it.
fn busy(dir: &Path, thread: usize) {
    let bytes = vec![thread as u8; 3 << 20];
    // Of this mount, also when it is not there any more.
    let root = File::open(dir).unwrap();
    let dir = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    loop {
        let step = || -> std::io::Result<()> {
            let path = dir.join(format!("f{thread}"));
            fs::write(&path, &bytes)?;
            assert!(fs::read(&path)? == bytes, "thread {thread}");
            fs::copy(&path, dir.join(format!("g{thread}")))?;
            File::open(&path)?.sync_all()
        };
        if step().is_err() {
            return;
        }
    }
}

fn aborted_under_load(setup: Setup) {
    let dir = TempDir::new().unwrap();
    let (device, fs, mount) = served(setup, dir.path());
    std::thread::scope(|scope| {
        let busy = |thread| {
            let dir = dir.path();
            scope.spawn(move || busy(dir, thread))
        };
        let threads: Vec<_> = (0..4).map(busy).collect();
        // Each of them is at work.
        let copies: [&[u8]; 4] = [b"g0", b"g1", b"g2", b"g3"];
        wait_until(|| copies.iter().all(|g| fs.lookup(fs.root(), g).is_ok()));
        abort(dir.path());
        for thread in threads {
            // Each gets an error, none waits for an answer that does not come.
            thread.join().unwrap();
        }
    });
    mount.wait().unwrap();
    fs.unmount().unwrap();
    assert_clean(device);
}

fn next_one(setup: Setup) {
    let dir = TempDir::new().unwrap();
    let (device, fs, mount) = served(setup, dir.path());
    fs::write(dir.path().join("first"), b"1").unwrap();
    let open = File::open(dir.path().join("first")).unwrap();
    mount.detach().unwrap();
    let (next_device, next_fs, next) = served(setup, dir.path());
    fs::write(dir.path().join("second"), b"2").unwrap();
    assert!(mount.is_live());
    drop(open);
    mount.wait().unwrap();
    fs.unmount().unwrap();
    assert_clean(device);
    assert_eq!(fs::read(dir.path().join("second")).unwrap(), b"2");
    next.detach().unwrap();
    next.wait().unwrap();
    next_fs.unmount().unwrap();
    assert_clean(next_device);
}
