//! Names, attributes, and inodes without a name.

use iomap_core::error::Errno;
use iomap_core::vfs::{
    FileType, NewInode, OpenFlags, RenameMode, SetAttr, Special, Timestamp, Vfs, XattrMode,
};

use super::util::*;

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    let mut bed = Bed::new(16 << 20);
    let root = bed.fs.root();
    bed.fs.sync().unwrap();
    let (free, files) = {
        let stat = bed.fs.statfs().unwrap();
        (stat.blocks_free, stat.files - stat.files_free)
    };
    let file = bed.create("a");
    let ino = file.ino();
    let bytes = pattern(1, 500_000);
    write(&*file, 0, &bytes);
    bed.fs.unlink(root, b"a").unwrap();
    assert_eq!(errno(bed.fs.lookup(root, b"a")), Errno::NOENT);
    assert_eq!(bed.fs.getattr(ino).unwrap().nlink, 0);
    file.fsync(false).unwrap();
    assert!(read(&*file, 0, 500_000) == bytes);
    write(&*file, 500_000, b"more");
    drop(file);
    assert_eq!(errno(bed.fs.getattr(ino)), Errno::NOENT);
    assert_eq!(errno(bed.fs.open(ino, RW).map(|_| ())), Errno::NOENT);
    bed.remount();
    let stat = bed.fs.statfs().unwrap();
    assert_eq!(stat.files - stat.files_free, files);
    assert!(stat.blocks_free + 2 >= free);
}

#[test]
fn a_crash_with_an_unlinked_open_file_frees_it_at_the_next_mount() {
    let mut bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, &pattern(1, 5_000_000));
    bed.fs.unlink(bed.fs.root(), b"a").unwrap();
    file.fsync(false).unwrap();
    bed.crash();
    let stat = bed.fs.statfs().unwrap();
    assert_eq!(stat.files - stat.files_free, 1);
    assert!(stat.blocks_free > stat.blocks * 9 / 10);
    bed.fs
        .meta()
        .orphans()
        .unwrap()
        .is_empty()
        .then_some(())
        .unwrap();
}

#[test]
fn links_count_and_the_last_one_takes_the_file_along() {
    let mut bed = Bed::new(16 << 20);
    let root = bed.fs.root();
    write(&*bed.create("a"), 0, b"content");
    let ino = bed.ino("a");
    assert_eq!(bed.fs.link(ino, root, b"b").unwrap().nlink, 2);
    bed.fs.unlink(root, b"a").unwrap();
    bed.remount();
    assert_eq!(bed.content("b"), b"content");
    assert_eq!(bed.fs.getattr(ino).unwrap().nlink, 1);
    bed.fs.unlink(root, b"b").unwrap();
    assert_eq!(errno(bed.fs.getattr(ino)), Errno::NOENT);
    assert_eq!(errno(bed.fs.link(ino, root, b"c")), Errno::NOENT);
}

#[test]
fn rename_replaces_exchanges_and_refuses_loops() {
    let mut bed = Bed::new(16 << 20);
    let root = bed.fs.root();
    write(&*bed.create("a"), 0, b"aa");
    write(&*bed.create("b"), 0, b"bb");
    let rename = |bed: &Bed, from: &str, to: &str, mode| {
        bed.fs
            .rename(root, from.as_bytes(), root, to.as_bytes(), mode)
    };
    assert_eq!(
        errno(rename(&bed, "a", "b", RenameMode::NoReplace)),
        Errno::EXIST
    );
    rename(&bed, "a", "b", RenameMode::Exchange).unwrap();
    assert_eq!(bed.content("a"), b"bb");
    rename(&bed, "a", "b", RenameMode::Replace).unwrap();
    assert_eq!(errno(bed.fs.lookup(root, b"a")), Errno::NOENT);
    bed.remount();
    assert_eq!(bed.content("b"), b"bb");
    let outer = bed.fs.mkdir(root, b"outer", &NEW).unwrap().ino;
    let inner = bed.fs.mkdir(outer, b"inner", &NEW).unwrap().ino;
    let into_itself = bed
        .fs
        .rename(root, b"outer", inner, b"x", RenameMode::Replace);
    assert_eq!(errno(into_itself), Errno::INVAL);
    bed.fs
        .rename(outer, b"inner", root, b"inner", RenameMode::Replace)
        .unwrap();
    assert_eq!(bed.fs.lookup(inner, b"..").unwrap().ino, root);
    assert_eq!(bed.fs.getattr(outer).unwrap().nlink, 2);
}

#[test]
fn impossible_names_are_refused() {
    let bed = Bed::new(16 << 20);
    let root = bed.fs.root();
    let long = vec![b'x'; 256];
    let make = |name: &[u8]| errno(bed.fs.mknod(root, name, Special::Regular, &NEW));
    assert_eq!(make(&long), Errno::NAMETOOLONG);
    assert_eq!(make(b""), Errno::INVAL);
    assert_eq!(make(b"a/b"), Errno::INVAL);
    assert_eq!(make(b"a\0b"), Errno::INVAL);
    assert_eq!(make(b"."), Errno::EXIST);
    assert_eq!(errno(bed.fs.lookup(root, &long)), Errno::NAMETOOLONG);
    bed.fs
        .mknod(root, &long[..255], Special::Regular, &NEW)
        .unwrap();
    let file = bed.create("f");
    assert_eq!(errno(bed.fs.lookup(file.ino(), b"x")), Errno::NOTDIR);
    assert_eq!(errno(bed.fs.unlink(root, b"none")), Errno::NOENT);
    assert_eq!(errno(bed.fs.rmdir(root, b"f")), Errno::NOTDIR);
}

#[test]
fn a_large_directory_is_listed_once_each_in_any_batches() {
    let mut bed = Bed::new(64 << 20);
    let root = bed.fs.root();
    const FILES: usize = 10_000;
    for n in 0..FILES {
        let name = format!("file number {n}");
        bed.fs
            .mknod(root, name.as_bytes(), Special::Regular, &NEW)
            .unwrap();
    }
    bed.remount();
    let mut names = std::collections::BTreeSet::new();
    let (mut cookie, mut taken) = (0, 0);
    loop {
        let mut batch = 0;
        bed.fs
            .readdir(root, cookie, &mut |entry| {
                if batch == 700 {
                    return false;
                }
                batch += 1;
                cookie = entry.cookie;
                // The receiver may ask for more.
                bed.fs.getattr(entry.ino).unwrap();
                assert!(names.insert(entry.name.clone()));
                true
            })
            .unwrap();
        taken += batch;
        if batch == 0 {
            break;
        }
        // Entries that come and go do not disturb the others.
        bed.fs
            .mknod(root, format!("x{taken}").as_bytes(), Special::Fifo, &NEW)
            .unwrap();
        bed.fs.unlink(root, format!("x{taken}").as_bytes()).unwrap();
    }
    assert_eq!(names.len(), FILES + 2);
    for n in (0..FILES).step_by(2) {
        bed.fs
            .unlink(root, format!("file number {n}").as_bytes())
            .unwrap();
    }
    bed.remount();
    let mut left = 0;
    bed.fs
        .readdir(root, 0, &mut |_| {
            left += 1;
            true
        })
        .unwrap();
    assert_eq!(left, FILES / 2 + 2);
}

#[test]
fn attributes_are_kept() {
    let mut bed = Bed::new(16 << 20);
    let file = bed.create("a");
    let ino = file.ino();
    let when = Timestamp { secs: -5, nanos: 7 };
    let set = SetAttr {
        mode: Some(0o6755),
        uid: Some(1),
        gid: Some(2),
        atime: Some(when),
        mtime: Some(when),
        ..SetAttr::default()
    };
    bed.fs.setattr(ino, &set).unwrap();
    for _ in 0..2 {
        let attr = bed.fs.getattr(ino).unwrap();
        assert_eq!((attr.mode, attr.uid, attr.gid), (0o6755, 1, 2));
        assert_eq!((attr.atime, attr.mtime), (when, when));
        assert_eq!(attr.kind, FileType::Regular);
        bed.remount();
    }
    drop(file);
    // A write drops the set-id bits and sets the times.
    write(&*bed.open("a"), 0, b"x");
    let attr = bed.fs.getattr(ino).unwrap();
    assert_eq!(attr.mode, 0o755);
    assert!(attr.mtime > when && attr.ctime >= attr.mtime && attr.atime == when);
    bed.remount();
    assert_eq!(bed.fs.getattr(ino).unwrap().mtime, attr.mtime);
}

#[test]
fn a_set_group_id_directory_passes_its_group_on() {
    let bed = Bed::new(16 << 20);
    let new = NewInode {
        mode: 0o2775,
        uid: 1,
        gid: 50,
    };
    let dir = bed.fs.mkdir(bed.fs.root(), b"d", &new).unwrap().ino;
    let file = bed.fs.mknod(dir, b"f", Special::Regular, &NEW).unwrap();
    let sub = bed.fs.mkdir(dir, b"s", &NEW).unwrap();
    assert_eq!((file.gid, sub.gid, sub.mode & 0o2000), (50, 50, 0o2000));
}

#[test]
fn extended_attributes_and_links_are_kept() {
    let mut bed = Bed::new(16 << 20);
    let root = bed.fs.root();
    let file = bed.create("a").ino();
    let large = pattern(1, 60_000);
    bed.fs
        .setxattr(file, b"user.small", b"v", XattrMode::Create)
        .unwrap();
    bed.fs
        .setxattr(file, b"user.large", &large, XattrMode::Any)
        .unwrap();
    bed.fs
        .symlink(root, b"link", b"to/somewhere", &NEW)
        .unwrap();
    bed.remount();
    assert_eq!(bed.fs.getxattr(file, b"user.large").unwrap(), large);
    assert_eq!(bed.fs.listxattr(file).unwrap().len(), 2);
    bed.fs.removexattr(file, b"user.large").unwrap();
    assert_eq!(errno(bed.fs.getxattr(file, b"user.large")), Errno::NODATA);
    let again = bed
        .fs
        .setxattr(file, b"user.small", b"w", XattrMode::Create);
    assert_eq!(errno(again), Errno::EXIST);
    let unknown = bed.fs.setxattr(file, b"other.x", b"w", XattrMode::Any);
    assert_eq!(errno(unknown), Errno::OPNOTSUPP);
    let link = bed.fs.lookup(root, b"link").unwrap();
    assert_eq!(bed.fs.readlink(link.ino).unwrap(), b"to/somewhere");
    assert_eq!(link.size, 12);
    let open = bed.fs.open(link.ino, OpenFlags::READ).map(|_| ());
    assert_eq!(errno(open), Errno::INVAL);
    assert_eq!(
        errno(bed.fs.open(root, OpenFlags::READ).map(|_| ())),
        Errno::ISDIR
    );
}
