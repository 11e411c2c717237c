//! The tree of the reference file system: inodes, names, and the rules of link, unlink and rename.
//!
//! Owns the state behind the lock of [`MemFs`](super::MemFs). Does not own file content, beyond
//! keeping it beside its inode.

use std::collections::{BTreeMap, HashMap};

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::vfs::{
    Attr, DirEntry, FileType, Ino, NewInode, RenameMode, SetAttr, Special, Timestamp,
};

use crate::model::FileBytes;

/// The longest name, bytes.
pub(super) const NAME_MAX: usize = 255;
/// The largest file: the reference keeps every byte in memory.
pub(super) const SIZE_MAX: u64 = 1 << 44;
/// The position up to which bytes may be stored.
pub(super) const STORED_MAX: u64 = 1 << 32;

/// An errno as an error of the framework.
pub(super) fn os(errno: Errno) -> FsError {
    FsError::from(errno)
}

/// The entries of a directory: by name, and in order of making for stable cookies.
#[derive(Debug, Default)]
pub(super) struct Dir {
    pub(super) parent: u64,
    names: BTreeMap<Vec<u8>, (u64, u64)>,
    order: BTreeMap<u64, Vec<u8>>,
    next_cookie: u64,
}

impl Dir {
    fn new(parent: u64) -> Self {
        Self {
            parent,
            next_cookie: 3,
            ..Self::default()
        }
    }

    fn get(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).map(|(ino, _)| *ino)
    }

    fn insert(&mut self, name: &[u8], ino: u64) {
        self.remove(name);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.names.insert(name.to_vec(), (ino, cookie));
        self.order.insert(cookie, name.to_vec());
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some((_, cookie)) = self.names.remove(name) {
            self.order.remove(&cookie);
        }
    }
}

/// What an inode is, with what only that type has.
#[derive(Debug)]
pub(super) enum Body {
    File(FileBytes),
    Dir(Dir),
    Symlink(Vec<u8>),
    Special,
}

/// An inode.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) attr: Attr,
    pub(super) body: Body,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Open files; the inode outlives its names while there are any.
    pub(super) opens: u32,
}

/// All inodes.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
}

/// The number of the root directory.
pub(super) const ROOT: u64 = 1;

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self {
            nodes: HashMap::new(),
            next: ROOT,
        };
        let new = NewInode {
            mode: 0o755,
            ..NewInode::default()
        };
        tree.make(FileType::Directory, Body::Dir(Dir::new(ROOT)), 0, &new);
        tree
    }

    pub(super) fn node(&self, ino: Ino) -> Result<&Node> {
        self.nodes.get(&ino.0).ok_or(os(Errno::NOENT))
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino.0).ok_or(os(Errno::NOENT))
    }

    fn dir(&self, ino: Ino) -> Result<&Dir> {
        match &self.node(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(os(Errno::NOTDIR)),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> Result<&mut Dir> {
        match &mut self.node_mut(ino)?.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(os(Errno::NOTDIR)),
        }
    }

    /// The content of a regular file.
    pub(super) fn file(&self, ino: Ino) -> Result<&FileBytes> {
        match &self.node(ino)?.body {
            Body::File(bytes) => Ok(bytes),
            Body::Dir(_) => Err(os(Errno::ISDIR)),
            _ => Err(os(Errno::INVAL)),
        }
    }

    /// The content of a regular file, to change; its size attribute follows in
    /// [`Tree::changed`].
    pub(super) fn file_mut(&mut self, ino: Ino) -> Result<&mut FileBytes> {
        match &mut self.node_mut(ino)?.body {
            Body::File(bytes) => Ok(bytes),
            Body::Dir(_) => Err(os(Errno::ISDIR)),
            _ => Err(os(Errno::INVAL)),
        }
    }

    /// Brings size and times of a file up to its content.
    pub(super) fn changed(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino.0)
            && let Body::File(bytes) = &node.body
        {
            node.attr.size = bytes.size();
            node.attr.blocks = bytes.size().div_ceil(4096) * 8;
            node.attr.mtime = Timestamp::now();
            node.attr.ctime = node.attr.mtime;
        }
    }

    fn make(&mut self, kind: FileType, body: Body, rdev: u64, new: &NewInode) -> Attr {
        let ino = self.next;
        self.next += 1;
        let now = Timestamp::now();
        let attr = Attr {
            ino: Ino(ino),
            generation: 1,
            kind,
            mode: match kind {
                FileType::Symlink => 0o777,
                _ => new.mode & 0o7777,
            },
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev,
            size: match &body {
                Body::Symlink(target) => target.len() as u64,
                _ => 0,
            },
            blocks: 0,
            block_size: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        self.nodes.insert(
            ino,
            Node {
                attr,
                body,
                xattrs: BTreeMap::new(),
                opens: 0,
            },
        );
        attr
    }

    /// What `name` of `dir` leads to, `.` and `..` included.
    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let entries = self.dir(dir)?;
        check_length(name)?;
        let ino = match name {
            b"." => dir.0,
            b".." => entries.parent,
            _ => entries.get(name).ok_or(os(Errno::NOENT))?,
        };
        Ok(self.node(Ino(ino))?.attr)
    }

    /// Checks that `name` can be made in `dir`.
    fn vacant(&self, dir: Ino, name: &[u8]) -> Result<()> {
        let entries = self.dir(dir)?;
        check_length(name)?;
        if matches!(name, b"." | b"..") || entries.get(name).is_some() {
            return Err(os(Errno::EXIST));
        }
        if name.is_empty() || self.node(dir)?.attr.nlink == 0 {
            return Err(os(Errno::NOENT));
        }
        Ok(())
    }

    /// Creates an inode and its first name.
    pub(super) fn create(
        &mut self,
        dir: Ino,
        name: &[u8],
        body: Body,
        special: Option<Special>,
        new: &NewInode,
    ) -> Result<Attr> {
        self.vacant(dir, name)?;
        let (kind, rdev) = match (&body, special) {
            (Body::Dir(_), _) => (FileType::Directory, 0),
            (Body::Symlink(_), _) => (FileType::Symlink, 0),
            (_, None | Some(Special::Regular)) => (FileType::Regular, 0),
            (_, Some(Special::Fifo)) => (FileType::Fifo, 0),
            (_, Some(Special::Socket)) => (FileType::Socket, 0),
            (_, Some(Special::CharDevice(rdev))) => (FileType::CharDevice, rdev),
            (_, Some(Special::BlockDevice(rdev))) => (FileType::BlockDevice, rdev),
        };
        let body = match body {
            Body::Dir(_) => Body::Dir(Dir::new(dir.0)),
            body => body,
        };
        let attr = self.make(kind, body, rdev, new);
        self.dir_mut(dir)?.insert(name, attr.ino.0);
        if kind == FileType::Directory {
            self.node_mut(dir)?.attr.nlink += 1;
        }
        Ok(attr)
    }

    /// A directory body for [`Tree::create`].
    pub(super) fn directory() -> Body {
        Body::Dir(Dir::default())
    }

    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        if self.node(ino)?.attr.kind == FileType::Directory {
            return Err(os(Errno::PERM));
        }
        self.vacant(dir, name)?;
        if self.node(ino)?.attr.nlink == 0 {
            return Err(os(Errno::NOENT));
        }
        self.dir_mut(dir)?.insert(name, ino.0);
        let node = self.node_mut(ino)?;
        node.attr.nlink += 1;
        Ok(node.attr)
    }

    /// Takes one name away from an inode that is no directory, or all of them from a directory.
    fn drop_name(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.attr.nlink = match node.attr.kind {
                FileType::Directory => 0,
                _ => node.attr.nlink.saturating_sub(1),
            };
        }
        self.reap(ino);
    }

    /// Forgets an inode without names and open files.
    fn reap(&mut self, ino: u64) {
        if self
            .nodes
            .get(&ino)
            .is_some_and(|n| n.attr.nlink == 0 && n.opens == 0)
        {
            self.nodes.remove(&ino);
        }
    }

    /// One more open file.
    pub(super) fn opened(&mut self, ino: Ino) -> Result<()> {
        self.node_mut(ino)?.opens += 1;
        Ok(())
    }

    /// One open file less.
    pub(super) fn closed(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.reap(ino.0);
    }

    pub(super) fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let attr = self.lookup(dir, name)?;
        if attr.kind == FileType::Directory {
            return Err(os(Errno::ISDIR));
        }
        self.dir_mut(dir)?.remove(name);
        self.drop_name(attr.ino.0);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        match name {
            b"." => return Err(os(Errno::INVAL)),
            b".." => return Err(os(Errno::NOTEMPTY)),
            _ => {}
        }
        let attr = self.lookup(dir, name)?;
        if !self.dir(attr.ino)?.names.is_empty() {
            return Err(os(Errno::NOTEMPTY));
        }
        self.dir_mut(dir)?.remove(name);
        self.node_mut(dir)?.attr.nlink -= 1;
        self.drop_name(attr.ino.0);
        Ok(())
    }

    /// Whether `ino` is `dir` or lies above it.
    fn is_above(&self, ino: u64, dir: Ino) -> bool {
        let mut at = dir.0;
        loop {
            if at == ino {
                return true;
            }
            match self.dir(Ino(at)) {
                Ok(d) if at != ROOT => at = d.parent,
                _ => return false,
            }
        }
    }

    pub(super) fn rename(
        &mut self,
        dir: Ino,
        name: &[u8],
        to_dir: Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        if [name, to_name].iter().any(|n| matches!(*n, b"." | b"..")) {
            return Err(os(Errno::INVAL));
        }
        let from = self.lookup(dir, name)?;
        let target = match self.lookup(to_dir, to_name) {
            Ok(attr) => Some(attr),
            Err(error) if error.errno() == Errno::NOENT => None,
            Err(error) => return Err(error),
        };
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(os(Errno::EXIST)),
            (RenameMode::Exchange, None) => return Err(os(Errno::NOENT)),
            _ => {}
        }
        if self.is_above(from.ino.0, to_dir) && from.kind == FileType::Directory {
            return Err(os(Errno::INVAL));
        }
        let Some(target) = target else {
            return self.move_entry(from, dir, name, to_dir, to_name);
        };
        if target.ino == from.ino {
            return Ok(());
        }
        if mode == RenameMode::Exchange {
            if target.kind == FileType::Directory && self.is_above(target.ino.0, dir) {
                return Err(os(Errno::INVAL));
            }
            return self.exchange((from, dir, name), (target, to_dir, to_name));
        }
        match (from.kind, target.kind) {
            (FileType::Directory, FileType::Directory) => self.rmdir(to_dir, to_name)?,
            (FileType::Directory, _) => return Err(os(Errno::NOTDIR)),
            (_, FileType::Directory) => return Err(os(Errno::ISDIR)),
            _ => self.unlink(to_dir, to_name)?,
        }
        self.move_entry(from, dir, name, to_dir, to_name)
    }

    /// Moves a name to a vacant one.
    fn move_entry(
        &mut self,
        from: Attr,
        dir: Ino,
        name: &[u8],
        to_dir: Ino,
        to_name: &[u8],
    ) -> Result<()> {
        check_length(to_name)?;
        self.dir_mut(dir)?.remove(name);
        self.dir_mut(to_dir)?.insert(to_name, from.ino.0);
        self.reparent(from, dir, to_dir)
    }

    /// Records that a directory moved: its `..` and the link counts of both parents.
    fn reparent(&mut self, moved: Attr, from: Ino, to: Ino) -> Result<()> {
        if moved.kind == FileType::Directory && from != to {
            self.node_mut(from)?.attr.nlink -= 1;
            self.node_mut(to)?.attr.nlink += 1;
            self.dir_mut(moved.ino)?.parent = to.0;
        }
        Ok(())
    }

    fn exchange(&mut self, a: (Attr, Ino, &[u8]), b: (Attr, Ino, &[u8])) -> Result<()> {
        self.dir_mut(a.1)?.insert(a.2, b.0.ino.0);
        self.dir_mut(b.1)?.insert(b.2, a.0.ino.0);
        self.reparent(a.0, a.1, b.1)?;
        self.reparent(b.0, b.1, a.1)
    }

    /// The entries after `cookie`.
    pub(super) fn entries(&self, dir: Ino, cookie: u64) -> Result<Vec<DirEntry>> {
        let entries = self.dir(dir)?;
        let entry = |ino: u64, name: &[u8], cookie: u64| -> Result<DirEntry> {
            Ok(DirEntry {
                ino: Ino(ino),
                kind: self.node(Ino(ino))?.attr.kind,
                name: name.to_vec(),
                cookie,
            })
        };
        let mut out = Vec::new();
        if cookie < 1 {
            out.push(entry(dir.0, b".", 1)?);
        }
        if cookie < 2 {
            out.push(entry(entries.parent, b"..", 2)?);
        }
        for (at, name) in entries.order.range(cookie.saturating_add(1)..) {
            let ino = entries.get(name).ok_or(os(Errno::IO))?;
            out.push(entry(ino, name, *at)?);
        }
        Ok(out)
    }

    pub(super) fn setattr(&mut self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if let Some(size) = set.size {
            if size > SIZE_MAX {
                return Err(FsError::TooBig);
            }
            self.file_mut(ino)?.set_size(size);
            self.changed(ino);
        }
        let attr = &mut self.node_mut(ino)?.attr;
        attr.mode = set.mode.map_or(attr.mode, |mode| mode & 0o7777);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.unwrap_or(attr.atime);
        attr.mtime = set.mtime.unwrap_or(attr.mtime);
        attr.ctime = set.ctime.unwrap_or_else(Timestamp::now);
        Ok(*attr)
    }

    /// Inodes in use.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

fn check_length(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        Err(os(Errno::NAMETOOLONG))
    } else {
        Ok(())
    }
}
