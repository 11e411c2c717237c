//! A device in memory whose completions are under the test's control.

use std::collections::VecDeque;
use std::sync::Arc;

use iomap_core::device::bytes::read_bytes;
use iomap_core::device::parking::Parking;
use iomap_core::device::{Bio, BioOp, BlockDevice, Limits, MemoryDevice};
use iomap_core::error::Errno;
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::DevAddr;

/// When a request completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Inside `submit`.
    Immediate,
    /// When somebody looks at the device, as with a ring.
    Lazy,
    /// When the test says so.
    Held,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct TestDevice {
    inner: MemoryDevice,
    state: Mutex<State>,
    parking: Parking,
    /// Runs in the next thread whose wait is over, before it goes on.
    pub(crate) after_wait: AfterWait,
}

/// What a test wants to happen between the end of a wait and what comes after it.
#[derive(Default)]
pub(crate) struct AfterWait(parking_lot::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl AfterWait {
    pub(crate) fn set(&self, run: impl FnOnce() + Send + 'static) {
        *self.0.lock() = Some(Box::new(run));
    }

    fn run(&self) {
        let run = self.0.lock().take();
        if let Some(run) = run {
            run();
        }
    }
}

impl std::fmt::Debug for AfterWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AfterWait")
    }
}

#[derive(Debug)]
struct State {
    mode: Mode,
    queue: VecDeque<Bio>,
    /// Plugs on the device, whoever's.
    plugs: usize,
    /// Kept back until the last plug goes or somebody looks.
    plugged: Vec<Bio>,
    /// Requests that entered together, for each time some did.
    batches: Vec<usize>,
    in_flight: usize,
    /// Threads that wait.
    waiters: usize,
    /// How often one began to.
    waits: usize,
    /// Writes: address and length, in the order of their submission.
    writes: Vec<(u64, u64)>,
    /// Errors for the next writes.
    faults: VecDeque<Option<Errno>>,
    /// Errors for the next reads.
    read_faults: VecDeque<Errno>,
}

impl TestDevice {
    /// A device of `size` bytes, all of them `fill`.
    pub(crate) fn new(size: u64, fill: u8, mode: Mode) -> Arc<Self> {
        let state = State {
            mode,
            queue: VecDeque::new(),
            plugs: 0,
            plugged: Vec::new(),
            batches: Vec::new(),
            in_flight: 0,
            waiters: 0,
            waits: 0,
            writes: Vec::new(),
            faults: VecDeque::new(),
            read_faults: VecDeque::new(),
        };
        Arc::new(Self {
            inner: MemoryDevice::from_image(&vec![fill; size as usize]),
            state: Mutex::new(Rank::DeviceQueue, state),
            parking: Parking::new(),
            after_wait: AfterWait::default(),
        })
    }

    /// Changes when requests complete; what waits is completed unless they are held.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.state.lock().mode = mode;
        if mode != Mode::Held {
            self.complete_all();
        }
    }

    /// The next write fails with `errno`, after `ok` more that do not.
    pub(crate) fn fail_write(&self, ok: usize, errno: Errno) {
        let mut state = self.state.lock();
        state.faults.extend(std::iter::repeat_n(None, ok));
        state.faults.push_back(Some(errno));
    }

    /// The writes so far; forgets them.
    pub(crate) fn take_writes(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.state.lock().writes)
    }

    /// How many requests entered together, each time; forgets it.
    pub(crate) fn take_batches(&self) -> Vec<usize> {
        std::mem::take(&mut self.state.lock().batches)
    }

    /// The next `n` reads fail.
    pub(crate) fn fail_reads(&self, n: usize, errno: Errno) {
        let faults = std::iter::repeat_n(errno, n);
        self.state.lock().read_faults.extend(faults);
    }

    /// Requests that wait for completion.
    pub(crate) fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Threads that wait for it.
    pub(crate) fn waiters(&self) -> usize {
        self.state.lock().waiters
    }

    /// How often a thread began to wait for it.
    pub(crate) fn waits(&self) -> usize {
        self.state.lock().waits
    }

    /// Completes the oldest request. Returns whether there was one.
    pub(crate) fn complete_one(&self) -> bool {
        let Some(bio) = self.state.lock().queue.pop_front() else {
            return false;
        };
        self.complete(bio);
        true
    }

    /// Completes everything that waits.
    pub(crate) fn complete_all(&self) {
        while self.complete_one() {}
    }

    /// The bytes at `addr`.
    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.next_multiple_of(512)];
        read_bytes(&self.inner, DevAddr::new(addr), &mut bytes).expect("a memory device reads");
        bytes.truncate(len);
        bytes
    }

    fn complete(&self, bio: Bio) {
        let fault = match bio.op {
            BioOp::Write { .. } => self.state.lock().faults.pop_front().flatten(),
            BioOp::Read => self.state.lock().read_faults.pop_front(),
            _ => None,
        };
        match fault {
            Some(errno) => bio.complete(Err(errno)),
            None => self.inner.submit(bio),
        }
        self.state.lock().in_flight -= 1;
        self.parking.notify();
    }

    /// Has what was kept back enter the device.
    fn enter(&self) {
        let mut state = self.state.lock();
        let bios = std::mem::take(&mut state.plugged);
        if bios.is_empty() {
            return;
        }
        state.batches.push(bios.len());
        if state.mode != Mode::Immediate {
            state.queue.extend(bios);
            drop(state);
            return self.parking.notify();
        }
        drop(state);
        bios.into_iter().for_each(|bio| self.complete(bio));
    }

    /// Completes what may be completed by a thread that looks.
    fn look(&self) -> bool {
        self.enter();
        let bio = {
            let mut state = self.state.lock();
            if state.mode == Mode::Held {
                None
            } else {
                state.queue.pop_front()
            }
        };
        let found = bio.is_some();
        if let Some(bio) = bio {
            self.complete(bio);
        }
        found
    }
}

impl BlockDevice for TestDevice {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn submit(&self, bio: Bio) {
        let plugs = {
            let mut state = self.state.lock();
            if let BioOp::Write { .. } = bio.op {
                state.writes.push((bio.addr.bytes(), bio.len));
            }
            state.in_flight += 1;
            state.plugged.push(bio);
            state.plugs
        };
        if plugs == 0 {
            self.enter();
        }
    }

    fn plug(&self) {
        self.state.lock().plugs += 1;
    }

    fn unplug(&self) {
        let plugs = {
            let mut state = self.state.lock();
            state.plugs -= 1;
            state.plugs
        };
        if plugs == 0 {
            self.enter();
        }
    }

    fn poll(&self) {
        while self.look() {}
    }

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        {
            let mut state = self.state.lock();
            state.waiters += 1;
            state.waits += 1;
        }
        self.parking.wait(&mut || {
            loop {
                if done() {
                    return true;
                }
                if !self.look() {
                    return false;
                }
            }
        });
        self.after_wait.run();
        self.state.lock().waiters -= 1;
    }

    fn wake(&self) {
        self.parking.notify();
    }

    fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }
}
