//! A device in memory that completes when told, fails when told, and remembers what it was asked.

use std::collections::VecDeque;
use std::sync::Arc;

use iomap_core::device::bytes::{read_bytes, write_bytes};
use iomap_core::device::parking::Parking;
use iomap_core::device::{Bio, BioOp, BlockDevice, Limits, MemoryDevice};
use iomap_core::error::Errno;
use iomap_core::sync::{Mutex, Rank, thread};
use iomap_core::units::DevAddr;

/// Somebody else's old bytes: what every block never written holds.
pub(crate) const SECRET: u8 = 0xEE;

/// What the device was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) op: BioOp,
    pub(crate) addr: u64,
    pub(crate) len: u64,
}

type Fault = Box<dyn FnMut(&Asked) -> Option<Errno> + Send>;

#[derive(Default)]
struct State {
    held: bool,
    queue: VecDeque<(Asked, Bio)>,
    in_flight: usize,
    waiters: usize,
    asked: Vec<Asked>,
    fault: Option<Fault>,
}

/// See the module documentation.
pub(crate) struct TestDevice {
    inner: MemoryDevice,
    limits: Limits,
    state: Mutex<State>,
    parking: Parking,
}

impl std::fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestDevice")
    }
}

impl TestDevice {
    /// `size` bytes of [`SECRET`].
    pub(crate) fn new(size: usize, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryDevice::from_image(&vec![SECRET; size]),
            limits,
            state: Mutex::new(Rank::DeviceQueue, State::default()),
            parking: Parking::new(),
        })
    }

    /// Makes `len` bytes at `addr` be `byte`, behind everyone's back.
    pub(crate) fn fill(&self, addr: u64, len: u64, byte: u8) {
        let bytes = vec![byte; len as usize];
        write_bytes(&self.inner, DevAddr::new(addr), &bytes, false).expect("memory");
    }

    /// From here on requests wait to be completed by the test.
    pub(crate) fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Completes everything, and from here on at once.
    pub(crate) fn release(&self) {
        self.state.lock().held = false;
        self.complete_where(|_| true);
    }

    /// Completes the held requests that are wanted, in order. Returns how many.
    pub(crate) fn complete_where(&self, wanted: impl Fn(&Asked) -> bool) -> usize {
        let mut done = 0;
        loop {
            let (asked, bio) = {
                let mut state = self.state.lock();
                let Some(at) = state.queue.iter().position(|(asked, _)| wanted(asked)) else {
                    return done;
                };
                state.queue.remove(at).expect("found")
            };
            self.complete(&asked, bio);
            done += 1;
        }
    }

    /// The held requests.
    pub(crate) fn held(&self) -> Vec<Asked> {
        self.state
            .lock()
            .queue
            .iter()
            .map(|(asked, _)| *asked)
            .collect()
    }

    /// Waits until `n` requests are held.
    pub(crate) fn await_held(&self, n: usize) {
        while self.held().len() < n {
            thread::yield_now();
        }
    }

    /// Waits until `n` threads wait for the device.
    pub(crate) fn await_waiters(&self, n: usize) {
        while self.state.lock().waiters < n {
            thread::yield_now();
        }
    }

    /// Lets `fault` decide which requests fail.
    pub(crate) fn set_fault(&self, fault: impl FnMut(&Asked) -> Option<Errno> + Send + 'static) {
        self.state.lock().fault = Some(Box::new(fault));
    }

    /// No more failures.
    pub(crate) fn clear_fault(&self) {
        self.state.lock().fault = None;
    }

    /// What it was asked for so far; forgets it.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// The bytes at `addr`, whole sectors.
    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        read_bytes(&self.inner, DevAddr::new(addr), &mut bytes).expect("memory");
        bytes
    }

    fn complete(&self, asked: &Asked, bio: Bio) {
        let fault = self.state.lock().fault.take();
        let mut failed = None;
        if let Some(mut fault) = fault {
            failed = fault(asked);
            self.state.lock().fault.get_or_insert(fault);
        }
        match failed {
            Some(errno) => bio.complete(Err(errno)),
            None => self.inner.submit(bio),
        }
        self.state.lock().in_flight -= 1;
        self.parking.notify();
    }
}

impl BlockDevice for TestDevice {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn submit(&self, bio: Bio) {
        let asked = Asked {
            op: bio.op,
            addr: bio.addr.bytes(),
            len: bio.len,
        };
        let mut state = self.state.lock();
        state.asked.push(asked);
        state.in_flight += 1;
        if state.held {
            state.queue.push_back((asked, bio));
            return;
        }
        drop(state);
        self.complete(&asked, bio);
    }

    fn poll(&self) {}

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        self.state.lock().waiters += 1;
        self.parking.wait(done);
        self.state.lock().waiters -= 1;
    }

    fn wake(&self) {
        self.parking.notify();
    }

    fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }
}
