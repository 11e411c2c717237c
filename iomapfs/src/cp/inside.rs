//! The image's side of a copy: directories by inode number.
//!
//! Owns the translation to [`Vfs`]. An image keeps whatever owner it is given, so nothing is lost
//! on the way in.

use std::sync::Arc;

use iomap_core::error::{Errno, SeekError};
use iomap_core::seek::Whence;
use iomap_core::units::FilePos;
use iomap_core::vfs::{
    Attr, FileType, Ino, IoFlags, NewInode, OpenFile, OpenFlags, SetAttr, Special, Vfs, XattrMode,
};

use super::side::{
    Attrs, Entry, Io, Item, Losses, Meta, SourceDir, SourceFile, TargetDir, TargetFile, There,
    Trouble, Xattrs,
};
use crate::place::InImage;
use crate::walk::{Follow, Walker, join};

/// A directory of an image.
pub(super) struct ImageDir {
    vfs: Arc<dyn Vfs>,
    /// Which of the images of this run: inode numbers mean something in one of them.
    number: u64,
    ino: Ino,
    /// For symbolic links that are followed.
    place: InImage,
}

/// An open file of an image.
pub(super) struct ImageFile {
    vfs: Arc<dyn Vfs>,
    ino: Ino,
    file: Arc<dyn OpenFile>,
}

impl ImageDir {
    /// The directory `ino` at `place`.
    pub(super) fn new(vfs: &Arc<dyn Vfs>, number: u64, ino: Ino, place: InImage) -> Self {
        Self {
            vfs: Arc::clone(vfs),
            number,
            ino,
            place,
        }
    }

    fn below(&self, name: &[u8], ino: Ino) -> Self {
        let path = join(&self.place.path, name);
        let place = InImage {
            path,
            ..self.place.clone()
        };
        Self::new(&self.vfs, self.number, ino, place)
    }

    fn meta(&self, attr: &Attr) -> Meta {
        Meta {
            kind: attr.kind,
            mode: attr.mode & 0o7777,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            sparse: attr.blocks.saturating_mul(512) < attr.size,
            nlink: attr.nlink.into(),
            atime: attr.atime,
            mtime: attr.mtime,
            id: (self.number, attr.ino.0),
        }
    }
}

const fn ino_of(meta: &Meta) -> Ino {
    Ino(meta.id.1)
}

fn xattrs_of(vfs: &dyn Vfs, ino: Ino) -> Io<Xattrs> {
    let names = vfs.listxattr(ino)?;
    let pair = |name: Vec<u8>| Ok((name.clone(), vfs.getxattr(ino, &name)?));
    names.into_iter().map(pair).collect()
}

impl SourceDir for ImageDir {
    type File = ImageFile;
    const ONE_NAME: bool = true;

    fn list(&self) -> Io<Vec<Entry>> {
        let entries = Walker::new(&*self.vfs).list(self.ino)?;
        let mut entries: Vec<_> = entries
            .into_iter()
            .map(|entry| Entry {
                name: entry.name,
                ino: entry.ino.0,
            })
            .collect();
        // In the order they were made, which is about where they are.
        entries.sort_by_key(|entry| entry.ino);
        Ok(entries)
    }

    fn look(&self, entry: &Entry, follow: bool) -> Io<Meta> {
        if entry.name == b"." {
            return Ok(self.meta(&self.vfs.getattr(self.ino)?));
        }
        let attr = match entry.ino {
            0 => self.vfs.lookup(self.ino, &entry.name)?,
            ino => self.vfs.getattr(Ino(ino))?,
        };
        if !follow || attr.kind != FileType::Symlink {
            return Ok(self.meta(&attr));
        }
        let place = self.below(&entry.name, attr.ino).place;
        let found = Walker::new(&*self.vfs).find(&place, Follow::Yes);
        let found = found.map_err(|failure| Trouble::new(Errno::NOENT, failure.message))?;
        Ok(self.meta(&found))
    }

    fn open_dir(item: &Item<Self>) -> Io<Self> {
        Ok(item.dir.below(&item.entry.name, ino_of(&item.meta)))
    }

    fn open(item: &Item<Self>) -> Io<(ImageFile, Meta)> {
        let (vfs, ino) = (&item.dir.vfs, ino_of(&item.meta));
        let file = vfs.open(ino, OpenFlags::READ)?;
        let vfs = Arc::clone(vfs);
        Ok((ImageFile { vfs, ino, file }, item.meta))
    }

    fn readlink(item: &Item<Self>) -> Io<Vec<u8>> {
        let target = item.dir.vfs.readlink(ino_of(&item.meta))?;
        if target.is_empty() || target.contains(&0) {
            return Err(Trouble::new(
                Errno::INVAL,
                "refused: a symbolic link to nothing that can be named",
            ));
        }
        Ok(target)
    }

    fn own_xattrs(&self) -> Io<Xattrs> {
        xattrs_of(&*self.vfs, self.ino)
    }

    fn xattrs(item: &Item<Self>) -> Io<Xattrs> {
        xattrs_of(&*item.dir.vfs, ino_of(&item.meta))
    }
}

impl SourceFile for ImageFile {
    fn read_at(&self, pos: u64, to: &mut [u8]) -> Io<usize> {
        let pos = FilePos::new(pos).ok_or(Errno::FBIG)?;
        Ok(self.file.read_at(pos, to, IoFlags::empty())?)
    }

    fn next_data(&self, pos: u64, size: u64) -> Io<Option<(u64, u64)>> {
        let seek = |pos: u64, whence| {
            let pos = FilePos::new(pos).ok_or(SeekError::NoSuchRegion)?;
            self.file.seek(pos, whence).map(FilePos::bytes)
        };
        let start = match seek(pos, Whence::Data) {
            Ok(start) if start < size => start,
            Ok(_) | Err(SeekError::NoSuchRegion) => return Ok(None),
            Err(SeekError::Fs(error)) => return Err(error.into()),
        };
        match seek(start, Whence::Hole) {
            Ok(end) => Ok(Some((start, end.min(size)))),
            Err(SeekError::NoSuchRegion) => Ok(Some((start, size))),
            Err(SeekError::Fs(error)) => Err(error.into()),
        }
    }

    fn xattrs(&self) -> Io<Xattrs> {
        xattrs_of(&*self.vfs, self.ino)
    }

    fn inside(&self) -> Option<&dyn OpenFile> {
        Some(&*self.file)
    }
}

fn new_inode(attrs: &Attrs) -> NewInode {
    let (uid, gid) = attrs.owner.unwrap_or_else(crate::verbs::me);
    NewInode {
        mode: attrs.mode,
        uid,
        gid,
    }
}

/// Sets what making the inode did not: everything, or only what `made` leaves open.
fn finish(vfs: &dyn Vfs, ino: Ino, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses> {
    let mut losses = Losses::default();
    for (name, value) in xattrs {
        if let Err(error) = vfs.setxattr(ino, name, value, XattrMode::Any) {
            losses.xattrs.push((name.clone(), error.into()));
        }
    }
    let set = SetAttr {
        mode: attrs.exact_mode.then_some(attrs.mode),
        uid: attrs.owner.map(|owner| owner.0),
        gid: attrs.owner.map(|owner| owner.1),
        size: None,
        atime: attrs.times.map(|times| times.0),
        mtime: attrs.times.map(|times| times.1),
        ctime: None,
    };
    if set != SetAttr::default() {
        vfs.setattr(ino, &set)?;
    }
    Ok(losses)
}

impl TargetDir for ImageDir {
    type File = ImageFile;

    fn stat(&self, name: &[u8]) -> Io<Option<There>> {
        match self.vfs.lookup(self.ino, name) {
            Ok(attr) => Ok(Some(There {
                kind: attr.kind,
                id: (self.number, attr.ino.0),
            })),
            Err(error) if error.errno() == Errno::NOENT => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn mkdir(&self, name: &[u8], attrs: &Attrs) -> Io<Self> {
        let made = self.vfs.mkdir(self.ino, name, &new_inode(attrs))?;
        Ok(self.below(name, made.ino))
    }

    fn open_dir(&self, name: &[u8]) -> Io<Self> {
        if name == b"." {
            return Ok(Self::new(
                &self.vfs,
                self.number,
                self.ino,
                self.place.clone(),
            ));
        }
        let found = self.vfs.lookup(self.ino, name)?;
        if found.kind != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(self.below(name, found.ino))
    }

    fn create(&self, name: &[u8], attrs: &Attrs) -> Io<ImageFile> {
        let made = self
            .vfs
            .mknod(self.ino, name, Special::Regular, &new_inode(attrs))?;
        let file = self.vfs.open(made.ino, OpenFlags::WRITE)?;
        Ok(ImageFile {
            vfs: Arc::clone(&self.vfs),
            ino: made.ino,
            file,
        })
    }

    fn reopen(&self, name: &[u8]) -> Io<ImageFile> {
        let found = self.vfs.lookup(self.ino, name)?;
        let file = self
            .vfs
            .open(found.ino, OpenFlags::WRITE | OpenFlags::TRUNCATE)?;
        Ok(ImageFile {
            vfs: Arc::clone(&self.vfs),
            ino: found.ino,
            file,
        })
    }

    fn symlink(&self, name: &[u8], to: &[u8], attrs: &Attrs) -> Io<()> {
        self.vfs.symlink(self.ino, name, to, &new_inode(attrs))?;
        Ok(())
    }

    fn special(&self, name: &[u8], meta: &Meta, attrs: &Attrs) -> Io<()> {
        let special = match meta.kind {
            FileType::Fifo => Special::Fifo,
            FileType::Socket => Special::Socket,
            FileType::CharDevice => Special::CharDevice(meta.rdev),
            FileType::BlockDevice => Special::BlockDevice(meta.rdev),
            _ => return Err(Errno::INVAL.into()),
        };
        self.vfs.mknod(self.ino, name, special, &new_inode(attrs))?;
        Ok(())
    }

    fn link(&self, name: &[u8], from: &Self, from_name: &[u8]) -> Io<()> {
        let found = from.vfs.lookup(from.ino, from_name)?;
        self.vfs.link(found.ino, self.ino, name)?;
        Ok(())
    }

    fn remove(&self, name: &[u8]) -> Io<()> {
        Ok(self.vfs.unlink(self.ino, name)?)
    }

    fn finish_name(
        &self,
        name: &[u8],
        _kind: FileType,
        attrs: &Attrs,
        xattrs: &Xattrs,
    ) -> Io<Losses> {
        let found = self.vfs.lookup(self.ino, name)?;
        finish(&*self.vfs, found.ino, attrs, xattrs)
    }

    fn is_at_or_below(&self, id: (u64, u64)) -> Io<bool> {
        if self.number != id.0 {
            return Ok(false);
        }
        let (mut at, root) = (self.ino, self.vfs.root());
        // A damaged image may have a circle instead of a way up.
        for _ in 0..=1 << 16 {
            if at.0 == id.1 {
                return Ok(true);
            }
            if at == root {
                return Ok(false);
            }
            at = self.vfs.lookup(at, b"..")?.ino;
        }
        Err(Trouble::new(
            Errno::LOOP,
            "no way up to the root of the image",
        ))
    }

    fn finish(&self, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses> {
        finish(&*self.vfs, self.ino, attrs, xattrs)
    }
}

impl TargetFile for ImageFile {
    fn write_at(&self, mut pos: u64, mut bytes: &[u8]) -> Io<()> {
        while !bytes.is_empty() {
            let at = FilePos::new(pos).ok_or(Errno::FBIG)?;
            let n = self.file.write_at(at, bytes, IoFlags::empty())?;
            if n == 0 {
                return Err(Errno::IO.into());
            }
            bytes = &bytes[n..];
            pos += n as u64;
        }
        Ok(())
    }

    fn set_len(&self, size: u64) -> Io<()> {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.vfs.setattr(self.ino, &set)?;
        Ok(())
    }

    fn finish(&self, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses> {
        finish(&*self.vfs, self.ino, attrs, xattrs)
    }

    fn inside(&self) -> Option<&dyn OpenFile> {
        Some(&*self.file)
    }
}
