//! `testfs race`: the races of the discussions, shown, replayed and searched for.
//!
//! Owns the arguments and the order of what is printed. The races are [`crate::race`].

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use iomap_core::mutation;

use super::USAGE;
#[cfg(iomap_shuttle)]
use super::VERIFICATION_FAILED;
use crate::race::trace::Trace;
use crate::race::{self, Race, render};

#[derive(Debug, Args)]
pub(super) struct RaceArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The races, each with the rule that prevents it
    List,
    /// The bad interleaving of a race, one column for each thread
    Show(Show),
    /// Replay a race on the code as it is, or search for it
    Run(Run),
}

#[derive(Debug, Args)]
struct Show {
    /// The name of a race
    name: String,
    /// Write a picture instead
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Random,
    Pct,
    Dfs,
}

#[derive(Debug, Args)]
struct Run {
    /// The name of a race
    name: String,
    /// A rule to turn off, such as O1
    #[arg(long, value_name = "RULE")]
    without: Option<String>,
    /// Forget the script: search so many schedules for one that ends badly
    #[arg(long, value_name = "SCHEDULES")]
    explore: Option<usize>,
    /// How to search
    #[arg(long, value_enum, default_value = "pct")]
    search: Kind,
    /// Switch threads at every lock and atomic, not at steps only
    #[arg(long)]
    fine: bool,
    /// Where the search begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a picture of the run as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const HOW_TO_BUILD: &str = "this build runs threads as the system likes: use `cargo xtask race run …`, \
                            which builds testfs with scheduled threads and with switches for the rules";

/// `testfs race …`.
pub(super) fn command(args: &RaceArgs) -> u8 {
    let done = match &args.command {
        Command::List => {
            list();
            Ok(0)
        }
        Command::Show(show) => find(&show.name).and_then(|race| {
            print_or_draw(&race.drawn(), show.svg.as_deref())?;
            Ok(0)
        }),
        Command::Run(run) => find(&run.name).and_then(|race| run_one(race, run)),
    };
    done.unwrap_or_else(|why| {
        eprintln!("testfs race: {why}");
        USAGE
    })
}

fn find(name: &str) -> Result<&'static Race, String> {
    race::find(name).ok_or_else(|| format!("no race is called {name}; see `testfs race list`"))
}

fn list() {
    for race in race::RACES {
        let (name, rules) = (race.name, race.rules.join(", "));
        println!("{name:<24} {}", race.title);
        println!("{:<24} prevented by {rules}; otherwise {}", "", race.harm);
        println!("{:<24} {}\n", "", race.discussion);
    }
}

fn print_or_draw(trace: &Trace, svg: Option<&std::path::Path>) -> Result<(), String> {
    match svg {
        None => print!("{}", render::text(trace)),
        Some(path) => std::fs::write(path, render::svg(trace))
            .map_err(|error| format!("{}: {error}", path.display()))?,
    }
    Ok(())
}

fn run_one(race: &'static Race, run: &Run) -> Result<u8, String> {
    if let Some(rule) = &run.without {
        let Some(rule) = mutation::Rule::ALL.iter().find(|r| r.name() == rule) else {
            return Err(format!("no rule is called {rule}"));
        };
        if !mutation::off(*rule) {
            return again_without(rule.name());
        }
    }
    execute(race, run)
}

/// Starts this program again with the rule off: a rule is off for a whole process, from its start.
fn again_without(rule: &str) -> Result<u8, String> {
    if !cfg!(feature = "mutation") {
        return Err(HOW_TO_BUILD.to_owned());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let status = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env("IOMAP_WITHOUT", rule)
        .status()
        .map_err(|error| error.to_string())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(USAGE))
}

#[cfg(not(iomap_shuttle))]
fn execute(_race: &'static Race, _run: &Run) -> Result<u8, String> {
    Err(HOW_TO_BUILD.to_owned())
}

#[cfg(iomap_shuttle)]
fn execute(race: &'static Race, run: &Run) -> Result<u8, String> {
    use crate::race::engine::{Search, replay, search};

    let mut outcome = match (run.explore, run.search) {
        (None, _) => replay(race),
        (Some(n), Kind::Random) => search(race, Search::Random, n, run.seed, run.fine),
        (Some(n), Kind::Pct) => search(race, Search::Pct, n, run.seed, run.fine),
        (Some(n), Kind::Dfs) => search(race, Search::DepthFirst, n, run.seed, run.fine),
    };
    match &run.without {
        Some(rule) => outcome
            .trace
            .title
            .push_str(&format!(" (without rule {rule})")),
        None => outcome.trace.title.push_str(" (every rule on)"),
    }
    let found = !outcome.is_good();
    if run.explore.is_none() || found {
        print!("{}", render::text(&outcome.trace));
    }
    if let Some(path) = &run.svg {
        print_or_draw(&outcome.trace, Some(path))?;
    }
    if let Some(most) = run.explore {
        let (n, seed) = (outcome.schedules, run.seed);
        let what = if found {
            "found in schedule"
        } else {
            "not found; schedules:"
        };
        let all = if !found && n < most {
            ": there are no more of its kind"
        } else {
            ""
        };
        println!("{what} {n}{all} (search {:?}, seed {seed})", run.search);
    }
    Ok(if found { VERIFICATION_FAILED } else { 0 })
}
