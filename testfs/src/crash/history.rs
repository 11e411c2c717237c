//! What a workload did, and what was promised when.
//!
//! Owns [`History`]: the file system as it must look after each operation, taken from the reference
//! ([`MemFs`](crate::model::MemFs)), and the promise that each operation made when it returned.
//! Whether an image keeps the promises is [`oracle`](super::oracle)'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use iomap_core::error::Result;
use iomap_core::units::FilePos;
use iomap_core::vfs::{Attr, FileType, Ino, IoFlags, OpenFile, OpenFlags, Vfs};

use super::op::{HELD, Op, Side};

/// Files larger than this are damage, not files.
const SIZE_MAX: u64 = 1 << 24;

/// A name and what is found there, as far as it is metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The inode, as the file system under test numbers it.
    pub ino: u64,
    /// Its type.
    pub kind: FileType,
    /// The number of its names.
    pub nlink: u32,
    /// Where a symbolic link points to.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A file system at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything that has a name, by its path.
    pub nodes: BTreeMap<Vec<u8>, Node>,
    /// What is in regular files, by inode; in the one held open also when it has no name.
    pub files: BTreeMap<u64, Arc<Vec<u8>>>,
}

/// What an operation promises about a crash after it has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing.
    None,
    /// Names and attributes as they are.
    Names,
    /// Names and attributes, and the content of a file.
    NamesAndFile(u64),
    /// The content of a file, and that it is there.
    File(u64),
    /// These bytes of a file (position, length), and that they are there.
    Bytes(u64, u64, u64),
    /// Everything.
    All,
}

impl Snapshot {
    /// Whether a name leads to `ino`.
    #[must_use]
    pub fn names(&self, ino: u64) -> bool {
        self.nodes.values().any(|node| node.ino == ino)
    }
}

/// An operation, and what the file system must look like after it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Nothing for the state at the start.
    pub op: Option<Op>,
    /// What it promised.
    pub promise: Promise,
    /// Everything.
    pub after: Snapshot,
}

/// What a workload did.
#[derive(Clone, Debug)]
pub struct History {
    /// The state at the start, which is durable, and the operations.
    pub steps: Vec<Step>,
}

impl History {
    /// Starts with `snapshot`, all of it durable.
    #[must_use]
    pub fn new(after: Snapshot) -> Self {
        let step = Step {
            op: None,
            promise: Promise::All,
            after,
        };
        Self { steps: vec![step] }
    }

    /// The mark that stands in a recording before operation `n`, counted from 1, or after it.
    #[must_use]
    pub const fn mark(n: usize, done: bool) -> u64 {
        2 * n as u64 - !done as u64
    }

    /// The operations that were done and that had begun when the last mark was `mark`.
    #[must_use]
    pub const fn progress(mark: Option<u64>) -> (usize, usize) {
        match mark {
            Some(mark) => (mark as usize / 2, mark.div_ceil(2) as usize),
            None => (0, 0),
        }
    }
}

/// What `op` promises about the file `ino` that it is about, once it has returned.
#[must_use]
pub fn promise(op: Op, ino: u64, size_before: u64) -> Promise {
    let durable = |flags: IoFlags| flags.intersects(IoFlags::DSYNC | IoFlags::SYNC);
    match op {
        Op::Sync => Promise::All,
        Op::FsyncDir(_) => Promise::Names,
        Op::Fsync(_) => Promise::NamesAndFile(ino),
        Op::Fdatasync(_) => Promise::File(ino),
        Op::Write(_, pos, len, flags) if durable(flags) => Promise::Bytes(ino, pos, len),
        Op::Append(_, len, flags) if durable(flags) => Promise::Bytes(ino, size_before, len),
        _ => Promise::None,
    }
}

/// Reads everything there is. `number` gives the inode number to use for a path.
///
/// # Errors
///
/// What reading gives; a file that cannot be.
pub fn snapshot(
    fs: &dyn Vfs,
    number: &mut dyn FnMut(&[u8], Ino) -> Result<u64>,
) -> Result<Snapshot> {
    let mut found = Snapshot::default();
    let mut directories = vec![(Vec::new(), fs.root())];
    while let Some((path, dir)) = directories.pop() {
        let mut entries = Vec::new();
        fs.readdir(dir, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                entries.push(entry.clone());
            }
            true
        })?;
        for entry in entries {
            let mut path = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            let attr = fs.lookup(dir, &entry.name)?;
            let ino = number(&path, attr.ino)?;
            let node = node(fs, ino, &attr)?;
            match attr.kind {
                FileType::Directory => directories.push((path.clone(), attr.ino)),
                FileType::Regular if !found.files.contains_key(&ino) => {
                    found.files.insert(ino, Arc::new(content(fs, &attr)?));
                }
                _ => {}
            }
            found.nodes.insert(path, node);
        }
    }
    Ok(found)
}

fn node(fs: &dyn Vfs, ino: u64, attr: &Attr) -> Result<Node> {
    let mut xattrs = BTreeMap::new();
    for name in fs.listxattr(attr.ino)? {
        let value = fs.getxattr(attr.ino, &name)?;
        xattrs.insert(name, value);
    }
    let target = match attr.kind {
        FileType::Symlink => fs.readlink(attr.ino)?,
        _ => Vec::new(),
    };
    Ok(Node {
        ino,
        kind: attr.kind,
        nlink: attr.nlink,
        target,
        xattrs,
    })
}

fn content(fs: &dyn Vfs, attr: &Attr) -> Result<Vec<u8>> {
    let file = fs.open(attr.ino, OpenFlags::READ)?;
    content_of(&*file, attr.size)
}

/// Reads a file of this size.
///
/// # Errors
///
/// What reading gives; a size no workload makes.
pub fn content_of(file: &dyn OpenFile, size: u64) -> Result<Vec<u8>> {
    if size > SIZE_MAX {
        return Err(iomap_core::error::FsError::TooBig);
    }
    let mut bytes = vec![0; size as usize];
    let mut done = 0;
    while done < bytes.len() {
        let at = FilePos::saturating(done as u64);
        match file.read_at(at, &mut bytes[done..], IoFlags::empty())? {
            0 => break,
            more => done += more,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The file that `op` is about, and its size, before the operation.
#[must_use]
pub fn subject(side: &Side, op: Op) -> (u64, u64) {
    let path = match op {
        Op::Fsync(path) | Op::Fdatasync(path) | Op::Write(path, ..) | Op::Append(path, ..) => path,
        _ => return (0, 0),
    };
    let attr = match side.held() {
        Some(held) if path == HELD => side.fs.getattr(held),
        _ => side.ino(path).and_then(|ino| side.fs.getattr(ino)),
    };
    attr.map_or((0, 0), |attr| (attr.ino.0, attr.size))
}
