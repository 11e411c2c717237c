//! Developer commands: `cargo xtask <command>`.
//!
//! Owns the list of commands and the order of the checks in [`ci`]. How a program is run and its
//! tests counted is in [`run`]; what the suites are is in [`suites`]; the rules that read source
//! text are in [`layers`] and [`tidy`].

mod endurance;
mod instructions;
mod layers;
mod mounts;
mod mutate;
mod run;
mod source;
mod suites;
mod tidy;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use run::{Counts, Step};

const USAGE: &str = "\
usage: cargo xtask <command>

  test [--quick | --long]  every test suite; --quick leaves out the model checkers and the
                           torture run, --long raises seeds and time, and goes on with
                           new seeds for IOMAP_LONG_MINUTES (30)
  endurance                that last part alone: torture and crashes with new seeds
  ci                       what .ci/run does: fmt, lint, doc, every bench once, test
  fmt                      formats every file
  lint                     clippy, warnings are errors
  doc                      builds the documentation, warnings are errors
  loom                     model-checked orderings (iomap-core/tests/loom_*.rs)
  shuttle [--long]         scheduled protocols (*/tests/shuttle_*.rs)
  race ARGS                `testfs race` with scheduled threads and switches for the rules
  mutate [--long] [RULE…]  each rule off in turn: its tests must fail
  suites [--long]          programs others wrote, on a mount of testfs
  layers                   checks the module layers of iomap-core
  tidy                     checks the source rules of docs/STYLE.md
  smoke                    the first README command on a new file, and every bench once
  instructions [--refresh] instructions of the hot paths against benches/instructions.txt
  bench [ARGS]             ours beside memcpy, the raw ring and the kernel; `bench --help`
";

/// How much of the suites to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    Quick,
    Normal,
    Long,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    std::env::set_current_dir(workspace()).expect("the workspace this was built from is there");
    match dispatch(&args) {
        Ok(counts) if counts.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<Counts, String> {
    match args {
        ["test", rest @ ..] => Ok(test(effort(rest)?)),
        ["endurance"] => {
            let counts = endurance::run();
            counts.print();
            Ok(counts)
        }
        ["ci"] => ci(),
        ["fmt"] => {
            tools::component("rustfmt")?;
            Ok(Step::cargo("fmt", &["fmt", "--all"]).check())
        }
        ["lint"] => lint(),
        ["doc"] => Ok(doc()),
        ["loom"] => Ok(suites::loom()),
        ["shuttle", rest @ ..] => Ok(suites::shuttle(effort(rest)?)),
        ["race", rest @ ..] => suites::race(rest),
        ["mutate", "--long", rules @ ..] => mutated(rules, Effort::Long),
        ["mutate", rules @ ..] => mutated(rules, Effort::Normal),
        ["suites", rest @ ..] => {
            let counts = mounts::suites(effort(rest)?);
            counts.print();
            Ok(counts)
        }
        ["layers"] => rule("layers", &layers::check(&workspace())),
        ["tidy"] => rule("tidy", &tidy::check(&workspace())),
        ["smoke"] => Ok(suites::smoke()),
        ["bench", rest @ ..] => Ok(compare(rest)),
        ["instructions"] => instructions::run(&workspace(), false),
        ["instructions", "--refresh"] => instructions::run(&workspace(), true),
        [] | ["help" | "--help" | "-h", ..] => {
            print!("{USAGE}");
            Ok(Counts::default())
        }
        _ => Err(format!("unknown command: {}\n\n{USAGE}", args.join(" "))),
    }
}

fn effort(args: &[&str]) -> Result<Effort, String> {
    match args {
        [] => Ok(Effort::Normal),
        ["--quick"] => Ok(Effort::Quick),
        ["--long"] => Ok(Effort::Long),
        _ => Err(format!("unknown option: {}\n\n{USAGE}", args.join(" "))),
    }
}

/// Every suite. Prints the counts as the very last line.
fn test(effort: Effort) -> Counts {
    let counts = suites::all(effort);
    counts.print();
    counts
}

/// The checks first, because they are quick to fail; the suites last, so that their counts, with
/// each check counted as one, are the last line.
fn ci() -> Result<Counts, String> {
    tools::component("rustfmt")?;
    let mut counts = Step::cargo("fmt", &["fmt", "--all", "--check"]).check();
    counts += lint()?;
    counts += doc();
    counts += suites::benches_once();
    counts += instructions::run(&workspace(), false)?;
    counts += suites::all(Effort::Normal);
    counts.print();
    Ok(counts)
}

/// The comparison runner; the criterion benches are `cargo bench`.
fn compare(args: &[&str]) -> Counts {
    // The program whose mounts are compared is started by its path.
    let build = "build --release --package benches --bin compare --package iomapfs --bin iomapfs";
    let built = Step::cargo("build", &build.split(' ').collect::<Vec<_>>()).check();
    if built.failed > 0 {
        return built;
    }
    let run = "run --release --package benches --bin compare --";
    let cargo: Vec<&str> = run.split(' ').chain(args.iter().copied()).collect();
    Step::cargo("bench", &cargo).check()
}

fn lint() -> Result<Counts, String> {
    tools::component("clippy")?;
    let args = "clippy --workspace --all-targets --all-features -- -D warnings";
    Ok(Step::cargo("lint", &args.split(' ').collect::<Vec<_>>()).check())
}

fn doc() -> Counts {
    let args = "doc --workspace --no-deps --all-features --document-private-items";
    Step::cargo("doc", &args.split(' ').collect::<Vec<_>>())
        .env("RUSTDOCFLAGS", "-D warnings")
        .check()
}

/// The rules of the table, or those named; the counts on the last line.
fn mutated(rules: &[&str], effort: Effort) -> Result<Counts, String> {
    let counts = mutate::mutate(&workspace(), rules, effort == Effort::Long)?;
    counts.print();
    Ok(counts)
}

/// Prints the findings of a source rule.
fn rule(name: &str, findings: &[String]) -> Result<Counts, String> {
    for finding in findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        println!("{name}: ok");
        return Ok(Counts::default());
    }
    Err(format!("{name}: {} findings", findings.len()))
}

/// The folder of the workspace.
fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}
