//! Writes, and what their answers say about the file.

use std::sync::Arc;

use iomap_core::error::{Errno, FsError};
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile};

use super::content::Reshape;
use super::data::{Call, buffer, misaligned};
use super::file::Handle;
use super::op::FILE_SPAN;
use super::stamp;
use super::world::Fail;
use crate::aligned::Aligned;

/// Files are not grown beyond this by appending and inserting.
pub(super) const GROWN: u64 = 4 * FILE_SPAN;

/// The smallest transfer of a device: direct I/O that is not aligned to it is refused, or goes
/// through the cache.
const SECTOR: u64 = 4096;

/// A write under way.
struct Write {
    handle: Arc<dyn OpenFile>,
    which: Handle,
    flags: IoFlags,
    pos: u64,
    data: Arc<[u8]>,
}

impl Write {
    fn end(&self) -> u64 {
        self.pos + self.data.len() as u64
    }
}

impl Call<'_> {
    /// Writes at a position, or at the end.
    pub(super) fn write(self, pos: Option<u64>, len: u32, flags: IoFlags) -> Result<(), Fail> {
        let content = &self.file.content;
        let layout = content.shared();
        if let Some(pos) = pos
            && pos + u64::from(len) <= content.state().bytes.size()
        {
            let _range = content.hold(layout, (pos, pos + u64::from(len)), true);
            return match self.prepare(pos, len, flags)? {
                Some(write) => self.write_inside(&write),
                None => Ok(()),
            };
        }
        drop(layout);
        let _layout = content.exclusive();
        let size = content.state().bytes.size();
        let (at, ask, flags) = match pos {
            Some(pos) => (pos, pos, flags),
            None if size > GROWN => return Ok(()),
            // An append must not look at the position.
            None => (size, self.tag % 7 * 4096, flags | IoFlags::APPEND),
        };
        match self.prepare(at, len, flags)? {
            Some(write) => self.write_growing(&write, ask, size),
            None => Ok(()),
        }
    }

    /// The open file and the bytes. The caller has the layout, so that the file is not closed.
    fn prepare(&self, pos: u64, len: u32, flags: IoFlags) -> Result<Option<Write>, Fail> {
        let Some((handle, which)) = self.handle_for(flags)? else {
            return Ok(None);
        };
        Ok(Some(Write {
            handle,
            which,
            flags,
            pos,
            data: Arc::from(&*self.stamped(pos, len).bytes()),
        }))
    }

    pub(super) fn stamped(&self, pos: u64, len: u32) -> Aligned {
        let mut buffer = buffer(len as usize);
        stamp::fill(self.tag, pos, buffer.bytes(), self.world.faulty);
        buffer
    }

    /// The call, with memory as direct I/O needs it.
    fn do_write(write: &Write, ask: u64) -> Result<usize, FsError> {
        let mut buffer = buffer(write.data.len());
        buffer.bytes().copy_from_slice(&write.data);
        let pos = FilePos::saturating(ask);
        write.handle.write_at(pos, buffer.bytes(), write.flags)
    }

    /// A write inside the file: others may read and write beside it.
    fn write_inside(&self, write: &Write) -> Result<(), Fail> {
        let content = &self.file.content;
        let id = content.begin_write(write.pos, &write.data);
        let result = Self::do_write(write, write.pos);
        content.end_write(id, *result.as_ref().unwrap_or(&0));
        self.wrote(result, write)
    }

    /// A write that may move the size. The caller has the layout exclusively.
    fn write_growing(&self, write: &Write, ask: u64, size: u64) -> Result<(), Fail> {
        let content = &self.file.content;
        let (at, end) = (write.pos, write.end());
        content.begin_reshape(Reshape {
            size: size.max(end),
            later: Some((at, Arc::clone(&write.data))),
        });
        let result = Self::do_write(write, ask);
        let done = *result.as_ref().unwrap_or(&0);
        let whole = done == write.data.len();
        content.end_reshape(|bytes, doubt| {
            let taken = &write.data[..done.min(write.data.len())];
            bytes.write(at, taken);
            if let Some(doubt) = doubt {
                doubt.written(at, taken);
            }
        });
        self.wrote(result, write)?;
        let least = content.state().bytes.size();
        // What could not be written directly goes through the cache: should it not reach the device
        // then, it was not written, yet it is in the file.
        let more = if whole || !self.world.faulty {
            least..=least
        } else {
            size.max(at + done as u64)..=size.max(end)
        };
        self.check_size("write", &[least..=least, more]).map(|_| ())
    }

    /// Judges the answer of a write.
    fn wrote(&self, result: Result<usize, FsError>, write: &Write) -> Result<(), Fail> {
        let (len, flags) = (write.data.len(), write.flags);
        let direct = flags.contains(IoFlags::DIRECT);
        match result {
            Ok(n) if n == len => Ok(()),
            Ok(n) if n > len || n == 0 => Err(self.file.fail(format!("wrote {n} of {len} bytes"))),
            Ok(n) => {
                self.answered(format_args!("wrote {n}"));
                self.doubt(|doubt| doubt.may_show(write.pos + n as u64, &write.data[n..]));
                // Short: only where it may be.
                let may = flags.contains(IoFlags::NOWAIT) || direct || self.world.faulty;
                if may || self.vfs.statfs().is_ok_and(|s| s.blocks_available < 4096) {
                    return Ok(());
                }
                Err(self.file.fail(format!("wrote {n} of {len} bytes")))
            }
            Err(FsError::WouldBlock) if flags.contains(IoFlags::NOWAIT) => Ok(()),
            Err(e)
                if e.errno() == Errno::INVAL
                    && direct
                    && misaligned(write.pos, len as u64, SECTOR) =>
            {
                Ok(())
            }
            Err(error) => {
                self.doubt(|doubt| doubt.may_show(write.pos, &write.data));
                if flags.intersects(IoFlags::DSYNC | IoFlags::SYNC) {
                    self.reported_by(write.which);
                }
                self.excuse(&error, "write")
            }
        }
    }
}
