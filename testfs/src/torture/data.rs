//! Operations on the content of a file, with every answer checked.
//!
//! Owns an operation under way ([`Call`]), syncing and closing, and the size. The others stand
//! beside: [`writes`](super::writes), [`reads`](super::reads), [`mapped`](super::mapped),
//! [`reshape`](super::reshape), [`regions`]. How concurrent operations are kept apart is
//! [`content`](super::content).

use std::ops::RangeInclusive;
use std::sync::Arc;

use iomap_core::error::{Errno, FsError};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Attr, IoFlags, OpenFile, Vfs};

use super::content::State;
use super::doubt::Doubt;
use super::file::{Handle, TestFile};
use super::op::DataOp;
use super::regions;
use super::stamp::Tag;
use super::world::{Fail, World, patiently};
use crate::aligned::Aligned;

/// One operation under way.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What the threads share.
    pub world: &'a World,
    /// The file system under test.
    pub vfs: &'a dyn Vfs,
    /// The file.
    pub file: &'a TestFile,
    /// Who and which.
    pub tag: Tag,
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// What memory for a read holds before it: no value that torture writes with a failing device.
const UNREAD: u8 = 0x5a;

/// Memory for a read or write.
pub(super) fn buffer(len: usize) -> Aligned {
    Aligned::new(len, UNREAD)
}

/// An open file, and which of a file's it is.
pub(super) type Opened = (Arc<dyn OpenFile>, Handle);

pub(super) fn range(pos: u64, len: u64) -> FileRange {
    FileRange::at_most(FilePos::saturating(pos), len)
}

/// Does one operation.
///
/// # Errors
///
/// What is wrong with the answer.
pub fn apply<'a>(call: Call<'a>, op: &DataOp, other: Option<&'a TestFile>) -> Result<(), Fail> {
    call.note(op);
    match *op {
        DataOp::Write { pos, len, flags } => call.write(Some(pos), len, flags),
        DataOp::Append { len, flags } => call.write(None, len, flags),
        DataOp::Read { pos, len, flags } => call.read(pos, len, flags),
        DataOp::RacyRead { pos, len, flags } => call.racy_read(pos, len, flags),
        DataOp::Store { pos, len } => call.store(pos, len),
        DataOp::Load { pos, len } => call.load(pos, len),
        DataOp::RacyLoad { pos, len } => call.racy_load(pos, len),
        DataOp::PinnedStore { pos, len } => call.pinned_store(pos, len),
        DataOp::PinnedLoad { pos } => call.pinned_load(pos),
        DataOp::Fsync { data_only } => call.fsync(data_only),
        DataOp::SyncRange { pos, len, wait } => call.sync_range(range(pos, len), wait),
        DataOp::Truncate { size } => call.truncate(size),
        DataOp::Fallocate { mode, pos, len } => call.fallocate(mode, pos, len),
        DataOp::Clone { pos, len, at, .. } => match other {
            Some(other) => {
                Call {
                    file: other,
                    ..call
                }
                .note(op);
                call.clone_range(other, pos, len, at)
            }
            None => Ok(()),
        },
        DataOp::Seek { pos, whence } => regions::seek(call, pos, whence),
        DataOp::Fiemap { pos, len, sync } => regions::fiemap(call, pos, len, sync),
        DataOp::Close => {
            call.close();
            Ok(())
        }
    }
}

/// Whether a call at these bytes may be refused as not aligned to blocks.
pub(super) const fn misaligned(pos: u64, len: u64, block: u64) -> bool {
    !pos.is_multiple_of(block) || !len.is_multiple_of(block)
}

impl Call<'_> {
    fn note(&self, op: &DataOp) {
        let mut state = self.file.content.state();
        let size = state.bytes.size();
        let tag = self.tag - 1;
        state.note(format!(
            "[{}:{}] size {size}: {op:?}",
            tag >> 32,
            tag & 0xffff_ffff
        ));
    }

    /// Adds to the last note what came of it.
    pub(super) fn answered(&self, answer: std::fmt::Arguments<'_>) {
        let tag = self.tag - 1;
        let mut state = self.file.content.state();
        state.note(format!(
            "[{}:{}]   -> {answer}",
            tag >> 32,
            tag & 0xffff_ffff
        ));
    }

    /// The open file whose syncs are looked at, or `None` if opening failed as it may.
    pub(super) fn handle(&self) -> Result<Option<Arc<dyn OpenFile>>, Fail> {
        self.open(Handle::Plain)
    }

    /// The open file to use for these flags.
    pub(super) fn handle_for(&self, flags: IoFlags) -> Result<Option<Opened>, Fail> {
        let which = if flags.contains(IoFlags::DIRECT) && self.tag.is_multiple_of(2) {
            Handle::Direct
        } else {
            Handle::Plain
        };
        Ok(self.open(which)?.map(|handle| (handle, which)))
    }

    fn open(&self, which: Handle) -> Result<Option<Arc<dyn OpenFile>>, Fail> {
        let gone = |error: &FsError| error.errno() == Errno::NOENT;
        let known = || self.world.known_file(self.file.model).is_some();
        let opened = patiently(
            || self.file.handle(self.vfs, which),
            // Its last name is just going: then it is forgotten soon.
            |answer| answer.as_ref().err().is_none_or(|e| !gone(e) || !known()),
        );
        match opened {
            Ok(handle) => Ok(Some(handle)),
            Err(error) if gone(&error) && !known() => Ok(None),
            Err(error) => self.excuse(&error, "open").map(|()| None),
        }
    }

    /// Accepts an error that may happen.
    pub(super) fn excuse(&self, error: &FsError, what: &str) -> Result<(), Fail> {
        if self.world.tolerates(error) {
            self.answered(format_args!("{what}: {error}"));
            return Ok(());
        }
        Err(self.file.fail(format!("{what}: {error}")))
    }

    /// Tells the record of what a failing device leaves open.
    pub(super) fn doubt(&self, tell: impl FnOnce(&mut Doubt)) {
        if let Some(doubt) = &mut self.file.content.state().doubt {
            tell(doubt);
        }
    }

    /// A sync of this open file reported an error.
    pub(super) fn reported_by(&self, which: Handle) {
        self.doubt(|doubt| match which {
            Handle::Plain => doubt.reported(),
            Handle::Direct => doubt.told_elsewhere(),
        });
    }

    /// Makes the file durable. With failing devices nobody writes meanwhile, so that a clean answer
    /// settles what is there.
    fn fsync(self, data_only: bool) -> Result<(), Fail> {
        let content = &self.file.content;
        let _layout = self.world.faulty.then(|| content.exclusive());
        let Some(handle) = self.handle()? else {
            return Ok(());
        };
        match handle.fsync(data_only) {
            Err(error) => {
                self.reported_by(Handle::Plain);
                self.excuse(&error, "fsync")
            }
            Ok(()) => {
                let mut state = content.state();
                let State { doubt, bytes, .. } = &mut *state;
                let settled = doubt.as_mut().map_or(Ok(()), |d| d.synced(bytes));
                drop(state);
                settled.map_err(|what| self.file.fail(what))
            }
        }
    }

    fn sync_range(self, range: FileRange, wait: bool) -> Result<(), Fail> {
        let content = &self.file.content;
        let _layout = self.world.faulty.then(|| content.exclusive());
        let Some(handle) = self.handle()? else {
            return Ok(());
        };
        match handle.sync_range(range, wait) {
            Err(error) => {
                if wait {
                    self.reported_by(Handle::Plain);
                }
                self.excuse(&error, "sync_range")
            }
            Ok(()) => Ok(()),
        }
    }

    /// Closes the file, for all threads: whoever needs it opens it again.
    fn close(&self) {
        let _layout = self.file.content.exclusive();
        self.file.close();
        self.doubt(Doubt::closed);
    }

    /// The attributes; asked for again while the device fails.
    pub(super) fn attr(&self) -> Result<Attr, Fail> {
        let attr = patiently(|| self.vfs.getattr(self.file.real), Result::is_ok);
        attr.map_err(|error| self.file.fail(format!("getattr: {error}")))
    }

    /// Compares the size with those it may have, and takes it over. The caller excludes changes of
    /// it.
    pub(super) fn check_size(
        &self,
        after: &str,
        allowed: &[RangeInclusive<u64>],
    ) -> Result<u64, Fail> {
        let real = self.attr()?.size;
        if !allowed.iter().any(|sizes| sizes.contains(&real)) {
            return Err(self.file.fail(format!(
                "size after {after} is {real}, expected one of {allowed:?}"
            )));
        }
        self.file.content.state().bytes.set_size(real);
        Ok(real)
    }
}
