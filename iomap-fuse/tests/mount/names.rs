//! Names: links, moves, special files, directories that change while they are read.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use rustix::io::Errno;

use crate::Scenario;
use crate::bed::Bed;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("rename_replaces_exchanges_and_refuses", rename_modes),
    ("hard_links_share_one_inode", hard_links),
    ("symbolic_links_keep_their_target", symbolic_links),
    ("special_files_keep_type_and_device", special_files),
    ("names_that_are_missing_too_long_or_there", wrong_names),
    (
        "a_directory_that_changes_while_it_is_read",
        directory_changes_while_read,
    ),
    (
        "a_removed_directory_can_still_be_looked_at",
        removed_directory,
    ),
    ("an_unlinked_file_lives_while_it_is_open", unlinked_file),
    (
        "an_unlinked_special_file_can_be_looked_at",
        unlinked_special,
    ),
    ("link_counts_of_directories", link_counts),
    ("a_file_handle_finds_its_inode", file_handle),
    ("set_group_id_of_a_directory_is_inherited", set_group_id),
];

fn rename_modes(bed: &Bed) {
    let (a, b) = (bed.path("a"), bed.path("b"));
    fs::write(&a, b"A").unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(b.join("x"), b"X").unwrap();
    let rename = |flags| renameat_with(CWD, &a, CWD, &b, flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    let whiteout = renameat_with(CWD, &a, CWD, bed.path("w"), RenameFlags::WHITEOUT);
    assert_eq!(whiteout, Err(Errno::INVAL));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"A");
    assert_eq!(fs::read(a.join("x")).unwrap(), b"X");
    assert_eq!(rename(RenameFlags::empty()), Err(Errno::NOTDIR));
    fs::remove_file(&b).unwrap();
    rename(RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(b.join("x")).unwrap(), b"X");
    fs::write(bed.path("c"), b"C").unwrap();
    fs::rename(bed.path("c"), b.join("x")).unwrap();
    assert_eq!(fs::read(b.join("x")).unwrap(), b"C");
    let into_itself = fs::rename(&b, b.join("below")).unwrap_err();
    assert_eq!(into_itself.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(
        renameat_with(CWD, bed.path("no"), CWD, &b, RenameFlags::EXCHANGE),
        Err(Errno::NOENT)
    );
}

fn hard_links(bed: &Bed) {
    fs::write(bed.path("a"), b"one").unwrap();
    fs::hard_link(bed.path("a"), bed.path("b")).unwrap();
    let (a, b) = (
        fs::metadata(bed.path("a")).unwrap(),
        fs::metadata(bed.path("b")).unwrap(),
    );
    assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2));
    fs::write(bed.path("b"), b"two").unwrap();
    assert_eq!(fs::read(bed.path("a")).unwrap(), b"two");
    fs::remove_file(bed.path("a")).unwrap();
    assert_eq!(fs::metadata(bed.path("b")).unwrap().nlink(), 1);
    fs::create_dir(bed.path("d")).unwrap();
    assert_eq!(
        fs::hard_link(bed.path("d"), bed.path("e"))
            .unwrap_err()
            .kind(),
        ErrorKind::PermissionDenied
    );
}

fn symbolic_links(bed: &Bed) {
    let long = "x".repeat(4095);
    for target in ["f", "../away/from/here", &long] {
        symlink(target, bed.path("l")).unwrap();
        assert_eq!(fs::read_link(bed.path("l")).unwrap().to_str(), Some(target));
        assert_eq!(
            fs::symlink_metadata(bed.path("l")).unwrap().len(),
            target.len() as u64
        );
        fs::remove_file(bed.path("l")).unwrap();
    }
    fs::write(bed.path("f"), b"through").unwrap();
    symlink("f", bed.path("l")).unwrap();
    assert_eq!(fs::read(bed.path("l")).unwrap(), b"through");
    symlink("loop", bed.path("loop")).unwrap();
    assert_eq!(
        fs::read(bed.path("loop")).unwrap_err().raw_os_error(),
        Some(libc::ELOOP)
    );
}

fn special_files(bed: &Bed) {
    for (name, kind, device) in [
        ("pipe", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("char", FileType::CharacterDevice, makedev(1, 3)),
        ("block", FileType::BlockDevice, makedev(259, 70_000)),
    ] {
        mknodat(
            CWD,
            bed.path(name),
            kind,
            Mode::from_raw_mode(0o640),
            device,
        )
        .unwrap();
        bed.forget();
        let m = fs::metadata(bed.path(name)).unwrap();
        assert_eq!(FileType::from_raw_mode(m.mode()), kind);
        assert_eq!((m.rdev(), m.mode() & 0o777), (device, 0o640));
    }
    // Mounted with `dev`: it is /dev/null.
    fs::write(bed.path("char"), b"gone").unwrap();
    assert!(
        fs::metadata(bed.path("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

fn wrong_names(bed: &Bed) {
    let os = |r: std::io::Result<()>| r.unwrap_err().raw_os_error().unwrap();
    assert_eq!(os(fs::metadata(bed.path("none")).map(drop)), libc::ENOENT);
    // The kernel keeps the answer; making the name must end that.
    fs::write(bed.path("none"), b"").unwrap();
    fs::metadata(bed.path("none")).unwrap();
    assert_eq!(
        os(File::create_new(bed.path("none")).map(drop)),
        libc::EEXIST
    );
    let long = "n".repeat(255);
    fs::write(bed.path(&long), b"").unwrap();
    assert_eq!(os(fs::write(bed.path(long + "n"), b"")), libc::ENAMETOOLONG);
    assert_eq!(os(fs::create_dir(bed.path("none"))), libc::EEXIST);
    assert_eq!(os(fs::write(bed.path("none/below"), b"")), libc::ENOTDIR);
    fs::create_dir_all(bed.path("d/e")).unwrap();
    assert_eq!(os(fs::remove_dir(bed.path("d"))), libc::ENOTEMPTY);
    assert_eq!(os(fs::remove_file(bed.path("d"))), libc::EISDIR);
    assert_eq!(os(fs::remove_dir(bed.path("none"))), libc::ENOTDIR);
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec((1..=255).filter(|b| *b != b'/').collect());
    fs::write(bed.path(&bytes), b"odd").unwrap();
    assert_eq!(fs::read(bed.path(&bytes)).unwrap(), b"odd");
}

/// Entries that stay are told exactly once, whatever happens to the others.
fn directory_changes_while_read(bed: &Bed) {
    let dir = bed.path("d");
    fs::create_dir(&dir).unwrap();
    let names: Vec<String> = (0..2000)
        .map(|i| format!("file-{i:05}-with-a-longer-name"))
        .collect();
    for name in &names {
        File::create(dir.join(name)).unwrap();
    }
    let mut seen = HashSet::new();
    for (i, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("new-") {
            continue;
        }
        assert!(seen.insert(name.clone()), "{name} twice");
        // What was told goes, and new names come.
        fs::remove_file(entry.path()).unwrap();
        File::create(dir.join(format!("new-{i}"))).unwrap();
    }
    assert_eq!(seen.len(), names.len());
    assert!(names.iter().all(|name| seen.contains(name)));
}

fn removed_directory(bed: &Bed) {
    fs::create_dir(bed.path("d")).unwrap();
    let dir = File::open(bed.path("d")).unwrap();
    fs::remove_dir(bed.path("d")).unwrap();
    bed.forget();
    let m = dir.metadata().unwrap();
    assert!(m.is_dir());
    assert_eq!(m.nlink(), 0);
    dir.sync_all().unwrap();
    // The name is free again, and is another inode.
    fs::create_dir(bed.path("d")).unwrap();
    let again = fs::metadata(bed.path("d")).unwrap();
    assert_ne!(again.ino(), m.ino());
    assert_eq!(dir.metadata().unwrap().nlink(), 0);
}

fn unlinked_file(bed: &Bed) {
    use std::os::unix::fs::FileExt;
    let path = bed.path("f");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all_at(b"before", 0).unwrap();
    fs::remove_file(&path).unwrap();
    bed.forget();
    file.write_all_at(&vec![7; 3 << 20], 4096).unwrap();
    file.sync_all().unwrap();
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"before");
    let m = file.metadata().unwrap();
    assert_eq!((m.nlink(), m.len()), (0, 4096 + (3 << 20)));
    file.set_len(10).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10);
    assert_eq!(fs::metadata(&path).unwrap_err().kind(), ErrorKind::NotFound);
    // By a path of the process it can still be opened.
    let again = File::open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file)
    ))
    .unwrap();
    assert_eq!(again.metadata().unwrap().len(), 10);
    let free = bed.free_blocks();
    drop((file, again));
    bed.wait_until(|| bed.free_blocks() >= free);
}

fn unlinked_special(bed: &Bed) {
    use rustix::fs::{OFlags, fstat, openat};
    symlink("nowhere", bed.path("l")).unwrap();
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let link = openat(CWD, bed.path("l"), flags, Mode::empty()).unwrap();
    fs::remove_file(bed.path("l")).unwrap();
    bed.forget();
    let stat = fstat(&link).unwrap();
    assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Symlink);
    assert_eq!(stat.st_nlink, 0);
}

fn link_counts(bed: &Bed) {
    let links = |name: &str| fs::metadata(bed.path(name)).unwrap().nlink();
    fs::create_dir_all(bed.path("a/b")).unwrap();
    fs::create_dir(bed.path("c")).unwrap();
    assert_eq!((links("a"), links("a/b"), links("c")), (3, 2, 2));
    fs::rename(bed.path("a/b"), bed.path("c/b")).unwrap();
    assert_eq!((links("a"), links("c")), (2, 3));
    fs::remove_dir(bed.path("c/b")).unwrap();
    assert_eq!(links("c"), 2);
}

/// What NFS does: an inode is found again by number and generation after the kernel forgot it.
fn file_handle(bed: &Bed) {
    fs::create_dir_all(bed.path("a/b")).unwrap();
    fs::write(bed.path("a/b/f"), b"found").unwrap();
    let Some(found) =
        crate::raw::read_by_handle(&bed.path(""), &bed.path("a/b/f"), || bed.forget())
    else {
        return;
    };
    assert_eq!(found, b"found");
}

fn set_group_id(bed: &Bed) {
    use std::os::unix::fs::{PermissionsExt, chown};
    let dir = bed.path("d");
    fs::create_dir(&dir).unwrap();
    chown(&dir, None, Some(777)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2755)).unwrap();
    fs::write(dir.join("f"), b"").unwrap();
    fs::create_dir(dir.join("e")).unwrap();
    assert_eq!(fs::metadata(dir.join("f")).unwrap().gid(), 777);
    let below = fs::metadata(dir.join("e")).unwrap();
    assert_eq!((below.gid(), below.mode() & 0o2000), (777, 0o2000));
}
