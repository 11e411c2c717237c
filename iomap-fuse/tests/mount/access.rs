//! Access times, as the options say and as whoever reads asks for.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};

use iomap_core::vfs::{InodeFlags, Vfs};
use iomap_fuse::AccessTimes;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::bed::{Bed, Setup};
use crate::ends::Alone;
use crate::raw::{inode_flags, set_inode_flags};

pub(crate) const SCENARIOS: &[Alone] = &[
    ("relatime_follows_the_last_change", relative),
    ("what_is_read_from_a_cache_is_read_too", cached),
    ("strictatime_follows_every_read", strict),
    ("noatime_keeps_access_times", never),
    ("nodiratime_keeps_those_of_directories", not_of_directories),
    ("o_noatime_and_the_flag_keep_access_times", asked_for),
    ("access_times_outlive_the_mount_and_move_no_other", kept),
];

/// Long ago.
const OLD: i64 = 1_000_000;

/// Makes a file, a directory and a link that were read long ago and changed later than that.
fn make(bed: &Bed) {
    fs::write(bed.path("file"), "content").unwrap();
    fs::create_dir(bed.path("dir")).unwrap();
    symlink("file", bed.path("link")).unwrap();
    File::open(bed.path("file")).unwrap().sync_all().unwrap();
    for name in ["file", "dir", "link"] {
        set_times(bed, name, OLD);
    }
}

fn set_times(bed: &Bed, name: &str, secs: i64) {
    let at = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
    let times = Timestamps {
        last_access: at(secs),
        last_modification: at(OLD),
    };
    utimensat(CWD, bed.path(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn atime(bed: &Bed, name: &str) -> (i64, i64) {
    let meta = fs::symlink_metadata(bed.path(name)).unwrap();
    (meta.atime(), meta.atime_nsec())
}

/// Reads one of them, and not what the kernel has of it.
fn read(bed: &Bed, name: &str) {
    bed.forget();
    match name {
        "dir" => drop(fs::read_dir(bed.path(name)).unwrap().count()),
        "link" => drop(fs::read_link(bed.path(name)).unwrap()),
        _ => assert_eq!(fs::read(bed.path(name)).unwrap(), b"content"),
    }
}

fn relative(setup: Setup) {
    Bed::run_with(
        setup,
        |_| {},
        |bed| {
            make(bed);
            for name in ["file", "dir", "link"] {
                read(bed, name);
                let first = atime(bed, name);
                assert!(first.0 > OLD, "{name}: changed after it was read last");
                read(bed, name);
                assert_eq!(
                    atime(bed, name),
                    first,
                    "{name}: read, and not changed since"
                );
            }
            fs::write(bed.path("file"), "content").unwrap();
            let before = atime(bed, "file");
            File::open(bed.path("file")).unwrap().sync_all().unwrap();
            read(bed, "file");
            assert!(atime(bed, "file") > before, "read after a change");
        },
    );
}

fn cached(setup: Setup) {
    Bed::run_with(
        setup,
        |_| {},
        |bed| {
            make(bed);
            assert_eq!(fs::read(bed.path("file")).unwrap(), b"content");
            assert!(atime(bed, "file").0 > OLD);
        },
    );
}

fn strict(setup: Setup) {
    let options = |o: &mut iomap_fuse::MountOptions| o.access_times = AccessTimes::Strict;
    Bed::run_with(setup, options, |bed| {
        make(bed);
        for name in ["file", "dir", "link"] {
            read(bed, name);
            let first = atime(bed, name);
            read(bed, name);
            assert!(atime(bed, name) > first, "{name}");
        }
        assert!(shown(bed).contains("rw,"), "{}", shown(bed));
        assert!(!shown(bed).contains("relatime"), "{}", shown(bed));
    });
}

fn never(setup: Setup) {
    let options = |o: &mut iomap_fuse::MountOptions| o.access_times = AccessTimes::Never;
    Bed::run_with(setup, options, |bed| {
        make(bed);
        for name in ["file", "dir", "link"] {
            read(bed, name);
            assert_eq!(atime(bed, name), (OLD, 0), "{name}");
        }
        assert!(shown(bed).contains("noatime"), "{}", shown(bed));
    });
}

fn not_of_directories(setup: Setup) {
    let options = |o: &mut iomap_fuse::MountOptions| o.dir_access_times = false;
    Bed::run_with(setup, options, |bed| {
        make(bed);
        read(bed, "dir");
        assert_eq!(atime(bed, "dir"), (OLD, 0));
        read(bed, "file");
        assert!(atime(bed, "file").0 > OLD);
    });
}

fn asked_for(setup: Setup) {
    Bed::run_with(
        setup,
        |_| {},
        |bed| {
            make(bed);
            bed.forget();
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .custom_flags(libc::O_NOATIME)
                .open(bed.path("file"))
                .unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"content");
            assert_eq!(atime(bed, "file"), (OLD, 0), "O_NOATIME");
            let flags = inode_flags(&file).unwrap() | InodeFlags::NOATIME.bits();
            set_inode_flags(&file, flags).unwrap();
            read(bed, "file");
            assert_eq!(atime(bed, "file"), (OLD, 0), "chattr +A");
        },
    );
}

fn kept(setup: Setup) {
    Bed::run_with(
        setup,
        |_| {},
        |bed| {
            make(bed);
            let before = fs::metadata(bed.path("file")).unwrap();
            read(bed, "file");
            let after = fs::metadata(bed.path("file")).unwrap();
            assert_eq!(before.mtime(), after.mtime());
            assert_eq!(
                (before.ctime(), before.ctime_nsec()),
                (after.ctime(), after.ctime_nsec())
            );
            bed.forget();
            assert_eq!(atime(bed, "file"), (after.atime(), after.atime_nsec()));
            bed.fs.sync().unwrap();
            let durable = bed.crashed();
            let durable = durable.lookup(durable.root(), b"file").unwrap();
            assert_eq!(durable.atime.secs, after.atime());
        },
    );
}

/// What the table of mounts says.
fn shown(bed: &Bed) -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = bed.mount.dir().display().to_string();
    let line = table.lines().find(|line| line.contains(&dir)).unwrap();
    line.split(' ').nth(3).unwrap().to_owned()
}
