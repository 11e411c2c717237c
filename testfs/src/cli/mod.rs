//! The program: `run`, `mkfs`, `check`, `torture`, `crash`, `race`.
//!
//! Owns arguments, exit codes and what is printed. What the commands do is
//! [`run`](mod@crate::run), [`check`](mod@crate::check), [`torture`](crate::torture),
//! [`crash`](crate::crash), [`race`](crate::race).
//!
//! | Code | Means |
//! |---|---|
//! | 0 | done; for `run`, `torture` and `crash`: and everything was verified |
//! | 1 | a verification failed |
//! | 2 | the arguments make no sense |
//! | 3 | the file could not be opened, made or mounted, or was refused; the device failed |
//! | 5 | `torture`: no operation ended for too long |
//!
//! `check` has the codes of fsck(8): 0 clean, 4 errors left, 8 it could not be checked, 16 usage.

mod crash;
mod open;
mod race;
mod size;
mod torture;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::check;
use crate::fs::TestFs;
use crate::meta::MkfsOptions;
use crate::run;

use self::open::Refusal;
pub use self::size::Size;

const VERIFICATION_FAILED: u8 = 1;
const USAGE: u8 = 2;
const REFUSED: u8 = 3;

const CHECK_ERRORS: u8 = 4;
const CHECK_FAILED: u8 = 8;
const CHECK_USAGE: u8 = 16;

const CODES: &str = "Exit codes: 0 done and verified, 1 a verification failed, 2 usage, 3 the file \
                     was refused or the device failed, 5 a hang (torture).\n\
                     check: 0 clean, 4 errors found, 8 could not be checked, 16 usage.";

/// A file system made by supplying iomap ops, on a block file.
#[derive(Debug, Parser)]
#[command(name = "testfs", version, about, after_help = CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive every data path on a block file, verify every byte, report
    Run(RunArgs),
    /// Make an empty file system on a block file
    Mkfs(MkfsArgs),
    /// Look for every inconsistency of an unmounted block file; changes nothing
    Check(CheckArgs),
    /// All operations mixed, from many threads, against a model
    Torture(torture::TortureArgs),
    /// Replay the power cuts of workloads, and look for broken promises
    Crash(crash::CrashArgs),
    /// The races of the discussions: shown, replayed step by step, searched for
    Race(race::RaceArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The block file or device; a file that is not there is made
    file: PathBuf,
    /// Size of a file that is made (K, M, G; at least 64M)
    #[arg(long, default_value = "1G")]
    size: Size,
    /// Makes the content and the order of the random operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Memory of the page cache
    #[arg(long, default_value = "64M")]
    cache: Size,
    /// Map the file into memory, and make every file on it a DAX file
    #[arg(long)]
    dax: bool,
    /// Format the file even if it holds something else
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct MkfsArgs {
    /// The block file or device; a file that is not there is made
    file: PathBuf,
    /// Size of a file that is made (K, M, G)
    #[arg(long)]
    size: Option<Size>,
    /// Bytes of a block: a power of two from 1024 to 65536
    #[arg(long, default_value = "4096")]
    block_size: Size,
    /// Volume label, 64 bytes at most
    #[arg(long, default_value = "")]
    label: String,
    /// Format the file even if it holds something else
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The block file or device
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the program with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let code = match cli.command {
        Command::Run(args) => run_command(&args),
        Command::Mkfs(args) => mkfs_command(&args),
        Command::Check(args) => check_command(&args),
        Command::Torture(args) => torture::command(&args),
        Command::Crash(args) => crash::command(&args),
        Command::Race(args) => race::command(&args),
    };
    ExitCode::from(code)
}

/// Prints what is wrong with the arguments, or the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a terminal that cannot be written to.
    let _ = error.print();
    let is_check = std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == "check");
    match (error.use_stderr(), is_check) {
        (false, _) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(USAGE),
        (true, true) => ExitCode::from(CHECK_USAGE),
    }
}

fn refuse(refusal: &Refusal) -> u8 {
    eprintln!("testfs: {refusal}");
    if let Some(advice) = refusal.advice() {
        eprintln!("testfs: {advice}");
    }
    REFUSED
}

fn run_command(args: &RunArgs) -> u8 {
    if args.size.bytes() < run::SIZE_MIN {
        eprintln!(
            "testfs: --size {}: at least 64M are needed to drive every path",
            args.size
        );
        return USAGE;
    }
    let options = run::Options {
        seed: args.seed,
        cache_bytes: args.cache.bytes(),
        progress: !args.quiet && !args.json && std::io::stderr().is_terminal(),
    };
    let (size, force) = (args.size.bytes(), args.force);
    let outcome = if args.dax {
        open::for_run_dax(&args.file, size, force).map(|device| run::run_dax(device, &options))
    } else {
        open::for_run(&args.file, size, force).map(|device| run::run(device, &options))
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(refusal) => return refuse(&refusal),
    };
    match outcome {
        Ok(report) if args.json => print_json(&report),
        Ok(report) => {
            println!("{}", report.table());
            0
        }
        Err(error) => {
            if args.json {
                print_json(&serde_json::json!({
                    "schema": 1, "verified": false, "error": error.to_string(),
                }));
            }
            eprintln!("testfs: {}: {error}", args.file.display());
            if error.is_mismatch() {
                VERIFICATION_FAILED
            } else {
                REFUSED
            }
        }
    }
}

/// Prints one JSON object. Returns the exit code.
fn print_json(value: &impl serde::Serialize) -> u8 {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            println!("{text}");
            0
        }
        Err(error) => {
            eprintln!("testfs: the report cannot be printed: {error}");
            REFUSED
        }
    }
}

fn mkfs_command(args: &MkfsArgs) -> u8 {
    let device = match open::for_mkfs(&args.file, args.size.map(Size::bytes), args.force) {
        Ok(device) => device,
        Err(refusal) => return refuse(&refusal),
    };
    let Ok(block_size) = u32::try_from(args.block_size.bytes()) else {
        eprintln!("testfs: --block-size {}: at most 64K", args.block_size);
        return USAGE;
    };
    let options = MkfsOptions {
        block_size,
        label: args.label.clone(),
        ..MkfsOptions::default()
    };
    match TestFs::mkfs(device, &options) {
        Ok(()) => {
            println!("{}: formatted", args.file.display());
            0
        }
        Err(error) => {
            eprintln!(
                "testfs: {}: cannot be formatted: {error}",
                args.file.display()
            );
            REFUSED
        }
    }
}

fn check_command(args: &CheckArgs) -> u8 {
    let device = match open::read_only(&args.file) {
        Ok(device) => device,
        Err(refusal) => {
            refuse(&refusal);
            return CHECK_FAILED;
        }
    };
    let report = match check::check(device) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("testfs: {}: {error}", args.file.display());
            return CHECK_FAILED;
        }
    };
    let clean = report.is_clean();
    if args.json {
        print_json(&serde_json::json!({
            "schema": 1,
            "clean": clean,
            "findings": report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "omitted": report.omitted,
            "generation": report.census.generation,
            "inodes": report.census.inodes,
            "directories": report.census.directories,
            "extents": report.census.extents,
            "used_blocks": report.census.used_blocks,
        }));
    } else {
        for finding in &report.findings {
            println!("{finding}");
        }
        if report.omitted > 0 {
            println!("and {} more", report.omitted);
        }
        let (census, verdict) = (&report.census, if clean { "clean" } else { "NOT CLEAN" });
        println!(
            "{}: {verdict}: {} inodes, {} names, {} extents, {} blocks used",
            args.file.display(),
            census.inodes,
            census.entries,
            census.extents,
            census.used_blocks,
        );
    }
    if clean { 0 } else { CHECK_ERRORS }
}
