//! A device that remembers every change, so that each crash can be replayed.
//!
//! Owns [`RecordingDevice`], which fills a log. What images a power cut can leave, and making them,
//! is [`replay`](super::replay).

use std::fmt;
use std::sync::Arc;

use iomap_core::device::{Bio, BioOp, BlockDevice, Completion, DeviceBuf, bio};
use iomap_core::error::{DeviceError, DeviceOp};
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::DevAddr;

use super::replay::{Change, Event, Recording};

/// Logs the changes that go to the device inside.
///
/// The bytes of a write are copied when it is submitted, and that copy is what the device inside
/// gets: the log and the device never differ.
pub struct RecordingDevice<D> {
    inner: D,
    base: Arc<[u8]>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    /// Number of the next change or flush.
    next: usize,
}

impl<D: BlockDevice> RecordingDevice<D> {
    /// Starts from what `inner` holds now, which is read whole and taken for durable.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn new(inner: D) -> Result<Self, DeviceError> {
        let too_large = |_| {
            let errno = iomap_core::error::Errno::FBIG;
            DeviceError::new(DeviceOp::Open, DevAddr::default(), inner.size(), errno)
        };
        let size = usize::try_from(inner.size()).map_err(too_large)?;
        let mut base = vec![0; size];
        for (n, part) in base.chunks_mut(1 << 20).enumerate() {
            inner.read_at(DevAddr::new((n as u64) << 20), part)?;
        }
        Ok(Self::with_base(inner, base))
    }

    /// Starts from `base`, which is durable: what `inner` holds now. For [`Recording::walk`], which
    /// brings its own, it may be empty.
    #[must_use]
    pub fn with_base(inner: D, base: Vec<u8>) -> Self {
        Self {
            inner,
            base: base.into(),
            log: Arc::new(Mutex::new(Rank::DeviceQueue, Log::default())),
        }
    }

    /// The device inside.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    /// Puts a mark into the log: "here the program was told that ... is safe".
    pub fn mark(&self, mark: u64) {
        self.log.lock().events.push(Event::Mark(mark));
    }

    /// Events so far: a crash point between what happened before and after this call.
    pub fn point(&self) -> usize {
        self.log.lock().events.len()
    }

    /// What has been recorded so far. The bytes are shared, not copied.
    pub fn recording(&self) -> Recording {
        let events = self.log.lock().events.clone();
        Recording::new(Arc::clone(&self.base), events)
    }

    /// Logs a change, and wraps its completion to log the end.
    fn log_change(&self, change: Change, done: Completion) -> Completion {
        let id = self.log.lock().start(|id| Event::Change(id, change));
        self.log_end(id, done)
    }

    fn log_end(&self, id: usize, done: Completion) -> Completion {
        let log = Arc::clone(&self.log);
        Completion::call(move |result| {
            // Before the submitter hears of it: what it does next happens after this.
            if result.is_ok() {
                log.lock().events.push(Event::Done(id));
            }
            done.complete(result);
        })
    }

    fn write(&self, bio: Bio, fua: bool, atomic: bool) {
        let mut buf = DeviceBuf::zeroed(bio.len as usize, self.limits().memory_align);
        bio::fetch(&bio.segments, 0, &mut buf);
        let change = Change {
            addr: bio.addr.bytes(),
            len: bio.len,
            data: Some(Arc::from(&buf[..])),
            fua,
            atomic,
        };
        let done = self.log_change(change, bio.done);
        let copy = Bio::owned(bio.op, bio.addr, buf, |result, _| done.complete(result));
        self.inner.submit(copy);
    }

    fn zero(&self, mut bio: Bio) {
        let change = Change {
            addr: bio.addr.bytes(),
            len: bio.len,
            data: None,
            fua: false,
            atomic: false,
        };
        bio.done = self.log_change(change, bio.done);
        self.inner.submit(bio);
    }

    fn log_flush(&self, mut bio: Bio) {
        let id = self.log.lock().start(Event::Flush);
        bio.done = self.log_end(id, bio.done);
        self.inner.submit(bio);
    }
}

impl Log {
    fn start(&mut self, event: impl FnOnce(usize) -> Event) -> usize {
        let id = self.next;
        self.next += 1;
        self.events.push(event(id));
        id
    }
}

impl<D: BlockDevice> BlockDevice for RecordingDevice<D> {
    iomap_core::device::pass_to_device!(self => self.inner);

    fn submit(&self, bio: Bio) {
        let admitted = bio::admit(
            self.limits(),
            self.size(),
            bio.op,
            bio.addr,
            bio.len,
            &bio.segments,
        );
        match bio.op {
            // Refused in the same words by the device inside.
            _ if admitted.is_err() => self.inner.submit(bio),
            BioOp::Read => self.inner.submit(bio),
            BioOp::Write { fua, atomic } => self.write(bio, fua, atomic),
            BioOp::Flush => self.log_flush(bio),
            BioOp::Discard | BioOp::WriteZeroes => self.zero(bio),
        }
    }
}

impl<D: fmt::Debug> fmt::Debug for RecordingDevice<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingDevice")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
