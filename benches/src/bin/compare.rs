//! `cargo xtask bench`: the comparison runner's command line.
//!
//! Owns the options and the files that are written. What is measured and how is
//! [`benches::compare`].

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use benches::compare::report::{Memory, Report, VERSION, html, table};
use benches::compare::{Effort, budgets, cases, machine::Machine, sample};
use benches::{PAGE, flat};
use clap::Parser;
use iomap_core::device::MemoryDevice;
use iomap_core::ops::MapOps;
use iomap_core::units::FilePos;
use iomap_core::vfs::IoFlags;

/// The same work by this project, by the floor under it and by the kernel, in one run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", version)]
struct Args {
    /// Fewer rounds, and only the sizes that the budgets speak of.
    #[arg(long)]
    quick: bool,
    /// Only groups whose name contains one of these.
    #[arg(long, value_name = "PART", num_args = 1..)]
    only: Vec<String>,
    /// Names of the groups, without running them.
    #[arg(long)]
    list: bool,
    /// Bytes of a call, in place of the list of the run: `512,64K,4M`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = size)]
    sizes: Vec<u64>,
    /// Requests in flight, in place of the list of the run.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    depths: Vec<usize>,
    /// Threads at work, in place of the list of the run.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Percent of reads that hit the cache, in place of the list of the run.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(..=100))]
    hits: Vec<u8>,
    /// Files of a directory, in place of the list of the run.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    files: Vec<u64>,
    /// Every group, not only those of the budgets, also of a quick run.
    #[arg(long)]
    wide: bool,
    /// Where to write every number as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to write the page with pictures, one file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Ends with each budget and whether this run is ahead of it. Never fails on time.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes, with `K`, `M` or `G` behind them for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let count: u64 = digits.parse().map_err(|_| format!("no size: {text}"))?;
    let bytes = count.checked_mul(1 << shift);
    bytes.ok_or_else(|| format!("too large: {text}"))
}

/// What the run varies, and how long it measures.
fn effort(args: &Args) -> Result<Effort, String> {
    /// Lives as long as the program, as the lists of the two efforts do.
    fn replace<T: Clone>(list: &mut &'static [T], by: &[T]) {
        if !by.is_empty() {
            *list = Box::leak(by.to_vec().into_boxed_slice());
        }
    }
    let mut effort = if args.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    effort.wide |= args.wide;
    if args.sizes.iter().any(|s| !(1..=64 << 20).contains(s)) {
        return Err("a call has 1 byte to 64 MiB".to_owned());
    }
    let counts = args.depths.iter().chain(&args.threads);
    if counts.copied().any(|n| !(1..=1024).contains(&n)) || args.files.contains(&0) {
        return Err("depths and threads are 1 to 1024, files at least 1".to_owned());
    }
    replace(&mut effort.vary.sizes, &args.sizes);
    replace(&mut effort.vary.depths, &args.depths);
    replace(&mut effort.vary.threads, &args.threads);
    replace(&mut effort.vary.hits, &args.hits);
    replace(&mut effort.vary.files, &args.files);
    Ok(effort)
}

fn run(args: &Args) -> Result<(), String> {
    let effort = effort(args)?;
    let mut cases = cases::all(effort);
    if !args.only.is_empty() {
        cases.retain(|c| args.only.iter().any(|part| c.id.contains(part)));
    }
    if cases.is_empty() {
        return Err("no group has such a name; --list shows them".to_owned());
    }
    if args.list {
        cases.iter().for_each(|c| println!("{}", c.id));
        return Ok(());
    }
    let machine = Machine::read();
    println!(
        "{} x {}, kernel {}, files on {}, load {}",
        machine.cpus, machine.cpu, machine.kernel, machine.temporary, machine.load
    );
    let mut groups = Vec::new();
    for case in cases {
        let result = sample::run(case.group(), effort, &budgets::settled);
        println!("{}", table::group(&result));
        groups.push(result);
    }
    let report = Report {
        version: VERSION,
        machine,
        rounds: effort.rounds,
        budgets: budgets::judge(&groups),
        groups,
        memory: memory()?,
    };
    if args.check {
        println!("{}", table::budgets(&report.budgets, &report.memory));
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        write(path, &json)?;
    }
    if let Some(path) = &args.html {
        write(path, &html::page(&report))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// Fills caches with folios of one page and with large ones, and asks what describes them.
fn memory() -> Result<Vec<Memory>, String> {
    const LEN: u64 = 32 << 20;
    let kinds = [("4 KiB folios", 0, 64.0), ("64 KiB folios", 4, 8.0)];
    let mut rows = Vec::new();
    for (folios, order, bound) in kinds {
        let device = Arc::new(MemoryDevice::new(LEN));
        let flat = flat(device, 2 * LEN, order).map_err(|e| e.to_string())?;
        let file = flat.open();
        let mut chunk = vec![0; 1 << 20];
        for at in (0..LEN).step_by(chunk.len()) {
            file.read_at(FilePos::saturating(at), &mut chunk, IoFlags::empty())
                .map_err(|e| e.to_string())?;
        }
        rows.push(Memory {
            folios: folios.to_owned(),
            bytes_per_page: flat.inode().cache().pool().stats().metadata_bytes as f64
                / (LEN / PAGE) as f64,
            bound,
        });
    }
    Ok(rows)
}
