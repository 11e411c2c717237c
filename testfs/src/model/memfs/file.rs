//! An open file of the reference file system.
//!
//! Owns the argument checks of the data operations; what they mean is
//! [`FileBytes`](crate::model::FileBytes).

use std::any::Any;
use std::sync::Arc;

use iomap_core::error::{Errno, FsError, Result, SeekError};
use iomap_core::fiemap::{Extent, ExtentFlags};
use iomap_core::seek::Whence;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Fallocate, Ino, IoFlags, OpenFile, OpenFlags};
use parking_lot::Mutex;

use super::BLOCK;
use super::tree::{SIZE_MAX, STORED_MAX, Tree, os};

/// An open file.
pub(super) struct MemFile {
    tree: Arc<Mutex<Tree>>,
    ino: Ino,
    flags: OpenFlags,
}

impl MemFile {
    pub(super) fn new(tree: &Arc<Mutex<Tree>>, ino: Ino, flags: OpenFlags) -> Self {
        Self {
            tree: Arc::clone(tree),
            ino,
            flags,
        }
    }

    fn may(&self, flag: OpenFlags) -> Result<()> {
        if self.flags.contains(flag) {
            Ok(())
        } else {
            Err(os(Errno::BADF))
        }
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        self.tree.lock().closed(self.ino);
    }
}

impl OpenFile for MemFile {
    fn ino(&self) -> Ino {
        self.ino
    }

    fn read_at(&self, pos: FilePos, to: &mut [u8], _flags: IoFlags) -> Result<usize> {
        self.may(OpenFlags::READ)?;
        Ok(self.tree.lock().file(self.ino)?.read(pos.bytes(), to))
    }

    fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        self.may(OpenFlags::WRITE)?;
        let mut tree = self.tree.lock();
        let bytes = tree.file_mut(self.ino)?;
        let append = flags.contains(IoFlags::APPEND) || self.flags.contains(OpenFlags::APPEND);
        let pos = if append { bytes.size() } else { pos.bytes() };
        if pos.saturating_add(from.len() as u64) > STORED_MAX {
            return Err(FsError::TooBig);
        }
        bytes.write(pos, from);
        tree.changed(self.ino);
        Ok(from.len())
    }

    fn fsync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn sync_range(&self, _range: FileRange, _wait: bool) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, mode: Fallocate, range: FileRange) -> Result<()> {
        self.may(OpenFlags::WRITE)?;
        if range.is_empty() {
            return Err(FsError::Invalid("empty range"));
        }
        let (pos, len, end) = (range.start().bytes(), range.len(), range.end().bytes());
        let mut tree = self.tree.lock();
        let bytes = tree.file_mut(self.ino)?;
        let shifts = matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange);
        if shifts && (pos % BLOCK != 0 || len % BLOCK != 0) {
            return Err(FsError::Invalid("not block aligned"));
        }
        if end > SIZE_MAX {
            return Err(FsError::TooBig);
        }
        match mode {
            Fallocate::Allocate => bytes.set_size(bytes.size().max(end)),
            Fallocate::AllocateKeepSize | Fallocate::UnshareRange => {}
            Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize => bytes.zero(pos, len),
            Fallocate::ZeroRange => {
                bytes.zero(pos, len);
                bytes.set_size(bytes.size().max(end));
            }
            Fallocate::CollapseRange if end < bytes.size() => bytes.collapse(pos, len),
            Fallocate::InsertRange if pos < bytes.size() => {
                if bytes.size() + len > SIZE_MAX {
                    return Err(FsError::TooBig);
                }
                bytes.insert(pos, len);
            }
            Fallocate::CollapseRange | Fallocate::InsertRange => {
                return Err(FsError::Invalid("not inside the file"));
            }
        }
        tree.changed(self.ino);
        Ok(())
    }

    fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError> {
        let tree = self.tree.lock();
        let bytes = tree.file(self.ino)?;
        if pos.bytes() >= bytes.size() {
            return Err(SeekError::NoSuchRegion);
        }
        let next = bytes.next_nonzero(pos.bytes()).map(FilePos::saturating);
        match whence {
            Whence::Data => next.ok_or(SeekError::NoSuchRegion),
            Whence::Hole if next == Some(pos) => Ok(FilePos::saturating(bytes.size())),
            Whence::Hole => Ok(pos),
        }
    }

    fn fiemap(&self, range: FileRange, _sync: bool) -> Result<Vec<Extent>> {
        let tree = self.tree.lock();
        let bytes = tree.file(self.ino)?;
        let file = FileRange::at_most(FilePos::ZERO, bytes.size());
        let range = file.intersect(range);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Extent {
            range,
            physical: None,
            flags: ExtentFlags::UNKNOWN | ExtentFlags::LAST,
        }])
    }

    fn clone_range(&self, range: FileRange, to: &dyn OpenFile, at: FilePos) -> Result<()> {
        let Some(to) = to.as_any().downcast_ref::<Self>() else {
            return Err(os(Errno::XDEV));
        };
        to.may(OpenFlags::WRITE)?;
        let mut tree = self.tree.lock();
        let from = tree.file(self.ino)?;
        let target = FileRange::at(at, range.len()).ok_or(FsError::TooBig)?;
        let to_size = tree.file(to.ino)?.size();
        // Part of a block only where both files end in it.
        let whole = range.end().bytes().is_multiple_of(BLOCK);
        let last = range.end().bytes() == from.size() && target.end().bytes() >= to_size;
        if !range.start().bytes().is_multiple_of(BLOCK)
            || !at.bytes().is_multiple_of(BLOCK)
            || !(whole || last)
        {
            return Err(FsError::Invalid("not block aligned"));
        }
        if range.end().bytes() > from.size() {
            return Err(FsError::Invalid("not inside the file"));
        }
        let copy = from.slice(range.start().bytes(), range.len());
        if self.ino == to.ino && target.overlaps(range) {
            return Err(FsError::Invalid("the ranges overlap"));
        }
        tree.file_mut(to.ino)?.write(at.bytes(), &copy);
        tree.changed(to.ino);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
