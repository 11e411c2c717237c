//! The hidden folder `.iomapfs` of a mount: counters as files.
//!
//! Owns the folder at the root, which no listing shows, and the texts of `stats` and `stats.json`.
//! Everything else goes to the file system behind it, data without a detour: a file that is opened
//! is that file system's own.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use iomap_core::error::{Errno, FsError, Result, SeekError};
use iomap_core::fiemap::Extent;
use iomap_core::seek::Whence;
use iomap_core::stats::Snapshot;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{
    Attr, DirEntry, Fallocate, FileType, Held, Ino, InodeFlags, IoFlags, NewInode, OpenFile,
    OpenFlags, RenameMode, SetAttr, Special, StatFs, Timestamp, Vfs, XattrMode,
};
use serde_json::{Map, Value, json};

use crate::backend::Gauges;

/// The name of the folder.
pub(crate) const FOLDER: &str = ".iomapfs";
/// The counters as lines of text.
const TEXT: &str = "stats";
/// The counters as one JSON object.
pub(crate) const JSON: &str = "stats.json";

/// Inode numbers no file system gives out.
const FOLDER_INO: Ino = Ino(u64::MAX - 1);
const TEXT_INO: Ino = Ino(u64::MAX - 2);
const JSON_INO: Ino = Ino(u64::MAX - 3);

/// A file system with the folder.
pub(super) struct Observed {
    inner: Arc<dyn Vfs>,
    gauges: Gauges,
    started: Instant,
    born: Timestamp,
}

impl Observed {
    pub(super) fn new(inner: Arc<dyn Vfs>, gauges: Gauges) -> Self {
        Self {
            inner,
            gauges,
            started: Instant::now(),
            born: Timestamp::now(),
        }
    }

    fn attr(&self, ino: Ino) -> Attr {
        let folder = ino == FOLDER_INO;
        Attr {
            ino,
            generation: 0,
            kind: if folder {
                FileType::Directory
            } else {
                FileType::Regular
            },
            mode: if folder { 0o555 } else { 0o444 },
            nlink: if folder { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            // As files of sysfs: about so much.
            size: 4096,
            blocks: 0,
            block_size: 4096,
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            btime: self.born,
        }
    }

    /// Which of ours has this name in `dir`.
    fn ours(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        if dir == self.inner.root() && name == FOLDER.as_bytes() {
            return Some(FOLDER_INO);
        }
        match (dir == FOLDER_INO, name) {
            (true, name) if name == TEXT.as_bytes() => Some(TEXT_INO),
            (true, name) if name == JSON.as_bytes() => Some(JSON_INO),
            (true, b".") => Some(FOLDER_INO),
            _ => None,
        }
    }

    /// Refuses changes in the folder, and of its name.
    fn not_ours(&self, dir: Ino, name: &[u8]) -> Result<()> {
        if is_ours(dir) || self.ours(dir, name).is_some() {
            return Err(Errno::PERM.into());
        }
        Ok(())
    }

    fn text(&self, ino: Ino) -> String {
        let counters = self.inner.counters().named();
        let gauges = (self.gauges)();
        let uptime = self.started.elapsed().as_secs();
        if ino == JSON_INO {
            let object = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| {
                pairs
                    .map(|(name, n)| (name.to_owned(), Value::from(n)))
                    .collect::<Map<_, _>>()
            };
            let all = json!({
                "schema": crate::out::SCHEMA,
                "uptime_seconds": uptime,
                "counters": object(&mut counters.into_iter()),
                "gauges": object(&mut gauges.into_iter()),
            });
            return format!("{all}\n");
        }
        let rows = [("uptime_seconds", uptime)]
            .into_iter()
            .chain(counters)
            .chain(gauges);
        rows.map(|(name, n)| format!("{name} {n}\n")).collect()
    }
}

const fn is_ours(ino: Ino) -> bool {
    ino.0 >= JSON_INO.0
}

/// Refuses what cannot be done to the folder and its files.
const fn foreign(ino: Ino) -> Result<()> {
    if is_ours(ino) {
        return Err(FsError::Os { errno: Errno::PERM });
    }
    Ok(())
}

impl Vfs for Observed {
    fn root(&self) -> Ino {
        self.inner.root()
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        match self.ours(dir, name) {
            Some(ino) => Ok(self.attr(ino)),
            None if dir == FOLDER_INO && name == b".." => self.inner.getattr(self.inner.root()),
            None if is_ours(dir) => Err(Errno::NOENT.into()),
            None => self.inner.lookup(dir, name),
        }
    }

    fn getattr(&self, ino: Ino) -> Result<Attr> {
        match is_ours(ino) {
            true => Ok(self.attr(ino)),
            false => self.inner.getattr(ino),
        }
    }

    fn hold(&self, ino: Ino) -> Result<Held> {
        match is_ours(ino) {
            true => Ok(Box::new(())),
            false => self.inner.hold(ino),
        }
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        foreign(ino)?;
        self.inner.setattr(ino, set)
    }

    fn mknod(&self, dir: Ino, name: &[u8], special: Special, new: &NewInode) -> Result<Attr> {
        self.not_ours(dir, name)?;
        self.inner.mknod(dir, name, special, new)
    }

    fn mkdir(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        self.not_ours(dir, name)?;
        self.inner.mkdir(dir, name, new)
    }

    fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr> {
        self.not_ours(dir, name)?;
        self.inner.symlink(dir, name, target, new)
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        foreign(ino)?;
        self.inner.readlink(ino)
    }

    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        foreign(ino)?;
        self.not_ours(dir, name)?;
        self.inner.link(ino, dir, name)
    }

    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.not_ours(dir, name)?;
        self.inner.unlink(dir, name)
    }

    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.not_ours(dir, name)?;
        self.inner.rmdir(dir, name)
    }

    fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        to_dir: Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.not_ours(dir, name)?;
        self.not_ours(to_dir, to_name)?;
        self.inner.rename(dir, name, to_dir, to_name, mode)
    }

    fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        if !is_ours(dir) {
            return self.inner.readdir(dir, cookie, emit);
        }
        if dir != FOLDER_INO {
            return Err(Errno::NOTDIR.into());
        }
        let names = [
            (FOLDER_INO, "."),
            (self.inner.root(), ".."),
            (TEXT_INO, TEXT),
            (JSON_INO, JSON),
        ];
        for (at, (ino, name)) in (1..)
            .zip(names)
            .skip(usize::try_from(cookie).unwrap_or(usize::MAX))
        {
            let folder = name.starts_with('.');
            let entry = DirEntry {
                ino,
                kind: if folder {
                    FileType::Directory
                } else {
                    FileType::Regular
                },
                name: name.into(),
                cookie: at,
            };
            if !emit(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Arc<dyn OpenFile>> {
        if !is_ours(ino) {
            return self.inner.open(ino, flags);
        }
        match ino {
            FOLDER_INO => Err(Errno::ISDIR.into()),
            _ if flags.contains(OpenFlags::WRITE) => Err(Errno::ACCESS.into()),
            _ => Ok(Arc::new(Told {
                ino,
                text: self.text(ino),
            })),
        }
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if is_ours(ino) {
            return Err(Errno::NODATA.into());
        }
        self.inner.getxattr(ino, name)
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        foreign(ino)?;
        self.inner.setxattr(ino, name, value, mode)
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        match is_ours(ino) {
            true => Ok(Vec::new()),
            false => self.inner.listxattr(ino),
        }
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        foreign(ino)?;
        self.inner.removexattr(ino, name)
    }

    fn note_access(&self, ino: Ino, at: Timestamp) -> Result<()> {
        match is_ours(ino) {
            true => Ok(()),
            false => self.inner.note_access(ino, at),
        }
    }

    fn flags(&self, ino: Ino) -> Result<InodeFlags> {
        match is_ours(ino) {
            true => Ok(InodeFlags::empty()),
            false => self.inner.flags(ino),
        }
    }

    fn set_flags(&self, ino: Ino, flags: InodeFlags) -> Result<()> {
        foreign(ino)?;
        self.inner.set_flags(ino, flags)
    }

    fn statfs(&self) -> Result<StatFs> {
        self.inner.statfs()
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn fsync_inode(&self, ino: Ino, data_only: bool) -> Result<()> {
        match is_ours(ino) {
            true => Ok(()),
            false => self.inner.fsync_inode(ino, data_only),
        }
    }

    fn counters(&self) -> Snapshot {
        self.inner.counters()
    }
}

/// A text as it was when the file was opened.
struct Told {
    ino: Ino,
    text: String,
}

impl OpenFile for Told {
    fn ino(&self) -> Ino {
        self.ino
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn read_at(&self, pos: FilePos, to: &mut [u8], _flags: IoFlags) -> Result<usize> {
        let at = usize::try_from(pos.bytes()).unwrap_or(usize::MAX);
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, _pos: FilePos, _from: &[u8], _flags: IoFlags) -> Result<usize> {
        Err(Errno::BADF.into())
    }

    fn fsync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn sync_range(&self, _range: FileRange, _wait: bool) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, _mode: Fallocate, _range: FileRange) -> Result<()> {
        Err(Errno::BADF.into())
    }

    fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError> {
        let end = FilePos::saturating(self.text.len() as u64);
        match whence {
            _ if pos >= end => Err(SeekError::NoSuchRegion),
            Whence::Data => Ok(pos),
            Whence::Hole => Ok(end),
        }
    }

    fn fiemap(&self, _range: FileRange, _sync: bool) -> Result<Vec<Extent>> {
        Ok(Vec::new())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use testfs::model::MemFs;

    fn observed() -> Observed {
        Observed::new(MemFs::new(), Box::new(|| vec![("nr_dirty", 7)]))
    }

    fn read(fs: &Observed, name: &str) -> String {
        let folder = fs.lookup(fs.root(), FOLDER.as_bytes()).unwrap();
        let file = fs.lookup(folder.ino, name.as_bytes()).unwrap();
        let open = fs.open(file.ino, OpenFlags::READ).unwrap();
        let mut bytes = vec![0; 1 << 16];
        let n = open
            .read_at(FilePos::ZERO, &mut bytes, IoFlags::empty())
            .unwrap();
        assert_eq!(
            open.read_at(
                FilePos::saturating(n as u64),
                &mut bytes[n..],
                IoFlags::empty()
            ),
            Ok(0)
        );
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }

    #[test]
    fn the_folder_is_found_by_its_name_only() {
        let fs = observed();
        let mut names = Vec::new();
        fs.readdir(fs.root(), 0, &mut |entry| {
            names.push(entry.name.clone());
            true
        })
        .unwrap();
        assert!(!names.iter().any(|name| name == FOLDER.as_bytes()));
        let mut names = Vec::new();
        fs.readdir(FOLDER_INO, 2, &mut |entry| {
            names.push(entry.name.clone());
            true
        })
        .unwrap();
        assert_eq!(names, [TEXT.as_bytes(), JSON.as_bytes()]);
    }

    #[test]
    fn counters_are_told_in_both_forms() {
        let fs = observed();
        let text = read(&fs, TEXT);
        assert!(
            text.contains("cache_hits 0\n") && text.contains("nr_dirty 7\n"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&read(&fs, JSON)).unwrap();
        assert_eq!(
            (&json["schema"], &json["gauges"]["nr_dirty"]),
            (&json!(1), &json!(7))
        );
        assert_eq!(json["counters"]["syncs"], 0);
    }

    #[test]
    fn nothing_about_it_can_be_changed() {
        let fs = observed();
        let new = NewInode::default();
        let root = fs.root();
        assert!(fs.mkdir(root, FOLDER.as_bytes(), &new).is_err());
        assert!(fs.rmdir(root, FOLDER.as_bytes()).is_err());
        assert!(fs.mkdir(FOLDER_INO, b"x", &new).is_err());
        assert!(fs.setattr(TEXT_INO, &SetAttr::default()).is_err());
        assert!(fs.open(TEXT_INO, OpenFlags::WRITE).is_err());
        fs.mkdir(root, b"d", &new).unwrap();
        assert!(
            fs.rename(root, b"d", root, FOLDER.as_bytes(), RenameMode::Replace)
                .is_err()
        );
        assert!(fs.link(TEXT_INO, root, b"l").is_err());
    }
}
