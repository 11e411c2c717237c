//! Operations on the content of a file, with every answer checked.
//!
//! Owns what each operation must answer and what becomes of the expected content. How concurrent
//! operations are kept apart is [`content`](super::content).

use std::sync::Arc;

use iomap_core::error::{Errno, FsError};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, SetAttr, Vfs};

use super::content::{Reshape, State};
use super::op::{DataOp, FILE_SPAN};
use super::regions;
use super::stamp::{self, Tag};
use super::world::{Fail, TestFile, World};
use crate::model::FileBytes;

/// Files are not grown beyond this by appending and inserting.
const GROWN: u64 = 4 * FILE_SPAN;

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

/// Memory aligned for direct I/O.
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub(super) fn new(len: usize) -> Self {
        let memory = vec![0x5a; len + 4096];
        let start = memory.as_ptr().align_offset(4096).min(4096);
        Self { memory, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

fn range(pos: u64, len: u64) -> FileRange {
    FileRange::at_most(FilePos::saturating(pos), len)
}

/// Does one operation.
///
/// # Errors
///
/// What is wrong with the answer.
pub fn apply<'a>(call: Call<'a>, op: &DataOp, other: Option<&'a TestFile>) -> Result<(), Fail> {
    note(call, op);
    match *op {
        DataOp::Write { pos, len, flags } => call.write(Some(pos), len, flags),
        DataOp::Append { len, flags } => call.write(None, len, flags),
        DataOp::Read { pos, len, flags } => call.read(pos, len, flags),
        DataOp::RacyRead { pos, len, flags } => call.racy_read(pos, len, flags),
        DataOp::Fsync { data_only } => call.sync(|handle| handle.fsync(data_only), true),
        DataOp::SyncRange { pos, len, wait } => {
            call.sync(|handle| handle.sync_range(range(pos, len), wait), false)
        }
        DataOp::Truncate { size } => call.truncate(size),
        DataOp::Fallocate { mode, pos, len } => call.fallocate(mode, pos, len),
        DataOp::Clone { pos, len, at, .. } => match other {
            Some(other) => call.clone_range(other, pos, len, at),
            None => Ok(()),
        },
        DataOp::Seek { pos, whence } => regions::seek(call, pos, whence),
        DataOp::Fiemap { pos, len, sync } => regions::fiemap(call, pos, len, sync),
    }
}

fn note(call: Call<'_>, op: &DataOp) {
    let mut state = call.file.content.state();
    let size = state.bytes.size();
    let tag = call.tag - 1;
    state.note(format!(
        "[{}:{}] size {size}: {op:?}",
        tag >> 32,
        tag & 0xffff_ffff
    ));
}

/// The bytes a call at this many bytes may be aligned to.
fn misaligned(pos: u64, len: u64) -> bool {
    !pos.is_multiple_of(4096) || !len.is_multiple_of(4096)
}

impl<'a> Call<'a> {
    /// An open file, or `None` if opening failed as it may.
    pub(super) fn handle(&self, direct: bool) -> Result<Option<Arc<dyn OpenFile>>, Fail> {
        match self.file.handle(self.vfs, direct) {
            Ok(handle) => Ok(Some(handle)),
            // Never opened, and its last name is gone by now.
            Err(error)
                if error.errno() == Errno::NOENT
                    && self.world.known_file(self.file.model).is_none() =>
            {
                Ok(None)
            }
            Err(error) => self.excuse(&error, "open", false).map(|()| None),
        }
    }

    /// Accepts an error that may happen, and records it.
    pub(super) fn excuse(&self, error: &FsError, what: &str, half_done: bool) -> Result<(), Fail> {
        if !self.world.tolerates(error) {
            return Err(self.file.fail(format!("{what}: {error}")));
        }
        if let Some(doubt) = &mut self.file.content.state().doubt {
            doubt.failed(half_done);
        }
        Ok(())
    }

    /// The opened file to use for these flags.
    fn handle_for(&self, flags: IoFlags) -> Result<Option<Arc<dyn OpenFile>>, Fail> {
        self.handle(flags.contains(IoFlags::DIRECT) && self.tag.is_multiple_of(2))
    }

    fn write(self, pos: Option<u64>, len: u32, flags: IoFlags) -> Result<(), Fail> {
        let Some(handle) = self.handle_for(flags)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let layout = content.shared();
        let size = content.state().bytes.size();
        let end = pos.unwrap_or(size) + u64::from(len);
        if let Some(pos) = pos
            && end <= size
        {
            let _range = content.hold(layout, (pos, end), true);
            let mut buffer = self.stamped(pos, len);
            let data: Arc<[u8]> = Arc::from(&*buffer.bytes());
            let id = content.begin_write(pos, &data);
            let result = handle.write_at(FilePos::saturating(pos), buffer.bytes(), flags);
            content.end_write(id, *result.as_ref().unwrap_or(&0));
            return self.wrote(result, (pos, &data), flags);
        }
        drop(layout);
        let _layout = content.exclusive();
        let size = content.state().bytes.size();
        let (at, flags) = match pos {
            Some(pos) => (pos, flags),
            None if size > GROWN => return Ok(()),
            None => (size, flags | IoFlags::APPEND),
        };
        let mut buffer = self.stamped(at, len);
        let data: Arc<[u8]> = Arc::from(&*buffer.bytes());
        content.begin_reshape(Reshape {
            size: size.max(at + u64::from(len)),
            later: Some((at, Arc::clone(&data))),
        });
        // An append must not look at the position.
        let ask = if pos.is_none() {
            self.tag % 7 * 4096
        } else {
            at
        };
        let result = handle.write_at(FilePos::saturating(ask), buffer.bytes(), flags);
        let done = *result.as_ref().unwrap_or(&0);
        if let Some(doubt) = &mut content.state().doubt {
            doubt.may_have_size(size, size.max(at + u64::from(len)));
        }
        content.end_reshape(|bytes| bytes.write(at, &data[..done.min(data.len())]));
        self.wrote(result, (at, &data), flags)?;
        self.check_size("write")
    }

    fn stamped(&self, pos: u64, len: u32) -> Buffer {
        let mut buffer = Buffer::new(len as usize);
        stamp::fill(self.tag, pos, buffer.bytes(), self.world.faulty);
        buffer
    }

    /// Judges the answer of a write.
    fn wrote(
        &self,
        result: Result<usize, FsError>,
        (pos, data): (u64, &[u8]),
        flags: IoFlags,
    ) -> Result<(), Fail> {
        let len = data.len();
        let direct = flags.contains(IoFlags::DIRECT);
        match result {
            Ok(n) if n == len => Ok(()),
            Ok(n) if n > len || n == 0 => Err(self.file.fail(format!("wrote {n} of {len} bytes"))),
            // Short: only where it may be.
            Ok(_) if flags.contains(IoFlags::NOWAIT) || direct => Ok(()),
            Ok(n) if self.world.faulty => {
                self.may_show(pos, &data[n..]);
                Ok(())
            }
            Ok(n) => {
                let full = self.vfs.statfs().is_ok_and(|s| s.blocks_available < 4096);
                let short = || self.file.fail(format!("wrote {n} of {len} bytes"));
                if full { Ok(()) } else { Err(short()) }
            }
            Err(FsError::WouldBlock) if flags.contains(IoFlags::NOWAIT) => Ok(()),
            Err(e) if e.errno() == Errno::INVAL && direct && misaligned(pos, len as u64) => Ok(()),
            Err(error) => {
                self.may_show(pos, data);
                self.excuse(&error, "write", false)
            }
        }
    }

    /// Bytes of a failed write may show nevertheless.
    fn may_show(&self, pos: u64, data: &[u8]) {
        if let Some(doubt) = &mut self.file.content.state().doubt {
            doubt.written(pos, data);
        }
    }

    fn read(self, pos: u64, len: u32, flags: IoFlags) -> Result<(), Fail> {
        let Some(handle) = self.handle_for(flags)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let _range = content.hold(content.shared(), (pos, pos + u64::from(len)), false);
        let mut buffer = Buffer::new(len as usize);
        let result = handle.read_at(FilePos::saturating(pos), buffer.bytes(), flags);
        match result {
            Ok(n) if n > len as usize => Err(self.file.fail(format!("read {n} of {len} bytes"))),
            Ok(n) => {
                // A failing device ends a read early as well.
                let short = flags.contains(IoFlags::NOWAIT) || self.world.faulty;
                self.check_bytes(pos, u64::from(len), &buffer.bytes()[..n], short)
            }
            Err(error) => self.read_failed(&error, pos, u64::from(len), flags),
        }
    }

    fn read_failed(&self, error: &FsError, pos: u64, len: u64, flags: IoFlags) -> Result<(), Fail> {
        let direct = flags.contains(IoFlags::DIRECT);
        match error {
            FsError::WouldBlock if flags.contains(IoFlags::NOWAIT) => Ok(()),
            e if e.errno() == Errno::INVAL && direct && misaligned(pos, len) => Ok(()),
            // A failed read loses nothing: not recorded as an error of the file.
            e if self.world.faulty && self.world.tolerates(e) => Ok(()),
            e => Err(self.file.fail(format!("read of {len} at {pos}: {e}"))),
        }
    }

    /// Compares what was read with what should be there. The caller holds the range.
    pub(super) fn check_bytes(
        &self,
        pos: u64,
        len: u64,
        got: &[u8],
        short: bool,
    ) -> Result<(), Fail> {
        let want = {
            let mut state = self.file.content.state();
            let mut want = state.bytes.slice(pos, len);
            if short && got.len() < want.len() {
                want.truncate(got.len());
            }
            if got == want {
                return Ok(());
            }
            if adopted(&mut state, pos, got, want.len())
                .map_err(|e| Fail::new(format!("{:?}: {e}", self.file)))?
            {
                return Ok(());
            }
            want
        };
        if got.len() != want.len() {
            return Err(self.file.fail(format!(
                "read of {len} at {pos} returned {} bytes, expected {}",
                got.len(),
                want.len()
            )));
        }
        Err(self.file.fail(difference(pos, got, &want)))
    }

    fn racy_read(self, pos: u64, len: u32, flags: IoFlags) -> Result<(), Fail> {
        let Some(handle) = self.handle_for(flags)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let mut buffer = Buffer::new(len as usize);
        let id = content.observe(pos, u64::from(len));
        let result = handle.read_at(FilePos::saturating(pos), buffer.bytes(), flags);
        let got = result.as_ref().ok().map(|n| &buffer.bytes()[..*n]);
        let got = if self.world.faulty { None } else { got };
        let seen = content.observed(id, got, flags.contains(IoFlags::NOWAIT));
        seen.map_err(|what| self.file.fail(what))?;
        result.map_or_else(
            |error| self.read_failed(&error, pos, u64::from(len), flags),
            |_| Ok(()),
        )
    }

    /// Makes the file durable. With failing devices nobody writes meanwhile, so that a clean answer
    /// settles what is there.
    fn sync(
        self,
        body: impl FnOnce(&dyn OpenFile) -> Result<(), FsError>,
        settles: bool,
    ) -> Result<(), Fail> {
        let Some(handle) = self.handle(false)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let _layout = self.world.faulty.then(|| content.exclusive());
        match body(&*handle) {
            Err(error) => self.excuse(&error, "sync", false),
            Ok(()) if settles => {
                let mut state = content.state();
                let State { doubt, bytes, .. } = &mut *state;
                let settled = doubt.as_mut().map_or(Ok(()), |d| d.synced(bytes));
                drop(state);
                settled.map_err(|what| self.file.fail(what))
            }
            Ok(()) => Ok(()),
        }
    }

    /// Compares the size. The caller excludes changes of it.
    fn check_size(&self, after: &str) -> Result<(), Fail> {
        let real = match self.vfs.getattr(self.file.real) {
            Ok(attr) => attr.size,
            Err(error) => return self.excuse(&error, "getattr", false),
        };
        let mut state = self.file.content.state();
        let want = state.bytes.size();
        if real == want {
            return Ok(());
        }
        if state.doubt.as_mut().is_some_and(|d| d.allows_size(real)) {
            state.bytes.set_size(real);
            return Ok(());
        }
        drop(state);
        Err(self
            .file
            .fail(format!("size after {after} is {real}, expected {want}")))
    }

    /// Does something that changes size or layout, and judges the answer.
    ///
    /// `invalid` says whether the call must be refused as invalid (`None`: it may be).
    fn reshape(
        &self,
        what: &str,
        invalid: Option<bool>,
        meanwhile: Reshape,
        body: impl FnOnce() -> Result<(), FsError>,
        change: impl FnOnce(&mut FileBytes),
    ) -> Result<(), Fail> {
        let content = &self.file.content;
        content.begin_reshape(meanwhile);
        let result = body();
        let before = result.is_err().then(|| content.state().bytes.clone());
        content.end_reshape(|bytes| {
            if result.is_ok() {
                change(bytes);
            }
        });
        match (result, before) {
            (Ok(()), _) if invalid == Some(true) => {
                Err(self.file.fail(format!("{what} succeeded, expected EINVAL")))
            }
            // With a failing device the size may be another than the one thought of.
            (Err(e), _)
                if e.errno() == Errno::INVAL && (invalid != Some(false) || self.world.faulty) =>
            {
                Ok(())
            }
            (Err(error), Some(before)) => {
                self.excuse(&error, what, true)?;
                self.settle(&before)?;
                self.check_size(what)
            }
            _ => self.check_size(what),
        }
    }

    /// After a failed change of layout: takes over what is there, if every byte is an old one or
    /// zero. With a failing device anything goes, and reading finds out.
    fn settle(&self, before: &FileBytes) -> Result<(), Fail> {
        let (Some(handle), Ok(attr)) = (self.handle(false)?, self.vfs.getattr(self.file.real))
        else {
            return Ok(());
        };
        if self.world.faulty {
            self.file.content.state().bytes.set_size(attr.size);
            return Ok(());
        }
        let span = usize::try_from(attr.size.min(2 * GROWN)).unwrap_or(0);
        let mut buffer = Buffer::new(span);
        let read = handle.read_at(FilePos::ZERO, buffer.bytes(), IoFlags::empty());
        let n = read.map_err(|e| self.file.fail(format!("read after a failure: {e}")))?;
        let old = before.slice(0, n as u64);
        let bad = (0..n).find(|i| {
            let byte = buffer.bytes()[*i];
            byte != 0 && old.get(*i) != Some(&byte)
        });
        if let Some(bad) = bad {
            return Err(self
                .file
                .fail(format!("a failed operation changed byte {bad}")));
        }
        let got = buffer.bytes()[..n].to_vec();
        self.file.content.end_reshape(|bytes| {
            bytes.set_size(attr.size);
            bytes.write(0, &got);
            bytes.set_size(attr.size);
        });
        Ok(())
    }

    fn truncate(self, size: u64) -> Result<(), Fail> {
        // Open, it stays there although its names may go.
        if self.handle(false)?.is_none() {
            return Ok(());
        }
        let _layout = self.file.content.exclusive();
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let body = || self.vfs.setattr(self.file.real, &set).map(|_| ());
        let meanwhile = Reshape { size, later: None };
        self.reshape("truncate", Some(false), meanwhile, body, |bytes| {
            bytes.set_size(size)
        })
    }

    fn fallocate(self, mode: Fallocate, pos: u64, len: u64) -> Result<(), Fail> {
        let Some(handle) = self.handle(false)? else {
            return Ok(());
        };
        let content = &self.file.content;
        let body = || handle.fallocate(mode, range(pos, len));
        if matches!(mode, Fallocate::AllocateKeepSize | Fallocate::UnshareRange) {
            let _layout = content.shared();
            return match body() {
                Err(e) if e.errno() == Errno::INVAL && mode == Fallocate::UnshareRange => Ok(()),
                Err(error) => self.excuse(&error, "fallocate", false),
                Ok(()) => Ok(()),
            };
        }
        let zeroes = matches!(mode, Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize);
        let layout = content.shared();
        if zeroes && pos + len <= content.state().bytes.size() && !self.world.faulty {
            let _range = content.hold(layout, (pos, pos + len), true);
            let data: Arc<[u8]> = vec![0; usize::try_from(len).unwrap_or(0)].into();
            let id = content.begin_write(pos, &data);
            let result = body();
            content.end_write(id, if result.is_ok() { data.len() } else { 0 });
            return match result {
                Err(error) => {
                    self.excuse(&error, "fallocate", true)?;
                    self.reread(&*handle, pos, len)
                }
                Ok(()) => Ok(()),
            };
        }
        drop(layout);
        let _layout = content.exclusive();
        let size = content.state().bytes.size();
        if mode == Fallocate::InsertRange && size > GROWN {
            return Ok(());
        }
        let invalid = match mode {
            Fallocate::CollapseRange if pos + len >= size => Some(true),
            Fallocate::InsertRange if pos >= size => Some(true),
            Fallocate::CollapseRange | Fallocate::InsertRange if misaligned(pos, len) => None,
            _ => Some(false),
        };
        let mut after = content.state().bytes.clone();
        reshaped(&mut after, mode, pos, len);
        let shifted = matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange);
        let meanwhile = Reshape {
            size: size.max(after.size()),
            later: shifted.then(|| (pos, after.slice(pos, GROWN).into())),
        };
        let change = |bytes: &mut FileBytes| reshaped(bytes, mode, pos, len);
        self.reshape("fallocate", invalid, meanwhile, body, change)
    }

    /// After a failed punch: every byte is an old one or zero. The caller holds the range.
    fn reread(&self, handle: &dyn OpenFile, pos: u64, len: u64) -> Result<(), Fail> {
        let mut buffer = Buffer::new(usize::try_from(len).unwrap_or(0));
        let read = handle.read_at(FilePos::saturating(pos), buffer.bytes(), IoFlags::empty());
        let n = read.map_err(|e| self.file.fail(format!("read after a failure: {e}")))?;
        let got = &buffer.bytes()[..n];
        let mut state = self.file.content.state();
        let old = state.bytes.slice(pos, len);
        let bad = got
            .iter()
            .zip(&old)
            .any(|(new, old)| *new != 0 && new != old);
        state.bytes.write(pos, got);
        drop(state);
        if bad {
            return Err(self
                .file
                .fail("a failed punch wrote something else than zeroes"));
        }
        Ok(())
    }

    fn clone_range(self, to: &'a TestFile, pos: u64, len: u64, at: u64) -> Result<(), Fail> {
        let (Some(from_handle), Some(to_handle)) = (
            self.handle(false)?,
            Self { file: to, ..self }.handle(false)?,
        ) else {
            return Ok(());
        };
        let (a, b) = (&self.file.content, &to.content);
        let same = self.file.model == to.model;
        let first = if self.file.model <= to.model { a } else { b };
        let second = if self.file.model <= to.model { b } else { a };
        let _first = first.exclusive();
        let _second = (!same).then(|| second.exclusive());
        let source = a.state().bytes.size();
        // The last bytes of a file may be shared although they fill no block.
        let len = if source > pos && pos + len > source && !self.tag.is_multiple_of(3) {
            source - pos
        } else {
            len
        };
        let (end, target_size) = (pos + len, b.state().bytes.size());
        let invalid = if end > source || (same && pos < at + len && at < end) {
            Some(true)
        } else if len % 4096 != 0 && (same || at + len < target_size) {
            None
        } else {
            Some(false)
        };
        let copy = a.state().bytes.slice(pos, len);
        let call = Self { file: to, ..self };
        let body = || {
            let cloned =
                from_handle.clone_range(range(pos, len), &*to_handle, FilePos::saturating(at));
            // The error may be that of writing the source.
            if cloned.is_err()
                && let Some(doubt) = &mut a.state().doubt
            {
                doubt.failed(false);
            }
            cloned
        };
        let meanwhile = Reshape {
            size: target_size.max(at + len),
            later: Some((at, copy.clone().into())),
        };
        call.reshape("clone", invalid, meanwhile, body, |bytes| {
            bytes.write(at, &copy)
        })
    }
}

/// What a successful fallocate makes of the bytes.
fn reshaped(bytes: &mut FileBytes, mode: Fallocate, pos: u64, len: u64) {
    match mode {
        Fallocate::Allocate => bytes.set_size(bytes.size().max(pos + len)),
        Fallocate::ZeroRange => {
            bytes.zero(pos, len);
            bytes.set_size(bytes.size().max(pos + len));
        }
        Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize => bytes.zero(pos, len),
        Fallocate::CollapseRange if pos + len < bytes.size() => bytes.collapse(pos, len),
        Fallocate::InsertRange if pos < bytes.size() => bytes.insert(pos, len),
        _ => {}
    }
}

/// With a failing device: takes over what was read, if that can be.
fn adopted(state: &mut State, pos: u64, got: &[u8], want: usize) -> Result<bool, String> {
    let State { bytes, doubt, .. } = state;
    let Some(doubt) = doubt else {
        return Ok(false);
    };
    if got.len() != want && !doubt.allows_size(pos + got.len() as u64) {
        return Ok(false);
    }
    let size = bytes.size();
    doubt.adopt(bytes, pos, got)?;
    bytes.set_size(if got.len() < want {
        pos + got.len() as u64
    } else {
        size.max(bytes.size())
    });
    Ok(true)
}

/// Says where and how two runs of bytes differ.
fn difference(pos: u64, got: &[u8], want: &[u8]) -> String {
    let differs = |i: &usize| got[*i] != want[*i];
    let n = got.len().min(want.len());
    let first = (0..n).find(differs).unwrap_or(0);
    let last = (0..n).rev().find(differs).unwrap_or(0);
    let count = (0..n).filter(differs).count();
    let at = pos + first as u64;
    format!(
        "wrong bytes: {count} differ in {at}..{} (page {} offset {}): got {}, expected {}",
        pos + last as u64 + 1,
        at / 4096,
        at % 4096,
        stamp::describe(got, pos, at),
        stamp::describe(want, pos, at)
    )
}
