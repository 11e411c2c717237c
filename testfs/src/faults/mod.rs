//! One thing fails, for every thing in turn.
//!
//! Owns the enumeration: a workload of [`crash`](crate::crash) runs again and again, and each time
//! another request of the device, or another allocation of the page cache, fails; or several by
//! chance. What the file system is held to:
//!
//! - **The error is told.** Either an operation reports it, and then the run ends with that; or none
//!   does, a last `sync` neither, and then everything is on the device, byte for byte.
//! - **Balance.** Nothing is counted in that has ended, no block is promised to no data, and when the
//!   file system is gone all memory is free again.
//! - **Nothing is damaged.** With the fault gone the file system can be mounted, `check` finds
//!   nothing, every promise made before the fault is kept, and work goes on.
//!
//! A hang is for the runner to notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use iomap_core::device::BlockDevice;
use iomap_core::error::Errno;
use iomap_core::folio::PoolHandle;

use crate::crash::history::{History, Promise, Step, promise, subject};
use crate::crash::op::Op;
use crate::crash::oracle::judge;
use crate::crash::record::{Bed, Pair, mount, recover};
use crate::device::{DeferredDevice, Effect, Fault, FaultyDevice, ImageDevice, When};
use crate::fs::TestFs;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fails {
    /// The request of the device after so many, which leaves this behind.
    Request(u64, Effect),
    /// Each request with this probability, drawn from the seed, to the end of the unmount.
    Chance(f64, u64),
    /// The allocation of the page cache after so many. Debug builds only.
    #[cfg(debug_assertions)]
    Allocation(u64),
}

/// How a run with a fault went that kept all promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Went {
    /// Whether anything failed.
    pub struck: bool,
    /// Whether an operation, or the last sync, reported it.
    pub told: bool,
}

type Device = FaultyDevice<DeferredDevice<ImageDevice>>;

/// A run.
struct Run<'a> {
    bed: &'a Bed,
    fails: Fails,
    device: Arc<Device>,
    fs: Arc<TestFs>,
    pair: Pair,
    history: History,
    pool: &'a PoolHandle,
    /// Requests seen while the fault was armed.
    seen: u64,
    struck: bool,
}

/// Runs `ops` once with a fault. With an order, requests complete in one drawn from it.
///
/// # Errors
///
/// In words: what the file system did not do as it must.
pub fn run(
    bed: &Bed,
    ops: &[Op],
    fails: Fails,
    order: Option<u64>,
    pool: &PoolHandle,
) -> Result<Went, String> {
    let inner = DeferredDevice::auto(ImageDevice::new(bed.image().clone()), order.unwrap_or(0))
        .holding(move |held| order.is_some() && held.op != iomap_core::device::BioOp::Read);
    let seed = match fails {
        Fails::Chance(_, seed) => seed,
        _ => 0,
    };
    let device = Arc::new(FaultyDevice::new(inner, seed));
    let fs = mount(Arc::clone(&device) as Arc<dyn BlockDevice>, pool)
        .map_err(|error| format!("mount: {error}"))?;
    let pair = Pair::new(Arc::clone(&fs) as _)?;
    let history = History::new(pair.snapshot()?);
    let run = Run {
        bed,
        fails,
        device,
        fs,
        pair,
        history,
        pool,
        seen: 0,
        struck: false,
    };
    run.all(ops)
}

impl Run<'_> {
    fn all(mut self, ops: &[Op]) -> Result<Went, String> {
        let mut told = false;
        for (n, op) in (1..).zip(ops.iter().chain([&Op::Sync])) {
            if !self.one(n, *op)? {
                told = true;
                break;
            }
        }
        if !matches!(self.fails, Fails::Chance(..)) {
            self.device.heal();
            #[cfg(debug_assertions)]
            self.pool.refuse_nth(None);
            // What could not be written may be missing its storage; nothing else may.
            let after = self.history.steps.len() - 1;
            let balance = self.fs.check_balance();
            balance.map_err(|what| format!("after operation {after}: {what}"))?;
        }
        self.end(told)
    }

    /// One operation. Returns whether to go on: not if it reported the fault.
    fn one(&mut self, n: usize, op: Op) -> Result<bool, String> {
        let (ino, size) = subject(&self.pair.test, op);
        let result = self.armed(|pair| pair.test.run(n, op));
        let errno = result.err().map(|error| error.errno());
        let mut went = Promise::None;
        match errno {
            None => {
                let model = self.pair.model.run(n, op);
                model
                    .map_err(|error| format!("operation {n} ({op}): success, and not: {error}"))?;
                went = promise(op, ino, size);
            }
            // Refused as it would be without a fault.
            Some(errno) if !self.struck || !is_fault(errno) => {}
            // It may have been done in part.
            Some(_) => drop(self.pair.model.run(n, op)),
        }
        self.history.steps.push(Step {
            op: Some(op),
            promise: went,
            after: self.pair.snapshot()?,
        });
        Ok(!(self.struck && errno.is_some_and(is_fault)))
    }

    /// Runs `f` with the fault armed: looking at the state in between does not count.
    fn armed<T>(&mut self, f: impl FnOnce(&mut Pair) -> T) -> T {
        let before = self.device.counts();
        match self.fails {
            Fails::Request(n, effect) if n >= self.seen && !self.struck => {
                let fault = Fault::new(Errno::IO).when(When::Nth(n - self.seen));
                self.device.plan(fault.leaving(effect));
            }
            Fails::Chance(chance, _) => {
                self.device
                    .plan(Fault::new(Errno::IO).when(When::Chance(chance)));
            }
            Fails::Request(..) => {}
            #[cfg(debug_assertions)]
            Fails::Allocation(_) => self.arm_allocation(),
        }
        let result = f(&mut self.pair);
        self.device.heal();
        let after = self.device.counts();
        self.seen += after.total() - before.total();
        self.struck |= after.failed > before.failed;
        #[cfg(debug_assertions)]
        self.disarm_allocation();
        result
    }

    /// Unmounts, mounts without the fault, and judges.
    fn end(self, told: bool) -> Result<Went, String> {
        let Self {
            bed,
            fails,
            device,
            fs,
            pair,
            history,
            pool,
            struck,
            ..
        } = self;
        if let Fails::Chance(chance, _) = fails {
            device.plan(Fault::new(Errno::IO).when(When::Chance(chance)));
        }
        drop(pair);
        let unmounted = fs.unmount();
        let struck = struck || device.counts().failed > 0;
        device.heal();
        if let Err(error) = unmounted
            && !struck
        {
            return Err(format!("unmount: {error}, though nothing failed"));
        }
        drop(fs);
        all_memory_is_free(pool)?;
        let image = device.inner().inner().image();
        let found = recover(&image, pool, true)?;
        let last = history.steps.len() - 1;
        judge(&found, &history, last, last, bed.block_size.into())
            .map_err(|what| format!("{what} ({})", if told { "told" } else { "not told" }))?;
        Ok(Went { struck, told })
    }
}

/// How long the thread that ended the last writeback may take to let go of the file system.
const PATIENCE: Duration = Duration::from_secs(60);

/// The file system is gone, and all of its memory.
fn all_memory_is_free(pool: &PoolHandle) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let stats = pool.stats();
        if (stats.free_pages, stats.nr_dirty, stats.nr_writeback) == (stats.budget_pages, 0, 0) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("memory is not given back: {stats:?}"));
        }
        std::thread::yield_now();
    }
}

#[cfg(debug_assertions)]
impl Run<'_> {
    /// The count goes on from one operation to the next by itself: armed once.
    fn arm_allocation(&mut self) {
        if let Fails::Allocation(n) = self.fails
            && self.seen == 0
            && !self.struck
        {
            self.pool.refuse_nth(Some(n));
        }
    }

    fn disarm_allocation(&mut self) {
        if matches!(self.fails, Fails::Allocation(_)) {
            self.struck = !self.pool.has_refusal();
            self.seen = self.seen.max(1);
        }
    }
}

/// What an operation reports of a fault, or of what it has led to.
const fn is_fault(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::ROFS | Errno::NOMEM)
}

/// What a run over many faults did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Of these, runs in which something failed.
    pub struck: u64,
    /// Of these, runs in which that was reported.
    pub told: u64,
}

impl Summary {
    const fn add(&mut self, went: Went) {
        self.runs += 1;
        self.struck += went.struck as u64;
        self.told += went.told as u64;
    }
}

/// Fails each request of the device in turn, every `step`-th, with each effect in turn; then several
/// by chance. In debug builds, each allocation as well.
///
/// # Errors
///
/// In words, with the fault.
pub fn enumerate(
    bed: &Bed,
    ops: &[Op],
    step: u64,
    seed: u64,
    pool: &PoolHandle,
) -> Result<Summary, String> {
    let mut summary = Summary::default();
    let order = (seed % 2 == 1).then_some(seed);
    let mut attempt = |fails: Fails| {
        let went = run(bed, ops, fails, order, pool)
            .map_err(|what| format!("{fails:?}, order {order:?}: {what}; {}", words(ops)))?;
        summary.add(went);
        Ok::<_, String>(went.struck)
    };
    let effects = [Effect::Nothing, Effect::Half, Effect::All];
    let mut n = seed % step.max(1);
    while attempt(Fails::Request(n, effects[(n % 3) as usize]))? {
        n += step.max(1);
    }
    let mut rng = Rng::with_seed(seed);
    for _ in 0..4 {
        attempt(Fails::Chance(0.02 + rng.f64() * 0.1, rng.u64(..)))?;
    }
    #[cfg(debug_assertions)]
    {
        let mut n = seed % step.max(1);
        while attempt(Fails::Allocation(n))? {
            n += step.max(1);
        }
    }
    Ok(summary)
}

fn words(ops: &[Op]) -> String {
    let ops: Vec<_> = ops.iter().map(ToString::to_string).collect();
    ops.join(", ")
}
