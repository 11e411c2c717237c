//! `cargo xtask mutate`: shows, for each rule, that a test notices when the rule is off.
//!
//! Owns the verdicts and the table that is printed. The rules and the tests that must fail are in
//! [`mod@rows`]; building and running test programs is [`programs`]; the comparison of the table with
//! the source text is [`text`].
//!
//! A test of a row runs twice: with every rule on it must pass, with its rule off
//! (`IOMAP_WITHOUT`) it must fail *in the expected way*: what it prints holds the words of the row.
//! A test that fails with other words fails for another reason, and proves nothing.

mod durability;
mod programs;
mod rows;
mod table;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::run::Counts;
use programs::{Programs, Run};
use rows::rows;
use table::{Case, How, Row};

/// What came out for a rule, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every test failed with the rule off, in the expected way.
    Killed,
    /// A test passes with the rule off.
    Survived(String),
    /// A test fails, but not in the expected way.
    WrongReason(String),
    /// A test fails with every rule on, or does not exist.
    Broken(String),
}

impl Verdict {
    const fn word(&self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Survived(_) => "SURVIVED",
            Self::WrongReason(_) => "WRONG REASON",
            Self::Broken(_) => "BROKEN",
        }
    }
}

/// Checks the table against the code, then runs the rows named in `rules` (all if there is none).
/// Each rule counts as one test.
pub(crate) fn mutate(root: &Path, rules: &[&str], long: bool) -> Result<Counts, String> {
    println!("\n== mutate ==");
    let mut counts = Counts::default();
    let findings = text::check(root);
    for finding in &findings {
        println!("{finding}");
    }
    counts += Counts::one(findings.is_empty());
    if let Some(unknown) = rules.iter().find(|r| !rows().any(|row| row.rule == **r)) {
        return Err(format!("no rule is called {unknown}"));
    }
    let rows: Vec<&Row> = rows()
        .filter(|row| rules.is_empty() || rules.contains(&row.rule))
        .collect();
    let cases: Vec<&Case> = rows.iter().flat_map(|row| row.cases(long)).collect();
    let programs = Programs::build(&cases)?;
    let results = run_all(&rows, long, &programs);
    println!();
    for (row, verdict) in &results {
        print_row(row, verdict, long);
        counts += Counts::one(*verdict == Verdict::Killed);
    }
    println!("{}", summary(&results));
    Ok(counts)
}

/// Runs every row; several at a time.
fn run_all<'a>(rows: &[&'a Row], long: bool, programs: &Programs) -> Vec<(&'a Row, Verdict)> {
    let with_rules = passes_with_rules(rows, long, programs);
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(vec![None; rows.len()]);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = judge(row, long, programs, &with_rules);
                    let at = rows.iter().position(|r| r.rule == row.rule);
                    if let (Ok(mut verdicts), Some(at)) = (verdicts.lock(), at) {
                        verdicts[at] = Some(verdict);
                    }
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_default();
    let lost = || Verdict::Broken("the run of this row ended early".to_owned());
    rows.iter()
        .zip(verdicts)
        .map(|(row, verdict)| (*row, verdict.unwrap_or_else(lost)))
        .collect()
}

/// Every test once with every rule on: what went wrong, by test.
fn passes_with_rules(
    rows: &[&Row],
    long: bool,
    programs: &Programs,
) -> BTreeMap<String, Option<String>> {
    let mut seen = BTreeSet::new();
    let cases = rows.iter().flat_map(|row| row.cases(long));
    let once: Vec<&Case> = cases.filter(|case| seen.insert(case.id())).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = once.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = match programs.run(case, None) {
                        Run::Passed => None,
                        Run::NoSuchTest => Some("there is no such test".to_owned()),
                        Run::TookTooLong => Some("does not end, with every rule on".to_owned()),
                        Run::Failed(text) => {
                            Some(format!("fails with every rule on: {}", first_panic(&text)))
                        }
                    };
                    if let Ok(mut results) = results.lock() {
                        results.insert(case.id(), wrong);
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default()
}

/// The verdict of one row: the worst of its tests.
fn judge(
    row: &Row,
    long: bool,
    programs: &Programs,
    with_rules: &BTreeMap<String, Option<String>>,
) -> Verdict {
    for case in row.cases(long) {
        if let Some(wrong) = with_rules.get(&case.id()).and_then(Option::as_ref) {
            return Verdict::Broken(format!("{}: {wrong}", case.id()));
        }
        let verdict = match programs.run(case, Some(row.rule)) {
            Run::NoSuchTest => Verdict::Broken(format!("{}: there is no such test", case.id())),
            Run::Passed => Verdict::Survived(format!("{} passes", case.id())),
            Run::TookTooLong if case.how == How::Hangs => Verdict::Killed,
            Run::TookTooLong => Verdict::WrongReason(format!("{} does not end", case.id())),
            Run::Failed(text) => match case.how {
                How::Says(words) if text.contains(words) => Verdict::Killed,
                How::Says(_) | How::Hangs => {
                    let said = first_panic(&text);
                    Verdict::WrongReason(format!("{} says: {said}", case.id()))
                }
            },
        };
        if verdict != Verdict::Killed {
            return verdict;
        }
    }
    Verdict::Killed
}

/// The message of the first panic, on one line.
fn first_panic(text: &str) -> String {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.contains("panicked at"));
    let message: Vec<&str> = lines.by_ref().skip(1).take(3).map(str::trim).collect();
    if message.is_empty() {
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        return last.unwrap_or("nothing").to_owned();
    }
    message.join(" | ")
}

fn print_row(row: &Row, verdict: &Verdict, long: bool) {
    let (rule, source, word) = (row.rule, row.source, verdict.word());
    match verdict {
        Verdict::Killed => {
            let mut word = word;
            let mut rule = rule;
            let mut source = source;
            for case in row.cases(long) {
                println!(
                    "{rule:<4} {source:<9} {word:<12} {}: {}",
                    case.id(),
                    case.how
                );
                (rule, source, word) = ("", "", "");
            }
        }
        Verdict::Survived(what) | Verdict::WrongReason(what) | Verdict::Broken(what) => {
            println!("{rule:<4} {source:<9} {word:<12} {what}");
        }
    }
}

fn summary(results: &[(&Row, Verdict)]) -> String {
    let count = |word: &str| results.iter().filter(|(_, v)| v.word() == word).count();
    format!(
        "== mutate: {} rules: {} killed, {} survived, {} for a wrong reason, {} broken ==",
        results.len(),
        count("killed"),
        count("SURVIVED"),
        count("WRONG REASON"),
        count("BROKEN"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_what_is_shown() {
        let text = "running 1 test\nthread 'x' panicked at tests/a.rs:1:2:\nold bytes\nnote: …\n";
        assert_eq!(first_panic(text), "old bytes | note: …");
        assert_eq!(first_panic("signal: 6\n"), "signal: 6");
    }
}
