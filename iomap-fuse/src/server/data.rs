//! Bytes of files: reading, writing, and where they are.
//!
//! Owns what each call promises beside the bytes themselves: `O_DIRECT` and `O_SYNC` are taken from
//! the flags the open file has at the time of the call. What the kernel writes back from its cache
//! promises nothing.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::seek::Whence;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Attr, IoFlags, OpenFile, SetAttr};

use super::Shared;
use super::access::sets_access_time;
use super::interrupt::Interruptible;
use crate::convert;
use crate::options::CachePolicy;
use crate::wire::{Caller, FileHandle, WriteFlags};

/// The most one `copy_file_range` copies before it answers.
const COPY_MAX: u64 = 256 << 20;
/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;
/// The sticky bit.
const S_ISVTX: u16 = 0o1000;
/// Set-group-id, and the right to execute that makes it one.
const S_ISGID: u16 = 0o2000;
const S_IXGRP: u16 = 0o010;
/// Bytes copied at once where storage cannot be shared.
const COPY_CHUNK: u64 = 1 << 20;

fn position(offset: u64) -> Result<FilePos> {
    FilePos::new(offset).ok_or(FsError::TooBig)
}

impl Shared {
    /// Reads into `buffer`, which is aligned as direct I/O wants it.
    pub(super) fn read(
        &self,
        fh: FileHandle,
        offset: u64,
        buffer: &mut [u8],
        flags: i32,
    ) -> Result<usize> {
        let file = self.handles.get(fh)?;
        let how = convert::io_flags(flags) & IoFlags::DIRECT;
        let read = file.read_at(position(offset)?, buffer, how)?;
        if sets_access_time(flags) {
            self.accessed(file.ino());
        }
        Ok(read)
    }

    /// Writes `data`, which is aligned as direct I/O wants it.
    pub(super) fn write(
        &self,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        flags: i32,
    ) -> Result<u32> {
        let file = self.handles.get(fh)?;
        let pos = position(offset)?;
        let flags = if how.contains(WriteFlags::CACHE) {
            IoFlags::empty()
        } else {
            convert::io_flags(flags)
        };
        // The kernel leaves set-id bits to the write, and does not look at the mode after it.
        let drops_set_id = how.contains(WriteFlags::KILL_SUIDGID)
            && self
                .fs()
                .getattr(file.ino())
                .is_ok_and(|attr| attr.mode & SET_ID != 0);
        let written = file.write_at(pos, data, flags)?;
        if drops_set_id {
            self.attributes_changed(file.ino());
        }
        // No larger than the request.
        Ok(written as u32)
    }

    pub(super) fn fallocate(
        &self,
        fh: FileHandle,
        range: (u64, u64),
        mode: i32,
        caller: Caller,
    ) -> Result<()> {
        let mode = convert::fallocate_mode(mode).ok_or(FsError::Unsupported("fallocate mode"))?;
        let range = FileRange::at(position(range.0)?, range.1).ok_or(FsError::TooBig)?;
        let file = self.handles.get(fh)?;
        let before = self.fs().getattr(file.ino())?;
        file.fallocate(mode, range)?;
        self.settle_set_id(&before, caller)
    }

    /// Drops or keeps set-id bits after a change of a file that had the attributes `before`: root
    /// keeps them, whoever is of the file's group a set-group-id bit without group execution. The
    /// kernel does not look at the mode after `fallocate`, and the file system does not know who
    /// asks. Further groups of the caller are not known here: the bit may go where it could stay.
    fn settle_set_id(&self, before: &Attr, caller: Caller) -> Result<()> {
        if before.mode & SET_ID == 0 {
            return Ok(());
        }
        let idle = before.mode & (S_ISGID | S_IXGRP) == S_ISGID;
        let keeps = match caller.uid {
            0 => SET_ID,
            _ if idle && caller.gid == before.gid => S_ISGID,
            _ => 0,
        };
        let mode = before.mode & (0o777 | S_ISVTX | keeps);
        if self.fs().getattr(before.ino)?.mode & 0o7777 != mode {
            let set = SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
            self.fs().setattr(before.ino, &set)?;
        }
        self.attributes_changed(before.ino);
        Ok(())
    }

    /// Where data or a hole is. With a kernel that writes back only it knows what is data, and it
    /// asks without writing first: told `ENOSYS` once, it answers itself, with no holes.
    pub(super) fn lseek(&self, fh: FileHandle, offset: u64, whence: i32) -> Result<u64> {
        if self.cache == CachePolicy::Kernel {
            return Err(Errno::NOSYS.into());
        }
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            // Everything else the kernel does by itself.
            _ => return Err(Errno::INVAL.into()),
        };
        let pos = FilePos::new(offset).ok_or(Errno::NXIO)?;
        let found = self.handles.get(fh)?.seek(pos, whence);
        Ok(found.map_err(|error| error.errno())?.bytes())
    }

    /// Copies up to `len` bytes, fewer if it is interrupted. Whole blocks share their storage where the
    /// file system can.
    pub(super) fn copy_range(
        &self,
        (fh_in, offset_in): (FileHandle, u64),
        (fh_out, offset_out): (FileHandle, u64),
        len: u64,
        under_way: &Interruptible<'_>,
    ) -> Result<u32> {
        let (from, to) = (self.handles.get(fh_in)?, self.handles.get(fh_out)?);
        let (start, at) = (position(offset_in)?, position(offset_out)?);
        let size = self.fs().getattr(from.ino())?.size;
        let len = len.min(COPY_MAX).min(size.saturating_sub(offset_in));
        let range = FileRange::at(start, len).ok_or(FsError::TooBig)?;
        if range.is_empty() {
            return Ok(0);
        }
        let shared = match from.clone_range(self.shareable(&*from, range, size)?, &*to, at) {
            Ok(()) => self.shareable(&*from, range, size)?.len(),
            Err(_) => 0,
        };
        let copied = if shared > 0 {
            Ok(shared)
        } else {
            copy_bytes((&*from, range), (&*to, at), under_way)
        };
        // At most COPY_MAX.
        copied.map(|copied| copied as u32)
    }

    /// The part of `range` from its start on that storage can be shared of, by whole blocks.
    fn shareable(&self, from: &dyn OpenFile, range: FileRange, size: u64) -> Result<FileRange> {
        let block = u64::from(self.fs().getattr(from.ino())?.block_size).max(1);
        if range.end().bytes() >= size {
            return Ok(range);
        }
        Ok(range.take(range.len() / block * block))
    }
}

/// Copies bytes. An error only if none was copied.
fn copy_bytes(
    (from, range): (&dyn OpenFile, FileRange),
    (to, at): (&dyn OpenFile, FilePos),
    under_way: &Interruptible<'_>,
) -> Result<u64> {
    // No more than the chunk.
    let mut buffer = vec![0; COPY_CHUNK.min(range.len()) as usize];
    let mut copied = 0;
    while copied < range.len() {
        if under_way.is_interrupted() {
            return match copied {
                0 => Err(Errno::INTR.into()),
                _ => Ok(copied),
            };
        }
        let chunk = &mut buffer[..COPY_CHUNK.min(range.len() - copied) as usize];
        let start = range.start().saturating_add(copied);
        let step = from
            .read_at(start, chunk, IoFlags::empty())
            .and_then(|read| {
                to.write_at(at.saturating_add(copied), &chunk[..read], IoFlags::empty())
            });
        match step {
            Ok(0) => break,
            Ok(done) => copied += done as u64,
            Err(error) if copied == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(copied)
}
