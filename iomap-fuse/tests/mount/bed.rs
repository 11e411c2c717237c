//! A testfs in memory, mounted for one scenario, and checked after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::units::DevAddr;
use iomap_core::vfs::{IoFlags, OpenFlags, Vfs};
use iomap_fuse::{CachePolicy, Mount, MountError, MountOptions};
use tempfile::TempDir;
use testfs::fs::{MkfsOptions, TestFs};

/// Set in the environment of a program a scenario starts; says what it does.
pub(crate) const CHILD: &str = "IOMAP_FUSE_TEST_CHILD";

/// How long something may take that others decide on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of the device.
const SIZE: u64 = 256 << 20;

/// Root says here whether FUSE may have rings.
const ENABLE_RINGS: &str = "/sys/module/fuse/parameters/enable_uring";

/// How files are mounted.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) policy: CachePolicy,
    /// Whether requests come through rings.
    pub(crate) rings: bool,
}

pub(crate) const SETUPS: [Setup; 4] = [
    Setup {
        name: "user",
        policy: CachePolicy::User,
        rings: false,
    },
    Setup {
        name: "kernel",
        policy: CachePolicy::Kernel,
        rings: false,
    },
    Setup {
        name: "rings",
        policy: CachePolicy::User,
        rings: true,
    },
    Setup {
        name: "kernel_rings",
        policy: CachePolicy::Kernel,
        rings: true,
    },
];

impl Setup {
    pub(crate) fn options(&self) -> MountOptions {
        MountOptions {
            cache: self.policy,
            io_uring: self.rings,
            ..MountOptions::default()
        }
    }
}

/// The kernel offers rings as long as this is there.
pub(crate) struct RingsOffered {
    /// What was said before.
    before: String,
}

impl RingsOffered {
    /// Has it offer them.
    pub(crate) fn new() -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{ENABLE_RINGS}: {error}");
        let before = std::fs::read_to_string(ENABLE_RINGS).map_err(failed)?;
        std::fs::write(ENABLE_RINGS, "Y").map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RingsOffered {
    fn drop(&mut self) {
        std::fs::write(ENABLE_RINGS, self.before.trim()).unwrap();
    }
}

/// Waits for something that others do in their own time.
pub(crate) fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it does not happen");
        std::thread::yield_now();
    }
}

/// Why nothing can be mounted here.
pub(crate) fn obstacle() -> Option<String> {
    let device = Arc::new(MemoryDevice::new(16 << 20));
    TestFs::mkfs(device.clone(), &MkfsOptions::default()).unwrap();
    let fs = TestFs::mount(device, testfs::fs::MountOptions::default()).unwrap();
    let dir = TempDir::new().unwrap();
    match iomap_fuse::mount(fs, dir.path(), &MountOptions::default()) {
        Ok(_) if !rustix::process::geteuid().is_root() => {
            Some("several users are needed: run it as root".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Runs `f` on a thread that is the user and group 65534, without privileges.
pub(crate) fn as_nobody(f: impl FnOnce() + Send) {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_thread_groups(&[]).unwrap();
            set_thread_gid(Gid::from_raw(65_534)).unwrap();
            set_thread_uid(Uid::from_raw(65_534)).unwrap();
            f();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes the kernel forget what it may forget, of everything.
pub(crate) fn drop_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// A mounted file system.
pub(crate) struct Bed {
    pub(crate) mount: Mount,
    pub(crate) fs: Arc<TestFs>,
    pub(crate) setup: Setup,
    device: Arc<dyn BlockDevice>,
    dir: TempDir,
}

impl Bed {
    /// Mounts, runs `scenario`, unmounts, and checks what is on the device.
    pub(crate) fn run(setup: Setup, scenario: fn(&Self)) {
        Self::run_with(setup, |_| {}, scenario);
    }

    /// As [`Bed::run`], with other options.
    pub(crate) fn run_with(
        setup: Setup,
        change: impl FnOnce(&mut MountOptions),
        scenario: impl FnOnce(&Self),
    ) {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(SIZE));
        let mkfs = MkfsOptions {
            root_mode: 0o755,
            ..MkfsOptions::default()
        };
        TestFs::mkfs(Arc::clone(&device), &mkfs).unwrap();
        let fs = TestFs::mount(Arc::clone(&device), testfs::fs::MountOptions::default()).unwrap();
        let dir = TempDir::new().unwrap();
        let mut options = MountOptions {
            allow_other: true,
            dev: true,
            suid: true,
            ..setup.options()
        };
        change(&mut options);
        let served: Arc<dyn Vfs> = fs.clone();
        let bed = Self {
            mount: iomap_fuse::mount(served, dir.path(), &options).unwrap(),
            fs,
            setup,
            device,
            dir,
        };
        assert_eq!(bed.mount.has_rings(), setup.rings);
        scenario(&bed);
        bed.unmount();
        bed.mount.wait().unwrap();
        bed.fs.unmount().unwrap();
        let report = testfs::check::check(bed.device).unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }

    /// Unmounts. A program that looks at every mount of the machine, such as `df`, may hold it for
    /// a moment.
    fn unmount(&self) {
        let start = Instant::now();
        while let Err(error) = self.mount.unmount() {
            let busy = matches!(error, MountError::Busy { .. });
            assert!(busy && start.elapsed() < PATIENCE, "{error}");
            std::thread::yield_now();
        }
    }

    /// A path on the mount.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the kernel forget what it may forget: names, attributes, clean pages.
    pub(crate) fn forget(&self) {
        drop_caches();
    }

    pub(crate) fn free_blocks(&self) -> u64 {
        self.fs.statfs().unwrap().blocks_free
    }

    /// Waits for something the kernel does in its own time, such as closing a file.
    pub(crate) fn wait_until(&self, done: impl Fn() -> bool) {
        wait_until(done);
    }

    /// The file system there would be if the machine stopped now. Nothing else may change it
    /// meanwhile.
    pub(crate) fn crashed(&self) -> Arc<TestFs> {
        let copy = MemoryDevice::new(SIZE);
        let mut bytes = vec![0; SIZE as usize];
        self.device.read_at(DevAddr::new(0), &mut bytes).unwrap();
        copy.write_at(DevAddr::new(0), &bytes).unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(copy);
        TestFs::mount(device, testfs::fs::MountOptions::default()).unwrap()
    }

    /// What a file at the root holds if the machine stopped now. `None`: it is not there. Nothing else
    /// may change the file system meanwhile.
    pub(crate) fn after_crash(&self, name: &str) -> Option<Vec<u8>> {
        let fs = self.crashed();
        let attr = fs.lookup(fs.root(), name.as_bytes()).ok()?;
        let file = fs.open(attr.ino, OpenFlags::READ).unwrap();
        let mut bytes = vec![0; attr.size as usize];
        let start = iomap_core::units::FilePos::ZERO;
        let read = file.read_at(start, &mut bytes, IoFlags::empty()).unwrap();
        bytes.truncate(read);
        Some(bytes)
    }
}
