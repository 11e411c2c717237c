//! A device with latency, for benchmarks that must not depend on the disk of the day.
//!
//! Owns [`SlowDevice`]. Every request takes a time that depends on what it asks for and on nothing
//! else; requests overlap without limit, except that bytes share one pipe.

use std::fmt;
use std::time::{Duration, Instant};

use iomap_core::device::{Bio, BioOp, BlockDevice, Limits};
use iomap_core::sync::{Condvar, Mutex, Rank};

/// How long requests take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// A read.
    pub read: Duration,
    /// A write, discard or write-zeroes.
    pub write: Duration,
    /// A flush, or what FUA adds to a write.
    pub flush: Duration,
    /// Bytes a second through the pipe all requests share; `None` if it is infinitely wide.
    pub bandwidth: Option<u64>,
}

impl Latency {
    fn of(&self, op: BioOp) -> Duration {
        match op {
            BioOp::Read => self.read,
            BioOp::Write { fua: true, .. } => self.write + self.flush,
            BioOp::Write { .. } | BioOp::Discard | BioOp::WriteZeroes => self.write,
            BioOp::Flush => self.flush,
        }
    }

    fn in_pipe(&self, op: BioOp, len: u64) -> Duration {
        match (self.bandwidth, op) {
            (Some(rate), BioOp::Read | BioOp::Write { .. }) if rate > 0 => {
                let nanos = u128::from(len) * 1_000_000_000 / u128::from(rate);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            _ => Duration::ZERO,
        }
    }
}

/// Delays requests to the device inside.
pub struct SlowDevice<D> {
    inner: D,
    latency: Latency,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Requests and when they complete.
    waiting: Vec<(Instant, Bio)>,
    running: usize,
    pipe_free: Instant,
    epoch: u64,
}

impl<D: BlockDevice> SlowDevice<D> {
    /// The device `inner` with this latency.
    #[must_use]
    pub fn new(inner: D, latency: Latency) -> Self {
        let state = State {
            waiting: Vec::new(),
            running: 0,
            pipe_free: Instant::now(),
            epoch: 0,
        };
        Self {
            inner,
            latency,
            state: Mutex::new(Rank::DeviceQueue, state),
            changed: Condvar::new(),
        }
    }

    /// The device inside.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    /// Completes one request whose time has come. Returns whether there was one.
    fn complete_due(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let due = state.waiting.iter().enumerate().filter(|(_, w)| w.0 <= now);
        let Some(n) = due.min_by_key(|(_, w)| w.0).map(|(n, _)| n) else {
            return false;
        };
        let (_, bio) = state.waiting.swap_remove(n);
        state.running += 1;
        drop(state);
        let result = self
            .inner
            .transfer(bio.op, bio.addr, bio.len, &bio.segments);
        bio.complete(result.map_err(|error| error.errno));
        self.state.lock().running -= 1;
        self.wake();
        true
    }

    /// Sleeps until the next request is due or the epoch is not `seen` any more.
    fn sleep(&self, seen: u64) {
        let mut state = self.state.lock();
        if state.epoch != seen {
            return;
        }
        match state.waiting.iter().map(|w| w.0).min() {
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                self.changed.wait_for(&mut state, left);
            }
            None => self.changed.wait(&mut state),
        }
    }
}

impl<D: BlockDevice> BlockDevice for SlowDevice<D> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn submit(&self, bio: Bio) {
        let mut state = self.state.lock();
        let start = state.pipe_free.max(Instant::now());
        state.pipe_free = start + self.latency.in_pipe(bio.op, bio.len);
        let due = state.pipe_free + self.latency.of(bio.op);
        state.waiting.push((due, bio));
        drop(state);
        self.wake();
    }

    fn poll(&self) {
        while self.complete_due() {}
    }

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        loop {
            let seen = self.state.lock().epoch;
            if done() {
                return;
            }
            if !self.complete_due() {
                self.sleep(seen);
            }
        }
    }

    fn wake(&self) {
        self.state.lock().epoch += 1;
        self.changed.notify_all();
    }

    fn in_flight(&self) -> usize {
        let state = self.state.lock();
        state.waiting.len() + state.running
    }
}

impl<D> Drop for SlowDevice<D> {
    fn drop(&mut self) {
        for (_, bio) in std::mem::take(&mut self.state.get_mut().waiting) {
            bio.complete(Err(iomap_core::error::Errno::CANCELED));
        }
    }
}

impl<D: fmt::Debug> fmt::Debug for SlowDevice<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowDevice")
            .field("inner", &self.inner)
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::device::MemoryDevice;
    use iomap_core::units::DevAddr;

    #[test]
    fn it_does_what_the_device_inside_does_not_sooner() {
        let latency = Latency {
            write: Duration::from_millis(2),
            flush: Duration::from_millis(1),
            ..Latency::default()
        };
        let device = SlowDevice::new(MemoryDevice::new(4096), latency);
        let start = Instant::now();
        device.write_at(DevAddr::new(512), &[3; 512]).unwrap();
        device.flush().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(3));
        assert_eq!(device.inner().image()[512], 3);
        assert_eq!(device.in_flight(), 0);
    }

    #[test]
    fn the_pipe_is_shared_and_the_rest_overlaps() {
        let latency = Latency {
            read: Duration::from_millis(1),
            bandwidth: Some(512_000),
            ..Latency::default()
        };
        assert_eq!(latency.in_pipe(BioOp::Read, 512), Duration::from_millis(1));
        assert_eq!(latency.in_pipe(BioOp::Flush, 0), Duration::ZERO);
        let op = BioOp::Write {
            fua: true,
            atomic: false,
        };
        assert_eq!(latency.of(op), Duration::ZERO);
        assert_eq!(latency.of(BioOp::Read), Duration::from_millis(1));
    }
}
