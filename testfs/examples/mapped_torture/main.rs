//! A file mapped into this very program, tortured: real stores and loads beside every other path.
//!
//! ```text
//! cargo run --release -p testfs --example mapped_torture -- --seconds 600 --seed 1 --threads 4
//! ```
//!
//! Owns the arguments, the rounds and the exit code: 0 if everything was as the model says, 1 if a
//! byte was not, 3 if the process may not have mappings, 5 if nothing moves any more. What is
//! stored where, and what may be found there, is [`model`]; what the threads do is [`work`].
//!
//! A round mounts a testfs in memory behind a device that completes requests in random order,
//! lets the threads work on one file with a page cache of a few folios, syncs, and mounts again:
//! after an unmount, or after a crash. Then every byte that was synced has to be there.
//!
//! With `--dax` the file is a DAX file on simulated persistent memory: the loads and stores reach
//! the device's own bytes, and a crash leaves any part of what was not flushed.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]

mod model;
mod owned;
mod shaper;
mod storage;
mod tail;
mod work;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use iomap_core::mmap::Prot;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{NewInode, OpenFile, OpenFlags, Special, Vfs};
use testfs::check::check;
use testfs::fs::TestFs;

use model::Model;
use storage::Storage;
use work::{Bench, Worker};

const VERIFICATION_FAILED: u8 = 1;
const REFUSED: u8 = 3;
const HANG: u8 = 5;

/// How long a round works.
const ROUND: Duration = Duration::from_secs(2);
/// A thread that did nothing for so long hangs. Long, because a debugger or a busy machine may stop
/// the process.
const PATIENCE: Duration = Duration::from_secs(300);

/// Real memory mappings of a testfs file beside direct and buffered I/O, truncate, punch, clone,
/// sync and reclaim, against a model.
#[derive(Debug, Parser)]
struct Args {
    /// How long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Makes everything that is random but the order in which threads run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that store; three more change the file around them
    #[arg(long, default_value_t = 3)]
    threads: usize,
    /// Only with blocks of this size
    #[arg(long)]
    block_size: Option<u32>,
    /// A DAX file
    #[arg(long)]
    dax: bool,
}

/// What a round found wrong.
pub(crate) type Verdict = Result<(), String>;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(why) = may_map(args.dax) {
        eprintln!("mapped_torture: {why}");
        return ExitCode::from(REFUSED);
    }
    let ops = Arc::new(AtomicU64::new(0));
    watch(&ops);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut rng = fastrand::Rng::with_seed(args.seed);
    let mut totals = Totals::default();
    while totals.rounds == 0 || Instant::now() < until {
        let setup = Setup::draw(&args, &mut rng);
        let length = ROUND.min(until.saturating_duration_since(Instant::now()));
        if let Err(what) = round(&setup, length, &ops, &mut totals) {
            println!("MISMATCH: {what}");
            println!("seed {}, round {}, {setup:?}", args.seed, totals.rounds);
            return ExitCode::from(VERIFICATION_FAILED);
        }
        totals.rounds += 1;
    }
    println!(
        "seed {}: {} rounds, {} operations, {} read faults, {} write faults, {} DAX faults, {} \
         truncates: ok",
        args.seed,
        totals.rounds,
        ops.load(Ordering::Relaxed),
        totals.read_faults,
        totals.write_faults,
        totals.dax_faults,
        totals.truncates,
    );
    ExitCode::SUCCESS
}

#[derive(Debug, Default)]
struct Totals {
    rounds: u64,
    read_faults: u64,
    write_faults: u64,
    dax_faults: u64,
    truncates: u64,
}

/// What one round is made of.
#[derive(Clone, Copy, Debug)]
struct Setup {
    seed: u64,
    threads: usize,
    block_size: u32,
    cache_pages: u64,
    /// Percent of the requests that are held back.
    held: u8,
    crash: bool,
    dax: bool,
}

impl Setup {
    fn draw(args: &Args, rng: &mut fastrand::Rng) -> Self {
        let block_size = if args.dax {
            [4096, 16_384][rng.usize(..2)]
        } else {
            [1024, 4096, 16_384][rng.usize(..3)]
        };
        Self {
            dax: args.dax,
            seed: rng.u64(..),
            threads: args.threads.max(1),
            block_size: args.block_size.unwrap_or(block_size),
            cache_pages: [128, 256, 1024][rng.usize(..3)],
            held: [30, 70, 100][rng.usize(..3)],
            crash: rng.bool(),
        }
    }
}

/// Mount, work, sync, mount again, verify.
fn round(setup: &Setup, length: Duration, ops: &Arc<AtomicU64>, totals: &mut Totals) -> Verdict {
    let storage = Storage::new(setup)?;
    let model = Model::new(setup.threads, u64::from(setup.block_size));
    let (fs, queue) = storage.mount(setup, setup.seed)?;
    let tables = {
        let (file, clone) = (create(&fs, "mapped")?, create(&fs, "clone")?);
        model.lay_out(&*file)?;
        let bench = Bench::new(&fs, &queue, file, clone, &model, ops);
        let tables = bench.work(setup, length)?;
        totals.truncates += bench.truncates();
        tables
    };
    let counters = fs.counters();
    totals.read_faults += counters.read_faults;
    totals.write_faults += counters.write_faults;
    totals.dax_faults += counters.dax_faults;
    if !setup.crash {
        fs.unmount().map_err(text)?;
    }
    drop(fs);
    let storage = storage.after_mount(queue, setup)?;
    let (fs, queue) = storage.mount(setup, setup.seed ^ 1)?;
    verify(&fs, &model, &tables, setup)?;
    fs.unmount().map_err(text)?;
    drop((fs, queue));
    let report = check(storage.device()).map_err(text)?;
    match report.errors().next() {
        Some(error) => Err(format!("check: {error}")),
        None => Ok(()),
    }
}

/// What was synced is there, in the file and through a mapping of it.
fn verify(fs: &Arc<TestFs>, model: &Model, workers: &[Worker], setup: &Setup) -> Verdict {
    let attr = fs.lookup(fs.root(), b"mapped").map_err(text)?;
    let file = fs.open(attr.ino, RW).map_err(text)?;
    let mut content = vec![0; usize::try_from(attr.size).map_err(text)?];
    read(&*file, 0, &mut content, iomap_core::vfs::IoFlags::empty())?;
    model.verify_synced(&content, setup.crash)?;
    for worker in workers {
        worker.verify_owned(&content)?;
    }
    let mapping = file.mmap(range(0, attr.size), BOTH, true).map_err(text)?;
    let mut mapped = vec![0; content.len()];
    mapping.load(FilePos::ZERO, &mut mapped).map_err(text)?;
    let Some(at) = mapped.iter().zip(&content).position(|(a, b)| a != b) else {
        return Ok(());
    };
    let (page, mut again) = (at / 4096 * 4096, vec![0; content.len()]);
    read(&*file, 0, &mut again, iomap_core::vfs::IoFlags::empty())?;
    let differ = mapped.iter().zip(&content).filter(|(a, b)| a != b).count();
    Err(format!(
        "after the mount, byte {at} of {}: read {:02x}, mapped {:02x}, read again {:02x}; {differ} \
         bytes differ; parts begin at {} and {}; page {}: {:?}",
        attr.size,
        content[at],
        mapped[at],
        again[at],
        model.owned(),
        model.tail(),
        page / 4096,
        model.verify_synced(&mapped, setup.crash),
    ))
}

// ---- helpers of all parts

pub(crate) const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
pub(crate) const BOTH: Prot = Prot::READ.union(Prot::WRITE);

pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(crate) fn range(start: u64, len: u64) -> FileRange {
    FileRange::at_most(FilePos::saturating(start), len)
}

/// A whole read.
pub(crate) fn read(
    file: &dyn OpenFile,
    at: u64,
    to: &mut [u8],
    flags: iomap_core::vfs::IoFlags,
) -> Verdict {
    match file.read_at(FilePos::saturating(at), to, flags) {
        Ok(done) if done == to.len() => Ok(()),
        Ok(done) => Err(format!("read {done} of {} bytes at {at}", to.len())),
        Err(error) => Err(format!("read at {at}: {error}")),
    }
}

fn create(fs: &Arc<TestFs>, name: &str) -> Result<Arc<dyn OpenFile>, String> {
    let new = NewInode {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let attr = fs.mknod(fs.root(), name.as_bytes(), Special::Regular, &new);
    fs.open(attr.map_err(text)?.ino, RW).map_err(text)
}

/// Whether this process gets mappings at all.
fn may_map(dax: bool) -> Verdict {
    let setup = Setup {
        seed: 0,
        threads: 1,
        block_size: 4096,
        cache_pages: 1024,
        held: 0,
        crash: false,
        dax,
    };
    let (fs, _queue) = Storage::new(&setup)?.mount(&setup, 0)?;
    let file = create(&fs, "probe")?;
    file.mmap(range(0, 4096), BOTH, true)
        .map(drop)
        .map_err(text)
}

/// Ends the program when nothing moves any more.
fn watch(ops: &Arc<AtomicU64>) {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::Relaxed) {
        return;
    }
    let ops = Arc::clone(ops);
    std::thread::spawn(move || {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(5));
            let now = ops.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                eprintln!("mapped_torture: no operation ended for {PATIENCE:?}");
                std::process::exit(i32::from(HANG));
            }
        }
    });
}
