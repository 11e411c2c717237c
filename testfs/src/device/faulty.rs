//! A device that fails as planned.
//!
//! Owns [`FaultyDevice`], the plan ([`Fault`]) and the counters. What a fault leaves behind is the
//! plan's [`Effect`]; the rest passes to the device inside.
//!
//! Of a device whose bytes are memory two more things fail: making stores durable counts as a flush,
//! and asking whether bytes are usable as a read. A load or store that comes to them without asking,
//! through a page table, does not fail.

use std::fmt;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use fastrand::Rng;
use iomap_core::dax::{DaxDevice, DaxMemory};
use iomap_core::device::{Bio, BioOp, BlockDevice, Segment};
use iomap_core::error::{DeviceError, DeviceOp, Errno};
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::{DevAddr, PAGE_SIZE};

/// Which of the matching requests fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// Only the n-th, from 0.
    Nth(u64),
    /// The n-th and all later ones, from 0.
    From(u64),
    /// The first n.
    First(u64),
    /// Each with this probability, drawn from the device's seed.
    Chance(f64),
}

/// How much of a failed request has been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    Nothing,
    /// The first half of its blocks, rounded down.
    Half,
    /// All of it: only the answer is lost.
    All,
}

/// A planned failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    errno: Errno,
    op: Option<DeviceOp>,
    range: Range<u64>,
    when: When,
    effect: Effect,
}

impl Fault {
    /// Everything fails with `errno`, undone. The calls below narrow it.
    #[must_use]
    pub const fn new(errno: Errno) -> Self {
        Self {
            errno,
            op: None,
            range: 0..u64::MAX,
            when: When::Always,
            effect: Effect::Nothing,
        }
    }

    /// Only requests of this kind.
    #[must_use]
    pub const fn on(mut self, op: DeviceOp) -> Self {
        self.op = Some(op);
        self
    }

    /// Only requests that touch these bytes of the device; flushes touch none.
    #[must_use]
    pub const fn within(mut self, range: Range<u64>) -> Self {
        self.range = range;
        self
    }

    /// Only these of the matching requests.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// What a failing request leaves behind.
    #[must_use]
    pub const fn leaving(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    fn matches(&self, op: BioOp, addr: DevAddr, len: u64) -> bool {
        let kind = self.op.is_none_or(|kind| kind == op.device_op());
        let everywhere = self.range == (0..u64::MAX);
        let start = addr.bytes();
        let touches = start < self.range.end && self.range.start < start.saturating_add(len);
        kind && (everywhere || (op != BioOp::Flush && touches))
    }
}

/// Requests seen and failed, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards and write-zeroes.
    pub others: u64,
    /// How many of all these failed as planned.
    pub failed: u64,
}

impl Counts {
    /// Requests seen.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.others
    }

    const fn count(&mut self, op: BioOp) {
        *match op {
            BioOp::Read => &mut self.reads,
            BioOp::Write { .. } => &mut self.writes,
            BioOp::Flush => &mut self.flushes,
            BioOp::Discard | BioOp::WriteZeroes => &mut self.others,
        } += 1;
    }
}

/// Fails requests to the device inside as planned.
pub struct FaultyDevice<D> {
    inner: D,
    state: Mutex<State>,
}

struct State {
    /// With each, how many requests matched so far.
    plan: Vec<(Fault, u64)>,
    counts: Counts,
    gone: bool,
    rng: Rng,
}

impl<D: BlockDevice> FaultyDevice<D> {
    /// Nothing fails yet. `seed` decides the draws of [`When::Chance`].
    #[must_use]
    pub fn new(inner: D, seed: u64) -> Self {
        let state = State {
            plan: Vec::new(),
            counts: Counts::default(),
            gone: false,
            rng: Rng::with_seed(seed),
        };
        Self {
            inner,
            state: Mutex::new(Rank::DeviceQueue, state),
        }
    }

    /// The device inside.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    /// Adds to the plan. Of several faults that strike at one request the first added wins.
    pub fn plan(&self, fault: Fault) {
        self.state.lock().plan.push((fault, 0));
    }

    /// Forgets the plan; the device is not gone any more.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.plan.clear();
        state.gone = false;
    }

    /// From now on everything fails with `ENODEV`.
    pub fn vanish(&self) {
        self.state.lock().gone = true;
    }

    /// What has been seen so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Starts counting from zero.
    pub fn reset_counts(&self) {
        self.state.lock().counts = Counts::default();
    }

    /// Does to the device inside what `effect` says of the request.
    fn leave(&self, effect: Effect, op: BioOp, addr: DevAddr, len: u64, segments: &[Segment]) {
        let part = match effect {
            Effect::Nothing => return,
            Effect::Half => len / 2 / self.limits().block_size * self.limits().block_size,
            Effect::All => len,
        };
        if part == 0 && op != BioOp::Flush {
            return;
        }
        let mut left = part as usize;
        let cut: Vec<_> = segments
            .iter()
            .map(|segment| {
                let n = segment.len().min(left);
                left -= n;
                segment.part(0, n)
            })
            .filter(|segment| !segment.is_empty())
            .collect();
        // Part of an untorn write is an ordinary write; the answer is lost either way.
        let op = match op {
            BioOp::Write { .. } => BioOp::WRITE,
            op => op,
        };
        let _ = self.inner.transfer(op, addr, part, &cut);
    }
}

impl State {
    /// Counts the request and looks it up in the plan.
    fn verdict(&mut self, op: BioOp, addr: DevAddr, len: u64) -> Option<(Errno, Effect)> {
        self.counts.count(op);
        let mut verdict = self.gone.then_some((Errno::NODEV, Effect::Nothing));
        for (fault, seen) in &mut self.plan {
            if !fault.matches(op, addr, len) {
                continue;
            }
            let strikes = match fault.when {
                When::Always => true,
                When::Nth(n) => *seen == n,
                When::From(n) => *seen >= n,
                When::First(n) => *seen < n,
                When::Chance(chance) => self.rng.f64() < chance,
            };
            *seen += 1;
            if strikes && verdict.is_none() {
                verdict = Some((fault.errno, fault.effect));
            }
        }
        self.counts.failed += u64::from(verdict.is_some());
        verdict
    }
}

impl<D: BlockDevice> BlockDevice for FaultyDevice<D> {
    iomap_core::device::pass_to_device!(self => self.inner);

    fn submit(&self, bio: Bio) {
        let verdict = self.state.lock().verdict(bio.op, bio.addr, bio.len);
        let Some((errno, effect)) = verdict else {
            return self.inner.submit(bio);
        };
        self.leave(effect, bio.op, bio.addr, bio.len, &bio.segments);
        bio.complete(Err(errno));
        // The waiters wait for the device inside, which knows nothing of this completion.
        self.inner.wake();
    }
}

impl DaxDevice for FaultyDevice<Arc<dyn DaxDevice>> {
    fn memory(&self) -> &DaxMemory {
        self.inner.memory()
    }

    fn persist(&self, addr: DevAddr, len: u64) -> Result<(), DeviceError> {
        let verdict = self.state.lock().verdict(BioOp::Flush, addr, len);
        let Some((errno, effect)) = verdict else {
            return self.inner.persist(addr, len);
        };
        let part = match effect {
            Effect::Nothing => 0,
            Effect::Half => len / 2,
            Effect::All => len,
        };
        if part > 0 {
            // The answer is lost either way.
            let _ = self.inner.persist(addr, part);
        }
        Err(DeviceError::new(DeviceOp::Flush, addr, len, errno))
    }

    fn persists_cheaply(&self) -> bool {
        self.inner.persists_cheaply()
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        self.inner.backing()
    }

    /// A page that fails is the first, or for [`Effect::Half`] one in the middle.
    fn usable(&self, addr: DevAddr, len: u64) -> Result<u64, DeviceError> {
        let verdict = self.state.lock().verdict(BioOp::Read, addr, len);
        let Some((errno, effect)) = verdict else {
            return self.inner.usable(addr, len);
        };
        let page = PAGE_SIZE as u64;
        let middle = (addr.bytes() + len / 2) / page * page;
        match middle.checked_sub(addr.bytes()) {
            Some(before) if effect == Effect::Half && before > 0 => self.inner.usable(addr, before),
            _ => Err(DeviceError::new(DeviceOp::Read, addr, len, errno)),
        }
    }
}

impl<D: fmt::Debug> fmt::Debug for FaultyDevice<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDevice")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::PmemDevice;
    use iomap_core::device::MemoryDevice;

    fn device() -> FaultyDevice<MemoryDevice> {
        FaultyDevice::new(MemoryDevice::new(64 << 10), 1)
    }

    fn write(device: &FaultyDevice<MemoryDevice>, addr: u64, byte: u8) -> Result<(), Errno> {
        let result = device.write_at(DevAddr::new(addr), &[byte; 2048]);
        result.map_err(|error| error.errno)
    }

    #[test]
    fn only_the_nth_write_fails() {
        let device = device();
        device.plan(
            Fault::new(Errno::NOSPC)
                .on(DeviceOp::Write)
                .when(When::Nth(2)),
        );
        device.flush().unwrap();
        let results: Vec<_> = (0..4).map(|n| write(&device, n * 2048, 1)).collect();
        assert_eq!(results, [Ok(()), Ok(()), Err(Errno::NOSPC), Ok(())]);
        let counts = device.counts();
        assert_eq!((counts.writes, counts.flushes, counts.failed), (4, 1, 1));
        assert_eq!(counts.total(), 5);
    }

    #[test]
    fn a_bad_range_stays_bad_until_healed() {
        let device = device();
        device.plan(Fault::new(Errno::IO).on(DeviceOp::Read).within(4096..4608));
        let mut buf = [0; 512];
        for _ in 0..3 {
            device.read_at(DevAddr::new(3584), &mut buf).unwrap();
            device.read_at(DevAddr::new(4608), &mut buf).unwrap();
            let error = device.read_at(DevAddr::new(4096), &mut buf).unwrap_err();
            assert_eq!((error.errno, error.op), (Errno::IO, DeviceOp::Read));
        }
        write(&device, 4096, 1).unwrap();
        device.heal();
        device.read_at(DevAddr::new(4096), &mut buf).unwrap();
    }

    #[test]
    fn a_failure_leaves_what_the_plan_says() {
        for (effect, expected) in [
            (Effect::Nothing, [0, 0, 0, 0]),
            (Effect::Half, [5, 5, 0, 0]),
            (Effect::All, [5, 5, 5, 5]),
        ] {
            let device = device();
            device.plan(Fault::new(Errno::IO).leaving(effect));
            assert_eq!(write(&device, 0, 5), Err(Errno::IO));
            let image = device.inner().image();
            let sectors: Vec<_> = (0..4).map(|n| image[n * 512]).collect();
            assert_eq!(sectors, expected);
        }
    }

    #[test]
    fn a_device_that_is_gone_answers_nothing() {
        let device = device();
        device.vanish();
        assert_eq!(device.flush().unwrap_err().errno, Errno::NODEV);
        assert_eq!(write(&device, 0, 1), Err(Errno::NODEV));
        device.heal();
        write(&device, 0, 1).unwrap();
    }

    #[test]
    fn stores_are_made_durable_and_pages_used_as_planned() {
        let pmem = PmemDevice::new(32 << 10).unwrap();
        let device = FaultyDevice::new(pmem.clone() as Arc<dyn DaxDevice>, 1);
        for (n, (effect, arrived)) in
            (0..).zip([(Effect::Nothing, 0), (Effect::Half, 64), (Effect::All, 128)])
        {
            let at = n * 256;
            device.plan(Fault::new(Errno::IO).leaving(effect));
            device.inner().store(DevAddr::new(at), &[9; 128]).unwrap();
            let error = device.persist(DevAddr::new(at), 128).unwrap_err();
            assert_eq!((error.op, error.errno), (DeviceOp::Flush, Errno::IO));
            let durable = pmem.durable_image();
            let left = durable[at as usize..].iter().take_while(|b| **b == 9);
            assert_eq!(left.count(), arrived, "{effect:?}");
            let usable = device.usable(DevAddr::new(100), 16 << 10);
            let wanted = (effect == Effect::Half).then_some(8192 - 100);
            assert_eq!(usable.ok(), wanted, "{effect:?}");
            device.heal();
        }
        device.persist(DevAddr::new(0), 128).unwrap();
        assert_eq!(device.usable(DevAddr::new(0), 8192).unwrap(), 8192);
        assert_eq!(device.counts().failed, 6);
    }

    #[test]
    fn chance_follows_the_seed() {
        let failures = |seed| {
            let device = FaultyDevice::new(MemoryDevice::new(4096), seed);
            device.plan(Fault::new(Errno::IO).when(When::Chance(0.3)));
            (0..100)
                .map(|_| write(&device, 0, 1).is_err())
                .collect::<Vec<_>>()
        };
        assert_eq!(failures(3), failures(3));
        assert_ne!(failures(3), failures(4));
        let count = failures(3).into_iter().filter(|&failed| failed).count();
        assert!((10..60).contains(&count));
    }

    #[test]
    fn first_and_from_split_the_requests() {
        let device = device();
        device.plan(Fault::new(Errno::IO).when(When::First(1)));
        device.plan(Fault::new(Errno::NOSPC).when(When::From(3)));
        let results: Vec<_> = (0..5).map(|_| write(&device, 0, 1)).collect();
        let (io, full) = (Err(Errno::IO), Err(Errno::NOSPC));
        assert_eq!(results, [io, Ok(()), Ok(()), full, full]);
    }
}
