//! Trees made of everything a tree can have, and their comparison.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};

/// Makes a tree. With `owners` some of it belongs to others, where we may do that.
pub(crate) fn generate(root: &Path, seed: u64, owners: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    fs::create_dir(root).unwrap();
    fixed(root);
    let mut dirs = vec![root.to_owned()];
    for n in 0..40 {
        let parent = random.choice(&dirs).unwrap().clone();
        let dir = parent.join(name(&mut random, n));
        fs::create_dir(&dir).unwrap();
        dirs.push(dir);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for n in 100..400 {
        let path = random.choice(&dirs).unwrap().join(name(&mut random, n));
        match random.u8(0..20) {
            0 => symlink(OsStr::from_bytes(b"../some\xff/where"), &path).unwrap(),
            1 => {
                rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap()
            }
            2 | 3 if !files.is_empty() => {
                fs::hard_link(random.choice(&files).unwrap(), &path).unwrap()
            }
            _ => {
                file(&mut random, &path);
                files.push(path);
            }
        }
    }
    let mut all = walk(root).into_keys().collect::<Vec<_>>();
    // Children before their parents: setting something in a directory changes its times.
    all.reverse();
    for path in all {
        dress(&mut random, &root.join(path), owners);
    }
}

/// What every tree has.
fn fixed(root: &Path) {
    fs::write(root.join("plain"), "plain").unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("deep/".to_owned() + &"d/".repeat(60))).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"no \xff\xfe utf-8\n")), "").unwrap();
    fs::write(root.join("grün ☃ 漢字"), "unicode").unwrap();
    fs::write(root.join("x".repeat(255)), "long name").unwrap();
    let big = fs::File::create(root.join("holes")).unwrap();
    big.write_all_at(&[1; 65536], 1 << 20).unwrap();
    big.write_all_at(&[2; 4096], 5 << 20).unwrap();
    big.set_len(7 << 20).unwrap();
    fs::File::create(root.join("all hole"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
}

fn name(random: &mut fastrand::Rng, n: u32) -> PathBuf {
    let mut name = format!("{n}-").into_bytes();
    for _ in 0..random.usize(0..20) {
        name.push(match random.u8(1..=255) {
            b'/' => b'_',
            byte => byte,
        });
    }
    std::ffi::OsString::from_vec(name).into()
}

fn file(random: &mut fastrand::Rng, path: &Path) {
    let len = match random.u8(0..10) {
        0 => 0,
        1..=4 => random.usize(1..300),
        5..=8 => random.usize(300..100_000),
        _ => random.usize(100_000..3_000_000),
    };
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Gives a file attributes of its own.
fn dress(random: &mut fastrand::Rng, path: &Path, owners: bool) {
    let found = fs::symlink_metadata(path).unwrap();
    if found.is_file() || found.is_dir() {
        for n in 0..random.usize(0..3) {
            let mut value = vec![0; random.usize(0..500)];
            random.fill(&mut value);
            let set =
                rustix::fs::lsetxattr(path, format!("user.attr{n}"), &value, XattrFlags::empty());
            assert!(
                matches!(set, Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)),
                "{set:?}"
            );
        }
    }
    if owners && rustix::process::geteuid().is_root() && random.bool() {
        let (uid, gid) = (random.u32(0..100_000), random.u32(0..100_000));
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    }
    if !found.is_symlink() {
        let mode = match (found.is_dir(), owners) {
            // Whoever is not root must be able to get in again.
            (true, _) => {
                0o500 | random.u32(0..0o1000) | if owners { random.u32(0..2) << 9 } else { 0 }
            }
            (false, true) => random.u32(0..0o10000),
            (false, false) => 0o444 | random.u32(0..0o1000),
        };
        let mode = if owners { mode } else { mode | 0o555 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut time = || Timespec {
        tv_sec: random.i64(-1_000_000_000..4_000_000_000),
        tv_nsec: random.i64(0..1_000_000_000),
    };
    let times = Timestamps {
        last_access: time(),
        last_modification: time(),
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything about one path that a copy keeps.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    /// Root's copies keep owners.
    owner: Option<(u32, u32)>,
    size: u64,
    mtime: (i64, i64),
    rdev: u64,
    target: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in order, of the same inode.
    first: PathBuf,
    /// Runs of data, in files large enough that nothing rounds them.
    data: Vec<(u64, u64)>,
}

/// Every path below `root`, relative to it, with what is there.
fn walk(root: &Path) -> BTreeMap<PathBuf, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        if meta.is_dir() {
            let entries = fs::read_dir(&full).unwrap();
            todo.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
        }
        found.insert(path, meta);
    }
    found
}

fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut inodes = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (path, meta) in walk(root) {
        let full = root.join(&path);
        let first = inodes.entry(meta.ino()).or_insert_with(|| path.clone());
        let dir = meta.is_dir();
        all.insert(
            path.clone(),
            Facts {
                mode: meta.mode(),
                owner: rustix::process::geteuid()
                    .is_root()
                    .then_some((meta.uid(), meta.gid())),
                size: if dir { 0 } else { meta.len() },
                mtime: (meta.mtime(), meta.mtime_nsec()),
                rdev: meta.rdev(),
                target: meta.is_symlink().then(|| fs::read_link(&full).unwrap()),
                xattrs: if meta.is_file() || dir {
                    xattrs(&full)
                } else {
                    BTreeMap::new()
                },
                first: if dir { path.clone() } else { first.clone() },
                data: if meta.is_file() && meta.len() > 65536 {
                    data(&full)
                } else {
                    Vec::new()
                },
            },
        );
    }
    all
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

fn data(path: &Path) -> Vec<(u64, u64)> {
    let file = fs::File::open(path).unwrap();
    let (mut pos, mut runs) = (0, Vec::new());
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(pos)) {
        pos = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        runs.push((start, pos));
    }
    runs
}

/// Panics with the first difference of two trees. Without privileges owners may differ.
pub(crate) fn compare(a: &Path, b: &Path) {
    let (left, right) = (facts(a), facts(b));
    let names = |facts: &BTreeMap<PathBuf, Facts>| facts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right));
    let owners_kept = left
        .values()
        .zip(right.values())
        .any(|(l, r)| l.owner == r.owner);
    for ((path, mut l), (_, mut r)) in left.into_iter().zip(right) {
        if !owners_kept {
            (l.owner, r.owner) = (None, None);
        }
        assert!(l == r, "{path:?}:\n{l:?}\n{r:?}");
        if l.size < 100 << 20
            && l.target.is_none()
            && fs::symlink_metadata(a.join(&path)).unwrap().is_file()
        {
            assert!(
                fs::read(a.join(&path)).unwrap() == fs::read(b.join(&path)).unwrap(),
                "{}",
                path.display()
            );
        }
    }
}
