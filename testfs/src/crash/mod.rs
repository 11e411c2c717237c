//! Every crash of a workload, replayed.
//!
//! Owns the run as a whole: which workloads, which images of each, the threads, the report. The
//! pieces:
//!
//! | Module | Owns |
//! |---|---|
//! | [`op`] | what can be done |
//! | [`workload`], [`ace`] | what is done |
//! | [`record`] | doing it on a device that remembers; recovering what a crash left |
//! | [`history`] | what was promised, and when |
//! | [`oracle`] | whether an image keeps the promises |
//!
//! # A run
//!
//! A workload runs once, beside the reference, on a device that logs every write, flush and FUA,
//! with requests that complete at once or in an order drawn from the seed. Then, at each point where
//! something was submitted, became durable or was promised, the images are built that a power cut
//! could leave there, by the fault model of [`device`](crate::device): every subset of the sectors
//! in doubt while those are few, every subset of the writes while those are, and otherwise all, none
//! and as many as the budget allows drawn by seed. Each is checked, mounted, read, and judged.
//!
//! A *state* is an image; the same image with other promises is judged again, and not counted again.

pub mod ace;
pub mod history;
pub mod op;
pub mod oracle;
pub mod record;
pub mod workload;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use fastrand::Rng;
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use parking_lot::Mutex;

use self::history::{History, Snapshot};
use self::op::Op;
use self::record::{Bed, Recorded, recover};
use self::workload::Workload;
use crate::device::walk::combinations;
use crate::device::{Fate, Image, Walk};

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only this workload; all of them, sequences of two operations first of all, if `None`.
    pub workload: Option<&'static Workload>,
    /// Makes the operations, the order of completions and the draws.
    pub seed: u64,
    /// Stop after so many distinct states.
    pub states: u64,
    /// Threads.
    pub threads: usize,
    /// The most images of one crash point.
    pub per_point: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workload: None,
            seed: 1,
            states: 10_000,
            threads: 2,
            per_point: 24,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Distinct images recovered and judged.
    pub states: u64,
    /// Judgements: images with the promises of their moment.
    pub judged: u64,
    /// Workloads run.
    pub workloads: u64,
    /// Crash points.
    pub points: u64,
}

/// A broken promise.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what} (operations {}, {} done and {} begun, crash point {point})", words(.ops), .progress.0, .progress.1)]
pub struct Violation {
    /// The workload.
    pub workload: &'static str,
    /// Its seed.
    pub seed: u64,
    /// Its operations.
    pub ops: Vec<Op>,
    /// How many of them had returned, and had begun.
    pub progress: (usize, usize),
    /// The crash point, in events of the recording.
    pub point: usize,
    /// What became of the writes in doubt.
    pub fates: Vec<Fate>,
    /// What is wrong.
    pub what: String,
    /// What the crash left; nothing if the workload failed without one.
    pub image: Option<Image>,
}

/// A workload with all that is drawn for it.
#[derive(Clone, Debug)]
struct Job {
    workload: &'static str,
    seed: u64,
    ops: Vec<Op>,
    /// Which of the file systems it starts from.
    bed: usize,
    /// Draws the order of completions; each at once if `None`.
    order: Option<u64>,
}

/// What the threads share.
struct Shared<'a> {
    options: &'a Options,
    beds: [Bed; BEDS],
    next: AtomicU64,
    states: AtomicU64,
    judged: AtomicU64,
    workloads: AtomicU64,
    points: AtomicU64,
    stop: AtomicBool,
    seen: Mutex<HashSet<u64>>,
    violation: Mutex<Option<Violation>>,
    progress: &'a (dyn Fn(u64) + Sync),
}

/// Replays crashes until there are enough states. `progress` gets the number of states so far, from
/// any thread.
///
/// # Errors
///
/// The first broken promise.
pub fn run(options: &Options, progress: &(dyn Fn(u64) + Sync)) -> Result<Summary, Box<Violation>> {
    let shared = Shared::new(options, progress)?;
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| shared.work());
        }
    });
    shared.end()
}

/// Replays the crashes of `ops` alone: with blocks smaller than a page and as large, with requests
/// that complete at once and in the orders of these seeds.
///
/// # Errors
///
/// The first broken promise.
pub fn replay(ops: &[Op], seeds: std::ops::Range<u64>) -> Result<Summary, Box<Violation>> {
    let options = Options {
        states: u64::MAX,
        ..Options::default()
    };
    let shared = Shared::new(&options, &|_| {})?;
    let pool = pool().map_err(|what| Box::new(Violation::outside(what)))?;
    for bed in 0..shared.beds.len() {
        for order in std::iter::once(None).chain(seeds.clone().map(Some)) {
            let job = Job {
                workload: "given",
                seed: order.unwrap_or(0),
                ops: ops.to_vec(),
                bed,
                order,
            };
            shared.run(&job, &pool)?;
        }
    }
    shared.end()
}

/// File systems to start from.
const BEDS: usize = 2;

/// Small blocks, so that a page has several; and blocks as large as a page.
fn beds() -> Result<[Bed; BEDS], String> {
    let pool = pool()?;
    let bed = |size: usize, block| Bed::new(size, block, &pool);
    Ok([bed(1 << 20, 1024)?, bed(2 << 20, 4096)?])
}

/// Memory for the small file systems of a run.
///
/// # Errors
///
/// In words: there is none.
pub fn pool() -> Result<PoolHandle, String> {
    let config = PoolConfig {
        huge_pages: false,
        ..PoolConfig::with_budget(8 << 20)
    };
    Pool::new(config).map_err(|error| format!("no memory: {error}"))
}

impl Job {
    /// Job number `n` of a run.
    fn number(n: u64, options: &Options) -> Self {
        let seed = options.seed.wrapping_add(n);
        let all = workload::ALL;
        let workload: &Workload = match options.workload {
            Some(workload) => workload,
            // Every second one is a sequence of two operations.
            None if n.is_multiple_of(2) => &all[0],
            None => &all[1 + (n / 2) as usize % (all.len() - 1)],
        };
        let mut rng = Rng::with_seed(seed);
        Self {
            workload: workload.name,
            seed,
            ops: workload.ops(seed),
            bed: rng.usize(..BEDS),
            order: rng.bool().then(|| rng.u64(..)),
        }
    }
}

fn words(ops: &[Op]) -> String {
    let ops: Vec<_> = ops.iter().map(ToString::to_string).collect();
    ops.join(", ")
}

impl Violation {
    /// Something that went wrong before any workload.
    fn outside(what: String) -> Self {
        Self {
            workload: "",
            seed: 0,
            ops: Vec::new(),
            progress: (0, 0),
            point: 0,
            fates: Vec::new(),
            what,
            image: None,
        }
    }
}

impl<'a> Shared<'a> {
    fn new(
        options: &'a Options,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Result<Self, Box<Violation>> {
        Ok(Self {
            options,
            beds: beds().map_err(|what| Box::new(Violation::outside(what)))?,
            next: AtomicU64::new(0),
            states: AtomicU64::new(0),
            judged: AtomicU64::new(0),
            workloads: AtomicU64::new(0),
            points: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            seen: Mutex::new(HashSet::new()),
            violation: Mutex::new(None),
            progress,
        })
    }

    fn end(self) -> Result<Summary, Box<Violation>> {
        if let Some(violation) = self.violation.into_inner() {
            return Err(Box::new(violation));
        }
        Ok(Summary {
            states: self.states.into_inner(),
            judged: self.judged.into_inner(),
            workloads: self.workloads.into_inner(),
            points: self.points.into_inner(),
        })
    }

    fn work(&self) {
        let pool = match pool() {
            Ok(pool) => pool,
            Err(what) => return self.fail(Violation::outside(what)),
        };
        while !self.stop.load(Relaxed) {
            let job = Job::number(self.next.fetch_add(1, Relaxed), self.options);
            if let Err(violation) = self.run(&job, &pool) {
                self.fail(*violation);
            }
        }
    }

    /// Keeps the first one.
    fn fail(&self, violation: Violation) {
        self.violation.lock().get_or_insert(violation);
        self.stop.store(true, Relaxed);
    }

    fn run(&self, job: &Job, pool: &PoolHandle) -> Result<(), Box<Violation>> {
        let bed = &self.beds[job.bed];
        let violation = |what| Violation {
            workload: job.workload,
            seed: job.seed,
            ops: job.ops.clone(),
            ..Violation::outside(what)
        };
        let recorded = bed
            .record(&job.ops, job.order, pool)
            .map_err(|what| Box::new(violation(what)))?;
        let mut replay = Replay {
            shared: self,
            recorded: &recorded,
            block: bed.block_size.into(),
            pool,
            rng: Rng::with_seed(job.seed),
            found: HashMap::new(),
            judged: HashSet::new(),
        };
        let result = replay.run();
        self.workloads.fetch_add(1, Relaxed);
        result.map_err(|broken| {
            let mut violation = violation(broken.what);
            violation.progress = broken.progress;
            violation.point = broken.point;
            violation.fates = broken.fates;
            violation.image = Some(broken.image);
            Box::new(violation)
        })
    }

    /// Counts an image. Returns its number if it is new.
    fn count(&self, image: &Image) -> Option<u64> {
        if !self.seen.lock().insert(image.fingerprint()) {
            return None;
        }
        let states = self.states.fetch_add(1, Relaxed) + 1;
        if states >= self.options.states {
            self.stop.store(true, Relaxed);
        }
        if states.is_multiple_of(64) {
            (self.progress)(states);
        }
        Some(states)
    }
}

/// Every how many states the file system is used after its recovery, too.
const USE_EVERY: u64 = 16;

/// The crashes of one workload.
struct Replay<'a> {
    shared: &'a Shared<'a>,
    recorded: &'a Recorded,
    block: u64,
    pool: &'a PoolHandle,
    rng: Rng,
    /// What was found on an image.
    found: HashMap<u64, Snapshot>,
    /// Images with promises.
    judged: HashSet<(u64, Option<u64>)>,
}

struct Broken {
    progress: (usize, usize),
    point: usize,
    fates: Vec<Fate>,
    what: String,
    image: Image,
}

impl Replay<'_> {
    fn run(&mut self) -> Result<(), Box<Broken>> {
        let recorded = self.recorded;
        let mut walk = recorded.recording.walk(recorded.base.clone());
        while walk.step() && !self.shared.stop.load(Relaxed) {
            self.shared.points.fetch_add(1, Relaxed);
            let sectors = walk.sectors();
            let per_point = self.shared.options.per_point;
            for fates in combinations(&sectors, per_point, &mut self.rng) {
                self.crash(&walk, fates)?;
            }
        }
        Ok(())
    }

    /// One image at one point.
    fn crash(&mut self, walk: &Walk<'_>, fates: Vec<Fate>) -> Result<(), Box<Broken>> {
        let image = walk.image(&fates);
        let mark = walk.mark();
        if !self.judged.insert((image.fingerprint(), mark)) {
            return Ok(());
        }
        let (done, begun) = History::progress(mark);
        let (history, block) = (&self.recorded.history, self.block);
        let judged = self
            .find(&image)
            .and_then(|found| oracle::judge(found, history, done, begun, block));
        self.shared.judged.fetch_add(1, Relaxed);
        judged.map_err(|what| {
            Box::new(Broken {
                progress: (done, begun),
                point: walk.point(),
                fates,
                what,
                image,
            })
        })
    }

    fn find(&mut self, image: &Image) -> Result<&Snapshot, String> {
        let key = image.fingerprint();
        if !self.found.contains_key(&key) {
            let number = self.shared.count(image);
            let use_it = number.is_some_and(|n| n.is_multiple_of(USE_EVERY));
            let found = recover(image, self.pool, use_it)?;
            self.found.insert(key, found);
        }
        Ok(&self.found[&key])
    }
}
