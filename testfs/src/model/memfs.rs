//! The reference file system: everything in memory, one lock, no cleverness.
//!
//! Owns the meaning of the namespace operations. The torture command applies every operation to it
//! and to the file system under test and compares. Also serves to test the harness itself.

mod file;
mod tree;

use std::sync::Arc;

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::stats::Snapshot;
use iomap_core::vfs::{
    Attr, DirEntry, Held, Ino, NewInode, OpenFile, OpenFlags, RenameMode, SetAttr, Special, StatFs,
    Timestamp, Vfs, XattrMode,
};
use parking_lot::Mutex;

use self::tree::{Body, ROOT, Tree, os};
use crate::model::FileBytes;

/// The longest value of an extended attribute, bytes.
const XATTR_MAX: usize = 1 << 16;
/// Bytes of a block: what collapse and insert must be aligned to.
const BLOCK: u64 = 4096;

/// A file system in memory.
#[derive(Debug)]
pub struct MemFs {
    tree: Arc<Mutex<Tree>>,
}

impl MemFs {
    /// An empty file system.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            tree: Arc::new(Mutex::new(Tree::new())),
        })
    }
}

/// One more user of an inode.
struct Hold {
    tree: Arc<Mutex<Tree>>,
    ino: Ino,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.tree.lock().closed(self.ino);
    }
}

impl Vfs for MemFs {
    fn root(&self) -> Ino {
        Ino(ROOT)
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        self.tree.lock().lookup(dir, name)
    }

    fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.tree.lock().node(ino)?.attr)
    }

    fn hold(&self, ino: Ino) -> Result<Held> {
        self.tree.lock().opened(ino)?;
        Ok(Box::new(Hold {
            tree: Arc::clone(&self.tree),
            ino,
        }))
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.tree.lock().setattr(ino, set)
    }

    fn note_access(&self, ino: Ino, at: Timestamp) -> Result<()> {
        self.tree.lock().node_mut(ino)?.attr.atime = at;
        Ok(())
    }

    fn mknod(&self, dir: Ino, name: &[u8], special: Special, new: &NewInode) -> Result<Attr> {
        let body = match special {
            Special::Regular => Body::File(FileBytes::new()),
            _ => Body::Special,
        };
        self.tree.lock().create(dir, name, body, Some(special), new)
    }

    fn mkdir(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        let body = Tree::directory();
        self.tree.lock().create(dir, name, body, None, new)
    }

    fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr> {
        if target.is_empty() || target.len() > 4095 {
            return Err(os(if target.is_empty() {
                Errno::NOENT
            } else {
                Errno::NAMETOOLONG
            }));
        }
        let body = Body::Symlink(target.to_vec());
        self.tree.lock().create(dir, name, body, None, new)
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.tree.lock().node(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(FsError::Invalid("no symbolic link")),
        }
    }

    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        self.tree.lock().link(ino, dir, name)
    }

    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.tree.lock().unlink(dir, name)
    }

    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.tree.lock().rmdir(dir, name)
    }

    fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        to_dir: Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.tree.lock().rename(dir, name, to_dir, to_name, mode)
    }

    fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let entries = self.tree.lock().entries(dir, cookie)?;
        for entry in &entries {
            if !emit(entry) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Arc<dyn OpenFile>> {
        let mut tree = self.tree.lock();
        tree.file(ino)?;
        if flags.contains(OpenFlags::TRUNCATE) {
            tree.file_mut(ino)?.set_size(0);
            tree.changed(ino);
        }
        tree.opened(ino)?;
        Ok(Arc::new(file::MemFile::new(&self.tree, ino, flags)))
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let tree = self.tree.lock();
        let value = tree.node(ino)?.xattrs.get(name);
        value.cloned().ok_or(os(Errno::NODATA))
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        if value.len() > XATTR_MAX {
            return Err(os(Errno::TOOBIG));
        }
        let mut tree = self.tree.lock();
        let xattrs = &mut tree.node_mut(ino)?.xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => Err(os(Errno::EXIST)),
            (XattrMode::Replace, false) => Err(os(Errno::NODATA)),
            _ => {
                xattrs.insert(name.to_vec(), value.to_vec());
                Ok(())
            }
        }
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let tree = self.tree.lock();
        Ok(tree.node(ino)?.xattrs.keys().cloned().collect())
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let mut tree = self.tree.lock();
        match tree.node_mut(ino)?.xattrs.remove(name) {
            Some(_) => Ok(()),
            None => Err(os(Errno::NODATA)),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        let used = self.tree.lock().len() as u64;
        Ok(StatFs {
            block_size: 4096,
            blocks: 1 << 30,
            blocks_free: 1 << 29,
            blocks_available: 1 << 29,
            files: 1 << 30,
            files_free: (1 << 30) - used,
            name_max: 255,
        })
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn fsync_inode(&self, ino: Ino, _data_only: bool) -> Result<()> {
        self.getattr(ino).map(|_| ())
    }

    fn counters(&self) -> Snapshot {
        Snapshot::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::units::FilePos;
    use iomap_core::vfs::IoFlags;

    fn errno<T>(result: Result<T>) -> Option<Errno> {
        result.err().map(|e| e.errno())
    }

    fn with_dirs() -> (Arc<MemFs>, Ino, Ino) {
        let fs = MemFs::new();
        let new = NewInode::default();
        let a = fs.mkdir(fs.root(), b"a", &new).unwrap().ino;
        let b = fs.mkdir(fs.root(), b"b", &new).unwrap().ino;
        (fs, a, b)
    }

    #[test]
    fn a_directory_cannot_move_into_itself() {
        let (fs, a, _) = with_dirs();
        let sub = fs.mkdir(a, b"sub", &NewInode::default()).unwrap().ino;
        let root = fs.root();
        let moved = fs.rename(root, b"a", sub, b"x", RenameMode::Replace);
        assert_eq!(errno(moved), Some(Errno::INVAL));
        let swapped = fs.rename(a, b"sub", root, b"a", RenameMode::Exchange);
        assert_eq!(errno(swapped), Some(Errno::INVAL));
    }

    #[test]
    fn a_moved_directory_takes_its_parent_link_along() {
        let (fs, a, b) = with_dirs();
        let sub = fs.mkdir(a, b"sub", &NewInode::default()).unwrap().ino;
        fs.rename(a, b"sub", b, b"sub", RenameMode::Replace)
            .unwrap();
        assert_eq!(fs.getattr(a).unwrap().nlink, 2);
        assert_eq!(fs.getattr(b).unwrap().nlink, 3);
        assert_eq!(fs.lookup(sub, b"..").unwrap().ino, b);
    }

    #[test]
    fn renaming_onto_another_name_of_the_same_inode_keeps_both() {
        let (fs, a, b) = with_dirs();
        let new = NewInode::default();
        let f = fs.mknod(a, b"f", Special::Regular, &new).unwrap().ino;
        fs.link(f, b, b"g").unwrap();
        fs.rename(a, b"f", b, b"g", RenameMode::Replace).unwrap();
        assert_eq!(fs.lookup(a, b"f").unwrap().nlink, 2);
    }

    #[test]
    fn an_open_file_outlives_its_name() {
        let (fs, a, _) = with_dirs();
        let new = NewInode::default();
        let f = fs.mknod(a, b"f", Special::Regular, &new).unwrap().ino;
        let open = fs.open(f, OpenFlags::READ | OpenFlags::WRITE).unwrap();
        fs.unlink(a, b"f").unwrap();
        open.write_at(FilePos::ZERO, b"x", IoFlags::empty())
            .unwrap();
        assert_eq!(fs.getattr(f).unwrap().nlink, 0);
        drop(open);
        assert_eq!(errno(fs.getattr(f)), Some(Errno::NOENT));
    }

    #[test]
    fn cookies_stay_good_while_entries_go() {
        let (fs, a, _) = with_dirs();
        for name in [b"1", b"2", b"3"] {
            fs.mknod(a, name, Special::Fifo, &NewInode::default())
                .unwrap();
        }
        let mut seen = Vec::new();
        let mut cookie = 0;
        fs.readdir(a, 0, &mut |e| {
            if seen.len() == 3 {
                return false;
            }
            cookie = e.cookie;
            seen.push(e.name.clone());
            true
        })
        .unwrap();
        fs.unlink(a, b"1").unwrap();
        fs.readdir(a, cookie, &mut |e| {
            seen.push(e.name.clone());
            true
        })
        .unwrap();
        assert_eq!(seen, [&b"."[..], b"..", b"1", b"2", b"3"]);
    }
}
