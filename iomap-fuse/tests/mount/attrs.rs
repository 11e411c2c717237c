//! Owners, permissions, times, and who may do what.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::time::{Duration, UNIX_EPOCH};

use iomap_core::vfs::Vfs;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fallocate, utimensat,
};

use crate::Scenario;
use crate::bed::{Bed, as_nobody};
use crate::raw::{inode_flags, set_inode_flags};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "flags_of_inodes_are_told_set_and_refused",
        inode_flags_scenario,
    ),
    (
        "times_keep_nanoseconds_also_before_1970",
        times_keep_nanoseconds,
    ),
    ("the_time_of_birth_is_told_and_stays", birth_is_told),
    ("utimensat_now_and_omit", utimensat_now_and_omit),
    ("a_write_sets_mtime_and_ctime", a_write_sets_mtime_and_ctime),
    ("a_link_after_a_write_moves_ctime_on", link_moves_ctime),
    ("chmod_and_chown_are_seen_at_once", chmod_and_chown),
    ("umask_is_applied", umask_is_applied),
    (
        "set_id_bits_go_with_a_write_a_truncate_and_a_chown",
        set_id_bits_go,
    ),
    (
        "set_id_bits_go_with_fallocate_of_a_stranger_and_stay_with_roots",
        set_id_after_fallocate,
    ),
    ("the_table_of_mounts_shows_the_type", type_is_shown),
    (
        "nearly_all_that_is_available_can_be_allocated",
        available_can_be_allocated,
    ),
    (
        "permissions_are_checked_by_the_kernel",
        permissions_are_checked,
    ),
    ("statfs_tells_the_space", statfs_tells_the_space),
    ("sizes_beyond_4_gib_are_kept", sizes_beyond_4_gib),
];

fn set_times(bed: &Bed, name: &str, atime: (i64, i64), mtime: (i64, i64)) {
    let at = |(tv_sec, tv_nsec): (i64, i64)| Timespec {
        tv_sec,
        tv_nsec: tv_nsec as _,
    };
    let times = Timestamps {
        last_access: at(atime),
        last_modification: at(mtime),
    };
    utimensat(CWD, bed.path(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn times(bed: &Bed, name: &str) -> ((i64, i64), (i64, i64)) {
    let m = fs::symlink_metadata(bed.path(name)).unwrap();
    ((m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()))
}

fn times_keep_nanoseconds(bed: &Bed) {
    File::create(bed.path("f")).unwrap();
    for (a, m) in [
        ((1, 1), (2, 999_999_999)),
        ((-1, 1), (-2, 999_999_999)),
        ((-86_400, 0), (0, 0)),
        ((1 << 33, 123_456_789), (1_700_000_000, 5)),
    ] {
        set_times(bed, "f", a, m);
        assert_eq!(times(bed, "f"), (a, m));
        bed.forget();
        assert_eq!(times(bed, "f"), (a, m), "after the kernel forgot it");
    }
}

fn birth_is_told(bed: &Bed) {
    let path = bed.path("born");
    fs::write(&path, b"first").unwrap();
    let inode = bed.fs.lookup(bed.fs.root(), b"born").unwrap();
    let born = Duration::new(inode.btime.secs as u64, inode.btime.nanos);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"then more").unwrap();
    bed.forget();
    // The library asks with `statx` for all it can tell.
    let told = fs::metadata(&path).unwrap();
    let since = told.created().unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(since, born);
    assert_eq!((told.len(), told.mode() & 0o777), (9, 0o600));
    assert_eq!(told.ino(), inode.ino.0);
}

fn utimensat_now_and_omit(bed: &Bed) {
    File::create(bed.path("f")).unwrap();
    set_times(bed, "f", (1, 1), (2, 2));
    set_times(bed, "f", (0, UTIME_OMIT), (3, 3));
    assert_eq!(times(bed, "f"), ((1, 1), (3, 3)));
    set_times(bed, "f", (0, UTIME_NOW), (0, UTIME_OMIT));
    let (atime, mtime) = times(bed, "f");
    assert!(atime.0 > 1_600_000_000);
    assert_eq!(mtime, (3, 3));
}

fn a_write_sets_mtime_and_ctime(bed: &Bed) {
    let file = File::create(bed.path("f")).unwrap();
    set_times(bed, "f", (1, 1), (2, 2));
    file.write_all_at(b"x", 0).unwrap();
    let m = file.metadata().unwrap();
    assert_eq!(m.atime(), 1);
    assert!(m.mtime() > 1_600_000_000 && m.ctime() > 1_600_000_000);
    // The time set on purpose after the write wins over the write's.
    set_times(bed, "f", (5, 5), (6, 6));
    file.sync_all().unwrap();
    bed.forget();
    assert_eq!(times(bed, "f"), ((5, 5), (6, 6)));
}

fn chmod_and_chown(bed: &Bed) {
    let file = File::create(bed.path("f")).unwrap();
    fs::set_permissions(bed.path("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    assert_eq!(file.metadata().unwrap().mode(), 0o104_751);
    chown(bed.path("f"), Some(123), None).unwrap();
    chown(bed.path("f"), None, Some(456)).unwrap();
    let m = file.metadata().unwrap();
    assert_eq!((m.uid(), m.gid()), (123, 456));
}

fn umask_is_applied(bed: &Bed) {
    // The umask belongs to the process: everything else of this test sees the usual one again.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    fs::create_dir(bed.path("d")).unwrap();
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o666)
        .open(bed.path("f"));
    rustix::process::umask(old);
    assert_eq!(made.unwrap().metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(bed.path("d")).unwrap().mode() & 0o7777, 0o700);
}

fn set_id_bits_go(bed: &Bed) {
    let path = bed.path("f");
    fs::write(&path, b"content").unwrap();
    let arm = || {
        chown(&path, Some(65_534), Some(65_534)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
    };
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    arm();
    as_nobody(|| {
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(b"x", 0)
            .unwrap()
    });
    assert_eq!(mode(), 0o777, "write");
    arm();
    as_nobody(|| {
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1)
            .unwrap()
    });
    assert_eq!(mode(), 0o777, "truncate");
    arm();
    as_nobody(|| {
        drop(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&path)
                .unwrap(),
        )
    });
    assert_eq!(mode(), 0o777, "open with O_TRUNC");
    arm();
    chown(&path, Some(1), Some(1)).unwrap();
    assert_eq!(mode(), 0o777, "chown");
}

fn set_id_after_fallocate(bed: &Bed) {
    let path = bed.path("f");
    let modes = [
        FallocateFlags::empty(),
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
    ];
    for how in modes {
        for armed in [0o2666, 0o6666, 0o4766, 0o2676, 0o6777] {
            fs::write(&path, b"content").unwrap();
            chown(&path, Some(0), Some(0)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(armed)).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
            fallocate(&file, how, 0, 65_536).unwrap();
            bed.forget();
            assert_eq!(mode(), armed, "root, {how:?}");
            as_nobody(|| fallocate(&file, how, 0, 65_536).unwrap());
            assert_eq!(mode(), armed & 0o777, "a stranger, {how:?}");
            bed.forget();
            assert_eq!(mode(), armed & 0o777, "a stranger, {how:?}");
        }
    }
}

fn type_is_shown(bed: &Bed) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = bed.path("").canonicalize().unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == dir.to_str());
    assert_eq!(line.unwrap().split(' ').nth(2), Some("fuse.iomapfs"));
}

fn available_can_be_allocated(bed: &Bed) {
    let file = File::create(bed.path("f")).unwrap();
    let found = rustix::fs::statvfs(bed.path("")).unwrap();
    let len = found.f_bavail * found.f_frsize - (512 << 10);
    fallocate(&file, FallocateFlags::empty(), 0, len).unwrap();
}

fn permissions_are_checked(bed: &Bed) {
    fs::write(bed.path("secret"), b"x").unwrap();
    fs::set_permissions(bed.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(bed.path("open")).unwrap();
    fs::set_permissions(bed.path("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(bed.path("open/roots"), b"x").unwrap();
    as_nobody(|| {
        let denied = |r: std::io::Result<()>| {
            assert_eq!(r.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        };
        denied(File::open(bed.path("secret")).map(drop));
        denied(fs::write(bed.path("new"), b"x"));
        fs::write(bed.path("open/mine"), b"x").unwrap();
        assert_eq!(fs::metadata(bed.path("open/mine")).unwrap().uid(), 65_534);
        // The sticky bit.
        assert!(fs::remove_file(bed.path("open/roots")).is_err());
        fs::remove_file(bed.path("open/mine")).unwrap();
        use rustix::fs::{Access, access};
        assert!(access(bed.path("open"), Access::WRITE_OK).is_ok());
        assert!(access(bed.path("secret"), Access::READ_OK).is_err());
    });
}

fn statfs_tells_the_space(bed: &Bed) {
    let before = rustix::fs::statvfs(bed.path("")).unwrap();
    assert_eq!(before.f_namemax, 255);
    fs::write(bed.path("f"), vec![1; 8 << 20]).unwrap();
    File::open(bed.path("f")).unwrap().sync_all().unwrap();
    let after = rustix::fs::statvfs(bed.path("")).unwrap();
    assert!((before.f_bfree - after.f_bfree) * after.f_frsize >= 8 << 20);
    assert!(before.f_bavail > after.f_bavail && after.f_bavail < after.f_bfree);
    assert_eq!(before.f_blocks, after.f_blocks);
}

fn sizes_beyond_4_gib(bed: &Bed) {
    let file = File::create_new(bed.path("f")).unwrap();
    file.set_len(5 << 30).unwrap();
    file.write_all_at(b"end", (5 << 30) - 3).unwrap();
    let mut end = [0; 4];
    let read = File::open(bed.path("f"))
        .unwrap()
        .read_at(&mut end, (5 << 30) - 3)
        .unwrap();
    assert_eq!(
        (&end[..read], file.metadata().unwrap().len()),
        (&b"end"[..], 5 << 30)
    );
    assert!(file.metadata().unwrap().blocks() < 100);
}

fn link_moves_ctime(bed: &Bed) {
    let file = File::create(bed.path("f")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    let ctime = || {
        let m = file.metadata().unwrap();
        (m.ctime(), m.ctime_nsec())
    };
    let written = ctime();
    fs::hard_link(bed.path("f"), bed.path("g")).unwrap();
    let linked = ctime();
    assert!(linked >= written, "{linked:?} before {written:?}");
    file.sync_all().unwrap();
    bed.forget();
    assert_eq!(
        ctime(),
        linked,
        "the sync of the write does not set it back"
    );
}

fn inode_flags_scenario(bed: &Bed) {
    const IMMUTABLE: u32 = 0x10;
    const NODUMP: u32 = 0x40;
    std::fs::create_dir(bed.path("d")).unwrap();
    std::fs::write(bed.path("f"), b"x").unwrap();
    for name in ["d", "f"] {
        let file = std::fs::File::open(bed.path(name)).unwrap();
        assert_eq!(inode_flags(&file).unwrap(), 0, "{name}");
        set_inode_flags(&file, NODUMP).unwrap();
        let refused = set_inode_flags(&file, NODUMP | IMMUTABLE).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{name}");
        drop(file);
        bed.forget();
        let file = std::fs::File::open(bed.path(name)).unwrap();
        assert_eq!(inode_flags(&file).unwrap(), NODUMP, "{name}");
        set_inode_flags(&file, 0).unwrap();
        assert_eq!(inode_flags(&file).unwrap(), 0, "{name}");
    }
}
