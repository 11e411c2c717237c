//! What a workload does, one operation after the other, and doing it to a file system.
//!
//! Owns [`Op`] and [`Side`]. What an operation promises about a crash is
//! [`history`](super::history)'s.

use std::fmt;
use std::sync::Arc;

use iomap_core::error::{Errno, Result};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{
    Fallocate, Ino, IoFlags, NewInode, OpenFile, OpenFlags, RenameMode, SetAttr, Special, Vfs,
    XattrMode,
};

use super::history::content_of;

/// A path from the root, without a slash at the start. `@` stands for the file held open.
pub type Path = &'static str;

/// The file that [`Op::Hold`] keeps open.
pub const HELD: Path = "@";

/// An operation of a workload. Positions and lengths are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes an empty file.
    Create(Path),
    /// Makes a directory.
    Mkdir(Path),
    /// Makes a symbolic link with a target of this many bytes.
    Symlink(Path, u16),
    /// Gives a file a second name.
    Link(Path, Path),
    /// Renames.
    Rename(Path, Path, RenameMode),
    /// Removes a name.
    Unlink(Path),
    /// Removes a directory.
    Rmdir(Path),
    /// Writes so many bytes at a position.
    Write(Path, u64, u64, IoFlags),
    /// Writes so many bytes at the end.
    Append(Path, u64, IoFlags),
    /// Sets the size.
    Truncate(Path, u64),
    /// Changes the storage of so many bytes at a position.
    Fallocate(Path, Fallocate, u64, u64),
    /// Shares so many bytes at a position of the first file with the second one, at a position.
    Clone(Path, u64, u64, Path, u64),
    /// Sets an extended attribute of this name to so many bytes.
    SetXattr(Path, &'static str, u16),
    /// Removes an extended attribute.
    RemoveXattr(Path, &'static str),
    /// Keeps a file open until the end.
    Hold(Path),
    /// Closes the file that was kept open.
    Release,
    /// Starts writing a file, or writes it, without any promise.
    Writeback(Path, bool),
    /// `fsync` of a file.
    Fsync(Path),
    /// `fdatasync` of a file.
    Fdatasync(Path),
    /// `fsync` of a directory.
    FsyncDir(Path),
    /// `sync`.
    Sync,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(path, pos, len, flags) => {
                write!(f, "write {path} {pos}+{len}{}", Flags(*flags))
            }
            Self::Append(path, len, flags) => write!(f, "append {path} {len}{}", Flags(*flags)),
            Self::Truncate(path, size) => write!(f, "truncate {path} {size}"),
            Self::Fallocate(path, mode, pos, len) => write!(f, "{mode:?} {path} {pos}+{len}"),
            Self::Clone(from, pos, len, to, at) => {
                write!(f, "clone {from} {pos}+{len} to {to} {at}")
            }
            Self::Rename(from, to, RenameMode::Replace) => write!(f, "rename {from} {to}"),
            Self::Rename(from, to, mode) => write!(f, "rename {from} {to} {mode:?}"),
            Self::Link(from, to) => write!(f, "link {from} {to}"),
            other => {
                let text = format!("{other:?}").to_lowercase();
                f.write_str(
                    &text
                        .replace(['(', ')', ',', '"'], " ")
                        .trim_end()
                        .replace("  ", " "),
                )
            }
        }
    }
}

struct Flags(IoFlags);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, _) in self.0.iter_names() {
            write!(f, " {}", name.to_lowercase())?;
        }
        Ok(())
    }
}

/// The byte that operation `n` of a workload writes at `pos`: never zero, and below the bytes of
/// [`poison`].
#[must_use]
pub fn byte(n: usize, pos: u64) -> u8 {
    let mixed = (n as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(pos)
        .wrapping_mul(0xd1b5_4a32_d192_ed03);
    (mixed >> 57) as u8 % 127 + 1
}

/// The byte a device is full of before a file system is made, by block of 512 bytes.
#[must_use]
pub const fn poison(sector: usize) -> u8 {
    0x80 | (sector % 128) as u8
}

/// The bytes operation `n` writes at `pos`.
fn bytes(n: usize, pos: u64, len: u64) -> Vec<u8> {
    (pos..pos + len).map(|pos| byte(n, pos)).collect()
}

/// A file system that operations are done to, and the file it holds open.
pub struct Side {
    /// The file system.
    pub fs: Arc<dyn Vfs>,
    held: Option<Arc<dyn OpenFile>>,
}

const NEW: NewInode = NewInode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

impl Side {
    /// Nothing held open.
    #[must_use]
    pub const fn new(fs: Arc<dyn Vfs>) -> Self {
        Self { fs, held: None }
    }

    /// The file held open.
    #[must_use]
    pub fn held(&self) -> Option<Ino> {
        self.held.as_ref().map(|file| file.ino())
    }

    /// What is in the file held open.
    ///
    /// # Errors
    ///
    /// What reading it gives.
    pub fn held_content(&self) -> Result<Option<Vec<u8>>> {
        let Some(file) = &self.held else {
            return Ok(None);
        };
        let size = self.fs.getattr(file.ino())?.size;
        content_of(&**file, size).map(Some)
    }

    /// The inode at a path.
    ///
    /// # Errors
    ///
    /// What looking it up gives.
    pub fn ino(&self, path: Path) -> Result<Ino> {
        if path == HELD {
            return self.held().ok_or(Errno::BADF.into());
        }
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(self.fs.root(), |dir, name| {
            Ok(self.fs.lookup(dir, name.as_bytes())?.ino)
        })
    }

    fn parent(&self, path: Path) -> Result<(Ino, &'static [u8])> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.ino(dir)?, name.as_bytes()))
    }

    fn open(&self, path: Path) -> Result<Arc<dyn OpenFile>> {
        match &self.held {
            Some(held) if path == HELD => Ok(Arc::clone(held)),
            _ => self.fs.open(self.ino(path)?, RW),
        }
    }

    /// Does operation `n` of a workload.
    ///
    /// # Errors
    ///
    /// What the file system answers.
    pub fn run(&mut self, n: usize, op: Op) -> Result<()> {
        match op {
            Op::Hold(path) => self.held = Some(self.open(path)?),
            Op::Release => drop(self.held.take()),
            _ => self.run_name(n, op)?,
        }
        Ok(())
    }

    fn run_name(&self, n: usize, op: Op) -> Result<()> {
        let fs = &self.fs;
        match op {
            Op::Create(path) => {
                let (dir, name) = self.parent(path)?;
                fs.mknod(dir, name, Special::Regular, &NEW).map(drop)
            }
            Op::Mkdir(path) => {
                let (dir, name) = self.parent(path)?;
                fs.mkdir(dir, name, &NEW).map(drop)
            }
            Op::Symlink(path, len) => {
                let (dir, name) = self.parent(path)?;
                let target = bytes(n, 0, len.into());
                fs.symlink(dir, name, &target, &NEW).map(drop)
            }
            Op::Link(from, to) => {
                let (dir, name) = self.parent(to)?;
                fs.link(self.ino(from)?, dir, name).map(drop)
            }
            Op::Rename(from, to, mode) => {
                let ((dir, name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
                fs.rename(dir, name, to_dir, to_name, mode)
            }
            Op::Unlink(path) => {
                let (dir, name) = self.parent(path)?;
                fs.unlink(dir, name)
            }
            Op::Rmdir(path) => {
                let (dir, name) = self.parent(path)?;
                fs.rmdir(dir, name)
            }
            Op::SetXattr(path, name, len) => {
                let value = bytes(n, 0, len.into());
                fs.setxattr(self.ino(path)?, name.as_bytes(), &value, XattrMode::Any)
            }
            Op::RemoveXattr(path, name) => fs.removexattr(self.ino(path)?, name.as_bytes()),
            Op::Truncate(path, size) => {
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                fs.setattr(self.ino(path)?, &set).map(drop)
            }
            Op::FsyncDir(path) => fs.fsync_inode(self.ino(path)?, false),
            Op::Sync => fs.sync(),
            _ => self.run_data(n, op),
        }
    }

    fn run_data(&self, n: usize, op: Op) -> Result<()> {
        match op {
            Op::Write(path, pos, len, flags) => write(&*self.open(path)?, n, pos, len, flags),
            Op::Append(path, len, flags) => {
                let pos = self.fs.getattr(self.ino(path)?)?.size;
                write(&*self.open(path)?, n, pos, len, flags)
            }
            Op::Fallocate(path, mode, pos, len) => {
                self.open(path)?.fallocate(mode, range(pos, len))
            }
            Op::Clone(from, pos, len, to, at) => {
                let (from, to) = (self.open(from)?, self.open(to)?);
                from.clone_range(range(pos, len), &*to, FilePos::saturating(at))
            }
            Op::Writeback(path, wait) => self.open(path)?.sync_range(range(0, 1 << 40), wait),
            Op::Fsync(path) => self.open(path)?.fsync(false),
            Op::Fdatasync(path) => self.open(path)?.fsync(true),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side")
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

fn range(pos: u64, len: u64) -> FileRange {
    FileRange::at_most(FilePos::saturating(pos), len)
}

fn write(file: &dyn OpenFile, n: usize, pos: u64, len: u64, flags: IoFlags) -> Result<()> {
    let bytes = bytes(n, pos, len);
    let mut done = 0;
    while done < bytes.len() {
        let at = FilePos::saturating(pos + done as u64);
        match file.write_at(at, &bytes[done..], flags)? {
            0 => return Err(Errno::IO.into()),
            more => done += more,
        }
    }
    Ok(())
}
