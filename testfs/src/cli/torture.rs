//! The command `torture`.
//!
//! Owns its arguments, the loop over seeds, and what is printed of a failure: the seed, the
//! operation, and the shortest sequence that one thread alone can fail with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use iomap_core::dax::FileDaxDevice;
use iomap_core::device::{BlockDevice, FileDevice, MemoryDevice, OpenOptions};

use super::size::Size;
use super::{REFUSED, USAGE, VERIFICATION_FAILED};
use crate::device::PmemDevice;
use crate::meta::MkfsOptions;
use crate::torture::image::ImageTarget;
use crate::torture::target::Target;
use crate::torture::{Failure, Options, run, shrink};

/// How long is spent on making a failing sequence shorter.
const SHRINK_TIME: Duration = Duration::from_secs(60);
/// Operations of a failing run that are tried with one thread.
const SHRINK_OPS: u64 = 20_000;

#[derive(Debug, Args)]
pub(super) struct TortureArgs {
    /// Operations in all
    #[arg(long, default_value_t = 100_000)]
    ops: u64,
    /// Threads
    #[arg(long, default_value_t = 4)]
    threads: u8,
    /// Makes the operations; chosen and printed if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds to run, counting up from the first
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Memory of the page cache
    #[arg(long, default_value = "16M")]
    cache: Size,
    /// Size of the volume
    #[arg(long, default_value = "256M")]
    size: Size,
    /// Bytes of a block
    #[arg(long, default_value = "4096")]
    block_size: Size,
    /// The block file, everything on which is lost; memory if not given
    #[arg(long)]
    image: Option<PathBuf>,
    /// DAX files, also through memory mappings; without --image on simulated persistent memory,
    /// which loses what is not durable at each unmount
    #[arg(long)]
    dax: bool,
    /// The probability that a device request fails, 0 to 1; with --dax also that stores cannot be
    /// made durable, and that a page cannot be used
    #[arg(long, default_value_t = 0.0)]
    device_faults: f64,
    /// Stop after this many seconds
    #[arg(long)]
    time: Option<u64>,
    /// Seconds without the end of any operation that count as a hang
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// Do not look for a shorter sequence after a failure
    #[arg(long)]
    no_shrink: bool,
}

pub(super) fn command(args: &TortureArgs) -> u8 {
    if args.threads == 0 || !(0.0..=1.0).contains(&args.device_faults) {
        eprintln!("testfs: --threads is at least 1, --device-faults from 0 to 1");
        return USAGE;
    }
    let first = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    for seed in first..first.saturating_add(args.seeds.max(1)) {
        let code = one_seed(args, seed);
        if code != 0 {
            return code;
        }
    }
    0
}

fn one_seed(args: &TortureArgs, seed: u64) -> u8 {
    let target = match target(args, seed) {
        Ok(target) => target,
        Err(error) => {
            eprintln!("testfs: {error}");
            return REFUSED;
        }
    };
    let options = Options {
        ops: args.ops,
        threads: args.threads,
        seed,
        faults: args.device_faults,
        time: args.time.map(Duration::from_secs),
        patience: Duration::from_secs(args.patience),
    };
    match run(&target, &options, &|_| {}) {
        Ok(summary) => {
            println!(
                "seed {seed}: {} operations from {} threads, {} refused as they may, {} device \
                 faults, {} bytes compared: ok",
                summary.ops, args.threads, summary.tolerated, summary.faults, summary.verified,
            );
            0
        }
        Err(failure) => {
            report(args, &target, &options, &failure);
            VERIFICATION_FAILED
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn target(args: &TortureArgs, seed: u64) -> Result<Arc<dyn Target>, String> {
    let mkfs = MkfsOptions {
        block_size: u32::try_from(args.block_size.bytes()).map_err(text)?,
        ..MkfsOptions::default()
    };
    let create = OpenOptions {
        create_size: Some(args.size.bytes()),
        ..OpenOptions::default()
    };
    let device: Arc<dyn BlockDevice> = match &args.image {
        Some(path) if args.dax => {
            let device = Arc::new(FileDaxDevice::open(path, &create).map_err(text)?);
            return Ok(Arc::new(ImageTarget::on_memory(device, mkfs, seed)));
        }
        None if args.dax => {
            let pmem = PmemDevice::new(args.size.bytes()).map_err(text)?;
            return Ok(Arc::new(ImageTarget::on_pmem(&pmem, mkfs, seed)));
        }
        Some(path) => Arc::new(FileDevice::open(path, &create).map_err(text)?),
        None => Arc::new(MemoryDevice::new(args.size.bytes())),
    };
    Ok(Arc::new(ImageTarget::new(
        device,
        args.cache.bytes(),
        mkfs,
        seed,
    )))
}

fn report(args: &TortureArgs, target: &Arc<dyn Target>, options: &Options, failure: &Failure) {
    let place = match failure.at {
        Some((thread, number)) => format!("thread {thread}, operation {number}"),
        None => "the end of the run".to_owned(),
    };
    println!("seed {}: FAILED at {place}: {}", failure.seed, failure.fail);
    println!(
        "again: testfs torture --seed {} --ops {} --threads {} --cache {} --size {} \
         --block-size {} --device-faults {}{}",
        failure.seed,
        args.ops,
        args.threads,
        args.cache,
        args.size,
        args.block_size,
        args.device_faults,
        if args.dax { " --dax" } else { "" },
    );
    if args.no_shrink || options.faults > 0.0 {
        return;
    }
    let steps = shrink::interleaved(&**target, options, options.ops.min(SHRINK_OPS));
    match shrink::shrink(target, steps, SHRINK_TIME) {
        Some((steps, fail)) => {
            println!("one thread fails after {} operations: {fail}", steps.len());
            for (thread, number, op) in steps {
                println!("  {thread}/{number}: {op}");
            }
        }
        None => println!("one thread alone does not fail with these operations"),
    }
}
