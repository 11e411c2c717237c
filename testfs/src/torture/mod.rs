//! All operations mixed, from many threads, against the model.
//!
//! Owns the run as a whole: threads, the watchdog, the end. The pieces:
//!
//! | Module | Owns |
//! |---|---|
//! | [`op`] | what can be done, generated from a seed |
//! | [`target`], [`image`] | the file system under test: make, mount, check |
//! | [`world`], [`place`], [`mod@file`] | what the threads share: the mount, names, files |
//! | [`content`], [`doubt`], [`edit`], [`stamp`] | what a file may contain |
//! | [`data`], [`names`], `mapped` | doing an operation and judging the answer |
//! | [`verify`] | comparing everything at the end |
//! | [`shrink`] | making a failing sequence short |

pub mod content;
pub mod data;
pub mod doubt;
pub mod edit;
pub mod file;
pub mod image;
mod mapped;
pub mod names;
pub mod op;
pub mod place;
pub mod ranges;
mod reads;
mod regions;
mod reshape;
pub mod shrink;
pub mod stamp;
pub mod target;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod watch;
pub mod world;
mod writes;
mod xattrs;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::Mutex;

use self::op::{DataOp, Op, Subject};
use self::target::Target;
use self::watch::Watch;
use self::world::{Fail, World};

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Operations in all.
    pub ops: u64,
    /// Threads.
    pub threads: u8,
    /// Makes the operations.
    pub seed: u64,
    /// The probability that a device request fails.
    pub faults: f64,
    /// Stop after this time.
    pub time: Option<Duration>,
    /// No operation may take longer than this.
    pub patience: Duration,
}

/// What happened in a run that went well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Operations done.
    pub ops: u64,
    /// Operations that failed as they may.
    pub tolerated: u64,
    /// Device requests that were made to fail.
    pub faults: u64,
    /// Bytes compared at the end.
    pub verified: u64,
    /// Faults the check had to mend (only after device failures).
    pub repaired: usize,
}

/// What went wrong, and what led there.
#[derive(Debug)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// The thread and its operation, counted from zero; `None` for the end of the run.
    pub at: Option<(u8, u64)>,
    /// What.
    pub fail: Fail,
}

/// The operations of one thread.
#[must_use]
pub fn generator(seed: u64, thread: u8) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(thread) << 56) ^ 0x5eed)
}

/// Does one operation.
///
/// # Errors
///
/// The file system did something it must not.
pub fn perform(world: &World, thread: u8, number: u64, op: &Op) -> Result<(), Fail> {
    if *op == Op::Remount {
        return world.remount();
    }
    let session = world.session();
    if world.is_fenced() {
        return Ok(());
    }
    let vfs = session.vfs();
    let excuse = |what: &str, error| match world.tolerates(&error) {
        true => Ok(()),
        false => Err(Fail::new(format!("{what}: {error}"))),
    };
    match op {
        Op::Data(subject, op) => {
            let Some(file) = world.file(vfs, *subject)? else {
                return Ok(());
            };
            let other = match op {
                DataOp::Clone { to, .. } => world.file(vfs, *to)?,
                _ => None,
            };
            let call = data::Call {
                world,
                vfs,
                file: &file,
                tag: stamp::tag(thread, number),
            };
            // A file without a name is gone when it is closed.
            if *op == DataOp::Close && matches!(subject, Subject::Orphan(_)) {
                return Ok(());
            }
            data::apply(call, op, other.as_deref())
        }
        Op::Name(op) => names::apply(world, vfs, op, number),
        Op::Sync => vfs.sync().or_else(|e| {
            world.all_reported();
            excuse("sync", e)
        }),
        Op::StatFs => match vfs.statfs() {
            Ok(s) if s.blocks_free > s.blocks || s.blocks_available > s.blocks_free => {
                Err(Fail::new(format!("statfs makes no sense: {s:?}")))
            }
            Ok(_) => Ok(()),
            Err(error) => excuse("statfs", error),
        },
        Op::Shrink { pages } => {
            if let Some(mounted) = session.mounted() {
                mounted.shrink(*pages as usize);
            }
            Ok(())
        }
        Op::Remount => Ok(()),
    }
}

/// A run: the world and who is at what.
struct Run<'a> {
    options: &'a Options,
    world: &'a World,
    watch: &'a Watch,
    stop: &'a AtomicBool,
    failed: &'a Mutex<Option<Failure>>,
    done: &'a AtomicU64,
}

impl Run<'_> {
    fn thread(&self, thread: u8, ops: u64, deadline: Option<Instant>) {
        let mut rng = generator(self.options.seed, thread);
        for number in 0..ops {
            let late = deadline.is_some_and(|d| number % 64 == 0 && Instant::now() > d);
            if late || self.stop.load(Relaxed) {
                break;
            }
            if self.world.is_fenced() {
                break;
            }
            let op = Op::generate(&mut rng, self.world.target.maps());
            self.watch.begin(thread, number, &op);
            let result = perform(self.world, thread, number, &op);
            self.done.fetch_add(1, Relaxed);
            if let Err(mut fail) = result {
                fail.what = format!("{op}: {}", fail.what);
                let mut failed = self.failed.lock();
                failed.get_or_insert(Failure {
                    seed: self.options.seed,
                    at: Some((thread, number)),
                    fail,
                });
                self.stop.store(true, Relaxed);
            }
        }
        self.watch.end(thread);
    }
}

/// Runs torture on a target.
///
/// `progress` is told the number of operations done, now and then.
///
/// # Errors
///
/// The first failure of the file system. A hang is reported on standard error and ends the process:
/// a thread that hangs cannot be joined.
pub fn run(
    target: &Arc<dyn Target>,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary, Failure> {
    let at_end = |fail| Failure {
        seed: options.seed,
        at: None,
        fail,
    };
    let shards = usize::from(options.threads / 2).clamp(2, 4);
    let (mut summary, mut epoch) = (Summary::default(), options.clone());
    let deadline = options.time.map(|time| Instant::now() + time);
    loop {
        target.set_faults(0.0);
        let world = World::new(Arc::clone(target), shards, options.faults).map_err(at_end)?;
        target.set_faults(options.faults);
        let before = summary.ops;
        let done = all_threads(&world, &epoch, deadline, &|now| progress(before + now))?;
        target.set_faults(0.0);
        let (verified, repaired) = finish(&world).map_err(at_end)?;
        summary.ops += done;
        summary.tolerated += world.tolerated.load(Relaxed);
        summary.verified += verified;
        summary.repaired += repaired;
        let late = deadline.is_some_and(|deadline| Instant::now() > deadline);
        // A file system that gave up with its device is looked at and made anew.
        if summary.ops >= options.ops || late || !world.is_fenced() {
            break;
        }
        epoch.ops = options.ops - summary.ops;
        epoch.seed = epoch.seed.wrapping_add(1 << 32);
    }
    summary.faults = target.faults();
    Ok(summary)
}

/// Lets every thread do its share.
fn all_threads(
    world: &World,
    options: &Options,
    deadline: Option<Instant>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<u64, Failure> {
    let watch = Watch::new(options.threads, options.patience);
    let (stop, done, failed) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(None));
    let run = Run {
        options,
        world,
        watch: &watch,
        stop: &stop,
        failed: &failed,
        done: &done,
    };
    let (threads, ops) = (u64::from(options.threads), options.ops);
    std::thread::scope(|scope| {
        for thread in 0..options.threads {
            let share = ops / threads + u64::from(u64::from(thread) < ops % threads);
            let run = &run;
            scope.spawn(move || run.thread(thread, share, deadline));
        }
        scope.spawn(|| {
            watch.until_all_ended(options.seed, || progress(done.load(Relaxed)));
        });
    });
    match failed.into_inner() {
        Some(failure) => Err(failure),
        None => Ok(done.into_inner()),
    }
}

/// Verifies, unmounts, checks, mounts read-only, verifies again.
///
/// # Errors
///
/// What is wrong.
pub fn finish(world: &World) -> Result<(u64, usize), Fail> {
    if !world.faulty {
        verify::everything(world)?;
    }
    world.unmount()?;
    let check = |repair| {
        let found = world.target.check(repair);
        found.map_err(|e| Fail::new(format!("check: {e}")))
    };
    let mut faults = check(false)?;
    let found = faults.len();
    if found > 0 && world.faulty {
        check(true)?;
        faults = check(false)?;
    }
    if !faults.is_empty() {
        return Err(Fail::new(format!("check found: {}", faults.join("; "))));
    }
    world.mount(true)?;
    let verified = if world.is_fenced() {
        verify::readable(world)?
    } else {
        world.compare_sizes(world.session().vfs())?;
        verify::everything(world)?
    };
    world.unmount()?;
    Ok((verified, found))
}
