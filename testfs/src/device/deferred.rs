//! A device that completes requests when told, in the order told.
//!
//! Owns [`DeferredDevice`]. A held request has not touched the device inside: it is done, and its
//! completion run, inside the call that completes it, in the thread that makes it. No lock is held
//! meanwhile.

use std::fmt;

use fastrand::Rng;
use iomap_core::device::parking::Parking;
use iomap_core::device::{Bio, BioOp, BlockDevice, Limits};
use iomap_core::error::Errno;
use iomap_core::sync::atomic::{AtomicUsize, Ordering};
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::DevAddr;

/// A request that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its number: 0 for the first request ever held, and so on.
    pub id: u64,
    /// What it asks for.
    pub op: BioOp,
    /// Where, bytes.
    pub addr: DevAddr,
    /// How much, bytes.
    pub len: u64,
}

type Filter = Box<dyn Fn(&Held) -> bool + Send + Sync>;

/// Holds requests to the device inside.
pub struct DeferredDevice<D> {
    inner: D,
    state: Mutex<State>,
    parking: Parking,
    /// Held, or being done. Raised with `Release` before the request is held, lowered with
    /// `Release` after its completion has run; its reader loads with `Acquire`.
    in_flight: AtomicUsize,
    /// Calls of `poll`. `Relaxed`: it says that somebody came by, nothing about memory.
    polls: AtomicUsize,
    hold: Filter,
    auto: bool,
}

struct State {
    held: Vec<(Held, Bio)>,
    next: u64,
    rng: Rng,
}

impl<D: BlockDevice> DeferredDevice<D> {
    /// Holds every request until one of the `complete` or `fail` calls. Whoever waits for the
    /// device sleeps until another thread makes such a call.
    #[must_use]
    pub fn manual(inner: D) -> Self {
        Self::new(inner, 0, false)
    }

    /// Holds every request until somebody waits for the device or polls it: then completes held
    /// requests in an order drawn from `seed`. A single thread makes progress this way.
    #[must_use]
    pub fn auto(inner: D, seed: u64) -> Self {
        Self::new(inner, seed, true)
    }

    fn new(inner: D, seed: u64, auto: bool) -> Self {
        let state = State {
            held: Vec::new(),
            next: 0,
            rng: Rng::with_seed(seed),
        };
        Self {
            inner,
            state: Mutex::new(Rank::DeviceQueue, state),
            parking: Parking::new(),
            in_flight: AtomicUsize::new(0),
            polls: AtomicUsize::new(0),
            hold: Box::new(|_| true),
            auto,
        }
    }

    /// Holds only requests for which `hold` says so; the others are done when submitted. (The
    /// number of a request `hold` is asked about is the one it gets if it is held.)
    #[must_use]
    pub fn holding(mut self, hold: impl Fn(&Held) -> bool + Send + Sync + 'static) -> Self {
        self.hold = Box::new(hold);
        self
    }

    /// The device inside.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    /// What is held, in order of submission.
    pub fn held(&self) -> Vec<Held> {
        self.state
            .lock()
            .held
            .iter()
            .map(|(held, _)| *held)
            .collect()
    }

    /// How often somebody looked at the device without waiting for it: who waits for direct I/O in
    /// flight does.
    pub fn polls(&self) -> usize {
        self.polls.load(Ordering::Relaxed)
    }

    /// Waits until at least `n` requests are held.
    pub fn wait_held(&self, n: usize) {
        self.parking.wait(&mut || self.state.lock().held.len() >= n);
    }

    /// Completes the request held longest. Returns whether there was one.
    pub fn complete_next(&self) -> bool {
        self.take(|state| (!state.held.is_empty()).then_some(0))
            .map(|bio| self.run(bio))
            .is_some()
    }

    /// Completes a held request drawn from the seed. Returns whether there was one.
    pub fn complete_random(&self) -> bool {
        let draw = |state: &mut State| match state.held.len() {
            0 => None,
            n => Some(state.rng.usize(..n)),
        };
        self.take(draw).map(|bio| self.run(bio)).is_some()
    }

    /// Completes the request `id`. Returns whether it was held.
    pub fn complete(&self, id: u64) -> bool {
        self.complete_matching(|held| held.id == id) == 1
    }

    /// Completes the held requests that match, in order of submission; not those that are
    /// submitted meanwhile. Returns how many.
    pub fn complete_matching(&self, matches: impl Fn(&Held) -> bool) -> usize {
        let bios = self.take_matching(matches);
        let count = bios.len();
        bios.into_iter().for_each(|bio| self.run(bio));
        count
    }

    /// Completes everything held, in order of submission, until nothing is. Returns how many.
    pub fn complete_all(&self) -> usize {
        let mut count = 0;
        while self.complete_next() {
            count += 1;
        }
        count
    }

    /// Lets the held requests that match fail with `errno`, undone. Returns how many.
    pub fn fail_matching(&self, errno: Errno, matches: impl Fn(&Held) -> bool) -> usize {
        let bios = self.take_matching(matches);
        let count = bios.len();
        for bio in bios {
            self.end(bio, Err(errno));
        }
        count
    }

    fn take(&self, choose: impl FnOnce(&mut State) -> Option<usize>) -> Option<Bio> {
        let mut state = self.state.lock();
        let n = choose(&mut state)?;
        Some(state.held.remove(n).1)
    }

    fn take_matching(&self, matches: impl Fn(&Held) -> bool) -> Vec<Bio> {
        let mut state = self.state.lock();
        let all = std::mem::take(&mut state.held);
        let (taken, kept) = all.into_iter().partition(|(held, _)| matches(held));
        state.held = kept;
        let taken: Vec<(Held, Bio)> = taken;
        taken.into_iter().map(|(_, bio)| bio).collect()
    }

    fn run(&self, bio: Bio) {
        let result = self
            .inner
            .transfer(bio.op, bio.addr, bio.len, &bio.segments);
        self.end(bio, result.map_err(|error| error.errno));
    }

    fn end(&self, bio: Bio, result: Result<(), Errno>) {
        bio.complete(result);
        self.in_flight.fetch_sub(1, Ordering::Release);
        self.parking.notify();
    }
}

impl<D: BlockDevice> BlockDevice for DeferredDevice<D> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn submit(&self, bio: Bio) {
        self.in_flight.fetch_add(1, Ordering::Release);
        let mut held = Held {
            id: 0,
            op: bio.op,
            addr: bio.addr,
            len: bio.len,
        };
        {
            let mut state = self.state.lock();
            held.id = state.next;
            if (self.hold)(&held) {
                state.next += 1;
                state.held.push((held, bio));
                drop(state);
                return self.parking.notify();
            }
        }
        self.run(bio);
    }

    fn poll(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
        if self.auto {
            self.complete_random();
        }
    }

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        if !self.auto {
            return self.parking.wait(done);
        }
        self.parking.wait(&mut || {
            loop {
                if done() {
                    return true;
                }
                if !self.complete_random() {
                    return false;
                }
            }
        });
    }

    fn wake(&self) {
        self.parking.notify();
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }
}

impl<D> Drop for DeferredDevice<D> {
    fn drop(&mut self) {
        for (_, bio) in std::mem::take(&mut self.state.get_mut().held) {
            bio.complete(Err(Errno::CANCELED));
        }
    }
}

impl<D: fmt::Debug> fmt::Debug for DeferredDevice<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredDevice")
            .field("inner", &self.inner)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::device::{DeviceBuf, MemoryDevice};
    use std::sync::{Arc, mpsc};

    fn write(
        device: &dyn BlockDevice,
        sector: u64,
        byte: u8,
        tell: &mpsc::Sender<(u8, Result<(), Errno>)>,
    ) {
        let tell = tell.clone();
        let buf = DeviceBuf::from_slice(&[byte; 512], 1);
        let addr = DevAddr::new(sector * 512);
        device.submit(Bio::owned(BioOp::WRITE, addr, buf, move |result, _| {
            tell.send((byte, result.map_err(|e| e.errno))).unwrap();
        }));
    }

    #[test]
    fn nothing_happens_before_it_is_told() {
        let device = DeferredDevice::manual(MemoryDevice::new(4096));
        let (tell, told) = mpsc::channel();
        for n in 0..3 {
            write(&device, n, n as u8 + 1, &tell);
        }
        device.poll();
        assert_eq!(device.in_flight(), 3);
        assert!(told.try_recv().is_err());
        assert!(device.inner().image().iter().all(|&b| b == 0));
        assert!(device.complete(1));
        assert!(!device.complete(1));
        assert_eq!(told.try_recv().unwrap(), (2, Ok(())));
        assert_eq!(device.inner().image()[512..1024], [2; 512]);
        assert_eq!(device.fail_matching(Errno::IO, |held| held.id == 2), 1);
        assert_eq!(told.try_recv().unwrap(), (3, Err(Errno::IO)));
        assert!(device.complete_next());
        assert!(!device.complete_next());
        assert_eq!(device.in_flight(), 0);
        assert_eq!(device.inner().image()[1024], 0);
    }

    #[test]
    fn a_waiter_sleeps_until_another_thread_completes() {
        let device = Arc::new(DeferredDevice::manual(MemoryDevice::new(4096)));
        let waiter = std::thread::spawn({
            let device = Arc::clone(&device);
            move || device.write_at(DevAddr::new(0), &[7; 512])
        });
        device.wait_held(1);
        assert_eq!(device.held()[0].len, 512);
        assert_eq!(device.complete_all(), 1);
        waiter.join().unwrap().unwrap();
        assert_eq!(device.inner().image()[0], 7);
    }

    #[test]
    fn a_seed_makes_the_order() {
        let order = |seed| {
            let device = DeferredDevice::auto(MemoryDevice::new(16384), seed);
            let (tell, told) = mpsc::channel();
            for n in 0..16 {
                write(&device, n, n as u8, &tell);
            }
            device.wait(&mut || device.in_flight() == 0);
            drop(tell);
            drop(device);
            told.iter().map(|(byte, _)| byte).collect::<Vec<_>>()
        };
        assert_eq!(order(5), order(5));
        assert_ne!(order(5), order(6));
        assert_eq!(order(5).len(), 16);
    }

    #[test]
    fn what_is_not_to_be_held_passes() {
        let device =
            DeferredDevice::manual(MemoryDevice::new(4096)).holding(|held| held.op == BioOp::Flush);
        device.write_at(DevAddr::new(0), &[1; 512]).unwrap();
        assert_eq!(device.in_flight(), 0);
        let (tell, told) = mpsc::channel();
        write(&device, 1, 9, &tell);
        assert_eq!(told.try_recv().unwrap(), (9, Ok(())));
    }

    #[test]
    fn a_dropped_device_answers_what_it_held() {
        let device = DeferredDevice::manual(MemoryDevice::new(4096));
        let (tell, told) = mpsc::channel();
        write(&device, 0, 1, &tell);
        drop(device);
        assert_eq!(told.try_recv().unwrap(), (1, Err(Errno::CANCELED)));
    }
}
