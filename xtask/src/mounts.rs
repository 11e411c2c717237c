//! Programs that others wrote, on a mount of testfs: `cargo xtask suites`.
//!
//! Owns the list of programs and how each is called. They come from Debian packages; nothing is
//! fetched. A program that is missing is a skip with its package; where nothing can be mounted all of
//! them are. Every suite runs under both cache policies, and the image is checked after them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Effort;
use crate::run::{Counts, Step};

/// A program on a mount.
struct Suite {
    name: &'static str,
    /// The program that must be there, and its package.
    program: (&'static str, &'static str),
    /// Run by `sh -e` in an empty folder of the mount; `$LONG` is a factor for time, `$REPO` the
    /// folder of the workspace.
    script: &'static str,
}

const SUITES: &[Suite] = &[
    Suite {
        name: "fio: verified random writes, through the cache",
        program: ("fio", "fio"),
        script: "fio --output=/dev/null --name=b --rw=randrw --bsrange=512-128k --bs_unaligned=1 \
                 --size=48m --ioengine=psync --verify=crc32c --verify_fatal=1 --fsync=100 --numjobs=2 \
                 --loops=$LONG",
    },
    Suite {
        name: "fio: verified random writes, direct",
        program: ("fio", "fio"),
        script: "fio --output=/dev/null --name=d --rw=randrw --bsrange=4k-256k --size=48m --direct=1 \
                 --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --numjobs=2 \
                 --loops=$LONG",
    },
    Suite {
        name: "fio: verified random writes, memory mapped",
        program: ("fio", "fio"),
        script: "fio --output=/dev/null --name=m --rw=randrw --bsrange=4k-64k --size=32m \
                 --ioengine=mmap --verify=crc32c --verify_fatal=1 --fsync=200 --numjobs=2 \
                 --loops=$LONG",
    },
    Suite {
        name: "fio: verified, one file, direct beside cached beside mapped",
        program: ("fio", "fio"),
        script: "fio --output=/dev/null --filename=one --verify=crc32c --verify_fatal=1 --size=16m \
                 --rw=randwrite --loops=$LONG \
                 --name=mapped --offset=0 --ioengine=mmap --bs=4k \
                 --name=direct --offset=16m --ioengine=psync --direct=1 --bs=16k \
                 --name=buffered --offset=32m --ioengine=psync --bs=4k",
    },
    Suite {
        name: "dbench",
        program: ("dbench", "dbench"),
        script: "dbench -t $((10 * LONG)) -c /usr/share/dbench/client.txt 4 > /dev/null",
    },
    Suite {
        name: "stress-ng: file system stressors",
        program: ("stress-ng", "stress-ng"),
        script: "stress-ng --quiet --verify --timeout $((15 * LONG)) --temp-path . \
                 --access 1 --chmod 1 --chown 1 --copy-file 1 --dentry 1 --dir 1 --dirdeep 1 \
                 --fallocate 1 --fcntl 1 --flock 1 --fpunch 1 --getdent 1 --hdd 1 --link 1 --lockf 1 \
                 --rename 1 --seek 1 --symlink 1 --utime 1 --xattr 1",
    },
    Suite {
        name: "git clone, status, fsck",
        program: ("git", "git"),
        script: "git clone -q --depth 1 \"file://$REPO\" clone; cd clone; \
                 git fsck --strict --no-progress; git repack -adq; \
                 test -z \"$(git status --porcelain)\"; git log -1 > /dev/null",
    },
    Suite {
        name: "cargo build and run",
        program: ("cargo", "cargo"),
        script: "cargo init -q --vcs none hello; cd hello; unset CARGO_TARGET_DIR; \
                 cargo build -q --offline; ./target/debug/hello | grep -q Hello; touch src/main.rs; \
                 cargo run -q --offline | grep -q Hello",
    },
    Suite {
        name: "untar, diff -r",
        program: ("tar", "tar"),
        script: "here=$(mktemp -d); trap 'rm -rf $here' EXIT; \
                 git -C \"$REPO\" archive HEAD | tar x -C $here; \
                 tar c -C $here . | tar x --xattrs; diff -r $here .; \
                 tar c . | tar d -C $here",
    },
];

/// Every suite under both policies, and the file exerciser for longer than in the tests.
pub(crate) fn suites(effort: Effort) -> Counts {
    let build = [
        "build",
        "--release",
        "-p",
        "iomap-fuse",
        "--example",
        "serve_testfs",
    ];
    let mut counts = Step::cargo("build the server", &build).check();
    let long = if effort == Effort::Long { "10" } else { "1" };
    for policy in ["user", "kernel"] {
        match Mounted::new(policy) {
            Ok(mounted) => counts += on_mount(mounted, policy, long),
            Err(why) => {
                let names = SUITES.iter().map(|suite| suite.name);
                counts
                    .skips
                    .extend(names.map(|name| format!("cache={policy}: {name}: {why}")));
            }
        }
    }
    let ops = if effort == Effort::Long {
        "200000"
    } else {
        "10000"
    };
    let exerciser = [
        "test",
        "--release",
        "-p",
        "iomap-fuse",
        "--test",
        "mount",
        "--",
        "model",
    ];
    counts += Step::cargo("the file exerciser", &exerciser)
        .env("IOMAP_EXERCISE_OPS", ops)
        .env("IOMAP_EXERCISE_SEED", "7")
        .tests();
    counts
}

fn on_mount(mounted: Mounted, policy: &str, long: &str) -> Counts {
    let mut counts = Counts::default();
    for (index, suite) in SUITES.iter().enumerate() {
        let name = format!("cache={policy}: {}", suite.name);
        let (program, package) = suite.program;
        if !is_installed(program) {
            let why = format!("{name}: {program} is not installed (apt-get install {package})");
            counts.skips.push(why);
            continue;
        }
        let folder = mounted.dir.join(index.to_string());
        if let Err(error) = std::fs::create_dir(&folder) {
            println!("{name}: {error}");
            counts += Counts::one(false);
            continue;
        }
        let root = std::env::current_dir().unwrap_or_default();
        counts += Step::shell(&name, suite.script, &folder)
            .env("LONG", long)
            .env("REPO", &root.display().to_string())
            .check();
    }
    let image = mounted.image.clone();
    if let Err(why) = mounted.end() {
        println!("cache={policy}: {why}");
        counts += Counts::one(false);
    }
    let image = image.display().to_string();
    let check = ["run", "--release", "-p", "testfs", "--", "check", &image];
    counts += Step::cargo(&format!("cache={policy}: check of the image"), &check).check();
    let _ = std::fs::remove_file(image);
    counts
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A new image, served by the example.
struct Mounted {
    image: PathBuf,
    dir: PathBuf,
    server: Child,
}

impl Mounted {
    fn new(policy: &str) -> Result<Self, String> {
        let base = std::env::temp_dir().join(format!("iomap-{policy}-{}", std::process::id()));
        let (image, dir) = (base.with_extension("img"), base);
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let mut server = Command::new("target/release/examples/serve_testfs")
            .args([&image, &dir])
            .args(["-o", &format!("cache={policy},size={}", 4_u64 << 30)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the server does not start: {error}"))?;
        let mut line = String::new();
        if let Some(out) = server.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        if line.trim_end() == "live" {
            return Ok(Self { image, dir, server });
        }
        let output = server
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        let _ = (std::fs::remove_dir(&dir), std::fs::remove_file(&image));
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Unmounts, and waits until the server has written everything.
    fn end(mut self) -> Result<(), String> {
        if !unmounted(&self.dir) {
            let _ = self.server.kill();
            return Err(format!("{} cannot be unmounted", self.dir.display()));
        }
        let status = self.server.wait().map_err(|error| error.to_string())?;
        let _ = std::fs::remove_dir(&self.dir);
        if status.success() {
            Ok(())
        } else {
            Err(format!("the server ended with {status}"))
        }
    }
}

/// Whether `dir` could be unmounted. A program that looks at every mount of the machine, such as
/// `df`, may hold it for a moment.
fn unmounted(dir: &Path) -> bool {
    let by = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(dir).status();
        status.is_ok_and(|status| status.success())
    };
    (0..50).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        by("umount", &[]) || by("fusermount3", &["-u"])
    })
}
