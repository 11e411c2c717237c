//! Names.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use iomap_core::device::MemoryDevice;
use iomap_core::error::{Errno, FsError};

use super::{DirEntry, RenameMode};
use crate::format::item::FileType;
use crate::format::{Ino, NAME_MAX};
use crate::meta::inode::NewInode;
use crate::meta::testing::{assert_clean, at, directory, file, new_fs, reopen};
use crate::meta::{Meta, Purpose, Txn};

fn run<T>(meta: &Meta, f: impl FnOnce(&mut Txn<'_>) -> Result<T, FsError>) -> T {
    meta.update(Purpose::Normal, f).unwrap()
}

fn fails<T>(meta: &Meta, f: impl FnOnce(&mut Txn<'_>) -> Result<T, FsError>) -> Errno {
    let before = meta.statfs();
    match meta.update(Purpose::Normal, f) {
        Ok(_) => panic!("succeeded"),
        Err(error) => {
            assert_eq!(meta.statfs(), before, "a failure changes nothing");
            error.errno()
        }
    }
}

fn make(meta: &Meta, dir: Ino, name: &[u8], new: NewInode) -> Ino {
    run(meta, |txn| txn.create(dir, name, &new)).0
}

fn list(meta: &Meta, dir: Ino, cookie: u64, max: usize) -> Vec<DirEntry> {
    let mut entries = Vec::new();
    meta.read(|view| {
        view.readdir(dir, cookie, |entry| {
            entries.push(entry);
            entries.len() < max
        })
    })
    .unwrap();
    entries
}

fn check(device: &Arc<MemoryDevice>, meta: &Meta) {
    meta.commit().unwrap();
    assert_clean(device);
}

fn nlink(meta: &Meta, ino: Ino) -> u32 {
    meta.read(|view| view.inode(ino)).unwrap().nlink
}

fn lookup(meta: &Meta, dir: Ino, name: &[u8]) -> Option<Ino> {
    meta.read(|view| view.lookup(dir, name)).ok().map(|f| f.0)
}

#[test]
fn names_are_found_listed_and_removed() {
    let (device, meta) = new_fs(4096, 1024);
    let dir = make(&meta, Ino::ROOT, b"dir", directory());
    let f = make(&meta, dir, b"f", file());
    assert_eq!(nlink(&meta, Ino::ROOT), 3);
    assert_eq!(lookup(&meta, dir, b"f"), Some(f));
    assert_eq!(lookup(&meta, dir, b".."), Some(Ino::ROOT));
    assert_eq!(fails(&meta, |t| t.create(dir, b"f", &file())), Errno::EXIST);
    assert_eq!(
        fails(&meta, |t| t.create(dir, &[b'x'; NAME_MAX + 1], &file())),
        Errno::NAMETOOLONG
    );
    assert_eq!(
        fails(&meta, |t| t.create(dir, b"a/b", &file())),
        Errno::INVAL
    );
    assert_eq!(fails(&meta, |t| t.create(f, b"a", &file())), Errno::NOTDIR);
    assert_eq!(
        fails(&meta, |t| t.unlink(Ino::ROOT, b"dir", at(2))),
        Errno::ISDIR
    );
    assert_eq!(fails(&meta, |t| t.rmdir(dir, b"f", at(2))), Errno::NOTDIR);
    assert_eq!(
        fails(&meta, |t| t.rmdir(Ino::ROOT, b"dir", at(2))),
        Errno::NOTEMPTY
    );
    meta.commit().unwrap();
    let meta = reopen(&device);
    let names: Vec<_> = list(&meta, dir, 0, 10)
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec(), b"f".to_vec()]);
    let removed = run(&meta, |t| t.unlink(dir, b"f", at(3)));
    assert_eq!((removed.ino, removed.inode.nlink), (f, 0));
    meta.evict(f).unwrap();
    let gone = run(&meta, |t| t.rmdir(Ino::ROOT, b"dir", at(4)));
    assert_eq!(fails(&meta, |t| t.create(dir, b"x", &file())), Errno::NOENT);
    meta.evict(gone.ino).unwrap();
    assert_eq!((nlink(&meta, Ino::ROOT), meta.statfs().inodes), (2, 1));
}

#[test]
fn an_unlinked_file_lives_until_it_is_evicted_or_the_next_mount() {
    let (device, meta) = new_fs(4096, 1024);
    let f = make(&meta, Ino::ROOT, b"f", file());
    let tmp = run(&meta, |t| t.create_unnamed(Ino::ROOT, &file())).0;
    let named = run(&meta, |t| t.create_unnamed(Ino::ROOT, &file())).0;
    run(&meta, |t| t.link(named, Ino::ROOT, b"named", at(2)));
    run(&meta, |t| t.unlink(Ino::ROOT, b"f", at(2)));
    assert_eq!(meta.read(|view| view.inode(f)).unwrap().nlink, 0);
    assert_eq!(meta.orphans().unwrap().len(), 2);
    check(&device, &meta);
    assert!(meta.evict(named).is_err(), "it has a name");
    meta.commit().unwrap();
    let meta = reopen(&device);
    assert_eq!(meta.orphans().unwrap(), []);
    assert_eq!(meta.statfs().inodes, 2);
    assert!(meta.read(|view| view.inode(tmp)).is_err());
    assert_eq!(lookup(&meta, Ino::ROOT, b"named"), Some(named));
}

#[test]
fn rename_moves_replaces_and_refuses_loops() {
    let (device, meta) = new_fs(4096, 1024);
    let a = make(&meta, Ino::ROOT, b"a", directory());
    let b = make(&meta, a, b"b", directory());
    let f = make(&meta, b, b"f", file());
    let g = make(&meta, Ino::ROOT, b"g", file());
    let to = |t: &mut Txn<'_>, from, to, mode| t.rename(from, to, mode, at(5));
    use RenameMode::{Exchange, NoReplace, Replace};
    let root = Ino::ROOT;
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"a"), (b, b"a"), Replace)),
        Errno::INVAL
    );
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"a"), (a, b"a"), Replace)),
        Errno::INVAL
    );
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"g"), (b, b"f"), NoReplace)),
        Errno::EXIST
    );
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"g"), (root, b"a"), Replace)),
        Errno::ISDIR
    );
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"a"), (root, b"g"), Replace)),
        Errno::NOTDIR
    );
    assert_eq!(
        fails(&meta, |t| to(t, (a, b"b"), (root, b"a"), Replace)),
        Errno::NOTEMPTY
    );
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"g"), (b, b"x"), Exchange)),
        Errno::NOENT
    );
    assert_eq!(
        fails(&meta, |t| to(t, (root, b"a"), (b, b"f"), Exchange)),
        Errno::INVAL
    );
    // Replace a file.
    let renamed = run(&meta, |t| to(t, (root, b"g"), (b, b"f"), Replace));
    assert_eq!(renamed.replaced.map(|r| r.ino), Some(f));
    assert_eq!(
        (lookup(&meta, b, b"f"), lookup(&meta, root, b"g")),
        (Some(g), None)
    );
    meta.evict(f).unwrap();
    // Move a directory up.
    run(&meta, |t| to(t, (a, b"b"), (root, b"b"), NoReplace));
    assert_eq!((nlink(&meta, a), nlink(&meta, root)), (2, 4));
    assert_eq!(lookup(&meta, b, b".."), Some(root));
    // Swap a directory and a file of different directories.
    run(&meta, |t| to(t, (root, b"a"), (b, b"f"), Exchange));
    assert_eq!(
        (lookup(&meta, b, b"f"), lookup(&meta, root, b"a")),
        (Some(a), Some(g))
    );
    assert_eq!((nlink(&meta, b), nlink(&meta, root)), (3, 3));
    assert_eq!(lookup(&meta, a, b".."), Some(b));
    // Replace an empty directory by another.
    let c = make(&meta, root, b"c", directory());
    let renamed = run(&meta, |t| to(t, (root, b"c"), (b, b"f"), Replace));
    assert_eq!(renamed.replaced.map(|r| r.ino), Some(a));
    assert_eq!(
        (nlink(&meta, b), nlink(&meta, root), nlink(&meta, c)),
        (3, 3, 2)
    );
    check(&device, &meta);
}

#[test]
fn renaming_one_name_of_an_inode_to_another_does_nothing() {
    let (_, meta) = new_fs(4096, 1024);
    let f = make(&meta, Ino::ROOT, b"f", file());
    run(&meta, |t| t.link(f, Ino::ROOT, b"g", at(2)));
    let renamed = run(&meta, |t| {
        t.rename(
            (Ino::ROOT, b"f"),
            (Ino::ROOT, b"g"),
            RenameMode::Replace,
            at(3),
        )
    });
    assert_eq!(renamed.replaced, None);
    assert_eq!(lookup(&meta, Ino::ROOT, b"f"), Some(f));
    assert_eq!(nlink(&meta, f), 2);
}

#[test]
fn symbolic_links_of_every_length_are_read_back() {
    let (device, meta) = new_fs(1024, 1024);
    let targets: Vec<Vec<u8>> = [1, 255, 256, 257, 1024, 4095]
        .iter()
        .map(|n| (0..*n).map(|i| b'a' + (i % 26) as u8).collect())
        .collect();
    for (n, target) in targets.iter().enumerate() {
        let name = n.to_string();
        run(&meta, |t| {
            t.symlink(Ino::ROOT, name.as_bytes(), target, &file())
        });
    }
    assert_eq!(
        fails(&meta, |t| t.symlink(
            Ino::ROOT,
            b"long",
            &[b'x'; 4096],
            &file()
        )),
        Errno::NAMETOOLONG
    );
    meta.commit().unwrap();
    let meta = reopen(&device);
    for (n, target) in targets.iter().enumerate() {
        let (ino, kind) = meta
            .read(|view| view.lookup(Ino::ROOT, n.to_string().as_bytes()))
            .unwrap();
        assert_eq!(kind, FileType::Symlink);
        assert_eq!(&meta.read(|view| view.readlink(ino)).unwrap(), target);
        let removed = run(&meta, |t| {
            t.unlink(Ino::ROOT, n.to_string().as_bytes(), at(3))
        });
        meta.evict(removed.ino).unwrap();
    }
    assert_eq!(meta.statfs().inodes, 1);
}

#[test]
fn a_directory_of_100_000_names_stays_fast_and_lists_once() {
    let (device, meta) = new_fs(4096, 65536);
    let dir = make(&meta, Ino::ROOT, b"big", directory());
    for n in 0..100_000u32 {
        make(&meta, dir, format!("file number {n}").as_bytes(), file());
    }
    meta.commit().unwrap();
    let meta = reopen(&device);
    let mut seen = BTreeMap::new();
    let mut cookie = 0;
    loop {
        let some = list(&meta, dir, cookie, 1000);
        let Some(last) = some.last() else { break };
        cookie = last.cookie;
        for entry in some {
            assert!(seen.insert(entry.name, entry.ino).is_none(), "listed twice");
        }
    }
    assert_eq!(seen.len(), 100_002);
    check(&device, &meta);
    for n in (0..100_000u32).step_by(997) {
        let name = format!("file number {n}");
        assert_eq!(
            lookup(&meta, dir, name.as_bytes()),
            seen.get(name.as_bytes()).copied()
        );
    }
}

#[test]
fn a_listing_is_stable_while_names_come_and_go() {
    let (device, meta) = new_fs(4096, 4096);
    let dir = make(&meta, Ino::ROOT, b"d", directory());
    for n in 0..500 {
        make(&meta, dir, format!("keep {n}").as_bytes(), file());
        make(&meta, dir, format!("drop {n}").as_bytes(), file());
    }
    let mut seen = BTreeSet::new();
    let mut cookie = 0;
    let mut round = 0;
    loop {
        let some = list(&meta, dir, cookie, 10);
        let Some(last) = some.last() else { break };
        cookie = last.cookie;
        for entry in some {
            assert!(seen.insert(entry.name.clone()), "{:?} twice", entry.name);
        }
        for n in (round * 7..(round + 1) * 7).filter(|n| *n < 500) {
            let removed = run(&meta, |t| {
                t.unlink(dir, format!("drop {n}").as_bytes(), at(2))
            });
            meta.evict(removed.ino).unwrap();
            make(&meta, dir, format!("new {n}").as_bytes(), file());
        }
        round += 1;
    }
    for n in 0..500 {
        assert!(
            seen.contains(format!("keep {n}").as_bytes()),
            "keep {n} missed"
        );
    }
    check(&device, &meta);
}

#[test]
fn a_directory_gives_its_group_if_set_group_id_is_on() {
    let (_, meta) = new_fs(4096, 1024);
    let mut shared = directory();
    shared.mode |= 0o2000;
    shared.gid = 77;
    let dir = make(&meta, Ino::ROOT, b"d", shared);
    let sub = make(&meta, dir, b"s", directory());
    let f = make(&meta, sub, b"f", file());
    let of = |ino| meta.read(|view| view.inode(ino)).unwrap();
    assert_eq!((of(sub).gid, of(sub).mode & 0o2000), (77, 0o2000));
    assert_eq!((of(f).gid, of(f).mode & 0o2000), (77, 0));
}
