//! What one file may contain while several threads work on it.
//!
//! Owns the harness's own serialisation, so that the expected content is exact although the file
//! system runs concurrently:
//!
//! * what changes size or shifts bytes excludes everything but racy reads and syncs (`layout`,
//!   exclusive);
//! * reads and writes inside the file share `layout` and exclude each other only where their *byte*
//!   ranges overlap, so that they meet inside one block, page and folio;
//! * racy reads exclude nothing: an [`Observer`] collects every value a byte may have meanwhile.
//!
//! These locks are outer to the whole lock ladder of the framework and are not ranked. Does not own
//! the calls into the file system: those are [`data`](super::data).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::doubt::Doubt;
use super::stamp;
use crate::model::FileBytes;

/// Operations remembered per file for messages.
const HISTORY: usize = 24;

/// The expected content of a file and who is changing it.
#[derive(Debug)]
pub struct Content {
    layout: RwLock<()>,
    ranges: Mutex<Vec<Held>>,
    freed: Condvar,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    id: u64,
    start: u64,
    end: u64,
    exclusive: bool,
}

/// The state behind the lock of [`Content`].
#[derive(Debug)]
pub struct State {
    /// The bytes once everything that runs has ended.
    pub bytes: FileBytes,
    /// What the device's failures leave open.
    pub doubt: Option<Doubt>,
    /// The last operations, oldest first.
    pub history: VecDeque<String>,
    inflight: Vec<(u64, u64, Arc<[u8]>)>,
    observers: Vec<Observer>,
    reshaping: Option<Reshape>,
    next: u64,
}

/// What a change of size or layout that runs may make of the file, beside zeroes.
#[derive(Clone, Debug, Default)]
pub struct Reshape {
    /// The largest size the file may have meanwhile.
    pub size: u64,
    /// Bytes that may show, and where.
    pub later: Option<(u64, Arc<[u8]>)>,
}

/// What a racy read may see.
#[derive(Debug)]
struct Observer {
    id: u64,
    pos: u64,
    len: u64,
    base: Vec<u8>,
    /// Writes that ran meanwhile: position and bytes.
    other: Vec<(u64, Arc<[u8]>)>,
    zero: bool,
    sizes: (u64, u64),
}

impl Observer {
    /// A change of size or layout runs meanwhile.
    fn meets(&mut self, reshape: &Reshape) {
        self.zero = true;
        self.sizes = (0, self.sizes.1.max(reshape.size));
        self.other.extend(reshape.later.clone());
    }

    fn allows(&self, at: u64, byte: u8) -> bool {
        let base = self.base.get((at - self.pos) as usize).copied();
        base == Some(byte)
            || (byte == 0 && (self.zero || base.is_none()))
            || self.other.iter().any(|(pos, bytes)| {
                at.checked_sub(*pos)
                    .and_then(|i| bytes.get(usize::try_from(i).ok()?))
                    == Some(&byte)
            })
    }

    /// Checks what a read returned.
    fn verdict(&self, got: &[u8], short_allowed: bool) -> Result<(), String> {
        let cut = |size: u64| size.saturating_sub(self.pos).min(self.len);
        let n = got.len() as u64;
        if n > cut(self.sizes.1) || (n < cut(self.sizes.0) && !short_allowed) {
            return Err(format!(
                "racy read of {} at {} returned {n} bytes; the size was {}..={} meanwhile",
                self.len, self.pos, self.sizes.0, self.sizes.1
            ));
        }
        let bad = (self.pos..).zip(got).find(|(at, b)| !self.allows(*at, **b));
        bad.map_or(Ok(()), |(at, _)| {
            Err(format!(
                "racy read of {} at {}: byte {at} is neither old nor new: got {}, was {}",
                self.len,
                self.pos,
                stamp::describe(got, self.pos, at),
                stamp::describe(&self.base, self.pos, at),
            ))
        })
    }
}

impl State {
    /// Remembers an operation for messages.
    pub fn note(&mut self, what: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(what);
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Holds a byte range of a file. The layout stands still meanwhile.
#[derive(Debug)]
pub struct RangeGuard<'a> {
    content: &'a Content,
    held: Held,
    _layout: RwLockReadGuard<'a, ()>,
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        self.content.ranges.lock().retain(|h| h.id != self.held.id);
        self.content.freed.notify_all();
    }
}

impl Content {
    /// An empty file; `doubtful` if the device may fail.
    #[must_use]
    pub fn new(doubtful: bool) -> Self {
        Self {
            layout: RwLock::new(()),
            ranges: Mutex::new(Vec::new()),
            freed: Condvar::new(),
            state: Mutex::new(State {
                bytes: FileBytes::new(),
                doubt: doubtful.then(Doubt::default),
                history: VecDeque::new(),
                inflight: Vec::new(),
                observers: Vec::new(),
                reshaping: None,
                next: 0,
            }),
        }
    }

    /// The state. Held shortly, never across a call into the file system.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Keeps the layout as it is.
    pub fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.layout.read()
    }

    /// Excludes everything but racy reads and syncs.
    pub fn exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.layout.write()
    }

    /// Waits until no conflicting range is held, and holds this one.
    pub fn hold<'a>(
        &'a self,
        layout: RwLockReadGuard<'a, ()>,
        (start, end): (u64, u64),
        exclusive: bool,
    ) -> RangeGuard<'a> {
        let mut ranges = self.ranges.lock();
        let conflicts = |h: &Held| h.start < end && start < h.end && (exclusive || h.exclusive);
        while ranges.iter().any(conflicts) {
            self.freed.wait(&mut ranges);
        }
        let held = Held {
            id: self.state.lock().id(),
            start,
            end,
            exclusive,
        };
        ranges.push(held);
        RangeGuard {
            content: self,
            held,
            _layout: layout,
        }
    }

    /// A write inside the file begins: racy reads may see it from now on.
    pub fn begin_write(&self, pos: u64, data: &Arc<[u8]>) -> u64 {
        let mut state = self.state.lock();
        let id = state.id();
        state.inflight.push((id, pos, Arc::clone(data)));
        for observer in &mut state.observers {
            observer.other.push((pos, Arc::clone(data)));
        }
        id
    }

    /// The write ended; its first `done` bytes were taken.
    pub fn end_write(&self, id: u64, done: usize) {
        let mut state = self.state.lock();
        let Some(at) = state.inflight.iter().position(|w| w.0 == id) else {
            return;
        };
        let (_, pos, data) = state.inflight.swap_remove(at);
        let done = &data[..done.min(data.len())];
        state.bytes.write(pos, done);
        if let Some(doubt) = &mut state.doubt {
            doubt.written(pos, done);
        }
    }

    /// A change of size or layout begins. The caller holds [`Content::exclusive`].
    pub fn begin_reshape(&self, reshape: Reshape) {
        let mut state = self.state.lock();
        for observer in &mut state.observers {
            observer.meets(&reshape);
        }
        state.reshaping = Some(reshape);
    }

    /// The change ended, and `change` is what became of the bytes and what is left open.
    pub fn end_reshape<R>(
        &self,
        change: impl FnOnce(&mut FileBytes, Option<&mut Doubt>) -> R,
    ) -> R {
        let mut state = self.state.lock();
        let state = &mut *state;
        let result = change(&mut state.bytes, state.doubt.as_mut());
        state.reshaping = None;
        for observer in &mut state.observers {
            let now = state.bytes.slice(observer.pos, observer.len);
            observer.other.push((observer.pos, now.into()));
            observer.sizes.0 = observer.sizes.0.min(state.bytes.size());
            observer.sizes.1 = observer.sizes.1.max(state.bytes.size());
        }
        result
    }

    /// Starts to collect what a racy read of this range may see.
    pub fn observe(&self, pos: u64, len: u64) -> u64 {
        let mut state = self.state.lock();
        let id = state.id();
        let size = state.bytes.size();
        let mut observer = Observer {
            id,
            pos,
            len,
            base: state.bytes.slice(pos, len),
            other: state
                .inflight
                .iter()
                .map(|w| (w.1, Arc::clone(&w.2)))
                .collect(),
            zero: false,
            sizes: (size, size),
        };
        if let Some(reshape) = &state.reshaping {
            observer.meets(reshape);
        }
        state.observers.push(observer);
        id
    }

    /// The largest size the file has had since [`Content::observe`].
    pub fn largest_size(&self, id: u64) -> u64 {
        let state = self.state.lock();
        let observer = state.observers.iter().find(|o| o.id == id);
        observer.map_or(0, |o| o.sizes.1)
    }

    /// Ends [`Content::observe`] and checks what was read; `None` if the read failed.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn observed(&self, id: u64, got: Option<&[u8]>, short: bool) -> Result<(), String> {
        let observer = {
            let mut state = self.state.lock();
            let at = state.observers.iter().position(|o| o.id == id);
            at.map(|at| state.observers.swap_remove(at))
        };
        match (observer, got) {
            (Some(observer), Some(got)) => observer.verdict(got, short),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> Content {
        let content = Content::new(false);
        content.end_reshape(|b, _| b.write(0, bytes));
        content
    }

    #[test]
    fn a_racy_read_may_see_old_and_new_bytes_mixed() {
        let content = written(b"aaaa");
        let seen = content.observe(0, 4);
        let write = content.begin_write(1, &Arc::from(&b"bb"[..]));
        content.end_write(write, 2);
        content.observed(seen, Some(b"aaba"), false).unwrap();
    }

    #[test]
    fn a_racy_read_may_not_see_anything_else() {
        let content = written(b"aaaa");
        let seen = content.observe(0, 4);
        assert!(content.observed(seen, Some(b"aaca"), false).is_err());
        let seen = content.observe(0, 4);
        assert!(content.observed(seen, Some(b"aa"), false).is_err());
        let seen = content.observe(0, 4);
        assert!(content.observed(seen, Some(b"a\0aa"), false).is_err());
    }

    #[test]
    fn a_write_that_ended_before_is_not_excused() {
        let content = written(b"aaaa");
        let write = content.begin_write(0, &Arc::from(&b"bbbb"[..]));
        content.end_write(write, 4);
        let seen = content.observe(0, 4);
        assert!(content.observed(seen, Some(b"abbb"), false).is_err());
    }

    #[test]
    fn a_read_during_a_truncate_may_be_short_or_zero() {
        let content = written(b"aaaa");
        let seen = content.observe(0, 4);
        content.begin_reshape(Reshape::default());
        content.end_reshape(|b, _| b.set_size(2));
        content.observed(seen, Some(b"aa"), false).unwrap();
        let late = content.observe(0, 4);
        assert!(content.observed(late, Some(b"aaa"), false).is_err());
    }
}
