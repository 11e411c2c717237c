//! Changes of size and layout: truncate, fallocate, clone.
//!
//! Owns what each must answer. What they make of the bytes is [`edit`](super::edit).

use std::cell::Cell;
use std::sync::Arc;

use iomap_core::error::{Errno, FsError};
use iomap_core::units::FilePos;
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, SetAttr};

use super::content::Reshape;
use super::data::{Call, buffer, misaligned, range};
use super::edit::Edit;
use super::file::TestFile;
use super::world::Fail;
use super::writes::GROWN;
use crate::model::FileBytes;

impl<'a> Call<'a> {
    /// Does something that changes size or layout, and judges the answer.
    ///
    /// `invalid` says whether the call must be refused as invalid (`None`: it may be). The caller
    /// has the layout exclusively.
    fn reshape(
        &self,
        what: &str,
        invalid: Option<bool>,
        edit: &Edit,
        later: Option<(u64, Arc<[u8]>)>,
        body: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), Fail> {
        let content = &self.file.content;
        let before = content.state().bytes.size();
        let mut after = content.state().bytes.clone();
        edit.apply(&mut after);
        let size = before.max(after.size());
        content.begin_reshape(Reshape { size, later });
        let result = body();
        let old = result.is_err().then(|| content.state().bytes.clone());
        let done = result.is_ok() || edit.was_done(before, self.attr()?.size);
        content.end_reshape(|bytes, doubt| {
            if done {
                edit.apply(bytes);
                if let Some(doubt) = doubt {
                    edit.doubt(doubt, (before, bytes.size()), self.world.block);
                }
            }
        });
        let after = content.state().bytes.size();
        match (result, old) {
            (Ok(()), _) if invalid == Some(true) => {
                Err(self.file.fail(format!("{what} succeeded, expected EINVAL")))
            }
            (Err(e), _) if e.errno() == Errno::INVAL && invalid != Some(false) => {
                self.check_size(what, &[before..=before]).map(|_| ())
            }
            (Err(error), _) if done => {
                self.excuse(&error, what)?;
                self.check_size(what, &[after..=after]).map(|_| ())
            }
            (Err(error), Some(old)) => {
                self.excuse(&error, what)?;
                let sizes: Vec<_> = edit.sizes(before).iter().map(|s| *s..=*s).collect();
                let real = self.check_size(what, &sizes)?;
                self.doubt(|doubt| edit.doubt_failed(doubt, real, self.world.block));
                self.settle(&old)
            }
            _ => self.check_size(what, &[after..=after]).map(|_| ()),
        }
    }

    /// After a failed change of layout: takes over what is there, if every byte is an old one or
    /// zero. With a failing device reading finds out.
    fn settle(&self, before: &FileBytes) -> Result<(), Fail> {
        let Some(handle) = self.handle()?.filter(|_| !self.world.faulty) else {
            return Ok(());
        };
        let size = self.attr()?.size;
        let span = usize::try_from(size.min(2 * GROWN)).unwrap_or(0);
        let mut buffer = buffer(span);
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
        self.file.content.end_reshape(|bytes, _| {
            bytes.set_size(size);
            bytes.write(0, &got);
            bytes.set_size(size);
        });
        Ok(())
    }

    /// Sets the size.
    pub(super) fn truncate(self, size: u64) -> Result<(), Fail> {
        // Open, it stays there although its names may go.
        let Some(_open) = self.handle()? else {
            return Ok(());
        };
        let _layout = self.file.content.exclusive();
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let body = || self.vfs.setattr(self.file.real, &set).map(|_| ());
        let edit = Edit::Resize { size };
        self.reshape("truncate", Some(false), &edit, None, body)
    }

    /// Gives or takes storage.
    pub(super) fn fallocate(self, mode: Fallocate, pos: u64, len: u64) -> Result<(), Fail> {
        let Some(handle) = self.handle()? else {
            return Ok(());
        };
        let content = &self.file.content;
        let body = || handle.fallocate(mode, range(pos, len));
        let (grows, end) = (mode == Fallocate::ZeroRange, pos + len);
        let edit = match mode {
            Fallocate::AllocateKeepSize | Fallocate::UnshareRange => {
                return self.allocate(mode, body);
            }
            Fallocate::Allocate => Edit::Grow { size: end },
            Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize => {
                Edit::Zero { pos, len, grows }
            }
            Fallocate::CollapseRange => Edit::Collapse { pos, len },
            Fallocate::InsertRange => Edit::Insert { pos, len },
        };
        let layout = content.shared();
        let inside =
            matches!(edit, Edit::Zero { grows: false, .. }) && end <= content.state().bytes.size();
        if inside && !self.world.faulty {
            let _range = content.hold(layout, (pos, end), true);
            return self.zero_inside(&*handle, pos, len, body);
        }
        drop(layout);
        let _layout = content.exclusive();
        let size = content.state().bytes.size();
        if mode == Fallocate::InsertRange && size > GROWN {
            return Ok(());
        }
        let shifts = matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange);
        let invalid = match mode {
            Fallocate::CollapseRange if end >= size => Some(true),
            Fallocate::InsertRange if pos >= size => Some(true),
            _ if shifts && misaligned(pos, len, self.world.block) => Some(true),
            _ => Some(false),
        };
        let later = shifts.then(|| {
            let mut after = content.state().bytes.clone();
            edit.apply(&mut after);
            (pos, after.slice(pos, GROWN).into())
        });
        self.reshape("fallocate", invalid, &edit, later, body)
    }

    /// Changes of storage that no byte shows.
    fn allocate(
        &self,
        mode: Fallocate,
        body: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), Fail> {
        let _layout = self.file.content.shared();
        match body() {
            Err(e) if e.errno() == Errno::INVAL && mode == Fallocate::UnshareRange => Ok(()),
            Err(error) => self.excuse(&error, "fallocate"),
            Ok(()) => Ok(()),
        }
    }

    /// Zeroes inside the file, beside other reads and writes. The caller holds the range.
    fn zero_inside(
        &self,
        handle: &dyn OpenFile,
        pos: u64,
        len: u64,
        body: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), Fail> {
        let content = &self.file.content;
        let data: Arc<[u8]> = vec![0; usize::try_from(len).unwrap_or(0)].into();
        let id = content.begin_write(pos, &data);
        let result = body();
        content.end_write(id, if result.is_ok() { data.len() } else { 0 });
        match result {
            Err(error) => {
                self.excuse(&error, "fallocate")?;
                self.reread(handle, pos, len)
            }
            Ok(()) => Ok(()),
        }
    }

    /// After a failed punch: every byte is an old one or zero. The caller holds the range.
    fn reread(&self, handle: &dyn OpenFile, pos: u64, len: u64) -> Result<(), Fail> {
        let mut buffer = buffer(usize::try_from(len).unwrap_or(0));
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

    /// Shares storage with another file, or another place of this one.
    pub(super) fn clone_range(
        self,
        to: &'a TestFile,
        pos: u64,
        len: u64,
        at: u64,
    ) -> Result<(), Fail> {
        let call = Self { file: to, ..self };
        let (Some(from_handle), Some(to_handle)) = (self.handle()?, call.handle()?) else {
            return Ok(());
        };
        let (a, b) = (&self.file.content, &to.content);
        let same = self.file.model == to.model;
        let (first, second) = if self.file.model <= to.model {
            (a, b)
        } else {
            (b, a)
        };
        let _first = first.exclusive();
        let _second = (!same).then(|| second.exclusive());
        let source = a.state().bytes.size();
        // The last bytes of a file may be shared although they fill no block.
        let len = if source > pos && pos + len > source && !self.tag.is_multiple_of(3) {
            source - pos
        } else {
            len
        };
        let end = pos + len;
        let target = b.state().bytes.size();
        let partly = misaligned(pos, at, self.world.block)
            || (!len.is_multiple_of(self.world.block) && (end != source || at + len < target));
        let overlaps = same && pos < at + len && at < end;
        let bytes = a.state().bytes.slice(pos, len);
        // What was lost on the way to the device must not be copied unnoticed.
        let values = match &a.state().doubt {
            Some(doubt) => doubt.copy(pos, &bytes),
            None => Ok(Vec::new()),
        };
        let later = (at, Arc::from(&*bytes));
        let edit = Edit::Copy {
            at,
            bytes,
            values: values.clone().unwrap_or_default(),
        };
        let copied = Cell::new(false);
        let body = || {
            from_handle.clone_range(range(pos, len), &*to_handle, FilePos::saturating(at))?;
            copied.set(true);
            Ok(())
        };
        let invalid = Some(end > source || overlaps || partly);
        call.reshape("clone", invalid, &edit, Some(later), body)?;
        match values {
            Err(what) if copied.get() => Err(self.file.fail(what)),
            _ => Ok(()),
        }
    }
}
